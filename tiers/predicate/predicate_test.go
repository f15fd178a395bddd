package predicate

import (
	"strings"
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

func col(name, base string) change.Column {
	return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base}}
}

func events() *change.Schema {
	return &change.Schema{
		Table: change.TableID{Schema: "public", Name: "events"}, Key: []int{0},
		Columns: []change.Column{
			col("id", "int8"), col("severity", "text"), col("ok", "bool"), col("bytes", "numeric"), col("at", "timestamptz"), col("Host", "varchar"),
			col("body", "jsonb"), col("ratio", "float4"), col("pad", "bpchar"),
			{Name: "mood", Type: change.Type{Name: "mood", Kind: change.Enum, Base: "mood", Labels: []string{"sad", "ok", "happy"}}},
		},
	}
}

func row(texts ...any) change.Row {
	r := make(change.Row, len(texts))
	for i, v := range texts {
		switch v := v.(type) {
		case string:
			r[i] = change.TextValue(v)
		case change.ValueKind:
			r[i].Kind = v
		}
	}
	return r
}

func TestMatch(t *testing.T) {
	const null = change.Null
	r := row("7", "critical", "t", "1.50", "2024-05-01 10:00:00+00", "test-1", `{"a":1}`, "0.1", "ab  ", "ok")
	n := row("7", null, null, null, null, null, null, null, null, null)
	for _, c := range []struct {
		text     string
		row, nul Answer
	}{
		{"severity in ('critical', 'error')", True, Null},
		{"SEVERITY NOT IN ('info')", True, Null},
		{"severity not in ('info', null)", Null, Null},
		{"severity in ('critical', null)", True, Null},
		{"severity = null", Null, Null},
		{"severity is distinct from 'critical'", False, True},
		{"severity is not distinct from null", False, True},
		{"severity is null or ok", True, True},
		{"not (severity = 'info') and ok", True, Null},
		{"ok is not true", False, True},
		{"ok is unknown", False, True},
		{"bytes = 1.5 and bytes <> 1.51", True, Null},
		{"bytes between -3 and +2", True, Null},
		{"bytes between - -3 and 9", False, Null},
		{"2 > bytes", True, Null},
		{"id = 7.0", True, True},
		{"id < 9223372036854775808", True, True},
		{`"Host" like 'test-_'`, True, Null},
		{`"Host" like '%t\-1'`, True, Null},
		{`"Host" not like '%-%-%'`, True, Null},
		{"at >= '2024-05-01 12:00:00+02'", True, Null},
		{"at < 'infinity'", True, Null},
		{"ratio = '0.1'", True, Null},
		{"ratio < 0.5", True, Null},
		{"pad = 'ab'", True, Null},
		{"pad like 'ab'", False, Null},
		{"mood > 'sad' and mood < 'happy'", True, Null},
		{"body is not null", True, False},
		{"((id = 7))", True, True},
		{"id = 1 or id = 2 and id = 7 or id = 7", True, True},
	} {
		p, err := Parse(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		m, err := p.Compile(events())
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		for _, x := range []struct {
			row  change.Row
			want Answer
		}{{r, c.row}, {n, c.nul}} {
			if got, err := m.Match(&change.Change{Op: change.Insert, New: x.row}); err != nil || got != x.want {
				t.Errorf("%s: %v, %v, want %v", c.text, got, err, x.want)
			}
		}
	}
}

func TestOpen(t *testing.T) {
	s := events()
	match := func(text string, c *change.Change) Answer {
		t.Helper()
		p, err := Parse(text)
		if err != nil {
			t.Fatal(err)
		}
		m, err := p.Compile(s)
		if err != nil {
			t.Fatal(err)
		}
		a, err := m.Match(c)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	toast := row("7", change.Unchanged, "t")
	up := &change.Change{Op: change.Update, New: toast}
	for text, want := range map[string]Answer{
		"severity = 'x'": Open, "severity = 'x' and ok": Open, "severity = 'x' and not ok": False, "severity = 'x' or ok": True,
		"severity is null": False, "severity is not null": True, "not severity = 'x'": Open, "severity = 'x' or ok is null": Open, "ok and (severity = 'x' or not ok)": Open,
	} {
		if got := match(text, up); got != want {
			t.Errorf("%s: %v, want %v", text, got, want)
		}
	}
	up.Old = row("7", "x", "t") // with REPLICA IDENTITY FULL
	if got := match("severity = 'x'", up); got != True {
		t.Errorf("with an old image: %v", got)
	}
	del := &change.Change{Op: change.Delete, Old: row("7", change.Null, change.Null)}
	if a, b := match("severity is null", del), match("id = 7", del); a != Open || b != True {
		t.Errorf("of a deletion: %v, %v", a, b)
	}
	s.Full = true
	if a := match("severity is null", del); a != True {
		t.Errorf("of a deletion with the whole row: %v", a)
	}
	if a := match("id = 7", &change.Change{Op: change.Truncate}); a != Open {
		t.Errorf("of a truncation: %v", a)
	}
	p, _ := Parse("bytes > 1")
	m, _ := p.Compile(s)
	if _, err := m.Match(&change.Change{Op: change.Insert, New: row("7", "x", "t", "many")}); !fault.Is(err, CodeValue) || strings.Contains(err.Error(), "many") {
		t.Errorf("a damaged value: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"":                            "at character 1: a column is wanted, not the end",
		"severity":                    "at character 1: column \"severity\" is of type text and so no condition by itself",
		"severity = critical":         "at character 12: a constant is wanted, not the name \"critical\"; texts stand in single quotes",
		"severity > 'a'":              "the order of texts is the collation's",
		"severity ilike 'a'":          "locale",
		"severity in 'a'":             "IN wants a list in parentheses",
		"severity in ('a'":            "the list is not closed before the end",
		"severity in ()":              "a constant is wanted, not \")\"",
		"(id = 1":                     "at character 1: a parenthesis is not closed before the end",
		"id = 1)":                     "at character 7: \")\" does not belong here",
		"id = 1 id = 2":               "at character 8: \"id\" does not belong here; AND and OR",
		"id = '1.5'":                  "column \"id\" is of type int8: this is not an integer",
		"id = true":                   "this is not an integer",
		"id = 1e5":                    "this is not a number",
		"id + 1 = 2":                  "arithmetic is not supported",
		"lower(severity) = 'a'":       "functions are not supported",
		"severity = 'a'::text":        "casts are not supported",
		"severity = E'a'":             "a string with a prefix",
		"severity = 'a":               "at character 12: a quote is not closed",
		"severity = 'a' -- x":         "comments are not supported",
		"id ~ 'a'":                    "\"~\" is not supported",
		"nothing = 1":                 "table public.events has no column \"nothing\"; its columns are id, severity",
		"host = 'a'":                  `has no column "host"; write "Host"`,
		"at > '2024-05-01'":           "this is not a timestamp with its offset from UTC, as which Postgres would read it; write it as",
		"at > 'now'":                  "this is not a timestamp",
		"ratio = 0.1":                 "no real is exactly this number; write it in quotes",
		"mood = 'glad'":               "they are 'sad', 'ok', 'happy'",
		"body = '{}'":                 "whose values are not compared here; IS NULL",
		"bytes like '1%'":             "LIKE is for texts",
		"severity like 'a\\'":         "ends with a backslash",
		"id between 1 or 2":           "BETWEEN wants AND",
		"id between null and 2":       "never holds",
		"id is 5":                     "IS wants NULL, TRUE",
		"not":                         "a column is wanted, not the end",
		"id not = 1":                  "NOT does not belong here",
		"null":                        "a constant alone is no condition",
		"and = 1":                     `a column of that name is written "and"`,
		"id = \x00":                   "is not supported",
		"severity = '\xff'":           "this is not UTF-8",
		strings.Repeat("(", 1000):     "more than 100 levels",
		strings.Repeat("not ", 10000): "more than 100 levels",
	} {
		p, err := Parse(text)
		if err == nil {
			_, err = p.Compile(events())
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %s", text, err, want)
		}
	}
}

func TestColumns(t *testing.T) {
	p, err := Parse(`a = 1 or ("B" is null and not a > 2) or c`)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.Columns(), " "); got != "a B c" {
		t.Errorf("columns %s", got)
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{"severity in ('critical')", "not (id between 1 and 2) or \"Host\" like 'a%_\\%'", "at >= 'infinity' and ok", "((("} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := Parse(text)
		if err != nil {
			e, ok := err.(*Error)
			if !ok || e.At < 0 || e.At > len(text) {
				t.Fatalf("%q: %#v", text, err)
			}
			return
		}
		if m, err := p.Compile(events()); err == nil {
			if _, err := m.Match(&change.Change{Op: change.Insert, New: row("7", "critical", "t", "1.50", "2024-05-01 10:00:00+00", "test-1", "{}", "0.1", "ab  ", "ok")}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
