// Package advise compares classifications of a pipeline by its past.
//
//	New ──► Table.Add, change by change (package simulate) ──► Result
//
// Compared are the classification that the pipeline has, those that were asked for, and
// candidates of its own: all of a table, or its updates of columns that many updates
// change alone, in a tier of some periods; everything in one; a tier of the declaration
// with another period. Candidates say what would be saved and what would be late. Which
// changes may be late they cannot know.
//
// An experiment compares them on arms of a table's entities instead: each arm is simulated
// as if there were no others, and aggregates are computed as a reader of its sink would.
//
// The package is pure: it is told the changes, and keeps no values.
package advise

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/tiers"
	"syncline/tiers/simulate"
)

// ownTables is of how many tables, those with the most bytes, there are candidates.
const ownTables = 8

// maxTables are told of, and let wait by one entry each, at most: a result has to fit into
// a history.
const maxTables = 200

// periods are those of candidates.
var periods = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}

// Plan is a comparison.
type Plan struct {
	spec   *pipeline.Spec
	given  []contract.Declared // the first is the pipeline's own
	own    bool
	trace  *simulate.Trace
	tables []*table
	limits []simulate.Limits // of sinks, without repetition
	sinks  []int             // by sink, its limits
}

type table struct {
	id    change.TableID
	x     *simulate.Table
	at    []bool // by sink, whether it is delivered there
	given []simulate.Policy
	done  map[string][]simulate.Outcome // by name of a policy; by limits
}

// New begins a comparison for a pipeline.
func New(st *contract.PipelineStatus, in *contract.AdviseInput) (*Plan, error) {
	spec := &st.Spec
	p := &Plan{spec: spec, own: !in.Given, trace: simulate.New(simulate.Options{Limit: in.Limit, One: in.One, Salt: "advise"}),
		given: append([]contract.Declared{{Name: "as it is", Tiers: spec.Tiers, Classify: spec.Classify}}, in.With...)}
	for i := range spec.Sinks {
		l := simulate.Limits{Rows: spec.Sinks[i].MaxBatchRows, Bytes: int(spec.Sinks[i].MaxBatchBytes)}
		at := slices.Index(p.limits, l)
		if at < 0 {
			at = len(p.limits)
			p.limits = append(p.limits, l)
		}
		p.sinks = append(p.sinks, at)
	}
	for i := range st.Tables {
		t := &table{id: st.Tables[i].Table, done: map[string][]simulate.Outcome{}}
		for _, s := range spec.Sinks {
			_, there := st.Tables[i].Sinks[s.Name]
			t.at = append(t.at, there)
		}
		var cs []simulate.Classification
		for n := range p.given {
			of := p.with(p.given[n])
			rules := of.Rules(t.id)
			c := simulate.Classification{Rules: rules}
			var ts []simulate.Tier
			for _, r := range rules {
				if tier, ok := of.Tier(r.Tier); ok && !slices.Contains(c.Names, r.Tier) {
					c.Names, ts = append(c.Names, r.Tier), append(ts, tierOf(tier))
				} else if !ok && r.Tier != tiers.Stream {
					return nil, fmt.Errorf("%s: classify[%d].tier is %q, which its tiers do not declare", p.given[n].Name, r.N, r.Tier)
				}
			}
			cs = append(cs, c)
			t.given = append(t.given, simulate.Given(n, ts))
		}
		var err error
		if t.x, err = p.trace.Table(t.id, spec.Kafka.Partitions, cs...); err != nil {
			return nil, err
		}
		p.tables = append(p.tables, t)
	}
	if in.Experiment != nil {
		return p, p.watch(in.Experiment)
	}
	return p, nil
}

func tierOf(t pipeline.Tier) simulate.Tier {
	return simulate.Tier{Name: t.Name, Every: t.Every.Std(), Jitter: t.Jitter.Std()}
}

// with returns the declaration with other tiers.
func (p *Plan) with(d contract.Declared) *pipeline.Spec {
	s := *p.spec
	s.Tiers, s.Classify = d.Tiers, d.Classify
	return &s
}

// Trace is what changes are recorded in.
func (p *Plan) Trace() *simulate.Trace { return p.trace }

// Table returns where the changes of a table are recorded; nil if it is not the
// pipeline's.
func (p *Plan) Table(id change.TableID) *simulate.Table {
	if t := p.table(id); t != nil {
		return t.x
	}
	return nil
}

func (p *Plan) table(id change.TableID) *table {
	i := slices.IndexFunc(p.tables, func(t *table) bool { return t.id == id })
	if i < 0 {
		return nil
	}
	return p.tables[i]
}

// candidate is one of a Result, before it is simulated.
type candidate struct {
	kind string
	decl contract.Declared
	by   map[*table]named // what differs from the pipeline's own
	n    int              // of a given one
}

// named is a policy with a name that tells it from others of its table.
type named struct {
	name string
	p    simulate.Policy
}

// About is what was recorded.
func (p *Plan) About() contract.AdviseResult {
	first, last := p.trace.Span()
	return contract.AdviseResult{Pipeline: p.spec.Name, From: time.UnixMicro(first).UTC(), To: time.UnixMicro(last).UTC(), One: p.trace.One(), Kept: p.trace.Kept(),
		Notes: []string{}, Tables: []contract.AdviseTable{}, Candidates: []contract.AdviseCandidate{}}
}

