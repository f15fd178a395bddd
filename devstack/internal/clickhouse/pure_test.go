package clickhouse

import (
	"bytes"
	"errors"
	"testing"
	"time"

	chproto "github.com/ClickHouse/ch-go/proto"
	"github.com/ClickHouse/clickhouse-go/v2/lib/column"
	"github.com/ClickHouse/clickhouse-go/v2/lib/proto"
)

func TestParse(t *testing.T) {
	for _, c := range []struct {
		sql, verb, head, format, data string
		takes, leaky, reads, input    bool
		out                           string
	}{
		{sql: "SELECT 1", verb: "SELECT", reads: true},
		{sql: "  -- FORMAT x\n/* a */ (select 1) format JSON", verb: "SELECT", reads: true, out: "JSON"},
		{sql: "SELECT 'a FORMAT b', `FORMAT` FROM t FORMAT CSV SETTINGS x = 1", verb: "SELECT", reads: true, out: "CSV"},
		{sql: "WITH (SELECT 1 FORMAT) AS x SELECT x", verb: "WITH", reads: true},
		{sql: "INSERT INTO `FORMAT` (a, `values`) FORMAT Native", verb: "INSERT", takes: true, head: "INSERT INTO `FORMAT` (a, `values`) ", format: "Native"},
		{sql: "insert into t values (1)", verb: "INSERT", takes: true, head: "insert into t ", format: "Values", data: " (1)"},
		{sql: "INSERT INTO t SETTINGS a=1 FORMAT CSV\r\n1,2\n", verb: "INSERT", takes: true, head: "INSERT INTO t SETTINGS a=1 ", format: "CSV", data: "1,2\n"},
		{sql: "INSERT INTO t SELECT * FROM u", verb: "INSERT", takes: false},
		{sql: "INSERT INTO t SELECT * FROM input('x UInt8') FORMAT CSV", verb: "INSERT", input: true},
		{sql: "SET a = 1", verb: "SET", leaky: true},
		{sql: "CREATE TEMPORARY TABLE t (a UInt8)", verb: "CREATE", leaky: true},
		{sql: "CREATE TABLE temporary (a UInt8)", verb: "CREATE"},
		{sql: " -- nothing", verb: ""},
		{sql: "SELECT 'open", verb: "SELECT", reads: true},
	} {
		st := parse(c.sql)
		if st.verb != c.verb || st.takesData != c.takes || st.leaky != c.leaky || st.reads() != c.reads || st.format != c.out || st.fromInput != c.input {
			t.Errorf("%q: %+v", c.sql, st)
		}
		if c.takes && (st.insertHead != c.head || st.dataFormat != c.format || c.sql[st.dataStart:] != c.data) {
			t.Errorf("%q: head %q, format %q, data %q", c.sql, st.insertHead, st.dataFormat, c.sql[st.dataStart:])
		}
	}
}

func TestEngineErrorsCarryTheirCode(t *testing.T) {
	if e := engineError("Code: 60. DB::Exception: Table x.y does not exist. (UNKNOWN_TABLE)"); e.Code != 60 || status(e.Code) != 404 {
		t.Errorf("%+v", e)
	}
	if e := engineError("something else"); e.Code != 1002 {
		t.Errorf("%+v", e)
	}
}

// block makes a block with the client's own library.
func block(t testing.TB, rows int, types ...string) *proto.Block {
	t.Helper()
	b := proto.NewBlock()
	b.ServerContext = &column.ServerContext{Timezone: time.UTC, VersionMajor: 26, VersionMinor: 7}
	for i, typ := range types {
		if err := b.AddColumn(string(rune('a'+i)), column.Type(typ)); err != nil {
			t.Fatal(err)
		}
	}
	text := "ü, text"
	for r := range rows {
		for i, typ := range types {
			var v any
			switch typ {
			case "UInt64":
				v = uint64(r)
			case "String", "LowCardinality(String)":
				v = text[:r%len(text)]
			case "Nullable(String)", "LowCardinality(Nullable(String))":
				if r%3 > 0 {
					v = &text
				}
			case "Array(Nullable(String))":
				v = []*string{&text, nil}[:r%3]
			case "Map(String, UInt8)":
				v = map[string]uint8{text: 1}
			case "Array(Array(LowCardinality(String)))":
				v = [][]string{{text}, {}, {"x", "y"}}[:r%4]
			case "DateTime64(6, 'UTC')":
				v = time.UnixMicro(int64(r))
			}
			if err := b.Columns[i].AppendRow(v); err != nil {
				t.Fatalf("%s: %v", typ, err)
			}
		}
	}
	return b
}

var someTypes = []string{
	"UInt64", "String", "Nullable(String)", "LowCardinality(String)", "LowCardinality(Nullable(String))", "Array(Nullable(String))",
	"Map(String, UInt8)", "Array(Array(LowCardinality(String)))", "DateTime64(6, 'UTC')",
}

