package verify

import (
	"context"
	"crypto/md5"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
)

// world is a source that is written to, and a sink that follows it, in memory.
// Whatever is asked of either, something happens first.
type world struct {
	mu      sync.Mutex
	rnd     *rand.Rand // rapid draws for one goroutine alone
	now     map[int]string
	log     []write // position n is that of the write before it
	applied int
	copy    map[int]string // what the sink has without the planted errors
	planted map[int]*string
	busy    bool // whether the source is written to
	stuck   bool // whether the sink follows
	tiered  bool // whether what is written waits until it is due
	due     change.Position
	wide    int        // keys from 0 on that are written to
	cuts    [][]string // ends of parts, as they were asked for
	reading atomic.Int64
}

func newWorld(t *rapid.T) *world { return seeded(rapid.Uint64().Draw(t, "seed")) }

func seeded(seed uint64) *world {
	return &world{rnd: rand.New(rand.NewPCG(seed, 0)), now: map[int]string{}, copy: map[int]string{}, planted: map[int]*string{}}
}

type write struct {
	key   int
	value *string
}

var schema = &change.Schema{
	Table:   change.TableID{Schema: "s", Name: "t"},
	Columns: []change.Column{{Name: "id", Type: change.Type{Kind: change.Base, Base: "int4"}}, {Name: "v", Type: change.Type{Kind: change.Base, Base: "text"}}},
	Key:     []int{0},
}

// happen is called with mu held.
func (w *world) happen() {
	if w.busy {
		for range w.rnd.IntN(4) {
			k := w.rnd.IntN(w.wide)
			var v *string
			if w.rnd.IntN(4) > 0 {
				s := "v" + strconv.Itoa(len(w.log))
				v = &s
				w.now[k] = s
			} else {
				delete(w.now, k)
			}
			w.log = append(w.log, write{k, v})
		}
	}
	if w.stuck {
		return
	}
	// It gets there in the end, since nobody waits for ever here.
	for n := max(1, (len(w.log)-w.applied)/2); n > 0 && w.applied < len(w.log); n-- {
		if w.tiered && change.LSN(w.applied)+1 >= w.due.Commit {
			return
		}
		c := w.log[w.applied]
		if w.applied++; c.value != nil {
			w.copy[c.key] = *c.value
		} else {
			delete(w.copy, c.key)
		}
	}
}

func (w *world) Position(context.Context) (change.LSN, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.happen()
	return change.LSN(len(w.log) + 1), nil
}

func (w *world) Table(context.Context, change.TableID) (sink.Table, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.happen()
	return sink.Table{ID: schema.Table, State: sink.Streaming, Partitions: 1, Due: map[string]change.Position{sink.AllTiers: w.due}}, nil
}

func (w *world) Watermarks(context.Context) ([]sink.Watermark, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	m := sink.Watermark{Partition: sink.Partition{Table: schema.Table}, Pos: change.Position{Epoch: 1, Commit: change.LSN(w.applied), Ordinal: math.MaxUint32}, Offset: int64(w.applied)}
	if w.tiered && w.applied < len(w.log) {
		m.Ahead = sink.Ahead{Pos: change.Position{Epoch: 1, Commit: change.LSN(len(w.log)), Ordinal: math.MaxUint32}, Offset: int64(len(w.log)), Waits: int64(len(w.log) - w.applied), Rules: "all waits"}
	}
	return []sink.Watermark{m}, nil
}

func (w *world) SetDue(_ context.Context, _ change.TableID, _ string, at change.Position) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.due.Before(at) {
		w.due = at
	}
	return nil
}

// check runs a property in fake time: whoever waits for a fence does not.
func check(t *testing.T, property func(*rapid.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { rapid.Check(struct{ testing.TB }{t}, property) })
}

// side is one of the two.
type side struct {
	*world
	sink bool
}

