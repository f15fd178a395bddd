package change

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestPositionForms(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, q := genPosition().Draw(t, "p"), genPosition().Draw(t, "q")
		if back, err := ParsePosition(p.String()); err != nil || back != p {
			t.Fatalf("%v → %q → %v, %v", p, p.String(), back, err)
		}
		if want := fmt.Sprintf("%d:%X/%X:%d", p.Epoch, uint32(p.Commit>>32), uint32(p.Commit), p.Ordinal); p.String() != want {
			t.Fatalf("%q, want %q", p, want)
		}
		pb, _ := p.AppendBinary(nil)
		qb, _ := q.AppendBinary(nil)
		if back, err := DecodePosition(pb); err != nil || back != p || len(pb) != PositionBytes {
			t.Fatalf("%v → %x → %v, %v", p, pb, back, err)
		}
		if back, err := PositionOfVersion(p.Version()); err != nil || back != p {
			t.Fatalf("%v → %s → %v, %v", p, p.Version(), back, err)
		}
		// All orders agree, and Compare is one.
		if c := p.Compare(q); c != bytes.Compare(pb, qb) || c != p.Version().Cmp(q.Version()) || c != -q.Compare(p) || (c < 0) != p.Before(q) || (c == 0) != (p == q) {
			t.Fatalf("%v and %v compare as %d, %d, %d", p, q, c, bytes.Compare(pb, qb), p.Version().Cmp(q.Version()))
		}
		var back struct{ P Position }
		b, err := json.Marshal(struct{ P Position }{p})
		if err == nil {
			err = json.Unmarshal(b, &back)
		}
		if err != nil || back.P != p {
			t.Fatalf("%v → %s → %v, %v", p, b, back.P, err)
		}
	})
	snapshot := Position{Epoch: 3}
	if !snapshot.Before(Position{3, 0, 1}) || !snapshot.Before(Position{3, 1, 0}) || snapshot.Before(Position{2, math.MaxUint64, math.MaxUint32}) || !(Position{}).IsZero() || snapshot.IsZero() {
		t.Error("a snapshot's rows must come before every change of their epoch and after the epoch before")
	}
	for _, v := range []*big.Int{big.NewInt(-1), new(big.Int).Lsh(big.NewInt(1), 128)} {
		if _, err := PositionOfVersion(v); err == nil {
			t.Errorf("version %s was taken", v)
		}
	}
}

func TestParseRefuses(t *testing.T) {
	for _, s := range []string{"", "/", "1", "1/", "/1", "g/0", "1/100000000", "100000000/1", "-1/0", "+1/0", " 1/0", "1/0 ", "1/0/0", "0x1/0"} {
		if v, err := ParseLSN(s); err == nil {
			t.Errorf("LSN %q is %v", s, v)
		}
	}
	for _, s := range []string{"", "::", "1:0/1", "1:0/1:2:3", "x:0/1:2", "1:0/1:x", "4294967296:0/0:0", "1:0/0:-1"} {
		if v, err := ParsePosition(s); err == nil {
			t.Errorf("position %q is %v", s, v)
		}
	}
	for _, s := range []string{"", "1", "               1", "0x00000000000001", "+000000000000001", "00000000000000001", "000000000000000g", "0000_00000000001"} {
		if v, err := ParseVersion(s); err == nil {
			t.Errorf("version %q is %v", s, v)
		}
	}
	for _, s := range []string{"", "a", ".", "a.", ".a", "a.b.c", `"a`, `"a".`, `"a"b.c`, "a b.c", "a. b", `a"b.c`, `a.b"`, "\ta.b"} {
		if v, err := ParseTableID(s); err == nil {
			t.Errorf("table %q is %#v", s, v)
		}
	}
	for _, s := range []string{"", "1", "1:2", "1:2:3:4", "a:2:", "1:b:", "1:2:c", "1:2:,", "1:2:3,", "2:1:", "5:9:4", "5:9:9", "-1:2:", "18446744073709551616:1:"} {
		if v, err := ParseSnapshot(s); err == nil {
			t.Errorf("snapshot %q is %v", s, v)
		}
	}
	for _, s := range []string{"", "(", ")", "(a)", `("a"`, `("a",)`, `(,"a")`, `("a" "b")`, "(`a`)", `('a')`} {
		if v, err := ParseKey(s); err == nil {
			t.Errorf("key %q is %v", s, v)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"16/B374D848", "1:16/B374D848:3", "0123456789abcdef", `shop."a ""b"""`, "10:20:12,15", `("1","a")`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if v, err := ParseLSN(s); err == nil {
			again(t, s, v, v.String(), ParseLSN)
		}
		if v, err := ParsePosition(s); err == nil {
			again(t, s, v, v.String(), ParsePosition)
		}
		if v, err := ParseVersion(s); err == nil {
			again(t, s, v, v.String(), ParseVersion)
		}
		if v, err := ParseTableID(s); err == nil {
			again(t, s, v, v.String(), ParseTableID)
		}
		if v, err := ParseKey(s); err == nil {
			again(t, s, v, v.String(), ParseKey)
		}
		if v, err := ParseSnapshot(s); err == nil {
			back, err := ParseSnapshot(v.String())
			if err != nil || back.String() != v.String() {
				t.Fatalf("%q → %q → %v, %v", s, v, back, err)
			}
		}
		_, _ = Key(s).Values()
		_ = Key(s).String()
		if sc, err := DecodeSchema([]byte(s)); err == nil {
			if back, err := DecodeSchema(EncodeSchema(sc)); err != nil || back.Version() != sc.Version() {
				t.Fatalf("%q → %v, %v", s, back, err)
			}
		}
	})
}

