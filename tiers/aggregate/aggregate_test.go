package aggregate

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
)

var columns = []change.Column{
	{Name: "host", Type: change.Type{Name: "text", Kind: change.Base, Base: "text", OID: 25, Mod: -1}},
	{Name: "ts", Type: change.Type{Name: "timestamp with time zone", Kind: change.Base, Base: "timestamptz", OID: 1184, Mod: -1}},
	{Name: "n", Type: int8},
	{Name: "price", Type: builtin("numeric(12,3)", 1700, 12<<16|3+4)},
	{Name: "f", Type: float8},
	{Name: "any", Type: builtin("numeric", 1700, -1)},
	{Name: "doc", Type: builtin("jsonb", 3802, -1)},
}

func metrics(key ...int) *change.Schema {
	return &change.Schema{Table: change.TableID{Schema: "public", Name: "metrics"}, Columns: columns, Key: key}
}

var all = Spec{Group: []string{"host"}, Time: &Time{"ts", time.Hour}, Values: []Value{
	{"n", []string{Sum, Count, Avg, Min, Max, "p50", "p99"}}, {"price", []string{Sum, Min, Max}}, {"f", []string{Sum, Min, Max, "p90"}}, {"any", []string{Sum}}, {"doc", []string{Count}},
}}

func plan(t testing.TB, s *Spec) *Plan {
	t.Helper()
	p, err := s.Bind(metrics(), "bulk")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// merged is what SQL makes of partials: by group the sums, extremes and summed sketches.
type merged struct {
	rows   int64
	sum    map[string]*big.Rat
	min    map[string]*big.Rat
	max    map[string]*big.Rat
	sketch map[string]map[int32]int64
}

func rat(t interface{ Fatalf(string, ...any) }, v change.Value) *big.Rat {
	r, ok := new(big.Rat).SetString(string(v.Data))
	if !ok {
		t.Fatalf("not a number: %q", v.Data)
	}
	return r
}

func ints(v change.Value) (out []int64) {
	for s := range strings.SplitSeq(strings.Trim(string(v.Data), "{}"), ",") {
		if s != "" {
			n, _ := strconv.ParseInt(s, 10, 64)
			out = append(out, n)
		}
	}
	return out
}

func merge(t interface{ Fatalf(string, ...any) }, p *Plan, rows []change.Row) map[string]*merged {
	out := map[string]*merged{}
	s := p.Schema()
	at := func(row change.Row, name string) change.Value { return row[s.Column(name)] }
	for _, row := range rows {
		if len(row) != len(s.Columns) {
			t.Fatalf("%d values for %d columns", len(row), len(s.Columns))
		}
		key := fmt.Sprint(at(row, "host").Kind, string(at(row, "host").Data), at(row, BucketColumn).Kind, string(at(row, BucketColumn).Data))
		m := out[key]
		if m == nil {
			m = &merged{sum: map[string]*big.Rat{}, min: map[string]*big.Rat{}, max: map[string]*big.Rat{}, sketch: map[string]map[int32]int64{}}
			out[key] = m
		}
		m.rows += ints(at(row, RowsColumn))[0]
		for i, c := range s.Columns {
			v, name := row[i], c.Name
			switch {
			case i < 7 || v.Kind == change.Null:
			case strings.HasSuffix(name, "_min"):
				if r := rat(t, v); m.min[name] == nil || r.Cmp(m.min[name]) < 0 {
					m.min[name] = r
				}
			case strings.HasSuffix(name, "_max"):
				if r := rat(t, v); m.max[name] == nil || r.Cmp(m.max[name]) > 0 {
					m.max[name] = r
				}
			case strings.HasSuffix(name, "_keys"):
				counts := ints(row[i+1])
				if m.sketch[name] == nil {
					m.sketch[name] = map[int32]int64{}
				}
				for j, k := range ints(v) {
					m.sketch[name][int32(k)] += counts[j]
				}
			case !strings.HasSuffix(name, "_counts"):
				if m.sum[name] == nil {
					m.sum[name] = new(big.Rat)
				}
				m.sum[name].Add(m.sum[name], rat(t, v))
			}
		}
	}
	return out
}

func (m *merged) String() string {
	var b strings.Builder
	fmt.Fprint(&b, m.rows)
	for _, x := range []map[string]*big.Rat{m.sum, m.min, m.max} {
		names := []string{}
		for n := range x {
			names = append(names, n)
		}
		slices.Sort(names)
		for _, n := range names {
			fmt.Fprintf(&b, " %s=%s", n, x[n].RatString())
		}
	}
	fmt.Fprint(&b, m.sketch)
	return b.String()
}

func quantile(sketch map[int32]int64, q float64) float64 {
	var keys []int32
	n := int64(0)
	for k, c := range sketch {
		keys, n = append(keys, k), n+c
	}
	slices.Sort(keys)
	cum := int64(0)
	for _, k := range keys {
		if cum += sketch[k]; float64(cum) > q*float64(n-1) {
			return KeyValue(k)
		}
	}
	return math.NaN()
}

func anyRow(t *rapid.T) change.Row {
	maybe := func(name string, gen *rapid.Generator[string]) change.Value {
		if rapid.IntRange(0, 5).Draw(t, name+" null") == 0 {
			return change.Value{}
		}
		return change.TextValue(gen.Draw(t, name))
	}
	decimals := func(whole, scale int) *rapid.Generator[string] {
		return rapid.Custom(func(t *rapid.T) string {
			limit := int64(math.Pow10(min(whole+scale, 17)))
			return new(big.Rat).SetFrac(big.NewInt(rapid.Int64Range(-limit, limit).Draw(t, "unscaled")), new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale)), nil)).FloatString(scale)
		})
	}
	return change.Row{
		maybe("host", rapid.SampledFrom([]string{"a", "b", "", "a,b"})),
		maybe("ts", rapid.SampledFrom([]string{"2024-05-01 10:00:00+00", "2024-05-01 10:59:59.999999+00", "2024-05-01 12:30:00+02", "1969-12-31 23:10:00+00", "infinity"})),
		maybe("n", rapid.Map(rapid.Int64(), func(n int64) string { return strconv.FormatInt(n, 10) })),
		maybe("price", rapid.OneOf(decimals(9, 3), rapid.Just("NaN"))),
		maybe("f", rapid.OneOf(rapid.Map(rapid.Float64Range(-1e20, 1e20), func(f float64) string { return strconv.FormatFloat(f, 'g', -1, 64) }), rapid.SampledFrom([]string{"NaN", "Infinity", "-Infinity", "1e-40", "-0", "1e+20"}))),
		maybe("any", decimals(10, 7)),
		maybe("doc", rapid.Just(`{"a": 1}`)),
	}
}

