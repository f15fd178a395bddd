package verify

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
	"syncline/tiers/shape"
)

// Subject is a table and how its rows are digested.
type Subject struct {
	Schema  *change.Schema
	Options sink.TableOptions
	Where   string        // the table's row filter at the source
	Shape   *shape.Shape  // what the sink is to hold of the source's rows; nil: all of them
	Forms   []digest.Form // per column
	Kept    *Kept         // by the sink, for the walk; nil: it keeps nothing
}

// Compared tells in which form each column is digested at both sides, and whether the sink
// has the source's order of primary keys.
func (t *Subject) Compared(ctx context.Context, snk Sink) (forms []digest.Form, ordered bool, err error) {
	// The sink has to know of masks, too.
	if t.Shape != nil {
		t.Forms = make([]digest.Form, len(t.Schema.Columns))
		for _, i := range t.Shape.Masked() {
			t.Forms[i] = digest.Masked
		}
	}
	forms, ordered, err = snk.Forms(ctx, t)
	if err == nil && t.Shape != nil {
		for _, i := range t.Shape.Masked() {
			forms[i] = digest.Masked
		}
	}
	return forms, ordered, err
}

// Kept is what a sink has found out of a table, and need not again for each statement.
type Kept struct {
	mu sync.Mutex
	v  any
}

// Get returns what was set last.
func (k *Kept) Get() any {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.v
}

// Set keeps v until the walk ends, or something else is set.
func (k *Kept) Set(v any) {
	if k != nil {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.v = v
	}
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
	// SetDue asks for what waits in a tier, or in sink.AllTiers, to be applied up to a position.
	SetDue(ctx context.Context, id change.TableID, tier string, at change.Position) error
}

// Place is how far a walk has come. Its key is row data.
type Place struct {
	After  []string `json:"after,omitempty"` // primary key of the last row that is done
	Slice  int      `json:"slice,omitempty"` // so many Slices of the keys' hashes are done
	Slices int      `json:"slices,omitempty"`
	End    bool     `json:"end,omitempty"` // all is done
}

// Options of a walk. Zero values are replaced by the defaults.
type Options struct {
	From          Place         // where to go on; zero: from the first row
	So            *Result       // what was found up to there; nil: nothing
	Ahead         int           // parts that wait for the sink while the source goes on; default 16
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
	// Done is told of each part that ended when all before it have, in order, with the
	// place to go on from and what was found up to there; nil: nobody is.
	Done func(at Place, so *Result) error
}

func (o *Options) defaults() {
	set := func(v *int, d int) {
		if *v <= 0 {
			*v = d
		}
	}
	set(&o.Ahead, 16)
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
	Verdict   Verdict        `json:"verdict,omitempty"`
	Reason    string         `json:"reason,omitempty"` // why it is inconclusive
	From      change.LSN     `json:"from"`
	To        change.LSN     `json:"to"`
	Rows      int64          `json:"rows"` // of the source
	Parts     int            `json:"parts"`
	Differing int            `json:"differing"`      // parts whose sums were not equal at once
	Suspects  int            `json:"suspects"`       // keys that were looked at one by one
	Unsettled int            `json:"unsettled"`      // of these, keys that never stood still
	Findings  []sink.Finding `json:"-"`              // their keys are row data
	More      bool           `json:"more,omitempty"` // the walk ended at MaxFindings
}

// add takes in what a part adds.
func (r *Result) add(p *Result) {
	r.To = max(r.To, p.To)
	r.Rows += p.Rows
	r.Parts += p.Parts
	r.Differing += p.Differing
	r.Suspects += p.Suspects
	r.Unsettled += p.Unsettled
	r.Findings = append(r.Findings, p.Findings...)
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
	w := newWalk(src, snk, led, &t, o)
	return w.result(w.run(ctx))
}

// inconclusive ends a walk without an answer.
type inconclusive struct{ reason string }

func (e *inconclusive) Error() string { return "inconclusive: " + e.reason }

// errEnough ends a walk that has found enough.
var errEnough = errors.New("enough findings")

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

// NoteInGo tells, for a plan, of columns that are compared in Go.
func NoteInGo(columns []string) string {
	return "verification compares in Go what the two servers print each in its own way: it reads that from both, " +
		"which takes many times as long as digests that they make themselves; columns " + strings.Join(columns, ", ")
}