func again[T comparable](t *testing.T, s string, v T, text string, parse func(string) (T, error)) {
	t.Helper()
	if back, err := parse(text); err != nil || back != v {
		t.Fatalf("%q → %v → %q → %v, %v", s, v, text, back, err)
	}
}

func TestTableIDForms(t *testing.T) {
	name := rapid.OneOf(rapid.String(), rapid.StringMatching(`[a-zA-Z_ ."\t]{0,8}`))
	rapid.Check(t, func(t *rapid.T) {
		id := TableID{name.Draw(t, "schema"), name.Draw(t, "name")}
		if back, err := ParseTableID(id.String()); err != nil || back != id {
			t.Fatalf("%#v → %s → %#v, %v", id, id, back, err)
		}
		m := map[TableID]int{id: 1}
		if b, err := json.Marshal(m); err != nil || json.Unmarshal(b, &map[TableID]int{}) != nil {
			t.Fatalf("%#v is no key of a JSON object: %s, %v", id, b, err)
		}
	})
	for id, want := range map[TableID]string{{"public", "orders"}: "public.orders", {"Shop", "Order Items"}: `Shop."Order Items"`, {"a.b", `c"d`}: `"a.b"."c""d"`, {"", "x"}: `"".x`, {"süß", "日本"}: "süß.日本"} {
		if id.String() != want {
			t.Errorf("%#v is %s, want %s", id, id, want)
		}
	}
}

func keySchema(bases ...string) *Schema {
	s := &Schema{Table: TableID{"s", "t"}}
	for i, b := range bases {
		s.Columns = append(s.Columns, Column{Name: fmt.Sprintf("c%d", i), Type: Type{Kind: Base, Base: b}})
		s.Key = append(s.Key, i)
	}
	return s
}

func texts(vs ...string) Row {
	var r Row
	for _, v := range vs {
		r = append(r, TextValue(v))
	}
	return r
}

func mustKey(t interface{ Fatal(...any) }, s *Schema, vs ...string) Key {
	k, err := MakeKey(s, texts(vs...))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func TestKeyForms(t *testing.T) {
	values := rapid.SliceOfN(rapid.OneOf(rapid.String(), rapid.StringN(0, 3, -1)), 1, 4)
	rapid.Check(t, func(t *rapid.T) {
		a, b := values.Draw(t, "a"), values.Draw(t, "b")
		text := func(vs []string) *Schema { return keySchema(slices.Repeat([]string{"text"}, len(vs))...) }
		ka, kb := mustKey(t, text(a), a...), mustKey(t, text(b), b...)
		if (ka == kb) != slices.Equal(a, b) {
			t.Fatalf("%q and %q have keys %q and %q", a, b, ka, kb)
		}
		if vs, err := ka.Values(); err != nil || !slices.Equal(vs, a) {
			t.Fatalf("%q → %q → %q, %v", a, ka, vs, err)
		}
		if back, err := ParseKey(ka.String()); err != nil || back != ka {
			t.Fatalf("%q → %s → %q, %v", ka, ka, back, err)
		}
		n := rapid.IntRange(1, 100).Draw(t, "n")
		if p := ka.Partition(n); p < 0 || p >= n || p != ka.Partition(n) {
			t.Fatalf("partition %d of %d", p, n)
		}
	})
}

// Equal values have equal keys, whatever their text; different ones do not.
func TestKeyNormalisation(t *testing.T) {
	for base, groups := range map[string][][]string{
		"numeric": {{"1", "1.0", "1.000"}, {"0", "0.0", "-0", "-0.00", ".0"}, {"100", "100.0"}, {"10", "10.00"}, {"-1.5", "-1.50"}, {"0.001", "0.00100"}, {"NaN"}, {"Infinity"}, {"-Infinity"}},
		"citext":  {{"Abc", "aBC"}, {"abd"}, {"ÄÖ", "äö"}},
		"bpchar":  {{"a", "a  "}, {" a"}, {"", "   "}},
		"float8":  {{"0", "-0"}, {"1"}, {"-1"}, {"NaN"}},
		"text":    {{"1"}, {"1.0"}, {"a "}, {"a"}, {"A"}, {"-0"}},
		"int4":    {{"10"}, {"100"}, {"1"}},
	} {
		seen := map[Key]int{}
		for g, group := range groups {
			for _, v := range group {
				k := mustKey(t, keySchema(base), v)
				if other, ok := seen[k]; ok && other != g {
					t.Errorf("%s: %q has the key of %q", base, v, groups[other])
				} else if !ok && v != group[0] {
					t.Errorf("%s: %q and %q have different keys", base, group[0], v)
				}
				seen[k] = g
			}
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		unscaled, scale := rapid.Int64().Draw(t, "unscaled"), rapid.IntRange(0, 10).Draw(t, "scale")
		r := new(big.Rat).SetFrac(big.NewInt(unscaled), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil))
		a, b := r.FloatString(scale), r.FloatString(scale+rapid.IntRange(0, 5).Draw(t, "zeros"))
		if mustKey(t, keySchema("numeric"), a) != mustKey(t, keySchema("numeric"), b) {
			t.Fatalf("%s and %s have different keys", a, b)
		}
	})
	domain := keySchema("amount")
	domain.Columns[0].Type = Type{Kind: Domain, Base: "amount", Elem: &Type{Kind: Domain, Base: "money2", Elem: &Type{Kind: Base, Base: "numeric"}}}
	if mustKey(t, domain, "1.10") != mustKey(t, domain, "1.1") {
		t.Error("a domain over numeric is not normalised")
	}
}