func (s side) rows() map[int]string {
	if !s.sink {
		return s.now
	}
	out := map[int]string{}
	for k, v := range s.copy {
		out[k] = v
	}
	for k, v := range s.planted {
		if v == nil {
			delete(out, k)
		} else {
			out[k] = *v
		}
	}
	return out
}

// enter notes that a statement is under way. At the source there is one at a time.
func (s side) enter() (leave func()) {
	if s.sink {
		return func() {}
	}
	if n := s.reading.Add(1); n > 1 {
		panic(fmt.Sprintf("%d statements at the source", n))
	}
	time.Sleep(time.Millisecond)
	return func() { s.reading.Add(-1) }
}

func (s side) in(p digest.Scope) (keys []int, rows map[int]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.happen()
	rows = maps.Clone(s.rows())
	bound := func(k []string, none int) int {
		if k == nil {
			return none
		}
		n, _ := strconv.Atoi(k[0])
		return n
	}
	for k := range rows {
		if k > bound(p.After, -1) && k <= bound(p.UpTo, 1<<30) && (p.Slices < 2 || k%p.Slices == p.Slice) {
			keys = append(keys, k)
		}
	}
	slices.Sort(keys)
	return keys, rows
}

func (s side) Sum(_ context.Context, _ *Subject, p digest.Scope) (digest.Sum, error) {
	defer s.enter()()
	keys, rows := s.in(p)
	var sum uint64
	for _, k := range keys {
		h := md5.Sum(fmt.Append(nil, k, rows[k])) // sums of weaker hashes are equal now and then
		sum += binary.BigEndian.Uint64(h[:])
	}
	return digest.Sum{Rows: int64(len(keys)), A: fmt.Sprint(sum)}, nil
}

func keyOf(k int) change.Key {
	key, err := KeyOf(schema, []string{strconv.Itoa(k)})
	if err != nil {
		panic(err)
	}
	return key
}

func (s side) Keys(_ context.Context, _ *Subject, p digest.Scope, each func(change.Key, digest.Digest) error) error {
	defer s.enter()()
	keys, rows := s.in(p)
	for _, k := range keys {
		if err := each(keyOf(k), digest.Digest(rows[k])); err != nil {
			return err
		}
	}
	return nil
}

func (s side) Read(_ context.Context, _ *Subject, keys []change.Key) (out []Row, err error) {
	defer s.enter()()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.happen()
	rows := s.rows()
	for _, key := range keys {
		texts, err := key.Values()
		if err != nil {
			return nil, err
		}
		k, _ := strconv.Atoi(texts[0])
		if v, ok := rows[k]; ok {
			v = strconv.Quote(v)
			if s.sink { // which prints JSON in its own way
				v = " " + v
			}
			r := Row{Key: key, Values: change.Row{change.TextValue(texts[0]), change.TextValue(v)}}
			end := len(s.log)
			if s.sink {
				end = s.applied
			}
			for n := end - 1; n >= 0 && r.Version == ""; n-- { // values come back, versions do not
				if s.log[n].key == k {
					r.Version = strconv.Itoa(n)
				}
			}
			out = append(out, r)
		}
	}
	return out, nil
}

