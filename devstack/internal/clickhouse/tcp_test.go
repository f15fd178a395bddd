package clickhouse

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

func TestNativeHandshake(t *testing.T) {
	address := serveNative(t)
	if err := Ping(t.Context(), address); err != nil {
		t.Fatal(err)
	}
	c := openNative(t, address, clickhouse.CompressionNone)
	v, err := c.ServerVersion()
	if err != nil || v.Revision != revision || v.Version.Major < 26 || v.Timezone.String() != "UTC" {
		t.Fatalf("%+v %v", v, err)
	}
	for range 3 {
		if err := c.Ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
}

func TestNativeAnswers(t *testing.T) {
	c, ctx := openNative(t, serveNative(t), clickhouse.CompressionLZ4), t.Context()
	execute(t, c, "CREATE OR REPLACE TABLE answers (a UInt64, `b c` LowCardinality(String)) ENGINE = MergeTree ORDER BY a")
	// Columns are known without rows.
	for sql, want := range map[string]string{
		"SELECT a, `b c`, toDecimal64(1, 2) AS d FROM answers -- none": "a:UInt64 b c:LowCardinality(String) d:Decimal(18, 2)",
		"SELECT a FROM answers WHERE a = {n:UInt64}; ":                 "a:UInt64",
		"SELECT a FROM answers FORMAT JSON SETTINGS max_threads = 1":   "a:UInt64",
		"SHOW TABLES LIKE 'no such table' FORMAT CSV":                  "name:String",
	} {
		rows, err := c.Query(clickhouse.Context(ctx, clickhouse.WithParameters(clickhouse.Parameters{"n": "7"})), sql)
		if err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
		var have []string
		for _, x := range rows.ColumnTypes() {
			have = append(have, x.Name()+":"+x.DatabaseTypeName())
		}
		if rows.Next() || rows.Err() != nil || strings.Join(have, " ") != want {
			t.Errorf("%s: %v %v", sql, have, rows.Err())
		}
	}
	var s string
	for _, v := range []string{"plain", "it's\ta \\ \n'quoted' \x00 value", ""} {
		if err := c.QueryRow(ctx, "SELECT {v:String}", clickhouse.Named("v", v)).Scan(&s); err != nil || s != v {
			t.Errorf("%q came back as %q, %v", v, s, err)
		}
	}
	// An INSERT with its data in the statement, and what was written.
	execute(t, c, "INSERT INTO answers VALUES (1, 'x'), (2, 'y')")
	var wrote uint64
	on := clickhouse.Context(ctx, clickhouse.WithProgress(func(p *clickhouse.Progress) { wrote += p.WroteRows }))
	if err := c.Exec(on, "INSERT INTO answers SELECT number, 'z' FROM numbers(10, 5)"); err != nil || wrote != 5 {
		t.Fatalf("wrote %d, %v", wrote, err)
	}
	// Columns in another order than the table's, and settings in the statement.
	batch, err := c.PrepareBatch(ctx, "INSERT INTO answers (`b c`, a) SETTINGS insert_deduplicate = 0")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(batch.Append("w", uint64(100)), batch.Flush(), batch.Append("v", uint64(101)), batch.Send()); err != nil {
		t.Fatal(err)
	}
	if err := c.QueryRow(ctx, "SELECT arrayStringConcat(groupArray(toString(a) || `b c`), ' ') FROM (SELECT * FROM answers ORDER BY a)").Scan(&s); err != nil ||
		s != "1x 2y 10z 11z 12z 13z 14z 100w 101v" {
		t.Fatal(s, err)
	}
	// Many open batches, more than the engine has connections.
	var open []interface{ Send() error }
	for i := range 9 {
		b, err := c.PrepareBatch(ctx, "INSERT INTO answers")
		if err != nil {
			t.Fatal(err)
		}
		if err := b.Append(uint64(1000+i), "open"); err != nil {
			t.Fatal(err)
		}
		open = append(open, b)
	}
	for _, b := range open {
		if err := b.Send(); err != nil {
			t.Fatal(err)
		}
	}
	// None but the columns that an INSERT names.
	execute(t, c, "CREATE OR REPLACE TABLE defaults (a UInt8, m UInt8 MATERIALIZED a + 1, d UInt8 DEFAULT a + 2) ENGINE = MergeTree ORDER BY a")
	for query, want := range map[string]int{"INSERT INTO defaults": 2, "INSERT INTO TABLE defaults (a)": 1, "INSERT INTO FUNCTION null('a UInt8, b String')": 2} {
		b, err := c.PrepareBatch(ctx, query)
		if err != nil {
			t.Fatalf("%s: %v", query, err)
		}
		if n := len(b.Columns()); n != want {
			t.Errorf("%s: %d columns, want %d", query, n, want)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestNativeInserts(t *testing.T) {
	address := serveNative(t)
	const rows = 100_000
	for _, m := range []clickhouse.CompressionMethod{clickhouse.CompressionNone, clickhouse.CompressionLZ4, clickhouse.CompressionLZ4HC, clickhouse.CompressionZSTD} {
		t.Run(m.String(), func(t *testing.T) {
			c, ctx := openNative(t, address, m), t.Context()
			execute(t, c, "CREATE OR REPLACE TABLE many (id UInt64, s String, n Nullable(Float64)) ENGINE = MergeTree ORDER BY id")
			batch, err := c.PrepareBatch(ctx, "INSERT INTO many")
			if err != nil {
				t.Fatal(err)
			}
			for i := range rows {
				if err := batch.Append(uint64(i), fmt.Sprint("row ", i), float64(i)/2); err != nil {
					t.Fatal(err)
				}
				if i == rows/3 {
					if err := batch.Flush(); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal(err)
			}
			got, err := c.Query(ctx, "SELECT id, s, n FROM many ORDER BY id")
			if err != nil {
				t.Fatal(err)
			}
			at := 0
			for got.Next() {
				var id uint64
				var s string
				var n *float64
				if err := got.Scan(&id, &s, &n); err != nil || id != uint64(at) || s != fmt.Sprint("row ", at) || *n != float64(at)/2 {
					t.Fatal(id, s, n, err)
				}
				at++
			}
			if got.Err() != nil || at != rows {
				t.Fatal(at, got.Err())
			}
		})
	}
}

func TestNativeExceptions(t *testing.T) {
	c, ctx := openNative(t, serveNative(t), clickhouse.CompressionLZ4), t.Context()
	execute(t, c, "CREATE OR REPLACE TABLE strict (a UInt8, CONSTRAINT small CHECK a < 10) ENGINE = MergeTree ORDER BY a")
	check := func(what string, err error, code int32, text string) {
		t.Helper()
		var ex *clickhouse.Exception
		if !errors.As(err, &ex) || ex.Code != code || ex.Name != "DB::Exception" || !strings.Contains(ex.Message, text) ||
			strings.Contains(ex.Message, "Code:") || strings.HasSuffix(ex.Message, ")") {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("no table", c.Exec(ctx, "DROP TABLE nowhere"), 60, "nowhere")
	check("syntax", c.Exec(ctx, "SELEC 1"), 62, "Syntax error")
	_, err := c.PrepareBatch(ctx, "INSERT INTO nowhere")
	check("insert into no table", err, 60, "nowhere")
	_, err = c.PrepareBatch(ctx, "INSERT INTO strict (b)")
	check("insert into no column", err, 16, "b")
	bad, err := clickhouse.Open(&clickhouse.Options{Addr: []string{serveNative(t)}, Auth: clickhouse.Auth{Database: "nowhere"}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bad.Close() }()
	check("no database", bad.Exec(ctx, "SELECT 1"), 81, "nowhere")
	check("JSON", c.Exec(ctx, "SELECT 1::Dynamic"), 48, "Dynamic")
	// An INSERT that the engine refuses when the data have been sent leaves nothing.
	batch, err := c.PrepareBatch(ctx, "INSERT INTO strict")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(batch.Append(uint8(1)), batch.Flush(), batch.Append(uint8(99))); err != nil {
		t.Fatal(err)
	}
	check("constraint", batch.Send(), 469, "small")
	var n uint64
	if err := c.QueryRow(ctx, "SELECT count() FROM strict").Scan(&n); err != nil || n != 0 {
		t.Fatal(n, err)
	}
}

// running counts statements with a mark in their text.
func running(t *testing.T, c clickhouse.Conn, mark string) (n uint64) {
	t.Helper()
	if err := c.QueryRow(t.Context(), "SELECT count() FROM system.processes WHERE query LIKE '%"+mark+"%' AND query NOT LIKE '%system.processes%'").Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}

// TestCancelledStatementsEnd has aggregations that give nothing before their end.
func TestCancelledStatementsEnd(t *testing.T) { overBoth(t, cancelledStatementsEnd) }

func cancelledStatementsEnd(t *testing.T, open func(clickhouse.CompressionMethod) clickhouse.Conn) {
	c := open(clickhouse.CompressionLZ4)
	execute(t, c, "CREATE OR REPLACE TABLE swamp (n UInt64) ENGINE = Null")
	for i, sql := range []string{
		"SELECT sum(number * %d) FROM (SELECT number FROM system.numbers LIMIT 1000000000000) GROUP BY number %% 3",
		"INSERT INTO swamp SELECT number * %d FROM system.numbers",
	} {
		if i == 1 && strings.HasSuffix(t.Name(), "http") {
			continue // over HTTP a server goes on with what writes
		}
		mark := fmt.Sprint(rand.IntN(1 << 30))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- c.Exec(ctx, strings.ReplaceAll(fmt.Sprintf(sql, 0), "* 0", "* "+mark)) }()
		for begun := time.Now(); running(t, c, mark) == 0; time.Sleep(10 * time.Millisecond) {
			if time.Since(begun) > 30*time.Second {
				t.Fatal("the statement does not begin")
			}
		}
		cancel()
		if err := <-ended; !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled: %v", err)
		}
		for begun := time.Now(); running(t, c, mark) > 0; time.Sleep(10 * time.Millisecond) {
			if time.Since(begun) > 30*time.Second {
				t.Fatal("the statement goes on without its client")
			}
		}
	}
}

// TestNativeClientGoesAwayMidway sends half of an INSERT.
func TestNativeClientGoesAwayMidway(t *testing.T) {
	c := openNative(t, serveNative(t), clickhouse.CompressionLZ4)
	execute(t, c, "CREATE OR REPLACE TABLE half (a UInt64) ENGINE = MergeTree ORDER BY a")
	batch, err := c.PrepareBatch(t.Context(), "INSERT INTO half")
	if err != nil {
		t.Fatal(err)
	}
	// Abort closes the connection.
	if err := errors.Join(batch.Append(uint64(1)), batch.Flush(), batch.Abort()); err != nil {
		t.Fatal(err)
	}
	// All of the engine's connections come back.
	for range 2 * cap(booted.free) {
		var n uint64
		if err := c.QueryRow(t.Context(), "SELECT count() FROM half").Scan(&n); err != nil || n != 0 {
			t.Fatal(n, err)
		}
	}
	for begun := time.Now(); len(booted.free) < cap(booted.free); time.Sleep(10 * time.Millisecond) {
		if time.Since(begun) > 30*time.Second {
			t.Fatal("an INSERT without a client holds a connection")
		}
	}
}

// preamble is a good beginning of a connection.
func preamble() []byte {
	var b bytes.Buffer
	w := wireWriter{bufio.NewWriter(&b)}
	w.uvarint(clientHello)
	w.string("test")
	for _, v := range []uint64{1, 0, revision} {
		w.uvarint(v)
	}
	for range 4 { // database, user, password, quota key
		w.string("")
	}
	_ = w.out.Flush()
	return b.Bytes()
}

// insertPacket is an INSERT up to its first block.
func insertPacket(sql string) []byte {
	var b bytes.Buffer
	w := wireWriter{bufio.NewWriter(&b)}
	w.uvarint(clientQuery)
	w.string("id")
	w.uvarint(0) // no query kind
	w.string("") // settings
	w.string("")
	w.uvarint(2)
	w.uvarint(0) // not compressed
	w.string(sql)
	w.string("") // parameters
	w.uvarint(clientData)
	w.string("")
	_, _ = w.out.Write(append(blockInfo, 0, 0))
	_ = w.out.Flush()
	return b.Bytes()
}

// TestNativeConnectionOutlivesExceptions uses one connection, which clickhouse-go
// would close: after an exception of a query, and one with blocks on the way.
func TestNativeConnectionOutlivesExceptions(t *testing.T) {
	address := serveNative(t)
	execute(t, openNative(t, address, clickhouse.CompressionNone), "CREATE OR REPLACE TABLE picky (a UInt8, CONSTRAINT small CHECK a < 10) ENGINE = MergeTree ORDER BY a")
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	ping := []byte{clientPing}
	row := func(a byte) []byte {
		return append(append([]byte{clientData, 0}, blockInfo...), "\x01\x01\x01a\x05UInt8\x00"+string(a)...)
	}
	end := append(append([]byte{clientData, 0}, blockInfo...), 0, 0)
	if _, err := conn.Write(bytes.Join([][]byte{preamble(), insertPacket("SELECT nothing"), ping,
		insertPacket("INSERT INTO picky FORMAT Native"), row(99), row(1), end, ping,
		insertPacket("INSERT INTO picky FORMAT Native"), row(2), end, ping}, nil)); err != nil {
		t.Fatal(err)
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	out, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	// The end of the good INSERT, its pong, and nothing after it.
	if n := bytes.Count(out, []byte("DB::Exception")) - bytes.Count(out, []byte("DB::Exception: ")); n != 2 || !bytes.HasSuffix(out, []byte{serverEndOfStream, serverPong}) {
		t.Errorf("%d exceptions: %q", n, out)
	}
}

// TestGarbageOnTheNativePort sends what is no client's, and lies about lengths.
func TestGarbageOnTheNativePort(t *testing.T) {
	address := serveNative(t)
	c := openNative(t, address, clickhouse.CompressionNone)
	execute(t, c, "CREATE OR REPLACE TABLE victim (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
	send := func(what string, b []byte) []byte {
		t.Helper()
		conn, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
		go func() {
			_, _ = conn.Write(b)
			_ = conn.(*net.TCPConn).CloseWrite()
		}()
		out, err := io.ReadAll(io.LimitReader(conn, 1<<20))
		if errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: not answered", what)
		}
		return out
	}
	if got := send("HTTP", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")); !bytes.HasPrefix(got, []byte("HTTP/1.0 400")) {
		t.Errorf("HTTP: %q", got)
	}
	old := bytes.Replace(preamble(), []byte{0xbc, 0xa9, 0x03}, []byte{0xf6, 0xa8, 0x03}, 1)
	if got := send("an old client", old); !bytes.Contains(got, []byte("older than ClickHouse 23.3")) {
		t.Errorf("an old client: %q", got)
	}
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}
	insert := append(preamble(), insertPacket("INSERT INTO victim FORMAT Native")...)
	block := append(append([]byte(nil), insert...), append([]byte{clientData, 0}, blockInfo...)...)
	for what, b := range map[string][]byte{
		"a name without end": append([]byte{0}, huge...), "an unknown packet": append(preamble(), 77),
		"columns without end": append(block, append(huge, 1)...),
		"rows without end":    append(block, append(append([]byte{1}, huge...), "\x01a\x06UInt64\x00"...)...),
		"a text without end":  append(block, append([]byte("\x01\x01\x01s\x06String\x00"), huge...)...),
		"a type without end":  append(block, append([]byte("\x01\x01\x01s"), huge...)...),
		"a deep type":         append(block, append([]byte("\x01\x01\x01s\xe8\x07"), strings.Repeat("Array(", 200)...)...),
	} {
		if got := send(what, b); !bytes.Contains(got, []byte("DB::Exception")) {
			t.Errorf("%s: %q", what, got)
		}
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 300 {
		b := make([]byte, rnd.IntN(400))
		for k := range b {
			b[k] = byte(rnd.IntN(256) >> rnd.IntN(8))
		}
		switch i % 4 {
		case 1:
			b = append(preamble(), b...)
		case 2:
			b = append(append([]byte(nil), block...), b...)
		case 3: // a good beginning with a byte that is not
			b = append(append([]byte(nil), block...), b...)
			b[rnd.IntN(len(b))] ^= byte(1 + rnd.IntN(255))
		}
		send(fmt.Sprint("random bytes ", i), b)
	}
	var n uint64
	if err := c.QueryRow(t.Context(), "SELECT count() FROM victim").Scan(&n); err != nil || n != 0 {
		t.Fatal(n, err)
	}
	if len(booted.free) < cap(booted.free) {
		t.Errorf("%d of %d connections of the engine are left", len(booted.free), cap(booted.free))
	}
}
