package change

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write golden files")

func genRow() *rapid.Generator[Row] {
	value := rapid.Custom(func(t *rapid.T) Value {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			return Value{}
		case 1:
			return Value{Kind: Unchanged}
		}
		return Value{Text, rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data")}
	})
	return rapid.Custom(func(t *rapid.T) Row {
		if rapid.IntRange(0, 4).Draw(t, "nil") == 0 {
			return nil
		}
		return Row(rapid.SliceOfN(value, 0, 20).Draw(t, "row"))
	})
}

func genPosition() *rapid.Generator[Position] {
	return rapid.Custom(func(t *rapid.T) Position {
		return Position{rapid.Uint32().Draw(t, "epoch"), LSN(rapid.Uint64().Draw(t, "lsn")), rapid.Uint32().Draw(t, "ordinal")}
	})
}

func genChange() *rapid.Generator[Change] {
	return rapid.Custom(func(t *rapid.T) Change {
		return Change{
			Table:      TableID{rapid.String().Draw(t, "schema"), rapid.String().Draw(t, "name")},
			Schema:     Version(rapid.Uint64().Draw(t, "version")),
			Op:         rapid.SampledFrom([]Op{Insert, Update, Delete, Truncate}).Draw(t, "op"),
			Pos:        genPosition().Draw(t, "pos"),
			XID:        rapid.Uint32().Draw(t, "xid"),
			CommitTime: time.UnixMicro(rapid.Int64Range(-62135596800000000, 253402300800000000).Draw(t, "time")).UTC(),
			Last:       rapid.Bool().Draw(t, "last"),
			Origin:     rapid.StringN(0, 20, -1).Draw(t, "origin"),
			Trace:      rapid.StringN(0, 60, -1).Draw(t, "trace"),
			Key:        Key(rapid.StringN(0, 40, -1).Draw(t, "key")),
			New:        genRow().Draw(t, "new"),
			Old:        genRow().Draw(t, "old"),
			Moved:      genRow().Draw(t, "moved"),
		}
	})
}

// same compares changes; a Text without bytes may have a nil or an empty Data.
func same(a, b *Change) bool {
	x, y := *a, *b
	x.New, x.Old, x.Moved, y.New, y.Old, y.Moved = nil, nil, nil, nil, nil, nil
	return reflect.DeepEqual(x, y) && sameRow(a.New, b.New) && sameRow(a.Old, b.Old) && sameRow(a.Moved, b.Moved)
}

func sameRow(a, b Row) bool {
	if len(a) != len(b) || (a == nil) != (b == nil) {
		return false
	}
	for i := range a {
		if !a[i].Equal(b[i]) {
			return false
		}
	}
	return true
}

func TestCodecRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genChange().Draw(t, "change")
		prefix := rapid.SliceOfN(rapid.Byte(), 0, 8).Draw(t, "prefix")
		b := Encode(bytes.Clone(prefix), &c)
		if !bytes.HasPrefix(b, prefix) {
			t.Fatal("Encode changed what was in dst")
		}
		b = b[len(prefix):]
		back := Change{New: make(Row, 3), Old: make(Row, 30)} // to be reused or replaced
		if err := Decode(b, &back); err != nil {
			t.Fatal(err)
		}
		if !same(&c, &back) {
			t.Fatalf("%+v became %+v", c, back)
		}
	})
}

func TestCodecTruncatedAndTrailing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := genChange().Draw(t, "change")
		b := Encode(nil, &c)
		cut := rapid.IntRange(0, len(b)-1).Draw(t, "cut")
		var fe *FormatError
		if err := Decode(b[:cut], &Change{}); !errors.As(err, &fe) || fe.Offset > cut {
			t.Fatalf("cut at %d of %d: %v", cut, len(b), err)
		}
		if err := Decode(append(b, 0), &Change{}); !errors.As(err, &fe) || fe.Offset != len(b) || !strings.Contains(err.Error(), "too many") {
			t.Fatalf("one byte more than %d: %v", len(b), err)
		}
	})
}

func TestCodecRefuses(t *testing.T) {
	good := Encode(nil, &example)
	patch := func(at int, v byte) []byte { b := bytes.Clone(good); b[at] = v; return b }
	for _, tc := range []struct {
		name string
		b    []byte
		want string
	}{
		{"nothing", nil, "byte 0: no bytes"},
		{"a later format", patch(0, 2), "byte 0: format version 2, this release reads 1"},
		{"an unknown operation", patch(1, 'x'), "byte 1: unknown operation 120"},
		{"unknown flags", patch(2, 0x80), "byte 2: unknown flags 0x80"},
		{"a long form of a length", append(good[:fixedPart:fixedPart], 0x86, 0x00), "byte 39: bad length of schema name"},
		{"a length beyond 64 bits", append(good[:fixedPart:fixedPart], bytes.Repeat([]byte{0xff}, 11)...), "byte 39: bad length of schema name"},
		{"a length beyond the end", append(good[:fixedPart:fixedPart], 0x05, 'a'), "byte 41: ends within schema name"},
	} {
		if err := Decode(tc.b, &Change{}); err == nil || !strings.HasSuffix(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want …%s", tc.name, err, tc.want)
		}
	}
}