func (s side) Next(_ context.Context, _ *Subject, after []string, rows int) ([]string, error) {
	defer s.enter()()
	keys, _ := s.in(digest.Scope{After: after})
	var upTo []string
	if len(keys) >= rows {
		upTo = []string{strconv.Itoa(keys[rows-1])}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cuts = append(s.cuts, upTo)
	return upTo, nil
}

type ordered bool

type sinkSide struct {
	side
	ordered
}

func (s sinkSide) Forms(context.Context, *Subject) ([]digest.Form, bool, error) {
	return []digest.Form{digest.Text, digest.JSON}, bool(s.ordered), nil
}

// plant makes some rows wrong at the sink, and returns what is wrong with them. Rows
// that are not to be written to any more are theirs.
func (w *world) plant(t *rapid.T) map[change.Key]string {
	w.busy, w.wide = true, rapid.IntRange(1, 40).Draw(t, "wide")
	want := map[change.Key]string{}
	for k := w.wide; k < w.wide+rapid.IntRange(0, 60).Draw(t, "still"); k++ {
		w.now[k], w.copy[k] = "still", "still"
		switch rapid.IntRange(0, 12).Draw(t, "error") {
		case 0:
			w.planted[k], want[keyOf(k)] = nil, Missing
		case 1:
			v := "stale"
			w.planted[k], want[keyOf(k)] = &v, Changed
		case 2:
			delete(w.now, k)
			delete(w.copy, k)
			v := "still"
			w.planted[k], want[keyOf(k)] = &v, Extra
		}
	}
	return want
}

// exactly: what was found is what was planted.
func exactly(t *rapid.T, res *Result, planted map[change.Key]string) {
	want := maps.Clone(planted)
	if v := res.Verdict; v == Equal != (len(want) == 0) || v == Inconclusive && res.Reason == "" {
		t.Fatalf("%d errors are planted: %+v", len(want), res)
	}
	for _, f := range res.Findings {
		if want[f.Key] != f.Kind || f.Kind == Changed && (len(f.Columns) != 1 || f.Columns[0] != "v") {
			t.Fatalf("planted at %s: %q; found: %+v", f.Key, want[f.Key], f)
		}
		delete(want, f.Key)
	}
	if len(want) > 0 {
		t.Fatalf("not found: %v; %+v", want, res)
	}
}

// TestExactlyThePlantedErrors: whatever is written meanwhile and however far the sink
// is behind, what is found is what was planted, also by a walk that is broken off and
// goes on from what it told last. What it tells is without gaps.
func TestExactlyThePlantedErrors(t *testing.T) {
	check(t, func(t *rapid.T) {
		w := newWorld(t)
		want := w.plant(t)
		w.tiered = rapid.Bool().Draw(t, "tiered")
		inOrder := rapid.Bool().Draw(t, "ordered")
		src, snk := side{w, false}, sinkSide{side{w, true}, ordered(inOrder)}
		o := Options{FirstRows: rapid.IntRange(1, 30).Draw(t, "first"), MaxRows: 30, Rounds: 1000, Ahead: rapid.IntRange(1, 20).Draw(t, "ahead")}
		broken := errors.New("connection reset")
		for breaks := rapid.IntRange(0, 2).Draw(t, "breaks"); ; breaks-- {
			var told []Place
			var last *Result
			w.cuts = nil
			until := rapid.IntRange(1, 5).Draw(t, "until")
			from, so := o.From, o.So
			o.Done = func(at Place, so *Result) error {
				c := *so
				c.Findings = slices.Clone(so.Findings)
				if told, last = append(told, at), &c; breaks > 0 && len(told) == until {
					return broken
				}
				return nil
			}
			res, err := Table(t.Context(), src, snk, w, Subject{Schema: schema}, o)
			for i, at := range told {
				switch {
				case inOrder && (!slices.Equal(at.After, w.cuts[i]) || at.End != (w.cuts[i] == nil)),
					!inOrder && (at.Slice != from.Slice+i+1 || at.End != (at.Slice == at.Slices)):
					t.Fatalf("part %d of %v, from %+v: %+v", i, w.cuts, from, told)
				}
			}
			if so != nil && (res.From != so.From || res.Parts < so.Parts || res.Rows < so.Rows || last != nil && last.Parts != so.Parts+len(told)) {
				t.Fatalf("went on from %+v, and came to %+v after %d parts: %+v", so, last, len(told), res)
			}
			if err == nil {
				exactly(t, &res, want)
				return
			}
			if !errors.Is(err, broken) {
				t.Fatal(err)
			}
			o.From, o.So = told[len(told)-1], last
		}
	})
}

// TestAhead: the parts that wait for a sink do not wait for each other, and no more of
// them are under way than are allowed.
func TestAhead(t *testing.T) {
	const late = time.Second
	for ahead, most := range map[int]time.Duration{1: 101 * late, 10: 11 * late} {
		synctest.Test(t, func(t *testing.T) {
			w := seeded(1)
			for k := range 1000 {
				w.now[k], w.copy[k] = "v", "v"
			}
			begun := time.Now()
			led := &lagging{world: w, by: late}
			var begins, done atomic.Int64
			o := Options{Ahead: ahead, FirstRows: 10, MaxRows: 10, Done: func(Place, *Result) error {
				done.Add(1)
				return nil
			}}
			o.Admit = func(context.Context) error {
				if n := begins.Add(1) - done.Load(); n > int64(ahead) {
					t.Errorf("%d parts are under way", n)
				}
				return nil
			}
			res, err := Table(t.Context(), moving{side{w, false}}, sinkSide{side{w, true}, true}, led, Subject{Schema: schema}, o)
			if took := time.Since(begun); err != nil || res.Verdict != Equal || res.Parts != 101 || took > most+most/4 || took < most/2 {
				t.Fatalf("%d ahead: %s, %+v, %v", ahead, took, res, err)
			}
			if asked := led.asked.Load(); asked > int64(60*most/late) {
				t.Fatalf("%d ahead: the ledger was asked %d times", ahead, asked)
			}
		})
	}
}

// moving is a source where something is committed before each position.
type moving struct{ side }

func (m moving) Position(ctx context.Context) (change.LSN, error) {
	m.mu.Lock()
	m.log = append(m.log, write{-1, nil})
	m.mu.Unlock()
	return m.side.Position(ctx)
}

// lagging is a ledger of a sink that comes to a position so late after the source.
type lagging struct {
	*world
	by    time.Duration
	asked atomic.Int64
	marks []lagged
}

type lagged struct {
	at   change.LSN
	then time.Time
}

func (l *lagging) Position(context.Context) (change.LSN, error) { panic("a ledger has none") }

func (l *lagging) Watermarks(context.Context) ([]sink.Watermark, error) {
	l.asked.Add(1)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marks = append(l.marks, lagged{change.LSN(len(l.log)), time.Now()})
	pos := change.LSN(0)
	for _, m := range l.marks {
		if time.Since(m.then) >= l.by {
			pos = m.at
		}
	}
	return []sink.Watermark{{Partition: sink.Partition{Table: schema.Table}, Pos: change.Position{Epoch: 1, Commit: pos, Ordinal: math.MaxUint32}}}, nil
}

// TestInconclusive: what could not be told is neither equal nor different.
func TestInconclusive(t *testing.T) {
	still := func(t *rapid.T) *world {
		w := newWorld(t)
		w.now, w.copy, w.wide = map[int]string{1: "a", 2: "b"}, map[int]string{1: "a", 2: "b"}, 3
		w.log = []write{{1, nil}}
		return w
	}
	verify := func(t *rapid.T, w *world, o Options) Result {
		res, err := Table(t.Context(), side{w, false}, sinkSide{side{w, true}, true}, w, Subject{Schema: schema}, o)
		if err != nil {
			t.Fatal(err)
		}
		return res
	}
	check(t, func(t *rapid.T) {
		// The sink stands still: neither what is equal nor what differs can be told.
		w := still(t)
		w.stuck = true
		if rapid.Bool().Draw(t, "differs") {
			w.copy[2] = "c"
		}
		if res := verify(t, w, Options{Fence: 20 * time.Millisecond}); res.Verdict != Inconclusive || !strings.Contains(res.Reason, "partition 0") {
			t.Fatalf("behind a fence: %+v", res)
		}
	})
	check(t, func(t *rapid.T) {
		// A key that is written to between any two looks, and wrong at the sink.
		w := still(t)
		x := "x"
		w.planted = map[int]*string{1: &x}
		src := restless{side{w, false}}
		res, err := Table(t.Context(), src, sinkSide{side{w, true}, true}, w, Subject{Schema: schema}, Options{Rounds: 3})
		if err != nil || res.Verdict != Inconclusive || res.Unsettled != 1 {
			t.Fatalf("a restless key: %+v, %v", res, err)
		}
	})
	// Of what would be held, no more than the bound.
	check(t, func(t *rapid.T) {
		w := still(t)
		for k := range 100 {
			w.now[k] = "v"
		}
		if res := verify(t, w, Options{MaxRows: 10, FirstRows: 10, MaxFindings: 7}); res.Verdict != Different || !res.More || len(res.Findings) != 7 {
			t.Fatalf("more than are asked for: %+v", res)
		}
	})
	keyless := *schema
	keyless.Key = nil
	if res, err := Table(t.Context(), nil, nil, nil, Subject{Schema: &keyless}, Options{}); err != nil || res.Verdict != Inconclusive {
		t.Errorf("without a key: %+v, %v", res, err)
	}
}

// restless is a source where key 1 is written to before each look at it.
type restless struct{ side }

func (r restless) Read(ctx context.Context, t *Subject, keys []change.Key) ([]Row, error) {
	r.mu.Lock()
	v := "v" + strconv.Itoa(len(r.log))
	r.now[1] = v
	r.log = append(r.log, write{1, &v})
	r.mu.Unlock()
	return r.side.Read(ctx, t, keys)
}

// TestStates: only a table that streams can be told anything of.
func TestStates(t *testing.T) {
	for _, state := range []sink.State{sink.Loading, sink.Gated, sink.Removed} {
		behind, err := Await(t.Context(), ledgerOf{state}, schema.Table, sink.AllTiers, 1, 0)
		if err != nil || behind == "" {
			t.Errorf("%s: %q, %v", state, behind, err)
		}
	}
	if behind, err := Await(t.Context(), ledgerOf{sink.Streaming}, schema.Table, sink.AllTiers, 7, 0); err != nil || behind != "" {
		t.Errorf("%q, %v", behind, err)
	}
	// At 7 there may be a commit that starts there.
	if behind, err := Await(t.Context(), ledgerOf{sink.Streaming}, schema.Table, sink.AllTiers, 8, 0); err != nil || behind == "" {
		t.Errorf("%q, %v", behind, err)
	}
}

type ledgerOf struct{ state sink.State }

func (l ledgerOf) Table(context.Context, change.TableID) (sink.Table, error) {
	return sink.Table{ID: schema.Table, State: l.state, Partitions: 1}, nil
}

func (l ledgerOf) Watermarks(context.Context) ([]sink.Watermark, error) {
	return []sink.Watermark{{Partition: sink.Partition{Table: schema.Table}, Pos: change.Position{Epoch: 1, Commit: 6, Ordinal: math.MaxUint32}}}, nil
}

func (ledgerOf) SetDue(context.Context, change.TableID, string, change.Position) error { return nil }

// What waits for its tier's time is not late, and is applied for those who wait for it.
func TestLagAndAwaitWhereChangesWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := seeded(1)
		w.tiered = true
		v := "x"
		w.log = append(w.log, write{1, &v}, write{2, &v}, write{3, &v})
		l := &Lag{Source: side{w, false}, Ledger: w, Table: schema.Table}
		for range 10 {
			if age, bytes, err := l.Look(t.Context()); err != nil || age != 0 || bytes != 0 {
				t.Fatalf("late by %s, %d bytes: %v", age, bytes, err)
			}
			time.Sleep(time.Second)
		}
		if w.applied != 0 {
			t.Fatalf("%d changes that wait were applied to look at them", w.applied)
		}
		if behind, err := Await(t.Context(), w, schema.Table, sink.AllTiers, 3, time.Minute); err != nil || behind != "" || w.applied != 2 {
			t.Fatalf("%q, %v, %d applied", behind, err, w.applied)
		}
	})
}