// Result simulates all.
func (p *Plan) Result() contract.AdviseResult {
	out := p.About()
	var busy []*table
	for _, t := range p.tables {
		o := p.outcomes(t, named{"given 0", t.given[0]})[0]
		if o.Changes == 0 {
			continue
		}
		busy = append(busy, t)
		at := contract.AdviseTable{Table: t.id, Changes: o.Changes, Bytes: o.Bytes, Few: t.x.Few(), Blind: t.x.Blind()}
		at.Volatile, at.Share = t.x.Volatile()
		out.Tables = append(out.Tables, at)
	}
	slices.SortStableFunc(out.Tables, func(a, b contract.AdviseTable) int { return cmp.Compare(b.Bytes, a.Bytes) })
	slices.SortStableFunc(busy, func(a, b *table) int {
		return cmp.Compare(p.outcomes(b, named{"given 0", b.given[0]})[0].Bytes, p.outcomes(a, named{"given 0", a.given[0]})[0].Bytes)
	})
	var cs []candidate
	for n, d := range p.given {
		c := candidate{kind: contract.CandidateGiven, decl: d, n: n}
		if n == 0 {
			c.kind = contract.CandidateNow
		}
		cs = append(cs, c)
	}
	if p.own {
		cs = append(cs, p.candidates(busy)...)
	}
	var points []simulate.Point
	for i := range cs {
		a := contract.AdviseCandidate{Kind: cs[i].kind, Declared: cs[i].decl, AdviseFigures: p.figures(&cs[i])}
		out.Candidates = append(out.Candidates, a)
		points = append(points, simulate.Point{Cost: float64(a.Bytes), Mean: a.Mean, Max: a.Max})
	}
	if n := len(out.Tables); n > maxTables {
		out.Tables = out.Tables[:maxTables]
		out.Notes = append(out.Notes, fmt.Sprintf("of %d tables with changes only the %d with the most bytes are listed; figures are of all", n, maxTables))
	}
	out.Notes = append(out.Notes, p.aggregating()...)
	for i, by := range simulate.Dominated(points) {
		if by >= 0 {
			out.Candidates[i].DominatedBy = out.Candidates[by].Name
		}
	}
	return out
}

// aggregating names the tiers that keep aggregates, of which rows and bytes are unknown: what
// an aggregate takes depends on values, which a simulation does not have.
func (p *Plan) aggregating() (notes []string) {
	for _, d := range p.given {
		for _, t := range d.Tiers {
			if t.Aggregate != nil {
				notes = append(notes, fmt.Sprintf("%s: tier %s keeps aggregates; its rows are counted as if each were written, so less is than is shown", d.Name, t.Name))
			}
		}
	}
	return notes
}

// outcomes simulates a policy of a table, once.
func (p *Plan) outcomes(t *table, n named) []simulate.Outcome {
	if o, ok := t.done[n.name]; ok {
		return o
	}
	var out []simulate.Outcome
	for _, l := range p.limits {
		out = append(out, t.x.Run(n.p, l))
	}
	t.done[n.name] = out
	return out
}

// figures adds up what a candidate would have done.
func (p *Plan) figures(c *candidate) (f contract.AdviseFigures) {
	f.Sinks, f.ByTier = make([]contract.AdviseSink, len(p.spec.Sinks)), []contract.AdviseTier{}
	var all simulate.Waits
	by := map[string]*simulate.Waits{}
	promise := map[string]float64{}
	for _, t := range p.tables {
		n, differs := c.by[t]
		if !differs {
			n = named{fmt.Sprint("given ", c.n), t.given[c.n]}
		}
		os := p.outcomes(t, n)
		f.Changes, f.Waited, f.Sweeps, f.Forced = f.Changes+os[0].Changes, f.Waited+os[0].Waited, f.Sweeps+os[0].Sweeps, f.Forced+os[0].Forced
		all.Merge(&os[0].Wait)
		for i := range os[0].ByTier {
			tier := n.p.Tiers[i]
			if by[tier.Name] == nil {
				by[tier.Name] = &simulate.Waits{}
			}
			by[tier.Name].Merge(&os[0].ByTier[i])
			promise[tier.Name] = (tier.Every + tier.Jitter).Seconds()
		}
		for i, s := range p.spec.Sinks {
			fs := &f.Sinks[i]
			fs.Sink = s.Name
			if !t.at[i] {
				continue
			}
			o := &os[p.sinks[i]]
			fs.Streamed, fs.Swept, fs.Batches = fs.Streamed+o.Streamed.Rows, fs.Swept+o.Swept.Rows, fs.Batches+o.Batches
			fs.Bytes, fs.LogBytes = fs.Bytes+o.Streamed.Bytes+o.Swept.Bytes, fs.LogBytes+o.Bytes+o.Reread
		}
	}
	for _, s := range f.Sinks {
		f.Rows, f.Bytes, f.LogBytes = f.Rows+s.Streamed+s.Swept, f.Bytes+s.Bytes, f.LogBytes+s.LogBytes
	}
	f.P50, f.P95, f.Max = all.Quantile(0.5).Seconds(), all.Quantile(0.95).Seconds(), all.Max().Seconds()
	if f.Changes > 0 {
		f.Mean = all.Sum().Seconds() * float64(p.trace.One()) / float64(f.Changes)
	}
	for name, w := range by {
		if w.Count() == 0 {
			continue
		}
		f.ByTier = append(f.ByTier, contract.AdviseTier{Tier: name, Changes: w.Count() * int64(p.trace.One()), P50: w.Quantile(0.5).Seconds(),
			P95: w.Quantile(0.95).Seconds(), Max: w.Max().Seconds(), Promise: promise[name]})
		f.Promise = max(f.Promise, promise[name])
	}
	slices.SortFunc(f.ByTier, func(a, b contract.AdviseTier) int { return strings.Compare(a.Tier, b.Tier) })
	return f
}
