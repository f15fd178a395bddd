package flow

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/verify"
)

// generated values, as texts that Postgres reads.
var generated = []struct {
	typ  string
	next func(*rand.Rand) string
}{
	{"int2", func(r *rand.Rand) string { return fmt.Sprint(int16(r.Uint64())) }},
	{"int8", func(r *rand.Rand) string { return fmt.Sprint(int64(r.Uint64())) }},
	{"numeric(20,6)", func(r *rand.Rand) string {
		return pick(r, "0", "-0.000001", "NaN", fmt.Sprintf("%d.%06d", r.Int64N(1e13), r.IntN(1e6)))
	}},
	{"numeric(5,-2)", func(r *rand.Rand) string { return fmt.Sprint(r.IntN(9999999)) }},
	{"numeric", func(r *rand.Rand) string {
		return pick(r, "1.0", "1.000", "-Infinity", fmt.Sprintf("%d%d.%d", r.Uint64(), r.Uint64(), r.Uint64()))
	}},
	{"float4", func(r *rand.Rand) string { return floatText(float64(math.Float32frombits(r.Uint32())), 32) }},
	{"float8", func(r *rand.Rand) string {
		return pick(r, "-0", "0", "NaN", "Infinity", "1e300", floatText(math.Float64frombits(r.Uint64()), 64))
	}},
	{"bool", func(r *rand.Rand) string { return pick(r, "t", "f") }},
	{"text", words},
	{"varchar(200)", words},
	{"char(9)", func(r *rand.Rand) string { return pick(r, "", "x", "  y", "nine char", "é") }},
	{"\"char\"", func(r *rand.Rand) string { return pick(r, "a", "", "z") }},
	{"name", func(r *rand.Rand) string { return pick(r, "n", "a name", "") }},
	{"bytea", func(r *rand.Rand) string { return fmt.Sprintf(`\x%x`, words(r)) }},
	{"uuid", func(r *rand.Rand) string {
		return fmt.Sprintf("%08x-%04x-%04x-%04x-%012x", r.Uint32(), r.IntN(1<<16), r.IntN(1<<16), r.IntN(1<<16), r.Int64N(1<<48))
	}},
	{"date", func(r *rand.Rand) string {
		return pick(r, "infinity", "0044-03-15 BC", "1899-12-31", "2299-12-31", "2300-01-01", day(r))
	}},
	{"time", func(r *rand.Rand) string {
		return fmt.Sprintf("%02d:%02d:%02d.%06d", r.IntN(24), r.IntN(60), r.IntN(60), r.IntN(1e6))
	}},
	{"timestamp", func(r *rand.Rand) string { return pick(r, "-infinity", "1900-01-01 00:00:00", day(r)+fraction(r)) }},
	{"timestamptz", func(r *rand.Rand) string {
		return pick(r, "infinity", "2299-12-31 23:59:59.999999+00", day(r)+fraction(r)+"+00")
	}},
	{"interval", func(r *rand.Rand) string {
		return fmt.Sprintf("%d months %d days %d us", r.IntN(50)-25, r.IntN(50)-25, r.Int64N(1e12))
	}},
	{"json", func(r *rand.Rand) string { return fmt.Sprintf(`{"b" : %d,  "a": [1.0, %q]}`, r.IntN(99), "ü") }},
	{"jsonb", func(r *rand.Rand) string { return fmt.Sprintf(`{"b" : %d,  "a": [1.0, %q]}`, r.IntN(99), "ü") }},
	{"inet", func(r *rand.Rand) string {
		return pick(r, "10.0.0.1", "10.0.0.0/8", "::1", fmt.Sprintf("10.1.2.%d", r.IntN(256)))
	}},
	{"bit varying(40)", func(r *rand.Rand) string { return fmt.Sprintf("%b", r.Uint32()) }},
	{"int4range", func(r *rand.Rand) string { return pick(r, "empty", "[1,5)", "(,)", fmt.Sprintf("[%d,)", r.IntN(99))) }},
	{"pair", func(r *rand.Rand) string { return pick(r, `(1,)`, `(,)`, fmt.Sprintf(`(%d,"a b")`, r.IntN(99))) }},
	{"public.hstore", func(r *rand.Rand) string {
		return pick(r, ``, `a=>NULL`, fmt.Sprintf(`"q\"\\"=>"v %d", b=>""`, r.IntN(99)))
	}},
	{"int4[]", func(r *rand.Rand) string {
		return pick(r, "{}", "{NULL,1}", "[2:3]={1,2}", "{{1},{2}}", fmt.Sprintf("{%d}", r.IntN(99)))
	}},
	{"text[]", func(r *rand.Rand) string {
		return pick(r, `{}`, `{"",NULL,"NULL"}`, `{"a,b","c\"d","e\\f"," g","{"}`, fmt.Sprintf(`{%q}`, fmt.Sprint("w", r.IntN(99))))
	}},
	{"float8[]", func(r *rand.Rand) string {
		return pick(r, "{}", "{NULL,NaN,-0}", "{{1}}", fmt.Sprintf("{%s,1e20}", floatText(r.NormFloat64(), 64)))
	}},
	{"float4[]", func(r *rand.Rand) string { return pick(r, "{}", "{NULL,0.1}", "{Infinity}") }},
	{"bool[]", func(r *rand.Rand) string { return pick(r, "{}", "{t,NULL,f}") }},
	{"bytea[]", func(r *rand.Rand) string { return pick(r, `{}`, `{"\\x00ff",NULL,"\\x"}`) }},
	{"timestamptz[]", func(r *rand.Rand) string { return pick(r, `{}`, `{"2024-01-01 00:00:00.5+00",NULL}`) }},
	{"numeric(8,2)[]", func(r *rand.Rand) string { return pick(r, `{}`, `{1.5,NULL,-0.01}`) }},
	// At the sinks of other types: see inGo.
	{"jsonb", document},
	{"json", document},
	{"uuid[]", func(r *rand.Rand) string { return pick(r, `{}`, `{00000000-0000-0000-0000-00000000000a}`) }},
}