func TestDecodeAliasesAndReuses(t *testing.T) {
	b := Encode(nil, &example)
	var c Change
	if err := Decode(b, &c); err != nil {
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() { _ = Decode(b, &c) }); n != 0 {
		t.Errorf("%v allocations per Decode into a used change", n)
	}
	copy(b[bytes.LastIndex(b, []byte("9.99")):], "1.11")
	if got := string(c.New[1].Data); got != "1.11" {
		t.Errorf("a value does not alias the buffer: %q", got)
	}
	if cap(c.New[1].Data) != 4 {
		t.Error("a value can be appended over its neighbour")
	}
}

// example is the change in README and in the golden file.
var example = Change{
	Table:      TableID{"public", "orders"},
	Schema:     0x0123456789abcdef,
	Op:         Update,
	Pos:        Position{1, 0x16B374D848, 3},
	XID:        4711,
	CommitTime: time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC),
	Last:       true,
	Origin:     "eu",
	Key:        "\x0242",
	New:        Row{TextValue("42"), TextValue("9.99"), {}, {Kind: Unchanged}, {Text, []byte{}}},
}

func TestGolden(t *testing.T) {
	full := example
	full.Trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
	full.Old = Row{TextValue("42"), TextValue("1.00"), {}, TextValue(strings.Repeat("x", 200)), {}}
	truncate := Change{Table: TableID{"Ünï", `we"ird.name`}, Op: Truncate, Pos: Position{2, 7, 1}, XID: 9, CommitTime: example.CommitTime}
	del := Change{Table: TableID{"public", "orders"}, Schema: 1, Op: Delete, Pos: Position{1, 8, 1}, Key: "\x0242", Old: Row{TextValue("42"), {}, {}, {}, {}}}
	moved := del
	moved.Moved = Row{TextValue("43")}
	var out strings.Builder
	for _, c := range []Change{example, full, truncate, del, moved} {
		out.WriteString(hex.EncodeToString(Encode(nil, &c)) + "\n")
	}
	const file = "testdata/format-v1.hex"
	if *update {
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != out.String() {
		t.Errorf("the format changed without a new version:\n%s\nwant\n%s", out.String(), want)
	}
}

func TestReadmeExample(t *testing.T) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, block, ok := strings.Cut(string(readme), "```hex\n")
	block, _, ok2 := strings.Cut(block, "```")
	if !ok || !ok2 {
		t.Fatal("README has no hex block")
	}
	digits := ""
	for line := range strings.Lines(block) {
		line, _, _ = strings.Cut(line, "#")
		digits += regexp.MustCompile(`\s`).ReplaceAllString(line, "")
	}
	if want := hex.EncodeToString(Encode(nil, &example)); digits != want {
		t.Errorf("README's example is\n%s\nthe change encodes to\n%s", digits, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(Encode(nil, &example))
	f.Add([]byte{})
	f.Add(bytes.Repeat([]byte{1}, 60))
	f.Fuzz(func(t *testing.T, b []byte) {
		var c Change
		if err := Decode(b, &c); err != nil {
			var fe *FormatError
			if !errors.As(err, &fe) || fe.Offset < 0 || fe.Offset > len(b) {
				t.Fatalf("%v names a byte outside of %d", err, len(b))
			}
			return
		}
		if again := Encode(nil, &c); !bytes.Equal(again, b) {
			t.Fatalf("accepts %x, writes %x", b, again)
		}
	})
}

func benchChange() *Change {
	c := example
	c.New = Row{TextValue("123456"), TextValue("some text of a name"), TextValue("2026-03-01 12:00:00.25"), TextValue("19.99"), TextValue("t"), {}, TextValue("a somewhat longer text, as comments are"), TextValue("42")}
	return &c
}

func BenchmarkEncode(b *testing.B) {
	c := benchChange()
	buf := make([]byte, 0, 1024)
	b.ReportAllocs()
	for b.Loop() {
		buf = Encode(buf[:0], c)
	}
}

func BenchmarkDecode(b *testing.B) {
	buf := Encode(nil, benchChange())
	var c Change
	b.ReportAllocs()
	for b.Loop() {
		if err := Decode(buf, &c); err != nil {
			b.Fatal(err)
		}
	}
}
