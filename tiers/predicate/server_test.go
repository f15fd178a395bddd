package predicate

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/testsuite/stack"
)

// column of the generated rows: its type, texts as Postgres prints them, and constants.
type column struct {
	name, cast string
	typ        change.Type
	values     []string // as texts of the log
	consts     []string // as SQL
	ops        []string
}

var ordered = []string{"=", "<>", "!=", "<", "<=", ">", ">="}

func columns() []column {
	base := func(b string) change.Type { return change.Type{Name: b, Kind: change.Base, Base: b} }
	numbers := []string{"0", "-1", "7", "7.0", "7.5", "-0", "32767", "'7'", "9223372036854775807"}
	quoted := func(ss ...string) (out []string) {
		for _, s := range ss {
			out = append(out, "'"+strings.ReplaceAll(s, "'", "''")+"'")
		}
		return out
	}
	texts := []string{"", "a", "A", "ab", "a b", "ä", "it's", "100%", `back\slash`, "_", "ab "}
	return []column{
		{"i2", "int2", base("int2"), []string{"0", "7", "-7", "32767"}, numbers, ordered},
		{"i4", "int4", base("int4"), []string{"0", "7", "-7", "2147483647"}, numbers, ordered},
		{"i8", "int8", base("int8"), []string{"0", "7", "-7", "9223372036854775807"}, numbers, ordered},
		{"n", "numeric", base("numeric"), []string{"0", "7", "7.00", "7.5", "-0.001", "NaN", "Infinity", "-Infinity", "123456789012345678901234567890.5"},
			append([]string{"'NaN'", "'Infinity'", "'-Infinity'", "123456789012345678901234567890.50", "-0.0010"}, numbers...), ordered},
		{"f4", "float4", base("float4"), []string{"0", "-0", "0.1", "7", "NaN", "Infinity", "1e+20"}, []string{"0", "'0.1'", "7", "'NaN'", "'Infinity'", "0.5"}, ordered},
		{"f8", "float8", base("float8"), []string{"0", "-0", "0.1", "7", "NaN", "-Infinity", "1e+20"}, []string{"0", "0.1", "'0.1'", "7", "'NaN'", "'-Infinity'", "100000000000000000000"}, ordered},
		{"b", "bool", base("bool"), []string{"t", "f"}, []string{"true", "false", "'t'", "'false'"}, ordered},
		{"t", "text", base("text"), texts, quoted(texts...), []string{"=", "<>"}},
		{"v", "varchar", base("varchar"), texts, quoted(texts...), []string{"=", "<>"}},
		{"c", "char(4)", base("bpchar"), []string{"    ", "a   ", "ab  ", "abcd"}, quoted("", "a", "ab", "ab ", "abcd", " ab"), []string{"=", "<>"}},
		{"u", "uuid", base("uuid"), []string{"00000000-0000-0000-0000-000000000001", "ffffffff-0000-0000-0000-000000000001"},
			quoted("00000000-0000-0000-0000-000000000001", "FFFFFFFF-0000-0000-0000-000000000001", "80000000-0000-0000-0000-000000000001"), ordered},
		{"d", "date", base("date"), []string{"2024-02-29", "0044-03-15 BC", "infinity", "-infinity"}, quoted("2024-02-29", "2024-03-01", "0044-03-14 BC", "infinity"), ordered},
		{"ts", "timestamp", base("timestamp"), []string{"2024-02-29 10:00:00", "2024-02-29 10:00:00.000001", "-infinity"}, quoted("2024-02-29 10:00:00", "2024-02-29", "infinity"), ordered},
		{"tz", "timestamptz", base("timestamptz"), []string{"2024-02-29 10:00:00+00", "2024-02-29 10:00:00.5+00", "infinity"},
			quoted("2024-02-29 12:00:00+02", "2024-02-29 10:00:00.5+00", "2024-02-29 10:00:00-05:30", "infinity"), ordered},
		{"tm", "time", base("time"), []string{"00:00:00", "23:59:59.999999", "24:00:00"}, quoted("12:00:00", "24:00:00", "23:59:59.999999"), ordered},
		{"e", "mood", change.Type{Name: "mood", Kind: change.Enum, Base: "mood", Labels: []string{"sad", "ok", "happy"}}, []string{"sad", "ok", "happy"}, quoted("sad", "ok", "happy"), ordered},
		{"j", "jsonb", base("jsonb"), []string{"{}"}, nil, nil},
	}
}

