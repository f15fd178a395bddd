package repair

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/digest"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

var schema = &change.Schema{
	Table:   change.TableID{Schema: "s", Name: "t"},
	Columns: []change.Column{{Name: "id", Type: change.Type{Kind: change.Base, Base: "int4"}}, {Name: "v", Type: change.Type{Kind: change.Base, Base: "text"}}},
	Key:     []int{0},
}

var errAway = fault.Transient("Away", nil, "away for a moment")

// world is a source that is written to and a sink that follows some changes behind, in
// memory: one partition, whose lane sets aside the changes of keys that are held. Whatever
// is asked of either, something happens first.
type world struct {
	mu      sync.Mutex
	rnd     *rand.Rand
	now     map[change.Key]change.Row
	log     []*change.Change // change n is of transaction n+1, at LSN 10(n+1)
	applied int
	sink    map[change.Key]change.Row
	keys    map[change.Key]*sink.RepairKey // of the one repair
	lease   time.Time
	shown   bool // the view of held keys is there
	letters []sink.DeadLetter
	refuses change.Key // whose row the sink does not take
	faults  int        // so many calls fail yet
	busy    bool
	wide    int // keys from 0 on are written to
}

func keyOf(n int) (change.Key, change.Row) {
	row := change.Row{change.TextValue(strconv.Itoa(n)), {}}
	k, err := change.MakeKey(schema, row)
	if err != nil {
		panic(err)
	}
	return k, row
}

func (w *world) write(n int, v *string) {
	k, row := keyOf(n)
	i := len(w.log) + 1
	c := &change.Change{Table: schema.Table, Schema: schema.Version(), Op: change.Delete, Pos: change.Position{Epoch: 1, Commit: change.LSN(10 * i), Ordinal: 1}, XID: uint32(i), Key: k, Old: row}
	if v != nil {
		row[1] = change.TextValue(*v)
		c.Op, c.New, c.Old = change.Insert, row, nil
		w.now[k] = row
	} else {
		delete(w.now, k)
	}
	w.log = append(w.log, c)
}

// happen is called with mu held. It returns an error now and then.
func (w *world) happen() error {
	if w.busy {
		for range w.rnd.IntN(3) {
			var v *string
			if w.rnd.IntN(4) > 0 {
				s := fmt.Sprintf(`"v%d"`, len(w.log))
				v = &s
			}
			w.write(w.rnd.IntN(w.wide), v)
		}
	}
	w.follow(max(1, (len(w.log)-w.applied)/2))
	if w.faults > 0 && w.rnd.IntN(8) == 0 {
		w.faults--
		return errAway
	}
	return nil
}

// follow is the lane: it lets go what is to be, and takes in some changes.
func (w *world) follow(n int) {
	for k, r := range w.keys {
		if r.State != sink.Releasing && !(r.State.Held() && time.Now().After(w.lease)) {
			continue
		}
		h := sink.Hold{At: r.At, Snapshot: r.Snapshot}
		w.letters = slices.DeleteFunc(w.letters, func(d sink.DeadLetter) bool {
			if d.Key != k {
				return false
			}
			c := new(change.Change)
			if err := change.Decode(d.Payload, c); err != nil {
				panic(err)
			}
			if !h.Contains(c) {
				w.apply(c)
			}
			return true
		})
		if r.State = sink.Released; r.Reason != "" {
			r.State = sink.Failed
		}
	}
	for ; n > 0 && w.applied < len(w.log); n-- {
		c := w.log[w.applied]
		w.applied++
		if r := w.keys[c.Key]; r != nil && r.State.Held() {
			w.letters = append(w.letters, sink.DeadLetter{Partition: sink.Partition{Table: schema.Table}, Key: c.Key, Pos: c.Pos, Code: sink.CodeQuarantined, Payload: change.Encode(nil, c)})
			continue
		}
		w.apply(c)
	}
}

func (w *world) apply(c *change.Change) {
	if c.Op == change.Delete {
		delete(w.sink, c.Key)
	} else {
		w.sink[c.Key] = c.New
	}
}

func do[T any](w *world, f func() T) (T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := w.happen(); err != nil {
		var none T
		return none, err
	}
	return f(), nil
}

// side is either end.
type side struct {
	*world
	rows func() map[change.Key]change.Row
}

func (side) Sum(context.Context, *verify.Subject, digest.Scope) (s digest.Sum, err error) {
	return s, errors.New("nobody asks")
}