func TestKeyNeedsValues(t *testing.T) {
	for _, row := range []Row{nil, {{}}, {{Kind: Unchanged}}} {
		if _, err := MakeKey(keySchema("int4"), row); err == nil || !strings.Contains(err.Error(), `"c0"`) {
			t.Errorf("row %v: %v", row, err)
		}
	}
	if k, err := MakeKey(keySchema(), texts("1")); k != "" || err != nil {
		t.Errorf("no key columns: %q, %v", k, err)
	}
	// A composite key keeps the key's order, not the table's.
	s := keySchema("int4", "text")
	s.Key = []int{1, 0}
	if vs, err := mustKey(t, s, "1", "a").Values(); err != nil || !slices.Equal(vs, []string{"a", "1"}) {
		t.Errorf("%q, %v", vs, err)
	}
}

// The partition of a key is part of the format.
func TestPartitionIsStable(t *testing.T) {
	got := ""
	for i := range 12 {
		got += fmt.Sprintf("%d ", mustKey(t, keySchema("int4"), fmt.Sprint(i)).Partition(8))
	}
	if want := "2 2 5 7 4 7 0 5 3 4 7 5 "; got != want {
		t.Errorf("keys 0 to 11 are in partitions %s, want %s", got, want)
	}
	row := &Change{Op: Insert, Pos: Position{1, 100, 1}}
	for n, want := range map[int]int{1: 0, 8: 0} {
		if p := row.Partition(n); p != want {
			t.Errorf("a change without key is in partition %d of %d, want %d", p, n, want)
		}
	}
	same := *row
	same.Pos.Ordinal = 9
	if row.Partition(64) != same.Partition(64) {
		t.Error("changes of one transaction without keys are in different partitions")
	}
	if p := (&Change{Op: Truncate, Key: ""}).Partition(8); p != AllPartitions {
		t.Errorf("a truncation is in partition %d", p)
	}
	if keyed := (&Change{Op: Delete, Key: "\x011"}); keyed.Partition(8) != keyed.Key.Partition(8) {
		t.Error("a change and its key are in different partitions")
	}
}

