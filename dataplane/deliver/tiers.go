package deliver

import (
	"context"
	"hash/maphash"
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// CodeTiersUnknown: changes wait by rules of tiers, and this lane was given none. It ends
// the lane.
const CodeTiersUnknown fault.Code = "TiersUnknown"

// Tiers tells which changes wait for their tier's time. Its methods may be called
// concurrently.
type Tiers interface {
	// Rules returns what Classify goes by for a table, as it is declared now; "" if none
	// of its changes waits. It stays in the ledger for as long as changes wait by it, and
	// Classify has to understand it for as long.
	Rules(t change.TableID) string
	// Classify returns what tells the tier of a change with the definition; "" if the
	// change does not wait. What it answers depends on the rules, the definition and the
	// change alone, since it is asked again when what waits is applied. One goroutine
	// uses what is returned.
	Classify(rules string, s *change.Schema) (func(*change.Change) (tier string, err error), error)
	// Aggregates returns what is kept of a definition's rows, by tier, instead of the rows.
	// Only of tables that rows are only added to.
	Aggregates(rules string, s *change.Schema) (map[string]*aggregate.Plan, error)
}

// classifier tells the tiers of a partition's changes, for one goroutine.
type classifier struct {
	tiers Tiers
	rules string
	by    map[change.Version]*classes
}

// classes are those of one definition.
type classes struct {
	tier       func(*change.Change) (string, error)
	aggregates map[string]*aggregate.Plan
}

// classifier returns nil if none of the changes waits.
func (l *lane) classifier(rules string) *classifier {
	if rules == "" {
		return nil
	}
	return &classifier{l.o.Tiers, rules, map[change.Version]*classes{}}
}

func (k *classifier) of(s *change.Schema, v change.Version) (*classes, error) {
	c := k.by[v]
	if c == nil {
		c = &classes{}
		var err error
		if c.tier, err = k.tiers.Classify(k.rules, s); err != nil {
			return nil, err
		}
		if c.aggregates, err = k.tiers.Aggregates(k.rules, s); err != nil {
			return nil, err
		}
		k.by[v] = c
	}
	return c, nil
}

func (k *classifier) tier(s *change.Schema, c *change.Change) (string, error) {
	of, err := k.of(s, c.Schema)
	if err != nil {
		return "", err
	}
	return of.tier(c)
}

// aggregate returns what is kept of a tier's rows; nil if they are kept themselves.
func (k *classifier) aggregate(s *change.Schema, v change.Version, tier string) (*aggregate.Plan, error) {
	of, err := k.of(s, v)
	if err != nil {
		return nil, err
	}
	return of.aggregates[tier], nil
}

// rules returns those of a table as it is declared now.
func (l *lane) rules(id change.TableID) string {
	if l.o.Tiers == nil {
		return ""
	}
	return l.o.Tiers.Rules(id)
}

// waiting is what waits in a partition for its tier's time.
type waiting struct {
	rules  string         // by which changes wait
	class  *classifier    // of the rules; nil: none waits
	stale  bool           // the table is declared otherwise: once nothing waits, by its new rules
	low    sink.Watermark // behind which something waits
	n      int64          // how many changes do; 0: low is of no account
	oldest int64          // when the first of them was committed at the latest, Unix microseconds
	laid   []tierRead     // of those read since this was last told
	keys   *keyFilter     // of those
	forced bool           // they are to be applied now: the partition's next change needs it

	sweep *sweep // that applies them; nil if none does
	// Since the sweep began, what it does not apply:
	since       int64
	sinceOldest int64
	sinceKeys   *keyFilter
	noted       map[change.Key]uint64 // keys of changes that did not wait, since the sweep was last told, and the batches that hold the last of each
}

// openWaiting takes in what waits in a partition according to the ledger.
func (l *lane) openWaiting(p *partition, m sink.Watermark) error {
	t := p.t
	p.w.rules = l.rules(t.info.ID)
	// Changes wait only once a partition is past its table's load: if it is not, the table
	// was loaded again since, and what waited is in the load.
	if m.Behind() && l.beyondLoad(t, m.Pos) {
		if l.o.Tiers == nil {
			return fault.Permanent(CodeTiersUnknown, nil, "give the lane the tiers by which they wait",
				"table %s: %d changes wait for their tier in partition %d", t.info.ID, m.Ahead.Waits, m.N)
		}
		p.w.stale, p.w.rules = m.Ahead.Rules != p.w.rules, m.Ahead.Rules
		p.w.low = sink.Watermark{Partition: m.Partition, Pos: m.Pos, Offset: m.Offset}
		p.w.n, p.w.oldest = max(m.Ahead.Waits, 1), m.Ahead.Oldest
		p.w.keys = &keyFilter{all: true} // which ones, only reading them again would tell
	}
	p.w.class = l.classifier(p.w.rules)
	return nil
}

// beyondLoad reports whether a partition that has come to a position is past its
// table's load.
func (l *lane) beyondLoad(t *table, at change.Position) bool {
	return at.Epoch >= l.o.Epoch && at.Commit > t.info.LoadedTo
}

// watermark is where the partition stands with what is planned.
func (p *partition) watermark() sink.Watermark {
	if p.w.n == 0 {
		return p.mark
	}
	m := p.w.low
	m.Ahead = sink.Ahead{Pos: p.mark.Pos, Offset: p.mark.Offset, Waits: p.w.n, Oldest: p.w.oldest, Rules: p.w.rules}
	return m
}

// closing is how many records streaming may be ahead of what waits by rules that are
// no longer the table's, for it to stop until nothing waits.
const closing = 10_000

// paused reports whether streaming waits, so that new rules can be gone by.
func (p *partition) paused() bool {
	return p.w.stale && p.w.n > 0 && p.mark.Offset-p.w.low.Offset <= closing
}

// await lets a change that is to be written wait, if it is of a tier that does. taken:
// it waits, or (passes) it does not and may be planned.
func (l *lane) await(ctx context.Context, p *partition, rec *Record) (out outcome, passes bool, err error) {
	c, w := rec.Change, &p.w
	if !l.beyondLoad(p.t, p.mark.Pos) {
		return taken, true, nil
	}
	// Also of changes that wait the sink learns the definition here, in the log's order.
	s, out, err := l.known(ctx, p, c)
	if s == nil {
		return out, false, err
	}
	tier, err := w.class.tier(s, c)
	if err != nil {
		out, err = l.setback(ctx, p, "tell the tier of a change", err)
		return out, false, err
	}
	if tier != "" {
		l.lay(p, rec)
		w.laid = addRead(w.laid, tier, rec.Bytes)
		return taken, false, nil
	}
	if appends(&p.t.info.Options, s) {
		return taken, true, nil
	}
	// What the change leaves out may be in one that waits.
	if w.n > 0 && slices.ContainsFunc(c.New, isUnchanged) && (c.Moved != nil || w.keys.has(c.Key) || w.sweep != nil && w.sinceKeys.has(c.Key)) {
		l.force(p)
		return later, false, nil
	}
	if w.sweep != nil && len(w.noted) >= l.o.noted {
		return later, false, nil
	}
	return taken, true, nil
}

func isUnchanged(v change.Value) bool { return v.Kind == change.Unchanged }

// appends reports whether rows are only added to a table.
func appends(o *sink.TableOptions, s *change.Schema) bool { return o.AppendOnly || len(s.Key) == 0 }

// lay moves a partition over a change that waits.
func (l *lane) lay(p *partition, rec *Record) {
	w, at := &p.w, rec.Change.CommitTime.UnixMicro()
	if w.n == 0 {
		w.low, w.oldest, w.keys = p.mark, at, &keyFilter{}
	}
	w.n++
	if w.sweep == nil {
		w.keys.add(rec.Change.Key)
	} else {
		if w.since == 0 {
			w.sinceOldest = at
		}
		w.since++
		w.sinceKeys.add(rec.Change.Key)
	}
	l.taken, l.takenBytes = l.taken+1, l.takenBytes+int64(rec.Bytes)
	l.move(p, rec)
}

// keyFilter tells keys that were never added from those that may have been, in bounded
// memory (a Bloom filter). The more keys, the less it tells.
type keyFilter struct {
	all  bool // any may have been
	bits []uint64
}

const (
	filterBits = 1 << 20 // tells well for some 100,000 keys
	filterUses = 4
)

var filterSeed = maphash.MakeSeed()

func (f *keyFilter) add(k change.Key) {
	if f.all || k == "" {
		return
	}
	if f.bits == nil {
		f.bits = make([]uint64, filterBits/64)
	}
	h := maphash.String(filterSeed, string(k))
	for range filterUses {
		f.bits[h%filterBits/64] |= 1 << (h % 64)
		h = h>>16 | h<<48
	}
}

func (f *keyFilter) has(k change.Key) bool {
	if f == nil || f.bits == nil {
		return f != nil && f.all
	}
	h := maphash.String(filterSeed, string(k))
	for range filterUses {
		if f.bits[h%filterBits/64]&(1<<(h%64)) == 0 {
			return false
		}
		h = h>>16 | h<<48
	}
	return true
}