// However rows are cut into runs, and in whatever order these are merged, the aggregates
// are those of all rows.
func TestPartialsMergeToTheWhole(t *testing.T) {
	p := plan(t, &all)
	rapid.Check(t, func(t *rapid.T) {
		rows := rapid.SliceOfN(rapid.Custom(anyRow), 1, 40).Draw(t, "rows")
		runs := []*Partials{p.New(), p.New(), p.New()}
		whole := p.New()
		for i, r := range rows {
			if err := whole.Add(r); err != nil {
				t.Fatalf("row %d: %v", i, err)
			}
			if err := runs[rapid.IntRange(0, 2).Draw(t, "run")].Add(r); err != nil {
				t.Fatalf("row %d: %v", i, err)
			}
		}
		var parts []change.Row
		for i, r := range runs {
			parts = append(parts, r.Rows(Run{i, int64(10 * i), 1, 1})...)
		}
		got, want := merge(t, p, rapid.Permutation(parts).Draw(t, "order")), merge(t, p, whole.Rows(Run{}))
		if len(got) != len(want) || len(want) != whole.Groups() {
			t.Fatalf("%d groups, want %d", len(got), len(want))
		}
		for k, w := range want {
			if got[k] == nil || got[k].String() != w.String() {
				t.Fatalf("group %s:\n%v, want\n%v", k, got[k], w)
			}
		}
		naive(t, rows, want)
	})
}

