package tiers

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/tiers/aggregate"
	"syncline/tiers/predicate"
)

func events(full bool) *change.Schema {
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base}}
	}
	return &change.Schema{
		Table: change.TableID{Schema: "public", Name: "events"}, Key: []int{0}, Full: full,
		Columns: []change.Column{col("id", "int8"), col("severity", "text"), col("seen", "timestamptz"), col("hits", "int4"), col("body", "jsonb"), col("ok", "bool")},
	}
}

func parse(t *testing.T, s *change.Schema, text string) change.Row {
	t.Helper()
	r, err := ParseRow(s, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestClassify(t *testing.T) {
	s := events(true)
	c, err := Compile(s, []Rule{
		{N: 3, Where: "severity in ('critical')", Tier: Stream},
		{N: 5, Columns: []string{"seen", "hits"}, Tier: "nightly"},
		{N: 6, Where: "severity is not null", Tier: "hourly"},
	})
	if err != nil {
		t.Fatal(err)
	}
	const all = `{"id": 1, "severity": "info", "seen": "2024-01-01 00:00:00+00", "hits": 1, "body": {"a": 1}, "ok": true}`
	was := parse(t, s, all)
	edit := func(text string) change.Row {
		r := slices.Clone(was)
		for i, v := range parse(t, s, text) {
			if v.Kind != change.Unchanged {
				r[i] = v
			}
		}
		return r
	}
	for name, x := range map[string]struct {
		c    change.Change
		want string
		last int // rule that decided; -1: none
	}{
		"insert":                     {change.Change{Op: change.Insert, New: was}, "hourly", 6},
		"critical":                   {change.Change{Op: change.Insert, New: edit(`{"severity": "critical"}`)}, Stream, 3},
		"no severity":                {change.Change{Op: change.Insert, New: edit(`{"severity": null}`)}, Stream, -1},
		"counted":                    {change.Change{Op: change.Update, Old: was, New: edit(`{"hits": 2}`)}, "nightly", 5},
		"counted, and more":          {change.Change{Op: change.Update, Old: was, New: edit(`{"hits": 2, "ok": false}`)}, "hourly", 6},
		"counted while critical":     {change.Change{Op: change.Update, Old: was, New: edit(`{"hits": 2, "severity": "critical"}`)}, Stream, 3},
		"update without old image":   {change.Change{Op: change.Update, New: edit(`{"hits": 2}`)}, Stream, 5},
		"large value not sent":       {change.Change{Op: change.Insert, New: parse(t, s, `{"id": 1}`)}, Stream, 3},
		"deleted":                    {change.Change{Op: change.Delete, Old: was}, "hourly", 6},
		"moved":                      {change.Change{Op: change.Update, Old: was, New: edit(`{"hits": 2}`), Moved: was[:1]}, "hourly", 6},
		"truncated":                  {change.Change{Op: change.Truncate}, Stream, 3},
		"body not sent and the same": {change.Change{Op: change.Update, Old: was, New: func() change.Row { r := edit(`{"hits": 2}`); r[4] = change.Value{Kind: change.Unchanged}; return r }()}, "nightly", 5},
	} {
		tier, err := c.Classify(&x.c)
		if err != nil || tier != x.want {
			t.Errorf("%s: %s, %v, want %s", name, tier, err, x.want)
		}
		again, steps, err := c.Explain(&x.c)
		if err != nil || again != tier {
			t.Errorf("%s: explained as %s, %v", name, again, err)
		}
		last := steps[len(steps)-1]
		decided := last.Answer == predicate.True || last.Answer == predicate.Open
		if decided != (x.last >= 0) || decided && last.N != x.last {
			t.Errorf("%s: decided by %+v, want rule %d", name, last, x.last)
		}
	}
	if b := c.Blind(); b != nil {
		t.Errorf("blind rules %v", b)
	}
	c, err = Compile(events(false), []Rule{{N: 1, Where: "ok", Tier: "hourly"}, {N: 2, Columns: []string{"hits"}, Tier: "nightly"}})
	if err != nil || !slices.Equal(c.Blind(), []int{2}) {
		t.Errorf("blind rules %v, %v", c.Blind(), err)
	}
}

func TestCompileRefuses(t *testing.T) {
	for want, r := range map[string]Rule{
		`classify[4].where: at character 1: table public.events has no column "sev"`: {N: 4, Where: "sev = 'x'"},
		"classify[4].where: at character 9: ":                                        {N: 4, Where: "hits = 'many'"},
		`classify[4].columns: table public.events has no column "nothing"`:           {N: 4, Columns: []string{"hits", "nothing"}},
		`classify[4].columns: column "id" is of the primary key`:                     {N: 4, Columns: []string{"id"}},
	} {
		_, err := Compile(events(true), []Rule{r})
		var e *Error
		if !errors.As(err, &e) || e.N != 4 || !strings.Contains(err.Error(), strings.TrimSuffix(want, "9: ")) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}

func TestParseRow(t *testing.T) {
	s := events(true)
	r := parse(t, s, `{"id": 12345678901234567890.10, "ok": false, "body": {"b": [1, null]}, "severity": null}`)
	for i, want := range []change.Value{change.TextValue("12345678901234567890.10"), {}, {Kind: change.Unchanged}, {Kind: change.Unchanged}, change.TextValue(`{"b":[1,null]}`), change.TextValue("f")} {
		if !r[i].Equal(want) {
			t.Errorf("column %d: %+v, want %+v", i, r[i], want)
		}
	}
	for text, want := range map[string]string{
		`[1]`: "not a JSON object", `{"id": 1} {}`: "more than one", `{"sev": 1}`: `no column "sev"; its columns are id, severity`, `{`: "not a JSON object", ``: "not a JSON object",
	} {
		if _, err := ParseRow(s, []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Equal rules have one form, which says all of them; rules by which nothing waits have none.
func TestEncode(t *testing.T) {
	gen := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) Rule {
		return Rule{
			N: rapid.IntRange(0, 3).Draw(t, "n"), Where: rapid.SampledFrom([]string{"", "ok", "not ok"}).Draw(t, "where"),
			Columns: rapid.SampledFrom([][]string{nil, {"hits"}, {"hits", "seen"}}).Draw(t, "columns"), Tier: rapid.SampledFrom([]string{Stream, "hourly", "nightly"}).Draw(t, "tier"),
		}
	}), 0, 3)
	same := func(x, y Rule) bool {
		return x.Where == y.Where && slices.Equal(x.Columns, y.Columns) && x.Tier == y.Tier
	}
	rapid.Check(t, func(t *rapid.T) {
		a, b := gen.Draw(t, "a"), gen.Draw(t, "b")
		x, errX := Encode(a)
		y, errY := Encode(b)
		waits := slices.ContainsFunc(a, func(r Rule) bool { return r.Tier != Stream })
		if errX != nil || errY != nil || (x == "") == waits {
			t.Fatalf("%q, %v, %v", x, errX, errY)
		}
		if !waits {
			return
		}
		if equal := slices.EqualFunc(a, b, same); equal != (x == y) {
			t.Fatalf("equal %v: %s and %s", equal, x, y)
		}
		if back, err := Decode(x); err != nil || !slices.EqualFunc(a, back, same) {
			t.Fatalf("%v, %v", back, err)
		}
	})
}

// A tier that keeps aggregates says so, and fits only tables that are added to.
func TestCompileAggregates(t *testing.T) {
	s := events(false)
	spec := &aggregate.Spec{Group: []string{"severity"}, Time: &aggregate.Time{Column: "seen", Bucket: 90 * time.Minute}, Values: []aggregate.Value{{Column: "hits", Functions: []string{"sum", "p99"}}}}
	rules := []Rule{{N: 2, Where: "severity = 'critical'", Tier: Stream}, {N: 4, Tier: "bulk", Aggregate: spec}}
	var e *Error
	if _, err := Compile(s, rules); !errors.As(err, &e) || e.N != 4 || !errors.Is(err, aggregate.ErrKeyed) {
		t.Errorf("a table with a key: %v", err)
	}
	s.Key = nil
	c, err := Compile(s, rules)
	if err != nil || c.Aggregates()["bulk"] == nil || len(c.Aggregates()) != 1 {
		t.Fatalf("%v, %v", c, err)
	}
	if got, want := rules[1].String(), "classify[4]: all changes: bulk, as aggregates by severity, seen per 1h30m: number of rows; sum, p99 of hits"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	text, err := Encode(rules)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(text)
	if err != nil || back[1].Aggregate.String() != spec.String() {
		t.Errorf("%v, %v", back, err)
	}
	other := slices.Clone(rules)
	other[1].Aggregate = &aggregate.Spec{Group: []string{"severity"}}
	if text2, err := Encode(other); err != nil || text2 == text {
		t.Errorf("other aggregates are taken for the same: %v", err)
	}
	rules[1].Columns = []string{"hits"}
	if _, err := Compile(s, rules); !errors.As(err, &e) || e.Field != "columns" {
		t.Errorf("aggregates by columns: %v", err)
	}
	rules[1].Columns, rules[1].Aggregate = nil, &aggregate.Spec{Group: []string{"sev"}}
	if _, err := Compile(s, rules); err == nil || !strings.Contains(err.Error(), `classify[4].tier: tier bulk: aggregate.group[0]: table public.events has no column "sev"`) {
		t.Errorf("%v", err)
	}
}