// TestErrorsComeBack as they are, with what was found before.
func TestErrorsComeBack(t *testing.T) {
	check(t, func(t *rapid.T) {
		w := newWorld(t)
		w.now, w.copy = map[int]string{1: "a", 2: "b", 3: "c"}, map[int]string{1: "a", 2: "x", 3: "c"}
		broken := errors.New("connection reset")
		var resumed []Place
		o := Options{FirstRows: 1, MaxRows: 1, Ahead: rapid.IntRange(1, 3).Draw(t, "ahead"), Done: func(at Place, so *Result) error {
			if resumed = append(resumed, at); len(resumed) == 2 {
				return broken
			}
			return nil
		}}
		res, err := Table(t.Context(), side{w, false}, sinkSide{side{w, true}, true}, w, Subject{Schema: schema}, o)
		if !errors.Is(err, broken) || len(res.Findings) != 1 {
			t.Fatalf("%+v, %v", res, err)
		}
		o.From, o.Done = resumed[1], nil
		if res, err = Table(t.Context(), side{w, false}, sinkSide{side{w, true}, true}, w, Subject{Schema: schema}, o); err != nil || res.Verdict != Equal || res.Rows != 1 {
			t.Fatalf("resumed: %+v, %v", res, err)
		}
	})
}

// TestLag: it is that of the sink, once it has been seen for so long.
func TestLag(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := seeded(1)
		l := &Lag{Source: moving{side{w, false}}, Ledger: &lagging{world: w, by: 90 * time.Second}, Table: schema.Table}
		begun := time.Now()
		for range 3 * maxSights {
			age, bytes, err := l.Look(t.Context())
			if most := min(time.Since(begun), 91*time.Second); err != nil || age > most || age < most-2*time.Second || bytes > 100 || len(l.seen) > maxSights {
				t.Fatalf("after %s: %s, %d bytes, %v", time.Since(begun), age, bytes, err)
			}
			time.Sleep(time.Second)
		}
		w.stuck = true
		l.Ledger = w
		for range 3 * maxSights {
			if age, _, err := l.Look(t.Context()); err != nil || len(l.seen) > maxSights || age < 0 {
				t.Fatal(age, err, len(l.seen))
			}
			time.Sleep(time.Second)
		}
		if age, _, err := l.Look(t.Context()); err != nil || age < 3*maxSights*time.Second {
			t.Fatal(age, err)
		}
	})
}