func (side) Keys(context.Context, *verify.Subject, digest.Scope, func(change.Key, digest.Digest) error) error {
	return errors.New("nobody asks")
}

func (s side) Read(_ context.Context, _ *verify.Subject, keys []change.Key) ([]verify.Row, error) {
	return do(s.world, func() (out []verify.Row) {
		rows := s.rows()
		for _, k := range keys {
			if r := rows[k]; r != nil {
				out = append(out, verify.Row{Key: k, Values: r, Version: string(r[1].Data)})
			}
		}
		return out
	})
}

type source struct{ side }

func (s source) Position(context.Context) (change.LSN, error) {
	return do(s.world, func() change.LSN { return change.LSN(10*len(s.log) + 5) })
}

func (source) Next(context.Context, *verify.Subject, []string, int) ([]string, error) {
	return nil, errors.New("nobody asks")
}

func (s source) ReadAt(ctx context.Context, t *verify.Subject, keys []change.Key) ([]verify.Row, change.Snapshot, error) {
	var seen change.Snapshot
	rows, err := do(s.world, func() (out []verify.Row) {
		n := uint64(len(s.log) + 1)
		seen = change.Snapshot{XMin: n, XMax: n}
		for _, k := range keys {
			if r := s.now[k]; r != nil {
				out = append(out, verify.Row{Key: k, Values: r})
			}
		}
		return out
	})
	return rows, seen, err
}

type target struct {
	side
	sink.Repairs // what nobody asks for
}

func (target) Forms(context.Context, *verify.Subject) ([]digest.Form, bool, error) {
	return []digest.Form{digest.Text, digest.JSON}, true, nil
}

// Read prints JSON in another way than the source does.
func (t target) Read(ctx context.Context, s *verify.Subject, keys []change.Key) ([]verify.Row, error) {
	rows, err := t.side.Read(ctx, s, keys)
	for i := range rows {
		v := slices.Clone(rows[i].Values)
		v[1] = change.TextValue(" " + string(v[1].Data))
		rows[i].Values = v
	}
	return rows, err
}

func (t target) Table(context.Context, change.TableID) (sink.Table, error) {
	return sink.Table{ID: schema.Table, State: sink.Streaming, Partitions: 1, Epoch: 1, Schema: schema}, nil
}

func (t target) Watermarks(context.Context) ([]sink.Watermark, error) {
	return do(t.world, func() []sink.Watermark {
		// An idle partition follows the source's positions.
		pos := change.Position{Epoch: 1, Commit: change.LSN(10*t.applied + 9), Ordinal: math.MaxUint32}
		return []sink.Watermark{{Partition: sink.Partition{Table: schema.Table}, Pos: pos, Offset: int64(t.applied)}}
	})
}

func (target) SetDue(context.Context, change.TableID, string, change.Position) error { return nil }

func (t target) Repair(_ context.Context, _ string, _ change.TableID, part sink.RepairPart) ([]sink.RepairKey, error) {
	return do(t.world, func() (out []sink.RepairKey) {
		for _, k := range slices.Sorted(maps.Keys(t.keys)) {
			if k > part.After && (part.States == nil || slices.Contains(part.States, t.keys[k].State)) && (part.Most == 0 || len(out) < part.Most) {
				out = append(out, *t.keys[k])
			}
		}
		return out
	})
}

func (t target) CountRepair(context.Context, string, change.TableID) (map[sink.RepairState]int, error) {
	return do(t.world, func() map[sink.RepairState]int {
		out := map[sink.RepairState]int{}
		for _, k := range t.keys {
			out[k.State]++
		}
		return out
	})
}

func (t target) PutRepair(_ context.Context, _ string, _ change.TableID, ks []sink.RepairKey) error {
	bad, err := do(t.world, func() error {
		for _, k := range ks {
			if old := t.keys[k.Key]; k.State.Held() && (old == nil || !old.State.Held()) {
				return fault.Permanent(sink.CodeNotHeld, nil, "", "not held")
			}
		}
		for _, k := range ks {
			t.keys[k.Key] = &k
		}
		return nil
	})
	return errors.Join(bad, err)
}

func (t target) ShowHeld(_ context.Context, show bool) error {
	_, err := do(t.world, func() bool {
		t.shown = show
		return true
	})
	return err
}