// What the front makes of version 0 must be what the client itself would write
// for the newer version.
func TestUpgradedBlocksAreThoseOfTheClient(t *testing.T) {
	for _, rows := range []int{1, 2, 300, 70000} {
		var old, want chproto.Buffer
		for range 2 { // two blocks in a row
			b := block(t, rows, someTypes...)
			if err := b.Encode(&old, 0); err != nil {
				t.Fatal(err)
			}
			if err := b.Encode(&want, 54460); err != nil {
				t.Fatal(err)
			}
		}
		parts, err := upgradeBlocks(old.Buf, 54460)
		if err != nil {
			t.Fatalf("%d rows: %v", rows, err)
		}
		if !bytes.Equal(bytes.Join(parts, nil), want.Buf) {
			t.Errorf("%d rows differ", rows)
		}
		var back []byte
		for r := bytes.NewReader(want.Buf); r.Len() > 0; {
			b, columns, n, err := downgradeBlock(nil, r)
			if err != nil || columns != uint64(len(someTypes)) || n != uint64(rows) {
				t.Fatalf("%d rows: %d columns, %d rows, %v", rows, columns, n, err)
			}
			back = append(back, b...)
		}
		if !bytes.Equal(back, old.Buf) {
			t.Errorf("%d rows differ on the way back", rows)
		}
		same, err := upgradeBlocks(old.Buf, 0)
		if err != nil || !bytes.Equal(bytes.Join(same, nil), old.Buf) {
			t.Errorf("version 0 must pass as it is: %v", err)
		}
	}
}

func TestTypesWithoutLengthAreRefused(t *testing.T) {
	for _, name := range []string{"Dynamic", "AggregateFunction(sum, UInt64)", "Tuple()", "Array(Dynamic)", "Map(String, Dynamic)"} {
		if _, err := parseType(name); !errors.Is(err, errOpaque) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range []string{
		"Decimal(76, 20)", "Enum8('a, b' = 1, 'c)\\'' = 2)", "Tuple(`a b` UInt8, c Nullable(Enum8('x' = 1)))", "SimpleAggregateFunction(max, UInt64)",
		"Nested(a UInt8, b String)", "FixedString(16)", "IntervalSecond", "DateTime64(3, 'Europe/Berlin')", "Variant(String, UInt8)", "Polygon", "Tuple(UInt8, String)",
	} {
		if _, err := parseType(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzUpgradeBlocks(f *testing.F) {
	var b chproto.Buffer
	if err := block(f, 5, someTypes...).Encode(&b, 0); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Buf)
	f.Add([]byte{1, 1, 1, 'a', 5, 'U', 'I', 'n', 't', '8', 7})
	f.Add([]byte{1, 2, 1, 'a', 4, 'J', 'S', 'O', 'N', 1, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		parts, err := upgradeBlocks(in, 54460)
		if err != nil {
			return
		}
		size := 0
		for _, p := range parts {
			size += len(p)
		}
		if size < len(in) {
			t.Errorf("%d bytes became %d", len(in), size)
		}
	})
}

func FuzzDowngradeBlock(f *testing.F) {
	var b chproto.Buffer
	if err := block(f, 5, someTypes...).Encode(&b, revision); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Buf)
	f.Add(append(append([]byte(nil), blockInfo...), "\x01\x01\x01a\x05UInt8\x00\x07"...))
	f.Fuzz(func(t *testing.T, in []byte) {
		out, columns, _, err := downgradeBlock(nil, bytes.NewReader(in))
		if err != nil || columns == 0 {
			return
		}
		// What goes to the engine must be walked over in the same way.
		parts, rest, err := upgradeBlock(out, revision)
		if err != nil || len(rest) > 0 || len(parts) < 2 {
			t.Errorf("%d bytes are left, %v", len(rest), err)
		}
	})
}

func TestInsertShapes(t *testing.T) {
	for head, want := range map[string]string{
		"INSERT INTO t": "SELECT * FROM t",
		"insert into table `a b`.\"t\" (x, `y)`) SETTINGS a = (1)": "SELECT x, `y)` FROM `a b`.\"t\"",
		"INSERT INTO db.t(a,b)":                    "SELECT a,b FROM db.t",
		"INSERT INTO t (* EXCEPT(a, b)) ":          "SELECT * EXCEPT(a, b) FROM t",
		"INSERT INTO FUNCTION null('x UInt8') (x)": "SELECT x FROM null('x UInt8')",
		"INSERT INTO":                              "",
		"INSERT INTO (":                            "",
		"INSERT INTO t.":                           "",
	} {
		if got := insertShape(head); got != want {
			t.Errorf("%q: %q, want %q", head, got, want)
		}
	}
}

func TestNativeMessages(t *testing.T) {
	for text, want := range map[string]string{
		"Code: 60. DB::Exception: Table x.y does not exist. (UNKNOWN_TABLE)": "DB::Exception: Table x.y does not exist.",
		"Code: 6. DB::Exception: no (A). (NAME) (version 26.7.2.1)":          "DB::Exception: no (A).",
		"another": "another",
	} {
		if got := nativeMessage(text); got != want {
			t.Errorf("%q", got)
		}
	}
	for text, want := range map[string]string{`'it\'s\ta\\b\0'`: "it's\ta\\b\x00", "7": "7", "''": "", "'": "'"} {
		if got := undump(text); got != want {
			t.Errorf("%s: %q", text, got)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("INSERT INTO t (a) FORMAT CSV\n1")
	f.Add("SELECT '\\' /* -- ` FORMAT")
	f.Fuzz(func(t *testing.T, sql string) {
		if st := parse(sql); st.dataStart < 0 || st.dataStart > len(sql) {
			t.Errorf("%q: data at %d of %d", sql, st.dataStart, len(sql))
		}
		if st := parse(sql); st.format != "" && sql[st.formatStart:st.formatEnd] == "" {
			t.Errorf("%q: format at %d to %d", sql, st.formatStart, st.formatEnd)
		}
		insertShape(sql)
	})
}