// TestGate: a walk waits while there is a reason to, and not for ever.
func TestGate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		walk := func(busy time.Duration) (res Result, waits []string, took time.Duration) {
			w := seeded(1)
			for k := range 100 {
				w.now[k], w.copy[k] = "v", "v"
			}
			begun := time.Now()
			g := &Gate{
				Why: func(context.Context) (string, error) {
					if time.Since(begun) < busy {
						return "57 sessions", nil
					}
					return "", nil
				},
				Waits: func(why string) { waits = append(waits, why) },
			}
			res, err := Table(t.Context(), side{w, false}, sinkSide{side{w, true}, true}, w, Subject{Schema: schema}, Options{Admit: g.Admit, FirstRows: 10, MaxRows: 10})
			if err != nil {
				t.Fatal(err)
			}
			return res, waits, time.Since(begun)
		}
		if res, waits, took := walk(5 * time.Minute); res.Verdict != Equal || took < 5*time.Minute || took > 6*time.Minute || waits[0] != "57 sessions" || waits[len(waits)-1] != "" {
			t.Errorf("%+v after %s: %q", res, took, waits)
		}
		if res, waits, took := walk(0); res.Verdict != Equal || took > time.Minute || waits != nil {
			t.Errorf("%+v after %s: %q", res, took, waits)
		}
		if res, _, took := walk(time.Hour); res.Verdict != Inconclusive || res.Reason != "paused for 10m0s: 57 sessions" || took > 11*time.Minute {
			t.Errorf("%+v after %s", res, took)
		}
	})
}