func genTest(t *rapid.T, cs []column) string {
	c := rapid.SampledFrom(cs).Draw(t, "column")
	not := rapid.SampledFrom([]string{"", "NOT "}).Draw(t, "not")
	constant := func() string {
		if rapid.IntRange(0, 9).Draw(t, "null") == 0 {
			return "NULL"
		}
		return rapid.SampledFrom(c.consts).Draw(t, "constant")
	}
	form := rapid.IntRange(0, 7).Draw(t, "form")
	if c.consts == nil {
		form = 0
	}
	switch form {
	case 0:
		return c.name + " IS " + not + "NULL"
	case 1:
		return c.name + " IS " + not + "DISTINCT FROM " + constant()
	case 2:
		list := rapid.SliceOfN(rapid.Custom(func(*rapid.T) string { return constant() }), 1, 3).Draw(t, "list")
		return c.name + " " + not + "IN (" + strings.Join(list, ", ") + ")"
	case 3:
		if len(c.ops) > 2 {
			return fmt.Sprintf("%s %sBETWEEN %s AND %s", c.name, not, rapid.SampledFrom(c.consts).Draw(t, "from"), rapid.SampledFrom(c.consts).Draw(t, "to"))
		}
	case 4:
		switch c.typ.Base {
		case "bool":
			return rapid.SampledFrom([]string{"b", "NOT b", "b IS " + not + "TRUE", "b IS " + not + "FALSE", "b IS " + not + "UNKNOWN"}).Draw(t, "boolean")
		case "text", "varchar", "bpchar":
			p := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "%", "_", " ", `\%`, `\\`, "ä", "A"}), 0, 5).Draw(t, "pattern"), "")
			return fmt.Sprintf("%s %sLIKE '%s'", c.name, not, p)
		}
	case 5:
		return constant() + " " + rapid.SampledFrom(c.ops).Draw(t, "operator") + " " + c.name
	}
	return c.name + " " + rapid.SampledFrom(c.ops).Draw(t, "operator") + " " + constant()
}

func genPredicate(t *rapid.T, cs []column, depth int) string {
	switch n := rapid.IntRange(0, 9).Draw(t, "node"); {
	case n < 5 || depth == 0:
		return genTest(t, cs)
	case n < 6:
		return "NOT " + genPredicate(t, cs, depth-1)
	case n < 8:
		return "(" + genPredicate(t, cs, depth-1) + " OR " + genPredicate(t, cs, depth-1) + ")"
	}
	return genPredicate(t, cs, depth-1) + " AND " + genPredicate(t, cs, depth-1)
}

// What is decided here is what Postgres decides: generated predicates on generated rows.
func TestAsPostgresDecides(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, stack.Database(t, stack.Postgres(t)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	if _, err := conn.Exec(ctx, "CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy'); SET timezone = 'Asia/Kolkata'"); err != nil {
		t.Fatal(err)
	}
	cs := columns()
	s := &change.Schema{Table: change.TableID{Schema: "public", Name: "generated"}}
	for _, c := range cs {
		s.Columns = append(s.Columns, change.Column{Name: c.name, Type: c.typ})
	}
	refused := 0
	rapid.Check(t, func(t *rapid.T) {
		text := genPredicate(t, cs, 3)
		p, err := Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		m, err := p.Compile(s)
		if err != nil { // what is refused needs no answer; Mistakes tells what that is
			refused++
			t.Skip(err.Error())
		}
		r := make(change.Row, len(cs))
		var selected []string
		for i, c := range cs {
			v := rapid.SampledFrom(append([]string{""}, c.values...)).Draw(t, c.name)
			null := v == "" && rapid.Bool().Draw(t, "null")
			if v == "" && c.typ.Base != "text" && c.typ.Base != "varchar" {
				null = true
			}
			if null {
				selected = append(selected, fmt.Sprintf("NULL::%s AS %s", c.cast, c.name))
				continue
			}
			r[i] = change.TextValue(v)
			selected = append(selected, fmt.Sprintf("'%s'::%s AS %s", strings.ReplaceAll(v, "'", "''"), c.cast, c.name))
		}
		got, err := m.Match(&change.Change{Op: change.Insert, New: r})
		if err != nil {
			t.Fatal(err)
		}
		var want *bool
		sql := "SELECT (" + text + ") FROM (SELECT " + strings.Join(selected, ", ") + ") AS x"
		if err := conn.QueryRow(ctx, sql).Scan(&want); err != nil {
			t.Fatalf("Postgres refuses what is taken here: %s: %v", sql, err)
		}
		is := Null
		if want != nil {
			is = answer(*want)
		}
		if got != is {
			t.Fatalf("%s: %v, and Postgres says %v", sql, got, is)
		}
	})
	t.Logf("%d refused", refused)
}
