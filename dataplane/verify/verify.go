package verify

import (
	"context"
	"errors"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
)

// Subject is a table and how its rows are digested.
type Subject struct {
	Schema  *change.Schema
	Options sink.TableOptions
	Where   string        // the table's row filter at the source
	Forms   []digest.Form // per column
}

// Row is a row as one side has it.
type Row struct {
	Key     change.Key
	Values  change.Row // per column, as Postgres prints them
	Version string     // another one whenever the row was written
}

// Side is what both sides can do.
type Side interface {
	// Sum digests a part of the table.
	Sum(ctx context.Context, t *Subject, s digest.Scope) (digest.Sum, error)
	// Keys gives each row of a part; an error of each ends it and is returned.
	Keys(ctx context.Context, t *Subject, s digest.Scope, each func(change.Key, digest.Digest) error) error
	// Read returns those of the rows that are there.
	Read(ctx context.Context, t *Subject, keys []change.Key) ([]Row, error)
}

// Source is the side that is right.
type Source interface {
	Side
	// Position returns one that every commit which an earlier call saw is below.
	Position(ctx context.Context) (change.LSN, error)
	// Next returns the key that ends a part of so many rows; nil if fewer are left.
	Next(ctx context.Context, t *Subject, after []string, rows int) (upTo []string, err error)
}

// Sink is the side that should be the same.
type Sink interface {
	Side
	// Forms tells how each column is digested at both sides, and whether the sink has
	// the source's order of primary keys; if not, parts are taken by the keys' hashes.
	Forms(ctx context.Context, t *Subject) (forms []digest.Form, ordered bool, err error)
}

// Ledger is how far the sink has come; a sink.Sink is one.
type Ledger interface {
	Table(ctx context.Context, id change.TableID) (sink.Table, error)
	Watermarks(ctx context.Context) ([]sink.Watermark, error)
}

// Options of a walk. Zero values are replaced by the defaults.
type Options struct {
	From          []string      // primary key behind which to begin; nil: from the first
	RowsPerSecond float64       // that the source reads at most; 0: as fast as it goes
	PartTime      time.Duration // that one statement should take; default 500 ms
	FirstRows     int           // of the first part; default 5,000
	MaxRows       int           // of any part; default 100,000
	Fence         time.Duration // that the ledger may take to pass a position; default 5 min
	Rounds        int           // for a key to stand still in; default 20
	MaxFindings   int           // after which the walk ends; default 1,000
	// Admit is called before each part, and may wait while the source or the sink has
	// enough to do; nil: never.
	Admit func(context.Context) error
	// Done is told of each part that ended, with the key to go on from; nil: nobody is.
	Done func(after []string, so *Result) error
}

func (o *Options) defaults() {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&o.FirstRows, 5000)
	set(&o.MaxRows, 100_000)
	set(&o.Rounds, 20)
	set(&o.MaxFindings, 1000)
	if o.PartTime <= 0 {
		o.PartTime = 500 * time.Millisecond
	}
	if o.Fence <= 0 {
		o.Fence = 5 * time.Minute
	}
	o.FirstRows = min(o.FirstRows, o.MaxRows)
}

// Verdict on a table.
type Verdict string

// The verdicts.
const (
	Equal        Verdict = "equal"
	Different    Verdict = "different"
	Inconclusive Verdict = "inconclusive"
)

// Kinds of findings.
const (
	Missing = "missing" // at the source only
	Extra   = "extra"   // at the sink only
	Changed = "changed" // values differ
	Twice   = "twice"   // more than one row at the sink
)

// Result of a walk.
type Result struct {
	Verdict   Verdict
	Reason    string // why it is inconclusive
	From, To  change.LSN
	Rows      int64 // of the source
	Parts     int
	Differing int // parts whose sums were not equal at once
	Suspects  int // keys that were looked at one by one
	Unsettled int // of these, keys that never stood still
	Findings  []sink.Finding
	More      bool     // the walk ended at MaxFindings
	Apart     []string // columns that were not compared
}

// conclude sets the verdict by what was found.
func (r *Result) conclude() {
	switch {
	case len(r.Findings) > 0:
		r.Verdict = Different
	case r.Reason != "":
		r.Verdict = Inconclusive
	case r.Unsettled > 0:
		r.Verdict, r.Reason = Inconclusive, fmt.Sprintf("%d keys were written to all the time", r.Unsettled)
	default:
		r.Verdict = Equal
	}
}

// Table walks a table. Findings are in it even if an error ends it.
func Table(ctx context.Context, src Source, snk Sink, led Ledger, t Subject, o Options) (Result, error) {
	o.defaults()
	w := &walk{src: src, snk: snk, led: led, t: &t, o: o}
	if o.RowsPerSecond > 0 {
		w.budget = rate.NewLimiter(rate.Limit(o.RowsPerSecond), max(1, int(o.RowsPerSecond)))
	}
	err := w.run(ctx)
	var stop *inconclusive
	if errors.As(err, &stop) {
		w.res.Reason, err = stop.reason, nil
	}
	w.res.conclude()
	return w.res, err
}

// inconclusive ends a walk without an answer.
type inconclusive struct{ reason string }

func (e *inconclusive) Error() string { return "inconclusive: " + e.reason }

// errEnough ends a walk that has found enough.
var errEnough = errors.New("enough findings")

type walk struct {
	src    Source
	snk    Sink
	led    Ledger
	t      *Subject
	o      Options
	budget *rate.Limiter
	res    Result
}