func TestVersion(t *testing.T) {
	base := Schema{Table: TableID{"s", "t"}, Columns: []Column{{Name: "a", Type: Type{Name: "integer", Kind: Base, Base: "int4", OID: 23, Mod: -1}, NotNull: true}, {Name: "b", Type: Type{Name: "m", Kind: Enum, Base: "m", Mod: -1, Labels: []string{"x", "y"}}}}, Key: []int{0}}
	clone := func() *Schema {
		s, err := DecodeSchema(EncodeSchema(&base))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	if clone().Version() != base.Version() {
		t.Error("a definition read back has another version")
	}
	if v, err := ParseVersion(base.Version().String()); err != nil || v != base.Version() {
		t.Errorf("%v, %v", v, err)
	}
	seen := map[Version]string{base.Version(): "the same"}
	for name, f := range map[string]func(*Schema){
		"table": func(s *Schema) { s.Table.Name = "T" }, "column name": func(s *Schema) { s.Columns[0].Name = "A" }, "type": func(s *Schema) { s.Columns[0].Type.Base = "int8" },
		"modifier": func(s *Schema) { s.Columns[0].Type.Mod = 5 }, "not null": func(s *Schema) { s.Columns[1].NotNull = true }, "label": func(s *Schema) { s.Columns[1].Type.Labels[1] = "z" },
		"key": func(s *Schema) { s.Key = nil }, "key order": func(s *Schema) { s.Key = []int{0, 1} }, "identity": func(s *Schema) { s.Full = true },
		"missing value": func(s *Schema) { s.Columns[1].Missing = new(string) },
		"dropped":       func(s *Schema) { s.Columns = s.Columns[:1] }, "order": func(s *Schema) { slices.Reverse(s.Columns) },
	} {
		s := clone()
		f(s)
		if other, ok := seen[s.Version()]; ok {
			t.Errorf("%s: same version as %s", name, other)
		}
		seen[s.Version()] = name
	}
	for _, bad := range []string{`{`, `{"table":"s.t","columns":[],"key":[0]}`, `{"table":"s.t","columns":[{"name":"a"}],"key":[-1]}`, `{"table":"s.t","columns":[{"name":"a"}],"key":[0,0]}`, `{"table":"nodot"}`} {
		if s, err := DecodeSchema([]byte(bad)); err == nil {
			t.Errorf("%s is %+v", bad, s)
		}
	}
	if !base.IsKey(0) || base.IsKey(1) || base.Column("b") != 1 || base.Column("B") != -1 {
		t.Error("columns are not found")
	}
}

func TestNumericPrecision(t *testing.T) {
	for _, tc := range []struct{ mod, precision, scale int }{{10<<16 | 2 + 4, 10, 2}, {1000<<16 | 1000 + 4, 1000, 1000}, {5<<16 | 2045 + 4, 5, -3}} {
		typ := Type{Base: "numeric", Mod: int32(tc.mod)}
		if p, s, ok := typ.NumericPrecision(); !ok || p != tc.precision || s != tc.scale {
			t.Errorf("modifier %d is numeric(%d,%d), %v; want (%d,%d)", tc.mod, p, s, ok, tc.precision, tc.scale)
		}
	}
	if _, _, ok := (&Type{Base: "numeric", Mod: -1}).NumericPrecision(); ok {
		t.Error("numeric without modifier has a precision")
	}
}

// Sees against its definition on 64-bit identifiers, across wraparounds.
func TestSees(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		xmax := rapid.OneOf(rapid.Uint64Range(1<<31, 1<<40), rapid.Uint64Range(1<<32-50, 1<<32+50), rapid.Uint64Range(3<<32-50, 3<<32+50)).Draw(t, "xmax")
		xmin := xmax - rapid.Uint64Range(0, 1000).Draw(t, "width")
		s := Snapshot{XMin: xmin, XMax: xmax}
		if xmax > xmin {
			s.XIP = rapid.SliceOfDistinct(rapid.Uint64Range(xmin, xmax-1), rapid.ID).Draw(t, "xip")
			slices.Sort(s.XIP)
		}
		xid := rapid.OneOf(rapid.Uint64Range(xmax-min(xmax, 1<<31), xmax+1<<31-1), rapid.Uint64Range(xmin-min(xmin, 20), xmax+20)).Draw(t, "xid")
		want := xid < xmin || xid < xmax && !slices.Contains(s.XIP, xid)
		if got := s.Sees(uint32(xid)); got != want {
			t.Fatalf("snapshot %v sees %d: %v, want %v", s, xid, got, want)
		}
		if back, err := ParseSnapshot(s.String()); err != nil || back.String() != s.String() || back.Sees(uint32(xid)) != want {
			t.Fatalf("%v → %v, %v", s, back, err)
		}
	})
	young := Snapshot{XMin: 100, XMax: 110, XIP: []uint64{105}} // a new cluster: there is no epoch below
	for xid, want := range map[uint32]bool{3: true, 99: true, 104: true, 105: false, 109: true, 110: false, 1 << 30: false, math.MaxUint32: false} {
		if young.Sees(xid) != want {
			t.Errorf("%v sees %d: %v", young, xid, !want)
		}
	}
	if (Snapshot{}).Sees(5) {
		t.Error("no snapshot sees something")
	}
	if s, err := ParseSnapshot("1:9:7,3,5"); err != nil || !slices.IsSortedFunc(s.XIP, cmp.Compare) {
		t.Errorf("%v, %v", s, err)
	}
}

func TestOpWords(t *testing.T) {
	for op, want := range map[Op]string{Insert: "insert", Update: "update", Delete: "delete", Truncate: "truncate", 'x': "op(120)"} {
		if op.String() != want {
			t.Errorf("%d is %s", op, op)
		}
	}
}
