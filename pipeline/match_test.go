package pipeline

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
)

func ids(names ...string) []change.TableID {
	out := make([]change.TableID, len(names))
	for i, n := range names {
		id, err := change.ParseTableID(n)
		if err != nil {
			panic(err)
		}
		out[i] = id
	}
	return out
}

func chosen(s Selection) string {
	var names []string
	for _, t := range s.Tables {
		names = append(names, t.Table.String())
	}
	return strings.Join(names, " ")
}

func TestMatch(t *testing.T) {
	tables := ids("shop.orders", "shop.items", "shop.tmp_1", "Shop.orders", `"Legacy Schema"."Price.List"`, "audit.log", "pg_catalog.pg_class", "syncline.lanes", `odd."a/b"`, "odd.a", "shop.orders")
	for _, c := range []struct{ include, exclude, want string }{
		{"shop.*", "", "shop.items shop.orders shop.tmp_1"},
		{"shop.*", "shop.tmp_?", "shop.items shop.orders"},
		{"*.orders", "", "Shop.orders shop.orders"},
		{"*.*", "shop.*, Shop.*", `"Legacy Schema"."Price.List" audit.log odd.a odd.a/b`},
		{"shop.{items,orders}", "", "shop.items shop.orders"},
		{"[Ss]hop.o*", "", "Shop.orders shop.orders"},
		{"'\"Legacy Schema\".\"Price.List\"'", "", `"Legacy Schema"."Price.List"`},
		{"'\"Legacy Schema\".*'", "", `"Legacy Schema"."Price.List"`},
		{"odd.a*", "", "odd.a odd.a/b"},
		{"pg_catalog.*, syncline.*", "", ""},
	} {
		s := mustParse(t, with(t, "tables: [shop.*]", "tables:\n  include: ["+quoteBraces(c.include)+"]\n  exclude: ["+quoteBraces(c.exclude)+"]"))
		got := s.Match(tables)
		if chosen(got) != c.want {
			t.Errorf("%s without %s: %s, want %s", c.include, c.exclude, chosen(got), c.want)
		}
		for _, id := range tables {
			if s.Selects(id) != strings.Contains(" "+c.want+" ", " "+id.String()+" ") {
				t.Errorf("Selects(%s) differs from Match", id)
			}
		}
	}
}

// quoteBraces makes globs fit into a flow sequence.
func quoteBraces(list string) string {
	if strings.ContainsAny(list, "{[") {
		return "'" + list + "'"
	}
	if strings.Contains(list, "'") || list == "" {
		return list
	}
	return "'" + strings.ReplaceAll(list, ", ", "', '") + "'"
}

func TestMatchOptionsAndReports(t *testing.T) {
	s := mustParse(t, with(t, "tables: [shop.*]", `tables:
  include: [shop.*, nope.*]
  exclude: [shop.tmp]
  options:
    - {match: shop.*, chunk_bytes: 1MiB, append_only: true, where: a}
    - {match: shop.orders, append_only: false, where: b, target: o, order_by: [x]}
    - {match: shop.items, target: o}
    - {match: shop.tmp, where: c}`))
	got := s.Match(ids("shop.tmp", "shop.orders", "shop.items"))
	want := []Selected{
		{Table: change.TableID{Schema: "shop", Name: "items"}, ChunkBytes: 1 << 20, AppendOnly: true, Where: "a", Target: "o"},
		{Table: change.TableID{Schema: "shop", Name: "orders"}, ChunkBytes: 1 << 20, Where: "b", Target: "o", OrderBy: []string{"x"}},
	}
	if !reflect.DeepEqual(got.Tables, want) {
		t.Errorf("%+v", got.Tables)
	}
	if fmt.Sprint(got.Unused) != "[{tables.include[1] nope.*} {tables.options[3].match shop.tmp}]" {
		t.Errorf("unused: %v", got.Unused)
	}
	if len(got.Collisions) != 1 || got.Collisions[0].Sink != "copy" || got.Collisions[0].Target.String() != "shop.o" || len(got.Collisions[0].Tables) != 2 {
		t.Errorf("collisions: %+v", got.Collisions)
	}
	if o := s.Options(want[1].Table); !reflect.DeepEqual(o, want[1]) {
		t.Errorf("%+v", o)
	}
}