func (w *walk) run(ctx context.Context) error {
	if len(w.t.Schema.Key) == 0 {
		return &inconclusive{"it has no primary key: rows cannot be told apart"}
	}
	forms, ordered, err := w.snk.Forms(ctx, w.t)
	if err != nil {
		return err
	}
	w.t.Forms = forms
	for i, f := range forms {
		if f == digest.Apart {
			w.res.Apart = append(w.res.Apart, w.t.Schema.Columns[i].Name)
		}
	}
	if w.res.From, err = w.src.Position(ctx); err != nil {
		return err
	}
	w.res.To = w.res.From
	if ordered {
		err = w.inOrder(ctx)
	} else {
		err = w.byHash(ctx)
	}
	if errors.Is(err, errEnough) {
		w.res.More, err = true, nil
	}
	return err
}

// inOrder walks along the primary key, in parts that take about PartTime each.
func (w *walk) inOrder(ctx context.Context) error {
	after, rows := w.o.From, w.o.FirstRows
	for {
		if err := w.admit(ctx, rows); err != nil {
			return err
		}
		upTo, err := w.src.Next(ctx, w.t, after, rows)
		if err != nil {
			return err
		}
		took, err := w.part(ctx, digest.Scope{After: after, UpTo: upTo})
		if err != nil {
			return err
		}
		if w.o.Done != nil {
			if err := w.o.Done(upTo, &w.res); err != nil {
				return err
			}
		}
		if upTo == nil {
			return nil
		}
		after = upTo
		// Towards the aim, but by no more than half or double at once.
		next := float64(rows) * float64(w.o.PartTime) / float64(max(took, time.Millisecond))
		rows = min(max(int(next), rows/2, 100), 2*rows, w.o.MaxRows)
	}
}

// byHash compares the table as a whole, and unless it is equal at once, one slice of
// the keys' hashes after the other: each time, all of the table is read.
func (w *walk) byHash(ctx context.Context) error {
	if err := w.admit(ctx, 0); err != nil {
		return err
	}
	total, err := w.src.Sum(ctx, w.t, digest.Scope{})
	if err != nil {
		return err
	}
	at, err := w.fence(ctx)
	if err != nil {
		return err
	}
	have, err := w.snk.Sum(ctx, w.t, digest.Scope{})
	if err != nil {
		return err
	}
	if have == total {
		w.res.Parts, w.res.Rows, w.res.To = 1, total.Rows, max(w.res.To, at)
		return nil
	}
	slices := int(total.Rows)/w.o.MaxRows + 1
	for n := range slices {
		if err := w.admit(ctx, int(total.Rows)); err != nil {
			return err
		}
		if _, err := w.part(ctx, digest.Scope{Slice: n, Slices: slices}); err != nil {
			return err
		}
		if w.o.Done != nil {
			if err := w.o.Done(nil, &w.res); err != nil {
				return err
			}
		}
	}
	return nil
}

// admit waits for what the budget and the outside allow.
func (w *walk) admit(ctx context.Context, rows int) error {
	if w.o.Admit != nil {
		if err := w.o.Admit(ctx); err != nil {
			return err
		}
	}
	for w.budget != nil && rows > 0 {
		n := min(rows, w.budget.Burst())
		if err := w.budget.WaitN(ctx, n); err != nil {
			return err
		}
		rows -= n
	}
	return nil
}

// part compares one part, and returns how long the source took for its sum.
func (w *walk) part(ctx context.Context, s digest.Scope) (took time.Duration, err error) {
	begun := time.Now()
	want, err := w.src.Sum(ctx, w.t, s)
	if err != nil {
		return 0, err
	}
	took = time.Since(begun)
	at, err := w.fence(ctx)
	if err != nil {
		return took, err
	}
	have, err := w.snk.Sum(ctx, w.t, s)
	if err != nil {
		return took, err
	}
	w.res.Parts++
	w.res.Rows += want.Rows
	w.res.To = max(w.res.To, at)
	if have == want {
		return took, nil
	}
	w.res.Differing++
	suspects, err := w.suspects(ctx, s)
	if err != nil {
		return took, err
	}
	return took, w.confirm(ctx, suspects)
}

// suspects are the keys of a part that the two sides do not have alike.
func (w *walk) suspects(ctx context.Context, s digest.Scope) ([]change.Key, error) {
	// A part may have grown since it was measured, at either side.
	bound := 4 * w.o.MaxRows
	want := map[change.Key]digest.Digest{}
	err := w.src.Keys(ctx, w.t, s, func(k change.Key, d digest.Digest) error {
		if want[k] = d; len(want) > bound {
			return &inconclusive{fmt.Sprintf("a part has more than %d rows", bound)}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if _, err := w.fence(ctx); err != nil {
		return nil, err
	}
	var out []change.Key
	seen := map[change.Key]bool{}
	err = w.snk.Keys(ctx, w.t, s, func(k change.Key, d digest.Digest) error {
		if seen[k] || want[k] != d {
			out = append(out, k)
		}
		if seen[k] = true; len(out) > bound {
			return errEnough // the sink has far more rows there than the source
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	for k := range want {
		if !seen[k] {
			out = append(out, k)
		}
	}
	w.res.Suspects += len(out)
	return out, nil
}

// KeyOf is the key whose columns print as the texts.
func KeyOf(s *change.Schema, texts []string) (change.Key, error) {
	if len(texts) != len(s.Key) {
		return "", fmt.Errorf("a key of table %s has %d columns, want %d", s.Table, len(texts), len(s.Key))
	}
	row := make(change.Row, len(s.Columns))
	for n, i := range s.Key {
		row[i] = change.TextValue(texts[n])
	}
	return change.MakeKey(s, row)
}