// document is JSON, mostly an object, that differs from every other in a leaf. What a
// sink cannot keep is on all levels.
func document(r *rand.Rand) string {
	n := r.IntN(1e9)
	return pick(r, fmt.Sprintf(`{"b" : %d,  "a": [1.0, %q, null, {"x": %d.5}], "none": null}`, n, "ü", n), fmt.Sprintf(`{"b": {"c.d": {"day": "2024-01-01", "n": %d}}, "at": "2024-01-01 00:00:00", "e": {}, "l": []}`, n),
		fmt.Sprintf(`{"a": [true, 1, "x", [%d], 1e3]}`, n), fmt.Sprintf(`[%d, 1.0]`, n), fmt.Sprint(n), fmt.Sprintf(`{"big": 18446744073709551616, "n": %d, "f": -0.25e-3}`, n))
}

// inGo gives the last documents columns that print JSON in another way than the source:
// of type JSON in ClickHouse, and jsonb in Postgres for the one that is json.
func (f *flow) inGo() (doc, other int) {
	for i, g := range generated {
		switch g.typ {
		case "jsonb":
			doc = i
		case "json":
			other = i
		}
	}
	f.atSink(fmt.Sprintf("ALTER TABLE every ALTER c%[1]d TYPE jsonb USING c%[1]d::jsonb", other))
	f.click(fmt.Sprintf("ALTER TABLE every MODIFY COLUMN c%d Nullable(JSON), MODIFY COLUMN c%d Nullable(JSON)", doc, other))
	return doc, other
}

func pick(r *rand.Rand, of ...string) string { return of[r.IntN(len(of))] }

func floatText(f float64, bits int) string {
	if math.IsNaN(f) {
		return "NaN"
	}
	return strings.Replace(strings.Replace(fmt.Sprintf("%.*g", map[int]int{32: 9, 64: 17}[bits], f), "+Inf", "Infinity", 1), "-Inf", "-Infinity", 1)
}

func words(r *rand.Rand) string {
	runes := []rune("ab~:1' \"\\\t\n,{}%üß漢😀")
	out := make([]rune, r.IntN(12))
	for i := range out {
		out[i] = runes[r.IntN(len(runes))]
	}
	return string(out)
}

func day(r *rand.Rand) string {
	return time.Unix(r.Int64N(12e9)-2e9, 0).UTC().Format(time.DateOnly)
}

func fraction(r *rand.Rand) string {
	return fmt.Sprintf(" %02d:%02d:%02d%s", r.IntN(24), r.IntN(60), r.IntN(60), pick(r, "", ".5", ".000001", ".123456", ".100000"))
}

