package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
	"github.com/google/uuid"
	"github.com/shopspring/decimal"
)

var (
	bootOnce sync.Once
	bootErr  error
	booted   *Engine
)

// chdb finds libchdb.
func chdb(t testing.TB) string {
	t.Helper()
	lib := os.Getenv("SYNCLINE_LIBCHDB")
	if lib == "" {
		base, _ := os.UserCacheDir()
		found, _ := filepath.Glob(filepath.Join(base, "syncline", "chdb-*", "libchdb.so"))
		if len(found) == 0 {
			t.Skip("libchdb.so is not in the cache yet; `go run . up` fetches it")
		}
		lib = found[len(found)-1]
	}
	return lib
}

// engine is the one that a process can have.
func engine(t testing.TB) *Engine {
	t.Helper()
	lib := chdb(t)
	bootOnce.Do(func() {
		dir, err := os.MkdirTemp("", "devstack-clickhouse-")
		if err != nil {
			bootErr = err
			return
		}
		booted, bootErr = OpenEngine(EngineOptions{Library: lib, Dir: dir, Connections: 4})
	})
	if bootErr != nil {
		t.Fatal(bootErr)
	}
	return booted
}

// serve starts the HTTP front.
func serve(t testing.TB) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(NewServer(engine(t), slog.New(slog.DiscardHandler)))
	t.Cleanup(s.Close)
	return s
}