func (t target) Hold(_ context.Context, _ string, _ change.TableID, keys []change.Key, lease time.Duration) error {
	bad, err := do(t.world, func() error {
		if !t.shown {
			return fault.Permanent(sink.CodeViewName, nil, "", "keys are held that no reader is shown")
		}
		if keys != nil {
			panic("a repair holds all of its keys")
		}
		for _, r := range t.keys {
			if r.State == sink.Suspected {
				r.State = sink.Quarantined
			}
		}
		t.lease = time.Now().Add(lease)
		return nil
	})
	return errors.Join(bad, err)
}

func (t target) LetGo(_ context.Context, _ string, _ change.TableID, failed map[change.Key]string, keys []change.Key) error {
	_, err := do(t.world, func() bool {
		for _, k := range append(slices.Collect(maps.Keys(failed)), keys...) {
			if r := t.keys[k]; r != nil && r.State.Held() {
				r.State = sink.Releasing
				if failed[k] != "" {
					r.Reason = failed[k]
				}
			}
		}
		return true
	})
	return err
}

func (t target) LetGoAll(_ context.Context, _ string, _ change.TableID, reason string, states ...sink.RepairState) error {
	_, err := do(t.world, func() bool {
		for _, r := range t.keys {
			if slices.Contains(states, r.State) {
				if r.State = sink.Releasing; reason != "" {
					r.Reason = reason
				}
			}
		}
		return true
	})
	return err
}

func (t target) Letters(_ context.Context, _ change.TableID, keys []change.Key) ([]sink.DeadLetter, error) {
	return do(t.world, func() (out []sink.DeadLetter) {
		for _, d := range t.letters {
			if slices.Contains(keys, d.Key) {
				out = append(out, d)
			}
		}
		return out
	})
}

func (t target) Mend(_ context.Context, _ string, b sink.TableBatch) (out sink.Applied, err error) {
	held, err := do(t.world, func() bool {
		for i := range b.Rows {
			r := t.keys[b.Rows[i].Key]
			if r == nil || !r.State.Held() || r.State == sink.Releasing {
				return false
			}
		}
		for i := range b.Rows {
			row := &b.Rows[i]
			switch {
			case row.Key == t.refuses && row.Op != change.Delete:
				out.Dead = append(out.Dead, sink.DeadLetter{Key: row.Key, Reason: "it is refused"})
			case row.Op == change.Delete:
				delete(t.sink, row.Key)
			default:
				t.sink[row.Key] = row.New
			}
		}
		return true
	})
	if err == nil && !held {
		err = fault.Permanent(sink.CodeNotHeld, nil, "", "not held")
	}
	return out, err
}

// history is the log, as far as it goes back.
type history struct {
	*world
	first int
}

func (h history) Range(context.Context, sink.Partition) (int64, int64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return int64(h.first), int64(len(h.log)), nil
}

func (history) Schema(context.Context, change.Version) (*change.Schema, error) { return schema, nil }

func (h history) Open(_ context.Context, _ sink.Partition, offset int64) (deliver.Reader, error) {
	return &reader{h.world, int(offset)}, nil
}

type reader struct {
	*world
	at int
}