// TestDigestsAreEqual: of every type, with generated values, each sink digests its copy
// like the source; and with any one value exchanged it does not.
func TestDigestsAreEqual(t *testing.T) {
	f := newFlow(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	f.exec("CREATE EXTENSION hstore; CREATE TYPE pair AS (a int, b text)")
	var defs, casts []string
	for i, g := range generated {
		defs = append(defs, fmt.Sprintf("c%d %s", i, g.typ))
		casts = append(casts, fmt.Sprintf("$%d::text::%s", i+2, g.typ))
	}
	f.exec("CREATE TABLE every (id int PRIMARY KEY, " + strings.Join(defs, ", ") + ")")
	const rows = 400
	for n := range rows {
		args := []any{n}
		for _, g := range generated {
			if rnd.IntN(10) == 0 {
				args = append(args, nil)
			} else {
				args = append(args, g.next(rnd))
			}
		}
		_, err := f.conn.Exec(f.ctx, "INSERT INTO every VALUES ($1, "+strings.Join(casts, ", ")+")", args...)
		f.ok(err)
	}
	id := change.TableID{Schema: "public", Name: "every"}
	schemas := f.prepare(2, published(id)...)
	f.add(2, schemas...)
	doc, other := f.inGo()
	f.copyAll(schemas...)
	for name, k := range f.sinks {
		s := k.(verify.Sink)
		subject := &verify.Subject{Schema: schemas[0]}
		var err error
		var ordered bool
		subject.Forms, ordered, err = s.Forms(f.ctx, subject)
		f.ok(err)
		if !ordered {
			t.Errorf("%s: integers have no order", name)
		}
		for i, f := range subject.Forms {
			if inGo := i == other+1 || i == doc+1 && name == "clickhouse"; f.InGo() != inGo {
				t.Errorf("%s: %s has the form %s", name, schemas[0].Columns[i].Type.Name, f)
			}
		}
		digests := func(side verify.Side) map[change.Key]digest.Digest {
			out := map[change.Key]digest.Digest{}
			f.ok(side.Keys(f.ctx, subject, digest.Scope{}, func(k change.Key, d digest.Digest) error { out[k] = d; return nil }))
			return out
		}
		want := digests(f.source)
		for _, scope := range []digest.Scope{{}, {After: []string{"17"}}, {After: []string{"-5"}, UpTo: []string{"99"}}, {Slice: 2, Slices: 5}, {After: []string{"1000"}}} {
			a, err := f.source.Sum(f.ctx, subject, scope)
			f.ok(err)
			b, err := s.Sum(f.ctx, subject, scope)
			f.ok(err)
			if a != b {
				t.Errorf("%s: %+v: the source has %+v, the sink %+v", name, scope, a, b)
			}
		}
		shown := 0
		for k, d := range digests(s) {
			if want[k] != d && shown < 5 {
				shown++
				f.differing(name, s, subject, k)
			}
		}
		if t.Failed() {
			continue
		}
		// In row i, column i gets a value of another row.
		for i, g := range generated {
			var from int
			f.ok(f.conn.QueryRow(f.ctx, fmt.Sprintf("SELECT b.id FROM every a, every b WHERE a.id = %[2]d AND b.c%[1]d IS DISTINCT FROM NULL AND concat(b.c%[1]d) <> concat(a.c%[1]d) LIMIT 1", i, i)).Scan(&from))
			if name == "postgres" {
				f.atSink(fmt.Sprintf("SET session_replication_role = replica; UPDATE every SET c%[1]d = (SELECT c%[1]d FROM every WHERE id = %[2]d) WHERE id = %[1]d", i, from))
			} else { // the exact text goes with the value
				other := fmt.Sprintf("FROM every FINAL WHERE id = %d)", from)
				f.click(fmt.Sprintf("INSERT INTO every SELECT * REPLACE((SELECT c%[1]d %[2]s AS c%[1]d, _version + 1 AS _version, "+
					"mapUpdate(mapFilter((k, v) -> k != 'c%[1]d', _exact), mapFilter((k, v) -> k = 'c%[1]d', (SELECT _exact %[2]s)) AS _exact) FROM every FINAL WHERE id = %[1]d", i, other))
			}
			differ := 0
			for k, d := range digests(s) {
				if want[k] != d {
					differ++
				}
			}
			if differ != i+1 {
				t.Fatalf("%s: row %d has another row's %s: %d rows differ, want %d", name, i, g.typ, differ, i+1)
			}
		}
	}
}

// differing tells how a row differs that should not.
func (f *flow) differing(name string, s verify.Side, subject *verify.Subject, k change.Key) {
	f.t.Helper()
	a, err := f.source.Read(f.ctx, subject, []change.Key{k})
	f.ok(err)
	b, err := s.Read(f.ctx, subject, []change.Key{k})
	f.ok(err)
	if len(a) != 1 || len(b) != 1 {
		f.t.Fatalf("%s: row %s: %d at the source, %d at the sink", name, k, len(a), len(b))
	}
	same := true
	for i, c := range subject.Schema.Columns {
		if x, y := a[0].Values[i], b[0].Values[i]; x.Kind != y.Kind || string(x.Data) != string(y.Data) {
			f.t.Errorf("%s: row %s: %s is %q, want %q", name, k, c.Type.Name, y.Data, x.Data)
			same = false
		}
	}
	if !same {
		return
	}
	texts, err := k.Values() // one digest is wrong: because of which column?
	f.ok(err)
	var id int
	_, err = fmt.Sscan(texts[0], &id)
	f.ok(err)
	alone := digest.Scope{After: []string{fmt.Sprint(id - 1)}, UpTo: texts}
	for i, c := range subject.Schema.Columns {
		if subject.Schema.IsKey(i) {
			continue
		}
		schema := *subject.Schema
		schema.Columns = []change.Column{schema.Columns[schema.Key[0]], c}
		schema.Key = []int{0}
		one := verify.Subject{Schema: &schema, Options: subject.Options, Forms: []digest.Form{digest.Text, subject.Forms[i]}}
		x, err := f.source.Sum(f.ctx, &one, alone)
		f.ok(err)
		y, err := s.Sum(f.ctx, &one, alone)
		f.ok(err)
		if x != y {
			f.t.Errorf("%s: row %s: %s has another digest for the same value %q", name, k, c.Type.Name, a[0].Values[i].Data)
		}
	}
}
