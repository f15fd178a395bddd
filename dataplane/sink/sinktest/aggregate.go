package sinktest

import (
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

func measured() *change.Schema {
	return Schema("measured", 0, Col("host", TextT), Col("ts", Builtin("timestamp with time zone", "timestamptz", 1184, -1)), Col("n", Int8),
		Col("price", Builtin("numeric(12,3)", "numeric", 1700, 12<<16|3+4)), Col("f", Builtin("double precision", "float8", 701, -1)), Col("any", Builtin("numeric", "numeric", 1700, -1)))
}

func hourly(e *env, s *change.Schema, functions ...string) *aggregate.Plan {
	e.Helper()
	spec := aggregate.Spec{Group: []string{"host"}, Time: &aggregate.Time{Column: "ts", Bucket: time.Hour}, Values: []aggregate.Value{
		{Column: "n", Functions: append([]string{"sum", "count", "avg", "min", "max", "p50", "p99"}, functions...)},
		{Column: "price", Functions: []string{"sum", "avg", "max"}},
		{Column: "f", Functions: []string{"sum", "min", "max", "p90"}}, {Column: "any", Functions: []string{"sum"}}}}
	p, err := spec.Bind(s, "per-hour")
	e.ok(err)
	return p
}

// partials is a batch of one run over rows of the source. marked says whether the watermark
// goes with it.
func (e *env) partials(t sink.Table, p *aggregate.Plan, r aggregate.Run, marked bool, rows ...change.Row) *sink.Batch {
	e.Helper()
	x := p.New()
	for _, row := range rows {
		e.ok(x.Add(row))
	}
	last := int(r.From) + len(rows)
	tb := sink.TableBatch{Schema: p.Schema(), Options: sink.PartialsOptions(p, t.Options), Epoch: t.Epoch, Partials: p}
	for _, row := range x.Rows(r) {
		tb.Rows = append(tb.Rows, sink.Row{Op: change.Insert, Pos: Pos(last), Commit: time.Unix(1700000000, 0).UTC(), New: row})
	}
	b := &sink.Batch{Tables: []sink.TableBatch{tb}}
	if marked {
		b.Marks = []sink.Watermark{{Partition: sink.Partition{Table: t.ID, N: r.Partition}, Pos: Pos(last), Offset: r.From + int64(len(rows))}}
	}
	return b
}

// shown makes a shown number comparable: exactly, but for what is not a decimal number.
func shown(text string) string {
	switch strings.ToLower(text) {
	case "nan", "inf", "-inf", "infinity", "-infinity":
		return strings.TrimSuffix(strings.ToLower(text), "inity")
	}
	if r, ok := new(big.Rat).SetString(text); ok {
		return r.RatString()
	}
	return text
}

func float(text string) float64 { f, _ := strconv.ParseFloat(text, 64); return f }

// aggregates compares the view with what rows add up to.
func (e *env) aggregates(t sink.Table, p *aggregate.Plan, rows ...change.Row) {
	e.Helper()
	type want struct {
		rows, count       int64
		sum, price, any   *big.Rat
		min, max          *big.Rat
		ns, fs            []float64
		fsum              *big.Rat
		nan, high, prices bool
		priceNaN          bool
	}
	wants := map[string]*want{}
	for _, r := range rows {
		bucket := NULL
		if r[1].Kind == change.Text {
			at, err := time.Parse("2006-01-02 15:04:05.999999-07", string(r[1].Data))
			e.ok(err)
			bucket = at.UTC().Truncate(time.Hour).Format("2006-01-02 15:04:05")
		}
		host := NULL
		if r[0].Kind == change.Text {
			host = strconv.Quote(string(r[0].Data))
		}
		w := wants[host+" "+bucket]
		if w == nil {
			w = &want{sum: new(big.Rat), price: new(big.Rat), any: new(big.Rat), fsum: new(big.Rat)}
			wants[host+" "+bucket] = w
		}
		w.rows++
		add := func(to *big.Rat, v change.Value) *big.Rat {
			n, ok := new(big.Rat).SetString(string(v.Data))
			if v.Kind != change.Text || !ok {
				return nil
			}
			to.Add(to, n)
			return n
		}
		if n := add(w.sum, r[2]); n != nil {
			w.count++
			f, _ := n.Float64()
			w.ns = append(w.ns, f)
			if w.min == nil || n.Cmp(w.min) < 0 {
				w.min = n
			}
			if w.max == nil || n.Cmp(w.max) > 0 {
				w.max = n
			}
		}
		w.prices = add(w.price, r[3]) != nil || w.prices
		w.priceNaN = w.priceNaN || string(r[3].Data) == "NaN"
		w.nan, w.high = w.nan || string(r[4].Data) == "NaN", w.high || string(r[4].Data) == "Infinity"
		if add(w.fsum, r[4]) != nil {
			w.fs = append(w.fs, float(string(r[4].Data)))
		}
		add(w.any, r[5])
	}
	have := e.probe.Shown(e.T, t.Options.Schema, sink.ViewName(p, t.Options), p.Shown())
	if len(have) != len(wants) {
		e.Fatalf("%d groups, want %d: %s", len(have), len(wants), Lines(have))
	}
	for _, r := range have {
		col := func(name string) string {
			v := r[slices.Index(p.Shown(), name)]
			if v == nil {
				return NULL
			}
			return *v
		}
		host, bucket := NULL, col("bucket")
		if r[0] != nil {
			host = strconv.Quote(*r[0])
		}
		if bucket != NULL {
			bucket = bucket[:19]
		}
		w := wants[host+" "+bucket]
		if w == nil {
			e.Fatalf("group %s %s, which no row is of", host, bucket)
		}
		is := func(name, want string) {
			e.Helper()
			if got := shown(col(name)); got != want {
				e.Errorf("%s %s: %s is %s, want %s", host, bucket, name, got, want)
			}
		}
		about := func(name string, want float64, within float64) {
			e.Helper()
			if got := float(col(name)); col(name) == NULL || math.Abs(got-want) > within*math.Abs(want) {
				e.Errorf("%s %s: %s is %s, want about %g", host, bucket, name, col(name), want)
			}
		}
		is("rows", fmt.Sprint(w.rows))
		is("any_sum", w.any.RatString())
		if !slices.Contains(p.Shown(), "n_sum") {
			continue
		}
		is("n_count", fmt.Sprint(w.count))
		if w.count == 0 {
			for _, name := range []string{"n_sum", "n_avg", "n_min", "n_max", "n_p50"} {
				is(name, NULL)
			}
		} else {
			is("n_sum", w.sum.RatString())
			is("n_min", w.min.RatString())
			is("n_max", w.max.RatString())
			sum, _ := w.sum.Float64()
			about("n_avg", sum/float64(w.count), 1e-9)
			slices.Sort(w.ns)
			about("n_p50", w.ns[int(0.5*float64(len(w.ns)-1))], aggregate.Accuracy*1.0001)
			about("n_p99", w.ns[int(0.99*float64(len(w.ns)-1))], aggregate.Accuracy*1.0001)
		}
		if w.prices && !w.priceNaN {
			is("price_sum", w.price.RatString())
		} else if got := shown(col("price_sum")); w.priceNaN && got != "nan" && got != NULL {
			e.Errorf("a sum with NaN is %s", got)
		}
		fsum, _ := w.fsum.Float64()
		switch {
		case w.nan:
			is("f_sum", "nan")
			is("f_max", "nan")
		case w.high:
			is("f_sum", "inf")
			is("f_max", "inf")
		case len(w.fs) > 0:
			about("f_sum", fsum, 1e-15)
		}
		if len(w.fs) > 0 {
			slices.Sort(w.fs)
			about("f_min", w.fs[0], 0)
			about("f_p90", w.fs[int(0.9*float64(len(w.fs)-1))], aggregate.Accuracy*1.0001)
		}
	}
}

// samples are rows of measured; every one has a value in column any.
func samples() []change.Row {
	out := []change.Row{
		Values("a", "2024-05-01 10:00:00+00", "9223372036854775807", "0.001", "0.1", "0.1000000000000000000000000000"),
		Values("a", "2024-05-01 10:59:59.999999+00", "9223372036854775807", "0.002", "0.2", "123456789012345678901234567"),
		Values("a", "2024-05-01 12:30:00+02", "1", "999999999.999", "1e+20", "-0.000000000000000000000000000001"),
		Values("a", "2024-05-01 11:00:00+00", NULL, NULL, NULL, "1"),
		Values(NULL, "2024-05-01 11:00:00+00", "-7", "NaN", "NaN", "1"),
		Values(NULL, "2024-05-01 11:01:00+00", "7", "1", "-3.5", "1"),
		Values("b", NULL, "0", "2.5", "Infinity", "2"),
		Values("b", NULL, "-1", "2.5", "0", "2"),
	}
	for i := range 120 {
		out = append(out, Values("many", "1969-12-31 23:10:00+00", strconv.Itoa((i-20)*(i+3)), strconv.Itoa(i)+".125", fmt.Sprint(math.Pow(1.7, float64(i%60-30))), "0.3"))
	}
	return out
}

// testAggregates: partials of any runs, beside rows, merge to the aggregates of all rows.
func testAggregates(e *env) {
	s := measured()
	t := e.add(s, 2, sink.TableOptions{AppendOnly: true})
	x := e.claim(0, 1)
	p := hourly(e, s)
	rows := samples()
	for i := 0; i < len(rows); i += 17 {
		b := e.partials(t, p, aggregate.Run{Partition: i % 2, From: int64(1 + i), Token: x.Token(), Attempt: int64(i)}, true, rows[i:min(i+17, len(rows))]...)
		if i == 17 { // rows of the table go with it
			b.Tables = append(b.Tables, Batch(t, 0, Put(s, 30, "row", NULL, "5", NULL, NULL, NULL)).Tables...)
		}
		if a := e.apply(x, b); len(a.Dead) > 0 {
			e.Fatalf("set aside: %+v", a.Dead)
		}
	}
	e.aggregates(t, p, rows...)
	e.want(t, []string{"row", NULL, "5", NULL, NULL, NULL})
}

// testAggregatesRetried: what attempts that failed or were superseded left behind counts
// once, though the retry covers other changes.
func testAggregatesRetried(e *env) {
	s := measured()
	t := e.add(s, 1, sink.TableOptions{AppendOnly: true})
	x := e.claim(0, 1)
	p := hourly(e, s)
	rows := samples()
	run := func(x sink.Session, from, attempt int) aggregate.Run {
		return aggregate.Run{From: int64(from), Token: x.Token(), Attempt: int64(attempt)}
	}
	e.apply(x, e.partials(t, p, run(x, 0, 1), true, rows[0:2]...))
	if e.caps.Atomic {
		b := e.partials(t, p, run(x, 2, 2), true, rows[2:8]...)
		b.Tables[0].Holds = 99 // of which the ledger knows nothing
		if _, err := x.Apply(e.ctx, b); !fault.Is(err, sink.CodeNotStreaming) {
			e.Fatalf("a batch that is refused: %v", err)
		}
	} else { // cut short before the watermark
		e.apply(x, e.partials(t, p, run(x, 2, 2), false, rows[2:8]...))
	}
	y := e.claim(0, 1)
	e.apply(y, e.partials(t, p, run(y, 2, 1), true, rows[2:4]...))
	e.aggregates(t, p, rows[:4]...)
	if !e.caps.Atomic { // the superseded attempt comes in late, with a range that nobody goes on from
		e.apply(y, e.partials(t, p, run(x, 3, 3), false, rows[3:9]...))
		e.aggregates(t, p, rows[:4]...)
		e.apply(y, e.partials(t, p, run(y, 4, 2), false, rows[4:20]...))
	}
	e.apply(y, e.partials(t, p, run(y, 4, 3), true, rows[4:10]...))
	e.apply(y, e.partials(t, p, run(y, 10, 4), true, rows[10:]...))
	e.aggregates(t, p, rows...)
	if _, err := x.Apply(e.ctx, e.partials(t, p, run(x, 200, 5), true, rows[0])); !fault.Is(err, sink.CodeFenced) {
		e.Fatalf("a superseded session writes: %v", err)
	}
	e.aggregates(t, p, rows...)
}

// testAggregatesGo: they go with their table's rows, and are never mixed with others.
func testAggregatesGo(e *env) {
	s := measured()
	t := e.add(s, 1, sink.TableOptions{AppendOnly: true})
	x := e.claim(0, 1)
	p := hourly(e, s)
	rows := samples()[:6]
	run := func(from int) aggregate.Run {
		return aggregate.Run{From: int64(from), Token: x.Token(), Attempt: int64(from)}
	}
	e.apply(x, e.partials(t, p, run(1), true, rows...))
	done, err := x.Truncate(e.ctx, sink.Watermark{Partition: sink.Partition{Table: t.ID}, Pos: Pos(50), Offset: 50}, 1)
	if e.ok(err); !done {
		e.Fatal("the partition may not go on")
	}
	e.aggregates(t, p)
	e.apply(x, e.partials(t, p, run(60), true, rows[1:]...))
	e.aggregates(t, p, rows[1:]...)

	// By another declaration they do not merge.
	more := hourly(e, s, "p95") // of the same partials more can be shown
	e.apply(x, e.partials(t, more, run(68), true, rows[0]))
	e.aggregates(t, more, rows...)
	spec := aggregate.Spec{Group: []string{"host"}, Time: &aggregate.Time{Column: "ts", Bucket: time.Hour}, Values: []aggregate.Value{{Column: "any", Functions: []string{"sum"}}}}
	other, err := spec.Bind(s, p.Tier)
	e.ok(err)
	if _, err := x.Apply(e.ctx, e.partials(t, other, run(70), true, rows...)); !fault.Is(err, sink.CodeTableMismatch) {
		e.Fatalf("partials of two declarations are mixed: %v", err)
	}
	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.aggregates(t, p)
	_, err = e.sink.PlanChunks(e.ctx, t.ID, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	x, t.Epoch = e.claim(0, 1), 2
	e.apply(x, e.partials(t, other, run(70), true, rows[2:]...)) // there is none of the old any more
	e.aggregates(t, other, rows[2:]...)

	// Partials that stay are in the way of another load, unless it begins with nothing.
	e.ok(e.sink.RemoveTable(e.ctx, t.ID, false))
	e.aggregates(t, other, rows[2:]...)
	again := sink.Table{ID: t.ID, Partitions: 1, Epoch: 3, Schema: s, Options: t.Options}
	if err := e.sink.AddTable(e.ctx, again); !fault.Is(err, sink.CodeTableNotEmpty) {
		e.Fatalf("added over aggregates: %v", err)
	}
	again.Options.Existing = sink.Clear
	e.ok(e.sink.AddTable(e.ctx, again))
	_, err = e.sink.PlanChunks(e.ctx, t.ID, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	x, again.State = e.claim(0, 1), sink.Streaming
	e.apply(x, e.partials(again, p, run(80), true, rows...))
	e.aggregates(again, p, rows...)
	e.ok(e.sink.RemoveTable(e.ctx, t.ID, true))
	// Somebody else's table is left alone.
	in := Schema("taken", 1, Col("id", Int4))
	e.add(in, 1, sink.TableOptions{Name: p.Partials("measured")})
	last := e.add(s, 1, sink.TableOptions{AppendOnly: true, Existing: sink.Clear})
	x = e.claim(0, 1)
	if _, err := x.Apply(e.ctx, e.partials(last, p, run(90), true, rows...)); !fault.Is(err, sink.CodeTableMismatch) {
		e.Fatalf("partials go to a table of somebody else: %v", err)
	}
}
