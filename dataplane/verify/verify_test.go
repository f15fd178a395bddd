package verify

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"slices"
	"strconv"
	"strings"
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
	t       *rapid.T
	now     map[int]string
	log     []write // position n is that of the write before it
	applied int
	copy    map[int]string // what the sink has without the planted errors
	planted map[int]*string
	busy    bool // whether the source is written to
	stuck   bool // whether the sink follows
	wide    int  // keys from 0 on that are written to
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

func (w *world) happen() {
	if w.busy {
		for range rapid.IntRange(0, 3).Draw(w.t, "writes") {
			k := rapid.IntRange(0, w.wide-1).Draw(w.t, "key")
			var v *string
			if rapid.IntRange(0, 3).Draw(w.t, "delete") > 0 {
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
		c := w.log[w.applied]
		if w.applied++; c.value != nil {
			w.copy[c.key] = *c.value
		} else {
			delete(w.copy, c.key)
		}
	}
}

func (w *world) Position(context.Context) (change.LSN, error) {
	w.happen()
	return change.LSN(len(w.log) + 1), nil
}

func (w *world) Table(context.Context, change.TableID) (sink.Table, error) {
	w.happen()
	return sink.Table{ID: schema.Table, State: sink.Streaming, Partitions: 1}, nil
}

func (w *world) Watermarks(context.Context) ([]sink.Watermark, error) {
	return []sink.Watermark{{Partition: sink.Partition{Table: schema.Table}, Pos: change.Position{Epoch: 1, Commit: change.LSN(w.applied), Ordinal: math.MaxUint32}}}, nil
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

func (s side) in(p digest.Scope) (keys []int, rows map[int]string) {
	s.happen()
	rows = s.rows()
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
	keys, rows := s.in(p)
	var sum uint64
	for _, k := range keys {
		h := fnv.New32a()
		fmt.Fprint(h, k, rows[k])
		sum += uint64(h.Sum32())
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
	keys, rows := s.in(p)
	for _, k := range keys {
		if err := each(keyOf(k), digest.Digest(rows[k])); err != nil {
			return err
		}
	}
	return nil
}

func (s side) Read(_ context.Context, _ *Subject, keys []change.Key) (out []Row, err error) {
	s.happen()
	rows := s.rows()
	for _, key := range keys {
		texts, err := key.Values()
		if err != nil {
			return nil, err
		}
		k, _ := strconv.Atoi(texts[0])
		if v, ok := rows[k]; ok {
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
	keys, _ := s.in(digest.Scope{After: after})
	if len(keys) < rows {
		return nil, nil
	}
	return []string{strconv.Itoa(keys[rows-1])}, nil
}

type ordered bool

type sinkSide struct {
	side
	ordered
}

func (s sinkSide) Forms(context.Context, *Subject) ([]digest.Form, bool, error) {
	return []digest.Form{digest.Text, digest.Text}, bool(s.ordered), nil
}

// TestExactlyThePlantedErrors: whatever is written meanwhile and however far the sink
// is behind, what is found is what was planted.
func TestExactlyThePlantedErrors(t *testing.T) {
	check(t, func(t *rapid.T) {
		w := &world{t: t, now: map[int]string{}, copy: map[int]string{}, planted: map[int]*string{}, busy: true, wide: rapid.IntRange(1, 40).Draw(t, "wide")}
		want := map[change.Key]string{}
		for k := w.wide; k < w.wide+rapid.IntRange(0, 60).Draw(t, "still"); k++ { // these are not written to
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
		o := Options{FirstRows: rapid.IntRange(1, 30).Draw(t, "first"), MaxRows: 30, Rounds: 1000}
		res, err := Table(t.Context(), side{w, false}, sinkSide{side{w, true}, ordered(rapid.Bool().Draw(t, "ordered"))}, w, Subject{Schema: schema}, o)
		if err != nil {
			t.Fatal(err)
		}
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
	})
}

// TestInconclusive: what could not be told is neither equal nor different.
func TestInconclusive(t *testing.T) {
	still := func(t *rapid.T) *world {
		w := &world{t: t, now: map[int]string{1: "a", 2: "b"}, copy: map[int]string{1: "a", 2: "b"}, wide: 3}
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
	v := "v" + strconv.Itoa(len(r.log))
	r.now[1] = v
	r.log = append(r.log, write{1, &v})
	return r.side.Read(ctx, t, keys)
}

// TestStates: only a table that streams can be told anything of.
func TestStates(t *testing.T) {
	for _, state := range []sink.State{sink.Loading, sink.Gated, sink.Removed} {
		behind, err := Behind(t.Context(), ledgerOf{state}, schema.Table, 1)
		if err != nil || behind == "" {
			t.Errorf("%s: %q, %v", state, behind, err)
		}
	}
	if behind, err := Behind(t.Context(), ledgerOf{sink.Streaming}, schema.Table, 7); err != nil || behind != "" {
		t.Errorf("%q, %v", behind, err)
	}
	// At 7 there may be a commit that starts there.
	if behind, err := Behind(t.Context(), ledgerOf{sink.Streaming}, schema.Table, 8); err != nil || behind == "" {
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

// TestErrorsComeBack as they are, with what was found before.
func TestErrorsComeBack(t *testing.T) {
	check(t, func(t *rapid.T) {
		w := &world{t: t, now: map[int]string{1: "a", 2: "b", 3: "c"}, copy: map[int]string{1: "a", 2: "x", 3: "c"}}
		broken := errors.New("connection reset")
		var resumed [][]string
		o := Options{FirstRows: 1, MaxRows: 1, Done: func(after []string, so *Result) error {
			if resumed = append(resumed, after); len(resumed) == 2 {
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