func TestPick(t *testing.T) {
	cols := []string{"a", "b", "c"}
	for _, c := range []struct {
		c             *Columns
		kept, unknown string
	}{
		{nil, "a b c", ""}, {&Columns{Include: []string{"c", "a"}}, "a c", ""}, {&Columns{Exclude: []string{"b", "x"}}, "a c", "x"},
	} {
		kept, unknown := c.c.Pick(cols)
		if strings.Join(kept, " ") != c.kept || strings.Join(unknown, " ") != c.unknown {
			t.Errorf("%+v: %v %v", c.c, kept, unknown)
		}
	}
}

func tableGen() *rapid.Generator[change.TableID] {
	name := rapid.StringMatching(`[a-bA-B*?./\\"{}\[\] é]{1,3}`)
	return rapid.Custom(func(t *rapid.T) change.TableID {
		return change.TableID{Schema: name.Draw(t, "schema"), Name: name.Draw(t, "name")}
	})
}

// A table's literal pattern takes that table and no other, whatever its name.
func TestLiteralPatterns(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := tableGen().Draw(t, "a"), tableGen().Draw(t, "b")
		g, err := parseGlob(Literal(a))
		if err != nil {
			t.Fatalf("%s: %s", Literal(a), err.message)
		}
		if !g.match(a) || g.match(b) != (a == b) {
			t.Fatalf("%s, %q, %q", Literal(a), a, b)
		}
	})
}

func TestWithTables(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &Spec{Tables: Tables{Include: []string{"a.*"}, Exclude: []string{"a.a"}}}
		before := fmt.Sprint(s.Tables)
		x := tableGen().Draw(t, "x")
		with := s.WithTables([]change.TableID{x}, nil)
		if !with.Selects(x) {
			t.Fatalf("%q is not selected by %v", x, with.Tables)
		}
		without := with.WithTables(nil, []change.TableID{x})
		if without.Selects(x) {
			t.Fatalf("%q is selected by %v", x, without.Tables)
		}
		if fmt.Sprint(s.Tables) != before {
			t.Fatal("WithTables changed its receiver")
		}
	})
}

func TestUnits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.Int64Range(0, 1<<62).Draw(t, "n")
		if d, err := ParseDuration(Duration(n).String()); err != nil || int64(d) != n {
			t.Fatalf("%s: %d %v", Duration(n), d, err)
		}
		if s, err := ParseSize(Size(n).String()); err != nil || int64(s) != n {
			t.Fatalf("%s: %d %v", Size(n), s, err)
		}
	})
	for text, want := range map[string]string{"1.5h": "1h30m", "90s": "1m30s", "1w": "7d", "0.1s": "100ms", "36h": "1d12h"} {
		if d, err := ParseDuration(text); err != nil || d.String() != want {
			t.Errorf("%s: %s %v", text, d, err)
		}
	}
	for text, want := range map[string]Size{"1KB": 1000, "1.5KiB": 1536, "0.001kB": 1, "8TiB": 8 << 40} {
		if s, err := ParseSize(text); err != nil || s != want {
			t.Errorf("%s: %d %v", text, s, err)
		}
	}
	for _, bad := range []string{"", "1", "KiB", "-1B", "1 KiB", "9999999999TiB", "1e9B", strings.Repeat("9", 100) + "B"} {
		if _, err := ParseSize(bad); err == nil {
			t.Errorf("size %q is accepted", bad)
		}
	}
}

func TestRatios(t *testing.T) {
	for text, want := range map[string]Ratio{"99.9%": 999000, "99.9999%": 999999, "050.10%": 501000, "100%": 1000000, "0.5%": 5000, "7%": 70000} {
		if got, err := ParseRatio(text); err != nil || got != want {
			t.Errorf("%s is %d: %v", text, got, err)
		}
		if back, err := ParseRatio(want.String()); err != nil || back != want {
			t.Errorf("%s comes back as %d: %v", want, back, err)
		}
	}
	for _, text := range []string{"", "%", "99", "-1%", "99.99999%", "1e2%", "9999%", " 5%"} {
		if got, err := ParseRatio(text); err == nil {
			t.Errorf("%q is taken as %s", text, got)
		}
	}
	for number, want := range map[string]string{"0.999": "99.9%", "99.9": "99.9%", "99.99999": "", "0": "", "100": "", "0.0000001": ""} {
		if got := unitHint(kindRatio, number); got != want {
			t.Errorf("%s: hint %q, want %q", number, got, want)
		}
	}
}