// naive compares with sums and extremes that were made one by one.
func naive(t *rapid.T, rows []change.Row, got map[string]*merged) {
	type sums struct {
		rows, count, nan int64
		sum, any         *big.Rat
		max              *big.Rat
		f                []float64
	}
	want := map[string]*sums{}
	for _, r := range rows {
		bucket := r[1]
		if bucket.Kind == change.Text && string(bucket.Data) != "infinity" {
			at, err := time.Parse("2006-01-02 15:04:05.999999-07", string(bucket.Data))
			if err != nil {
				t.Fatal(err)
			}
			bucket = change.TextValue(at.UTC().Truncate(time.Hour).Format("2006-01-02 15:04:05") + "+00")
		}
		key := fmt.Sprint(r[0].Kind, string(r[0].Data), bucket.Kind, string(bucket.Data))
		w := want[key]
		if w == nil {
			w = &sums{sum: new(big.Rat), any: new(big.Rat)}
			want[key] = w
		}
		w.rows++
		if r[2].Kind == change.Text {
			n := rat(t, r[2])
			w.count++
			w.sum.Add(w.sum, n)
			if w.max == nil || n.Cmp(w.max) > 0 {
				w.max = n
			}
		}
		if r[3].Kind == change.Text && string(r[3].Data) == "NaN" {
			w.nan++
		}
		if r[5].Kind == change.Text {
			w.any.Add(w.any, rat(t, r[5]))
		}
		if r[4].Kind == change.Text {
			if f, _ := strconv.ParseFloat(string(r[4].Data), 64); !math.IsNaN(f) && !math.IsInf(f, 0) {
				w.f = append(w.f, f)
			}
		}
	}
	for key, w := range want {
		m := got[key]
		if m == nil {
			t.Fatalf("no group %s", key)
		}
		same := func(what string, a, b *big.Rat) {
			if a == nil {
				a = new(big.Rat)
			}
			if b == nil {
				b = new(big.Rat)
			}
			if a.Cmp(b) != 0 {
				t.Fatalf("group %s: %s is %s, want %s", key, what, a, b)
			}
		}
		same("rows", big.NewRat(m.rows, 1), big.NewRat(w.rows, 1))
		same("count", m.sum["n_count"], big.NewRat(w.count, 1))
		same("sum", m.sum["n_sum"], w.sum)
		same("max", m.max["n_max"], w.max)
		same("NaNs", m.sum["price_nan"], big.NewRat(w.nan, 1))
		same("sum of any", m.sum["any_sum"], w.any)
		if len(w.f) == 0 {
			continue
		}
		slices.SortFunc(w.f, cmp.Compare[float64])
		exact := w.f[int(0.9*float64(len(w.f)-1))]
		if v := quantile(m.sketch["f_keys"], 0.9); math.Abs(v-exact) > Accuracy*math.Abs(exact)*1.000001+1e-30 {
			t.Fatalf("group %s: the quantile is %g, want about %g", key, v, exact)
		}
	}
}

// A sketch is within its error for values of all sizes, and keys are in the values' order.
func TestSketchError(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.Float64Range(-1e27, 1e27).Draw(t, "a"), math.Pow(10, rapid.Float64Range(-29, 27).Draw(t, "b"))
		for _, v := range []float64{a, b, -b} {
			if got := KeyValue(sketchKey(v)); math.Abs(got-v) > Accuracy*math.Abs(v)*(1+1e-9) {
				t.Fatalf("%g stands for %g", got, v)
			}
		}
		if (a < b) && sketchKey(a) > sketchKey(b) {
			t.Fatalf("keys of %g and %g are the other way round", a, b)
		}
	})
}