// serveNative starts the native front.
func serveNative(t testing.TB) (address string) {
	t.Helper()
	s, err := NewTCPServer(t.Context(), engine(t), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func openNative(t testing.TB, address string, method clickhouse.CompressionMethod) clickhouse.Conn {
	t.Helper()
	c, err := clickhouse.Open(&clickhouse.Options{Addr: []string{address}, Compression: &clickhouse.Compression{Method: method}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// overBoth runs a test with a client of each front.
func overBoth(t *testing.T, f func(t *testing.T, open func(clickhouse.CompressionMethod) clickhouse.Conn)) {
	t.Run("http", func(t *testing.T) {
		s := serve(t)
		f(t, func(m clickhouse.CompressionMethod) clickhouse.Conn { return open(t, s, m) })
	})
	t.Run("native", func(t *testing.T) {
		address := serveNative(t)
		f(t, func(m clickhouse.CompressionMethod) clickhouse.Conn { return openNative(t, address, m) })
	})
}

func open(t testing.TB, s *httptest.Server, method clickhouse.CompressionMethod) clickhouse.Conn {
	t.Helper()
	u, _ := url.Parse(s.URL)
	c, err := clickhouse.Open(&clickhouse.Options{
		Addr: []string{u.Host}, Protocol: clickhouse.HTTP,
		Compression: &clickhouse.Compression{Method: method},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func execute(t testing.TB, c clickhouse.Conn, sql string, args ...any) {
	t.Helper()
	if err := c.Exec(context.Background(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

const everyType = `CREATE OR REPLACE TABLE every (
	i UInt32, u128 UInt128, i256 Int256, d76 Decimal(76, 20), d9 Decimal(9, 2), d18 Decimal(18, 4), d38 Decimal(38, 10),
	ts DateTime64(6), tsu DateTime64(6, 'UTC'), dt DateTime, d32 Date32, arr Array(Nullable(String)), arr2 Array(Array(Int32)),
	lc LowCardinality(String), lcn LowCardinality(Nullable(String)), alc Array(LowCardinality(String)), id UUID,
	e8 Enum8('a, b' = 1, 'c)' = 2), e16 Enum16('x' = 1000), n Nullable(Float64), s String, fs FixedString(3), b Bool,
	tup Tuple(Int32, String), named Tuple(a UInt8, b Nullable(String)), m Map(String, Array(UInt64)), ip IPv4, ip6 IPv6, f32 Float32, i8 Int8
) ENGINE = ReplacingMergeTree(u128) ORDER BY i`

func TestEveryTypeRoundTrips(t *testing.T) { overBoth(t, everyTypeRoundTrips) }

func everyTypeRoundTrips(t *testing.T, open func(clickhouse.CompressionMethod) clickhouse.Conn) {
	for _, method := range []clickhouse.CompressionMethod{clickhouse.CompressionNone, clickhouse.CompressionLZ4, clickhouse.CompressionZSTD, clickhouse.CompressionGZIP} {
		if method == clickhouse.CompressionGZIP && strings.HasSuffix(t.Name(), "native") {
			continue // of HTTP alone
		}
		t.Run(method.String(), func(t *testing.T) {
			c, ctx := open(method), context.Background()
			execute(t, c, everyType)
			batch, err := c.PrepareBatch(ctx, "INSERT INTO every")
			if err != nil {
				t.Fatal(err)
			}
			max128 := new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1))
			at := time.Date(2026, 3, 4, 5, 6, 7, 123456000, time.UTC)
			text, id := "ü\x00'", uuid.MustParse("6f1c0f3e-9a64-4b59-8f1b-0a8f6c2d9e11")
			d76 := decimal.RequireFromString("-12345678901234567890123456789012345678901234567890.12345678901234567891")
			const rows = 3000
			for i := range rows {
				var maybe *string
				var f *float64
				if i%2 == 0 {
					maybe = &text
					v := float64(i) / 4
					f = &v
				}
				err := batch.Append(uint32(i), max128, big.NewInt(int64(-i)), d76, decimal.New(int64(i), -2), decimal.New(int64(-i), -4), decimal.New(int64(i), -10),
					at, at, at.Truncate(time.Second), at.Truncate(24*time.Hour), []*string{&text, nil}, [][]int32{{1, int32(i)}, {}},
					fmt.Sprint("k", i%300), maybe, []string{"p", fmt.Sprint(i % 7)}, id,
					"a, b", "x", f, strings.Repeat("z", i%200), "abc", i%2 == 0,
					[]any{int32(i), "t"}, map[string]any{"a": uint8(i), "b": maybe}, map[string][]uint64{"k": {uint64(i), 2}}, "10.0.0.1", "::1", float32(i), int8(i%100))
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := batch.Send(); err != nil {
				t.Fatal(err)
			}
			got, err := c.Query(ctx, "SELECT i, u128, d76, ts, tsu, arr, lc, lcn, alc, id, e8, n, s, m, named, arr2 FROM every FINAL ORDER BY i SETTINGS max_block_size = 700")
			if err != nil {
				t.Fatal(err)
			}
			n := 0
			for got.Next() {
				var (
					i       uint32
					u       big.Int
					d       decimal.Decimal
					ts, tsu time.Time
					arr     []*string
					lc      string
					lcn     *string
					alc     []string
					gotID   uuid.UUID
					e8, str string
					f       *float64
					m       map[string][]uint64
					named   map[string]any
					arr2    [][]int32
				)
				if err := got.Scan(&i, &u, &d, &ts, &tsu, &arr, &lc, &lcn, &alc, &gotID, &e8, &f, &str, &m, &named, &arr2); err != nil {
					t.Fatal(err)
				}
				if int(i) != n || u.Cmp(max128) != 0 || !d.Equal(d76) || !ts.Equal(at) || !tsu.Equal(at) || *arr[0] != text || arr[1] != nil ||
					lc != fmt.Sprint("k", n%300) || (lcn == nil) != (n%2 == 1) || alc[1] != fmt.Sprint(n%7) || gotID != id || e8 != "a, b" ||
					(f == nil) != (n%2 == 1) || len(str) != n%200 || m["k"][0] != uint64(n) || arr2[0][1] != int32(n) {
					t.Fatalf("row %d differs: %v %v %v %v %v %v %v %v %v %v %v", n, i, &u, d, ts, arr, lc, lcn, alc, e8, m, named)
				}
				n++
			}
			if err := got.Err(); err != nil || n != rows {
				t.Fatalf("%d rows, %v", n, err)
			}
			// All columns together.
			all, err := c.Query(ctx, "SELECT * FROM every")
			if err != nil {
				t.Fatal(err)
			}
			for n = 0; all.Next(); n++ {
			}
			if err := all.Err(); err != nil || n != rows {
				t.Fatalf("all columns: %d rows, %v", n, err)
			}
		})
	}
}

func TestJSONAndVariants(t *testing.T) { overBoth(t, jsonAndVariants) }

func jsonAndVariants(t *testing.T, open func(clickhouse.CompressionMethod) clickhouse.Conn) {
	c, ctx := open(clickhouse.CompressionLZ4), context.Background()
	execute(t, c, "CREATE OR REPLACE TABLE docs (i UInt8, j JSON, v Variant(String, Int64)) ENGINE = MergeTree ORDER BY i")
	execute(t, c, `INSERT INTO docs VALUES (1, '{"a":{"b":1},"c":"x"}', 5), (2, '{}', 'text')`)
	rows, err := c.Query(ctx, "SELECT i, j, v FROM docs ORDER BY i")
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for rows.Next() {
		var (
			i uint8
			j string
			v clickhouse.Variant
		)
		if err = rows.Scan(&i, &j, &v); err != nil {
			t.Fatal(err)
		}
		if want := []string{`{"a":{"b":1},"c":"x"}`, `{}`}[n]; j != want {
			t.Errorf("%s, want %s", j, want)
		}
		n++
	}
	if rows.Err() != nil || n != 2 {
		t.Fatalf("%d rows, %v", n, rows.Err())
	}
	// Text into a JSON column, as a sink writes it.
	batch, err := c.PrepareBatch(ctx, "INSERT INTO docs (i, j)")
	if err != nil {
		t.Fatal(err)
	}
	if err := batch.Append(uint8(3), `{"deep":{"list":[1,2,{"x":null}]}}`); err != nil {
		t.Fatal(err)
	}
	if err := batch.Send(); err != nil {
		t.Fatal(err)
	}
	var deep uint64
	if err := c.QueryRow(ctx, "SELECT count() FROM docs WHERE i = 3 AND toString(j) LIKE '%list%'").Scan(&deep); err != nil || deep != 1 {
		t.Fatalf("%d, %v", deep, err)
	}
}

func TestErrorsLeaveTheConnectionFine(t *testing.T) { overBoth(t, errorsLeaveTheConnectionFine) }

func errorsLeaveTheConnectionFine(t *testing.T, open func(clickhouse.CompressionMethod) clickhouse.Conn) {
	c, ctx := open(clickhouse.CompressionLZ4), context.Background()
	execute(t, c, "CREATE OR REPLACE TABLE plain (a UInt64, s String) ENGINE = MergeTree ORDER BY a")
	for range 20 {
		var ex *clickhouse.Exception
		if err := c.Exec(ctx, "SELECT * FROM nowhere"); !errors.As(err, &ex) || ex.Code != 60 {
			t.Fatalf("got %v", err)
		}
		rows, err := c.Query(ctx, "SELECT throwIf(number = 3000000) FROM numbers(4000000)")
		if err == nil {
			for rows.Next() {
			}
			err = rows.Err()
		}
		if !errors.As(err, &ex) || ex.Code != 395 {
			t.Fatalf("midway: %v", err)
		}
		bad := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"no_such_setting": 1}))
		if err := c.Exec(bad, "SELECT 1"); !errors.As(err, &ex) || ex.Code != 115 {
			t.Fatalf("setting: %v", err)
		}
		cut, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		rows, err = c.Query(cut, "SELECT sum(number) FROM (SELECT number FROM system.numbers LIMIT 200000000) GROUP BY number % 3")
		if err == nil {
			_ = rows.Close()
		}
		cancel()
		var one uint8
		if err := c.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil || one != 1 {
			t.Fatalf("after errors: %v", err)
		}
	}
}

func TestSettingsAndDatabaseHoldForOneRequest(t *testing.T) {
	s := serve(t)
	c, ctx := open(t, s, clickhouse.CompressionNone), context.Background()
	execute(t, c, "CREATE DATABASE IF NOT EXISTS `other one`")
	for i := range 30 {
		with := clickhouse.Context(ctx, clickhouse.WithSettings(clickhouse.Settings{"max_threads": i%3 + 1}))
		var threads string
		if err := c.QueryRow(with, "SELECT toString(getSetting('max_threads'))").Scan(&threads); err != nil || threads != fmt.Sprint(i%3+1) {
			t.Fatalf("%s, %v", threads, err)
		}
	}
	execute(t, c, "SET max_threads = 77")
	for range 20 {
		if got := get(t, s, "/?query="+url.QueryEscape("SELECT getSetting('max_threads') = 77, currentDatabase()")); got != "0\tdefault\n" {
			t.Fatalf("leaked: %q", got)
		}
	}
	if got := get(t, s, "/?database=other+one&query=SELECT+currentDatabase()"); got != "other one\n" {
		t.Fatal(got)
	}
	if got := get(t, s, "/?param_x=a%27b&query="+url.QueryEscape("SELECT {x:String}")); got != "a\\'b\n" {
		t.Fatal(got)
	}
	var n uint64
	if err := c.QueryRow(ctx, "SELECT count() FROM numbers(10) WHERE number < {x:UInt8}", clickhouse.Named("x", 4)).Scan(&n); err != nil || n != 4 {
		t.Fatal(n, err)
	}
}

func get(t *testing.T, s *httptest.Server, path string) string {
	t.Helper()
	res, err := http.Get(s.URL + path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func post(t *testing.T, s *httptest.Server, path, body string) string {
	t.Helper()
	res, err := http.Post(s.URL+path, "", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestPlainHTTP(t *testing.T) {
	s := serve(t)
	for _, c := range []struct{ path, body, want string }{
		{"/?query=SELECT+1", "", "1\n"},
		{"/", "SELECT 1, 'a' FORMAT CSV", "1,\"a\"\n"},
		{"/", "CREATE OR REPLACE TABLE t (a UInt64, s String) ENGINE = MergeTree ORDER BY a", ""},
		{"/?query=INSERT+INTO+t+FORMAT+TabSeparated", "1\tx\n2\ty\n", ""},
		{"/?query=INSERT+INTO+t+(a,s)+VALUES", "(3,'z')", ""},
		{"/?query=INSERT+INTO+t+FORMAT+JSONEachRow", `{"a":4,"s":"FORMAT"}`, ""},
		{"/", "INSERT INTO t FORMAT CSV\n5,\"five\"\n", ""},
		{"/", "INSERT INTO t VALUES (6, 'it''s') (7, '--')", ""},
		{"/", "INSERT INTO t SELECT 8, 'eight'", ""},
		{"/?query=SELECT+*+FROM+t+ORDER+BY+a", "", "1\tx\n2\ty\n3\tz\n4\tFORMAT\n5\tfive\n6\tit\\'s\n7\t--\n8\teight\n"},
		{"/", "SELECT count() FROM t FORMAT JSONCompact", ""},
		{"/?default_format=CSVWithNames", "SELECT number FROM numbers(2)", "\"number\"\n0\n1\n"},
		{"/", "SHOW TABLES LIKE 't'", "t\n"},
		{"/", "EXISTS TABLE t", "1\n"},
	} {
		got := post(t, s, c.path, c.body)
		if c.want == "" && !strings.Contains(got, "DB::Exception") {
			continue
		}
		if got != c.want {
			t.Errorf("%s %s: %q, want %q", c.path, c.body, got, c.want)
		}
	}
	if got := get(t, s, "/ping"); got != "Ok.\n" {
		t.Error(got)
	}
	big := strings.Repeat("10,\"padding padding padding\"\n", 100_000)
	if got := post(t, s, "/", "INSERT INTO t FORMAT CSV\n"+big); got != "" {
		t.Error(got)
	}
	if got := get(t, s, "/?query=SELECT+count()+FROM+t+WHERE+a=10"); got != "100000\n" {
		t.Error(got)
	}
}

func TestManyClientsAtOnce(t *testing.T) { overBoth(t, manyClientsAtOnce) }

func manyClientsAtOnce(t *testing.T, open func(clickhouse.CompressionMethod) clickhouse.Conn) {
	c, ctx := open(clickhouse.CompressionLZ4), context.Background()
	execute(t, c, "CREATE OR REPLACE TABLE crowd (w UInt32, n UInt64) ENGINE = MergeTree ORDER BY (w, n)")
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for b := range 10 {
				batch, err := c.PrepareBatch(ctx, "INSERT INTO crowd")
				if err != nil {
					t.Error(err)
					return
				}
				for i := range 500 {
					_ = batch.Append(uint32(w), uint64(b*500+i))
				}
				if err := batch.Send(); err != nil {
					t.Error(err)
				}
				var n uint64
				if err := c.QueryRow(ctx, "SELECT count() FROM crowd WHERE w = {w:UInt32}", clickhouse.Named("w", w)).Scan(&n); err != nil || n != uint64(b+1)*500 {
					t.Errorf("worker %d sees %d rows after batch %d: %v", w, n, b, err)
				}
			}
		})
	}
	wg.Wait()
}

// BenchmarkInsert measures rows per second of a client's column batches.
func BenchmarkInsert(b *testing.B) {
	s := serve(b)
	c, ctx := open(b, s, clickhouse.CompressionLZ4), context.Background()
	execute(b, c, "CREATE OR REPLACE TABLE bench (id UInt64, name String, price Decimal(38, 2), at DateTime64(6), note Nullable(String), _version UInt128, _deleted UInt8) ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY id")
	const rows = 100_000
	version := big.NewInt(1 << 60)
	note, at, price := "a note of some length for the row", time.Now(), decimal.RequireFromString("12345.67")
	start := time.Now()
	for b.Loop() {
		batch, err := c.PrepareBatch(ctx, "INSERT INTO bench")
		if err != nil {
			b.Fatal(err)
		}
		for i := range rows {
			if err := batch.Append(uint64(i), "name of the thing", price, at, &note, version, uint8(0)); err != nil {
				b.Fatal(err)
			}
		}

		if err := batch.Send(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*rows)/time.Since(start).Seconds(), "rows/s")
}

// BenchmarkSelect measures rows per second of a client that reads them all.
func BenchmarkSelect(b *testing.B) {
	s := serve(b)
	c, ctx := open(b, s, clickhouse.CompressionLZ4), context.Background()
	const rows = 1_000_000
	start := time.Now()
	for b.Loop() {
		got, err := c.Query(ctx, "SELECT number, toString(number), toNullable(number) FROM numbers(1000000)")
		if err != nil {
			b.Fatal(err)
		}
		n := 0
		for got.Next() {
			n++
		}
		if got.Err() != nil || n != rows {
			b.Fatal(n, got.Err())
		}
	}
	b.ReportMetric(float64(b.N*rows)/time.Since(start).Seconds(), "rows/s")
}
