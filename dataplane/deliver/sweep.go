package deliver

import (
	"context"
	"errors"
	"math"

	"syncline/dataplane/apply"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// maxSweeps is how many a lane makes at a time: each has a batch in memory.
const maxSweeps = 2

// sweep reads a partition from where changes of some tiers wait to where it was streamed
// when the sweep began, and merges those changes into batches. It is one goroutine's; the
// planner talks to it by channels.
type sweep struct {
	l     *lane
	p     *partition
	o     sink.TableOptions
	tiers map[string]bool         // whose changes it applies; nil: all
	lows  map[string]sink.Backlog // where changes of each tier waited when it began
	to    sink.Watermark
	at    sink.Watermark // up to which it has come
	class *classifier
	defs  map[change.Version]*change.Schema
	legs  chan leg

	r    Reader
	recs []Record // read ahead

	// known are the keys of changes that had taken effect, with the offsets of the last; nil if
	// they are too many.
	known map[change.Key]int64
	begun bool

	passed int64 // bytes of what was read and does not wait, since a batch was told of it
}

// leg is what a sweep is told before a batch.
type leg struct {
	noted map[change.Key]uint64 // as waiting.noted, since it was last told
	upTo  int64                 // all others that were planned lie before
	need  uint64                // the streamed batch that holds the last of them
}

// segment is what one batch of a sweep applies.
type segment struct {
	s      *sweep
	need   uint64 // a streamed batch that is to be committed before
	tp     *tablePlan
	end    sink.Watermark
	final  bool
	first  change.Position        // of its rows
	n      int64                  // changes that waited
	last   int64                  // when the last of them was committed, Unix microseconds
	lags   map[string][]commitRun // by tier
	bytes  int
	read   []tierRead // of what waited
	passed int64      // bytes that were read beside it
	kept   []*partials
	dead   []sink.DeadLetter // of rows that cannot be aggregated
	err    error
	traces
}

// run makes a batch whenever it is told to.
func (s *sweep) run(ctx context.Context) {
	defer s.close()
	for {
		var g leg
		select {
		case g = <-s.legs:
		case <-ctx.Done():
			return
		}
		seg, err := s.next(ctx, g)
		if err != nil {
			seg = &segment{s: s, err: err}
		}
		select {
		case s.l.swept <- seg:
		case <-ctx.Done():
			return
		}
		if err != nil || seg.final {
			return
		}
	}
}

// next makes one batch.
func (s *sweep) next(ctx context.Context, g leg) (*segment, error) {
	if !s.begun {
		known, err := s.streamed(ctx, s.at, s.to.Offset, nil)
		if err != nil {
			return nil, err
		}
		s.known, s.begun = known, true
	}
	for k := range g.noted {
		if s.known == nil || len(s.known) >= s.l.o.known {
			s.known = nil
			break
		}
		s.known[k] = math.MaxInt64
	}
	seg := &segment{s: s, need: g.need, tp: &tablePlan{t: s.p.t, options: s.o}, lags: map[string][]commitRun{}}
	tp := seg.tp
	tp.co.Reset(false)
	for s.at.Offset < s.to.Offset {
		rec, err := s.peek(ctx)
		if err != nil {
			return nil, err
		}
		if full, err := s.take(ctx, seg, rec); err != nil {
			return nil, err
		} else if full {
			break
		}
		s.pass(rec)
	}
	if seg.final = s.at.Offset >= s.to.Offset; seg.final {
		s.at = s.to
	}
	seg.end = s.at
	if len(seg.read) > 0 {
		seg.passed, s.passed = s.passed, 0
	}
	if s.known != nil || len(tp.co.Rows()) == 0 || appends(&s.o, tp.schema) {
		return seg, nil
	}
	later, err := s.streamed(ctx, s.at, g.upTo, tp.co.Has)
	for k := range later {
		tp.co.Take(k)
	}
	return seg, err
}

// take takes a record into the batch, or reports that it is full before it.
func (s *sweep) take(ctx context.Context, seg *segment, rec *Record) (full bool, err error) {
	c, tp := rec.Change, seg.tp
	if rec.Withheld || !s.at.Pos.Before(c.Pos) {
		s.passed += int64(rec.Bytes)
		return false, nil // nothing to apply, or resent
	}
	def, tier, err := s.tier(ctx, c)
	if err != nil {
		return false, err
	}
	appends := appends(&s.o, def)
	if s.applied(tier, rec.Offset) {
		if !appends {
			tp.co.Take(c.Key) // it is whole: none with left-out values passes one that waits
		}
		s.passed += int64(rec.Bytes)
		return false, nil
	}
	if !s.sweeps(tier) {
		s.passed += int64(rec.Bytes)
		return false, nil
	}
	agg, err := s.class.aggregate(def, c.Schema, tier)
	if err != nil {
		return false, err
	}
	overtaken, aside := !appends && s.known[c.Key] > rec.Offset, false
	switch {
	case agg != nil:
		if full, aside, err = s.aggregate(seg, rec, def, agg); full || err != nil {
			return full, err
		}
	case !overtaken:
		o := &s.l.o
		if tp.schema != nil && tp.version != c.Schema || len(tp.co.Rows()) >= o.SweepRows || seg.bytes >= o.SweepBytes {
			return true, nil
		}
		if tp.schema == nil {
			tp.schema, tp.version, seg.first = def, c.Schema, c.Pos
			tp.co.Reset(appends)
		}
		had := len(tp.co.Rows())
		if !tp.co.Add(c, apply.Origin{Partition: s.p.id.N, Offset: rec.Offset, XID: c.XID}) {
			return true, nil
		}
		if len(tp.co.Rows()) > had {
			seg.bytes += rec.Bytes // the rows that it keeps
		}
	}
	if !aside {
		tp.count(c)
	}
	seg.read = addRead(seg.read, tier, rec.Bytes)
	seg.n++
	seg.last = c.CommitTime.UnixMicro()
	s.l.traceRecord(&seg.traces, s.p, rec, tier)
	runs, at := seg.lags[tier], c.CommitTime.UnixNano()
	if n := len(runs); n > 0 && runs[n-1].at == at {
		runs[n-1].n++
	} else {
		seg.lags[tier] = append(runs, commitRun{at, 1})
	}
	return false, nil
}

// sweeps reports whether changes of a tier are applied.
func (s *sweep) sweeps(tier string) bool { return s.tiers == nil || s.tiers[tier] }

// applied reports whether a record's change, of a tier or of none, had taken effect when
// the sweep began.
func (s *sweep) applied(tier string, offset int64) bool {
	if tier == "" {
		return true
	}
	from := s.to.Offset // from there on they wait, if they are of a tier
	for _, of := range []string{tier, sink.AllTiers} {
		if low, ok := s.lows[of]; ok {
			from = min(from, low.Offset)
		}
	}
	return offset < from
}

// tier returns that of a change, with its definition.
func (s *sweep) tier(ctx context.Context, c *change.Change) (def *change.Schema, tier string, err error) {
	if c.Op == change.Truncate {
		return nil, "", fault.Permanent(CodeOrder, nil, "resync the table", "table %s: a TRUNCATE at %s lies among changes that wait", c.Table, c.Pos)
	}
	if def = s.defs[c.Schema]; def == nil {
		if err = s.l.retry(ctx, "read a definition", func() (err error) {
			def, err = s.l.log.Schema(ctx, c.Schema)
			return err
		}); err != nil {
			return nil, "", err
		}
		s.defs[c.Schema] = def
	}
	tier, err = s.class.tier(def, c)
	return def, tier, err
}

// CodeOrder: the log is not as it was when its changes were set to wait.
const CodeOrder fault.Code = "WaitingOutOfOrder"

// peek returns the record at which the sweep is.
func (s *sweep) peek(ctx context.Context) (*Record, error) {
	if len(s.recs) == 0 {
		err := s.l.retry(ctx, "read what waits", func() (err error) {
			s.r, s.recs, err = s.l.some(ctx, s.r, s.p.id, s.at.Offset)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return &s.recs[0], nil
}

// pass goes on behind a record.
func (s *sweep) pass(rec *Record) {
	pass(&s.at, rec)
	s.recs = s.recs[1:]
}

func pass(m *sink.Watermark, rec *Record) {
	if m.Pos.Before(rec.Change.Pos) {
		m.Pos = rec.Change.Pos
	}
	m.Offset = rec.Next
}

// some reads records from an offset on, with a reader that is there or a new one. After
// an error there is none.
func (l *lane) some(ctx context.Context, r Reader, p sink.Partition, offset int64) (Reader, []Record, error) {
	var err error
	if r == nil {
		if r, err = l.log.Open(ctx, p, offset); err != nil {
			return nil, nil, err
		}
	}
	for {
		recs, err := r.Read(ctx, l.o.ReadMax)
		if err != nil {
			return nil, nil, errors.Join(err, r.Close())
		}
		if len(recs) > 0 {
			stamp(recs)
			return r, recs, nil
		}
	}
}

// streamed returns the keys of changes between two places of the log that had taken effect,
// each with the offset of the last; only those of some keys, if only is not nil. It is
// nil if there are too many.
func (s *sweep) streamed(ctx context.Context, at sink.Watermark, upTo int64, only func(change.Key) bool) (map[change.Key]int64, error) {
	out := map[change.Key]int64{}
	var r Reader
	var recs []Record
	defer func() {
		if r != nil {
			_ = r.Close() // all that was wanted of it was read
		}
	}()
	for at.Offset < upTo {
		if len(recs) == 0 {
			err := s.l.retry(ctx, "read what waits", func() (err error) {
				r, recs, err = s.l.some(ctx, r, s.p.id, at.Offset)
				return err
			})
			if err != nil {
				return nil, err
			}
		}
		rec := &recs[0]
		s.passed += int64(rec.Bytes)
		if c := rec.Change; !rec.Withheld && at.Pos.Before(c.Pos) && (only == nil || only(c.Key)) {
			def, tier, err := s.tier(ctx, c)
			if err != nil {
				return nil, err
			}
			if s.applied(tier, rec.Offset) && !appends(&s.o, def) {
				if _, ok := out[c.Key]; !ok && only == nil && len(out) >= s.l.o.known {
					return nil, nil
				}
				out[c.Key] = rec.Offset
			}
		}
		pass(&at, rec)
		recs = recs[1:]
	}
	return out, nil
}

func (s *sweep) close() {
	if s.r != nil {
		_ = s.r.Close() // nothing is asked of it any more
	}
}