func (r *reader) Read(ctx context.Context, most int) (out []deliver.Record, err error) {
	for {
		r.mu.Lock()
		for ; r.at < len(r.log) && len(out) < most; r.at++ {
			c := *r.log[r.at]
			out = append(out, deliver.Record{Change: &c, Offset: int64(r.at), Next: int64(r.at + 1), Bytes: 10})
		}
		r.mu.Unlock()
		if len(out) > 0 {
			return out, nil
		}
		select {
		case <-time.After(time.Millisecond):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (r *reader) Lag() int64   { return 0 }
func (r *reader) Close() error { return nil }

// Whatever is wrong with rows, whatever is written meanwhile, whatever fails at whatever
// step and is done again: in the end every key is what the source has, none is held, and
// nothing is set aside.
func TestRepairedWhateverHappens(t *testing.T) {
	rapid.Check(struct{ testing.TB }{t}, func(rt *rapid.T) {
		seed, busy := rapid.Uint64().Draw(rt, "seed"), rapid.Bool().Draw(rt, "busy")
		wide, before := rapid.IntRange(1, 12).Draw(rt, "keys"), rapid.IntRange(0, 60).Draw(rt, "writes before")
		wrong := rapid.SliceOfN(rapid.IntRange(0, wide-1), 1, 12).Draw(rt, "wrong")
		faults, refuse := rapid.IntRange(0, 6).Draw(rt, "faults"), rapid.Bool().Draw(rt, "refuse one")
		abandon := rapid.IntRange(-4, 3).Draw(rt, "abandoned after step")
		again := rapid.Bool().Draw(rt, "wrong again")
		cut := rapid.IntRange(0, 60).Draw(rt, "log begins")
		synctest.Test(t, func(t *testing.T) {
			w := &world{rnd: rand.New(rand.NewPCG(seed, 1)), now: map[change.Key]change.Row{}, sink: map[change.Key]change.Row{}, keys: map[change.Key]*sink.RepairKey{}, wide: wide}
			for range before {
				s := fmt.Sprintf(`"v%d"`, len(w.log))
				if n := w.rnd.IntN(wide); w.rnd.IntN(4) > 0 {
					w.write(n, &s)
				} else {
					w.write(n, nil)
				}
			}
			w.follow(len(w.log))
			suspects := map[change.Key]bool{}
			for i, n := range wrong {
				k, row := keyOf(n)
				if suspects[k] = true; i%3 == 0 {
					delete(w.sink, k)
				} else {
					row[1] = change.TextValue(fmt.Sprintf(`"wrong %d"`, i))
					w.sink[k] = row
				}
				if refuse && i == 0 {
					w.refuses = k
				}
			}
			tab := &Table{Source: source{side{w, func() map[change.Key]change.Row { return w.now }}}, Log: history{w, min(cut, len(w.log))}, Epoch: 1, Repair: "r", ID: schema.Table, Views: true, Lease: time.Minute}
			tg := target{side: side{w, func() map[change.Key]change.Row { return w.sink }}}
			tab.Rows, tab.Ledger = tg, tg
			w.busy, w.faults = busy, faults
			w.wide = 40 * wide // or nothing that is wrong stays so until it is planned
			// A step that fails is done again, as an activity is.
			step := func(f func() error) {
				for {
					err := f()
					if err == nil {
						return
					}
					if !fault.Retryable(err) {
						t.Fatal(err)
					}
					time.Sleep(time.Second)
				}
			}
			step(func() error {
				return tab.Plan(t.Context(), slices.Sorted(maps.Keys(suspects)), func(ctx context.Context, ks []sink.RepairKey) error {
					return tab.Ledger.PutRepair(ctx, "r", schema.Table, ks)
				})
			})
			plan := len(w.keys)
			steps := []func() error{
				func() error { _, err := tab.Quarantine(t.Context()); return err },
				func() error { _, _, err := tab.Replay(t.Context()); return err },
				func() error { _, err := tab.Reverify(t.Context()); return err },
			}
			for i, f := range steps {
				step(f)
				if i == 0 {
					w.mu.Lock()
					w.wide = wide // from now on mostly held keys are written to
					w.mu.Unlock()
				}
				if i == 1 && again { // somebody is still at it
					w.mu.Lock()
					for k, r := range w.keys {
						if r.State.Held() && k != w.refuses {
							delete(w.sink, k)
						}
					}
					w.mu.Unlock()
				}
				if i == abandon {
					break
				}
			}
			if abandon >= 0 {
				step(func() error { return tab.Abandon(t.Context(), "somebody gave up") })
			}
			var out Outcome
			step(func() (err error) { out, err = tab.Release(t.Context()); return err })
			w.mu.Lock()
			defer w.mu.Unlock()
			w.busy = false
			w.follow(len(w.log))
			if len(w.letters) > 0 {
				t.Errorf("%d changes are still set aside", len(w.letters))
			}
			failed := 0
			for k, r := range w.keys {
				if r.State.Held() || r.State == sink.Suspected {
					t.Errorf("%s is %s", k, r.State)
				}
				if r.State == sink.Failed {
					failed++
					continue
				}
				if !verify.Same(nil, w.now[k], w.sink[k]) {
					t.Errorf("%s is %v, want %v: made from the %s, %+v", k, w.sink[k], w.now[k], r.From, r)
				}
			}
			if abandon < 0 && (failed != out.Failed || out.Released != plan-failed || failed > 0 && w.refuses == "" || failed > 1) {
				t.Errorf("%d of %d failed: %+v", failed, plan, out)
			}
			// Every other key was left alone.
			for n := range 40 * wide {
				if k, _ := keyOf(n); w.keys[k] == nil && !suspects[k] && !verify.Same(nil, w.now[k], w.sink[k]) {
					t.Errorf("%s is %v, want %v", k, w.sink[k], w.now[k])
				}
			}
		})
	})
}