// What cannot be summed exactly is refused, and leaves the partials as they were.
func TestValuesThatCannotBeSummed(t *testing.T) {
	p := plan(t, &Spec{Group: []string{"host"}, Values: []Value{{"n", []string{Sum}}, {"any", []string{Sum}}, {"f", []string{Sum}}}})
	x := p.New()
	for name, r := range map[string]struct{ n, any, f, why string }{
		"large":      {"1", "1" + strings.Repeat("0", 27), "1", `"any": it has more than 27 digits`},
		"large f":    {"1", "1", "1e+30", `"f": it has more than 27 digits`},
		"fine":       {"1", "0." + strings.Repeat("0", 30) + "1", "1", `"any": it has more than 30 digits`},
		"very fine":  {"1", "1e-3000", "1", `"any": it has more than 30 digits`},
		"very large": {"1", "1e3000", "1", `"any": it has more than 27 digits`},
		"no number":  {"x", "1", "1", `"n": it is not a number`},
	} {
		err := x.Add(change.Row{change.TextValue("h"), {}, change.TextValue(r.n), {}, change.TextValue(r.f), change.TextValue(r.any), {}})
		var e *ValueError
		if !errors.As(err, &e) || !strings.Contains(err.Error(), r.why) || x.Groups() != 0 {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := x.Add(change.Row{change.TextValue("h"), {}, {Kind: change.Unchanged}, {}, {}, {}, {}}); err == nil {
		t.Error("a value that is not there is taken for one")
	}
}

func TestBindRefuses(t *testing.T) {
	for want, x := range map[string]struct {
		s   Spec
		key []int
	}{
		"group: table public.metrics: the table is not append_only":                         {Spec{Group: []string{"host"}}, []int{0}},
		`group[1]: table public.metrics has no column "hots"`:                               {Spec{Group: []string{"host", "hots"}}, nil},
		`group[0]: column "doc" of table public.metrics is jsonb`:                           {Spec{Group: []string{"doc"}}, nil},
		`group[0]: column "any" of table public.metrics is numeric: equal values`:           {Spec{Group: []string{"any"}}, nil},
		`time.column: column "host" of table public.metrics is text, not timestamp`:         {Spec{Time: &Time{"host", time.Hour}}, nil},
		`values[0].column: column "host" of table public.metrics is text: it is not`:        {Spec{Values: []Value{{"host", []string{Sum}}}}, nil},
		`values[0].column: table public.metrics has no column "v"`:                          {Spec{Values: []Value{{"v", []string{Count}}}}, nil},
		`group: table public.metrics: two columns of the aggregates would be called "host"`: {Spec{Group: []string{"host", "host"}}, nil},
		`would be called "n_count"`:                                                         {Spec{Values: []Value{{"n", []string{Count}}, {"n", []string{Count}}}}, nil},
	} {
		_, err := x.s.Bind(metrics(x.key...), "bulk")
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	for f, want := range map[string]float64{"p50": 0.5, "p999": 0.999, "p05": 0.05} {
		if q, ok := Quantile(f); !ok || math.Abs(q-want) > 1e-12 {
			t.Errorf("%s is %g", f, q)
		}
	}
	for _, f := range []string{"p", "p5", "median", "px1", "p1234567", "p-1"} {
		if _, ok := Quantile(f); ok {
			t.Errorf("%s is a quantile", f)
		}
	}
}

// What a row of a run costs, with sums, extremes and a sketch of two columns.
func BenchmarkAdd(b *testing.B) {
	p := plan(b, &Spec{Group: []string{"host"}, Time: &Time{"ts", time.Hour}, Values: []Value{{"n", []string{Sum, Min, Max, "p99"}}, {"price", []string{Sum, Avg, Max, "p99"}}}})
	rows := make([]change.Row, 4096)
	for i := range rows {
		rows[i] = change.Row{change.TextValue(fmt.Sprint("host", i%100)), change.TextValue(fmt.Sprintf("2024-05-01 1%d:%02d:00+00", i%8, i%60)),
			change.TextValue(strconv.Itoa(i * 7919)), change.TextValue(fmt.Sprintf("%d.%03d", i, i%1000)), {}, {}, {}}
	}
	x := p.New()
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		if err := x.Add(rows[i%len(rows)]); err != nil {
			b.Fatal(err)
		}
	}
}
