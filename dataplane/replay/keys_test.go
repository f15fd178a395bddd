package replay

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

var table = change.TableID{Schema: "shop", Name: "orders"}

// memLog is a log of one table in memory, of which the beginning has expired.
type memLog struct {
	parts   [][]*change.Change
	first   []int64
	schemas map[change.Version]*change.Schema
}

func (m *memLog) Range(_ context.Context, p sink.Partition) (int64, int64, error) {
	return m.first[p.N], int64(len(m.parts[p.N])), nil
}

func (m *memLog) Schema(_ context.Context, v change.Version) (*change.Schema, error) {
	return m.schemas[v], nil
}

func (m *memLog) Open(_ context.Context, p sink.Partition, offset int64) (deliver.Reader, error) {
	if offset < m.first[p.N] || offset > int64(len(m.parts[p.N])) {
		return nil, fault.Permanent(deliver.CodeOffsetGone, nil, "", "offset %d", offset)
	}
	return &memReader{m.parts[p.N], offset}, nil
}

type memReader struct {
	cs []*change.Change
	at int64
}

func (r *memReader) Read(ctx context.Context, most int) (out []deliver.Record, err error) {
	for r.at < int64(len(r.cs)) && len(out) < min(most, 7) {
		if c := r.cs[r.at]; c != nil { // nil: a part of a change that was given up
			out = append(out, deliver.Record{Change: c, Offset: r.at, Next: r.at + 1, Bytes: 10})
		}
		r.at++
	}
	if len(out) == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return out, nil
}

func (r *memReader) Lag() int64   { return int64(len(r.cs)) - r.at }
func (r *memReader) Close() error { return nil }

func keyOf(i int) change.Key {
	k, err := change.ParseKey("(" + strconv.Quote(strconv.Itoa(i)) + ")")
	if err != nil {
		panic(err)
	}
	return k
}

const columns = 3

// values draws a row; may says that values may have been left out.
func values(t *rapid.T, may bool, name string) change.Row {
	out := change.Row{}
	for col := range columns {
		v := change.TextValue(fmt.Sprintf("%s.%d", name, col))
		switch {
		case may && rapid.IntRange(0, 2).Draw(t, "unchanged") == 0:
			v = change.Value{Kind: change.Unchanged}
		case rapid.IntRange(0, 5).Draw(t, "null") == 0:
			v = change.Value{}
		}
		out = append(out, v)
	}
	return out
}

// What is complete is what everything since the table's load comes to, and what
// the log still holds from its last full image on is complete.
func TestKeysAgreeWithTheWholeHistory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "partitions")
		const keys = 6
		load := Load{}
		if rapid.Bool().Draw(t, "loaded") {
			load = Load{Epoch: 1, To: change.LSN(rapid.IntRange(0, 60).Draw(t, "load"))}
		}
		var all []*change.Change
		live := map[int]bool{}
		for i := range rapid.IntRange(0, 60).Draw(t, "transactions") {
			epoch := uint32(1)
			if i > 50 {
				epoch = 2
			}
			for o := range rapid.IntRange(1, 4).Draw(t, "changes") {
				k, to := rapid.IntRange(0, keys-1).Draw(t, "key"), rapid.IntRange(0, keys-1).Draw(t, "to")
				c := &change.Change{Table: table, Schema: 1, Pos: change.Position{Epoch: epoch, Commit: change.LSN(i + 1), Ordinal: uint32(2*o + 2)},
					CommitTime: time.Unix(int64(i), 0), Key: keyOf(k)}
				name := fmt.Sprintf("%d.%d", i, o)
				switch pick := rapid.IntRange(0, 19).Draw(t, "op"); {
				case pick == 0:
					c.Op, c.Key = change.Truncate, ""
					clear(live)
				case !live[k]:
					c.Op, c.New = change.Insert, values(t, false, name)
					live[k] = true
				case pick < 5 && !live[to]: // the new key's half may lack values, too
					d := *c
					d.Op = change.Delete
					d.Pos.Ordinal--
					all = append(all, &d)
					c.Op, c.Key, c.New = change.Insert, keyOf(to), values(t, rapid.Bool().Draw(t, "toast"), name)
					delete(live, k)
					live[to] = true
				case pick < 8:
					c.Op = change.Delete
					delete(live, k)
				default:
					c.Op, c.New = change.Update, values(t, rapid.IntRange(0, 2).Draw(t, "partial") > 0, name)
				}
				all = append(all, c)
			}
		}
		log := &memLog{parts: make([][]*change.Change, n), first: make([]int64, n)}
		firsts := make([][]bool, n) // not sent again
		for p := range n {
			var mine []*change.Change
			for _, c := range all {
				if q := c.Partition(n); q == p || q == change.AllPartitions {
					mine = append(mine, c)
				}
			}
			seen := -1
			for i := 0; i < len(mine); i++ {
				if rapid.IntRange(0, 15).Draw(t, "given up") == 0 {
					log.parts[p], firsts[p] = append(log.parts[p], nil), append(firsts[p], false)
				}
				log.parts[p], firsts[p] = append(log.parts[p], mine[i]), append(firsts[p], i > seen)
				seen = max(seen, i)
				if len(log.parts[p]) < 400 && rapid.IntRange(0, 19).Draw(t, "crash") == 0 {
					i = max(-1, i-rapid.IntRange(1, 15).Draw(t, "resend"))
				}
			}
			log.first[p] = rapid.Int64Range(0, int64(len(log.parts[p]))).Draw(t, "first")
			if rapid.Bool().Draw(t, "all") {
				log.first[p] = 0
			}
		}
		r := Request{Table: table, Partitions: n, Load: load, Window: rapid.Int64Range(1, 20).Draw(t, "window"),
			Settle: rapid.Int64Range(-1, 10).Draw(t, "settle"), Wait: time.Millisecond}
		if r.Settle == 0 {
			r.Settle = -1
		}
		if rapid.Bool().Draw(t, "bounded") {
			r.Most = rapid.Int64Range(1, 100).Draw(t, "most")
		}
		for k := range keys {
			r.Keys = append(r.Keys, keyOf(k))
		}
		for p := range n {
			to := sink.Watermark{Offset: rapid.Int64Range(0, int64(len(log.parts[p]))).Draw(t, "until")}
			last := change.Position{}
			for _, c := range log.parts[p][:to.Offset] {
				if c != nil {
					if last = c.Pos; to.Pos.Before(last) {
						to.Pos = last
					}
				}
			}
			if last == to.Pos && rapid.Bool().Draw(t, "idle") { // progress has moved the mark
				to.Pos = change.Position{Epoch: last.Epoch + 1, Ordinal: math.MaxUint32}
			}
			r.To = append(r.To, to)
			r.From = append(r.From, rapid.Int64Range(-1, to.Offset).Draw(t, "from"))
		}
		if rapid.Bool().Draw(t, "no from") {
			r.From = nil
		}
		states, stats, err := Keys(t.Context(), log, r)
		if err != nil || len(states) != keys {
			t.Fatalf("%d states, %v", len(states), err)
		}
		for k := range keys {
			key := keyOf(k)
			p := key.Partition(n)
			var want change.Row // nil: no row
			if load.Epoch > 0 && rapid.Bool().Draw(t, "in the load") {
				want = values(t, false, "loaded")
			}
			var pos change.Position
			must, reached := false, false // the log still holds its last full image, and what was written last
			for i, c := range log.parts[p][:r.To[p].Offset] {
				reached = reached || c != nil && int64(i) >= log.first[p] && (c.Pos == r.To[p].Pos || r.To[p].Pos.Ordinal == math.MaxUint32)
				if c == nil || !firsts[p][i] || load.Epoch > 0 && load.holds(c.Pos) || c.Op != change.Truncate && c.Key != key {
					continue
				}
				pos = c.Pos
				full := !slices.ContainsFunc(c.New, unchanged)
				if c.Op == change.Truncate || c.Op == change.Delete {
					want = nil
				} else {
					next := slices.Clone(c.New)
					for j := range next {
						if c.Op == change.Update && want != nil && unchanged(next[j]) {
							next[j] = want[j]
						}
					}
					want = next
				}
				if full {
					must = int64(i) >= log.first[p]
				} else if c.Op == change.Insert {
					must = false
				}
			}
			s := states[key]
			if must && reached && !s.Complete && (r.Most == 0 || s.Why != TooFar && s.Why != NeverSent && s.Why != BeforeLoad) {
				t.Fatalf("key %d: %+v, and the log holds all of it", k, s)
			}
			if !s.Complete {
				if s.Why == "" {
					t.Fatalf("key %d: no reason", k)
				}
				continue
			}
			if s.Deleted != (want == nil) || !slices.EqualFunc(s.Row, want, change.Value.Equal) || s.Pos != pos || s.Why != "" || s.Changes < 1 {
				t.Fatalf("key %d: %+v, want %q at %s", k, s, want, pos)
			}
		}
		for p, from := range stats.From {
			if from < log.first[p] || stats.Reads == 0 {
				t.Fatalf("read from %d, the log begins at %d: %+v", from, log.first[p], stats)
			}
		}
	})
}

func at(n int, op change.Op, schema change.Version, row ...string) *change.Change {
	c := &change.Change{Table: table, Schema: schema, Op: op, Key: keyOf(1), Pos: change.Position{Epoch: 1, Commit: change.LSN(n), Ordinal: 1}}
	for _, v := range row {
		if v == "?" {
			c.New = append(c.New, change.Value{Kind: change.Unchanged})
		} else {
			c.New = append(c.New, change.TextValue(v))
		}
	}
	return c
}

func TestWhy(t *testing.T) {
	missing := "none"
	col := func(name, typ string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: typ, Base: typ}}
	}
	added := col("c", "text")
	added.Missing = &missing
	schemas := map[change.Version]*change.Schema{
		1: {Columns: []change.Column{col("a", "text"), col("b", "text")}},
		2: {Columns: []change.Column{col("a", "text"), col("b", "text"), added}},
		3: {Columns: []change.Column{col("b", "text"), col("a", "int4")}},
		4: {Columns: []change.Column{col("a", "text"), col("b", "text"), col("d", "text")}},
	}
	other := func(n int, schema change.Version) *change.Change {
		c := at(n, change.Insert, schema)
		c.Key = keyOf(2)
		return c
	}
	for name, c := range map[string]struct {
		first int64
		to    int64
		load  Load
		log   []*change.Change
		want  string // the row, or why there is none
	}{
		"nothing":             {log: []*change.Change{other(1, 1)}, want: NoChange},
		"expired":             {first: 1, log: []*change.Change{at(1, change.Insert, 1, "x", "y"), other(2, 1)}, want: Expired},
		"only the rest":       {first: 1, log: []*change.Change{at(1, change.Insert, 1, "x", "y"), at(2, change.Update, 1, "z", "?")}, want: NeverSent},
		"the log was cut":     {to: 9, log: []*change.Change{other(1, 1)}, want: Behind},
		"loaded":              {load: Load{1, 2}, log: []*change.Change{at(1, change.Insert, 1, "x", "y"), at(2, change.Delete, 1)}, want: BeforeLoad},
		"of an older slot":    {load: Load{2, 0}, log: []*change.Change{at(1, change.Insert, 1, "x", "y")}, want: BeforeLoad},
		"changed in the load": {load: Load{1, 1}, log: []*change.Change{at(1, change.Insert, 1, "x", "y"), at(2, change.Update, 1, "z", "?")}, want: NeverSent},
		"new after the load":  {load: Load{1, 1}, log: []*change.Change{at(1, change.Delete, 1), at(2, change.Insert, 1, "z", "y"), at(3, change.Update, 1, "?", "w")}, want: "z w"},
		"column added":        {log: []*change.Change{at(1, change.Insert, 1, "x", "y"), at(2, change.Update, 2, "z", "?", "?")}, want: "z y none"},
		"nobody knows":        {log: []*change.Change{at(1, change.Insert, 1, "x", "y"), at(2, change.Update, 4, "z", "?", "?")}, want: Redefined},
		"columns moved":       {log: []*change.Change{at(1, change.Insert, 1, "x", "y"), at(2, change.Update, 3, "?", "5")}, want: "y 5"},
		"another type":        {log: []*change.Change{at(1, change.Insert, 1, "x", "y"), at(2, change.Update, 3, "w", "?")}, want: Redefined},
		"there and back":      {log: []*change.Change{at(1, change.Insert, 1, "x", "y"), other(2, 3), at(3, change.Update, 1, "z", "?")}, want: Redefined},
		"sent again later":    {log: []*change.Change{at(1, change.Insert, 1, "x", "y"), at(2, change.Update, 4, "z", "?", "?"), at(3, change.Update, 4, "?", "v", "w")}, want: "z v w"},
		"an unfinished end":   {log: []*change.Change{at(1, change.Insert, 1, "x", "y"), nil, nil}, want: "x y"},
	} {
		log := &memLog{parts: [][]*change.Change{c.log}, first: []int64{c.first}, schemas: schemas}
		r := Request{Table: table, Partitions: 1, Keys: []change.Key{keyOf(1)}, Load: c.load, Window: 1, Settle: 1, Wait: time.Millisecond}
		r.To = []sink.Watermark{{Offset: int64(len(c.log))}}
		if c.to > 0 {
			r.To[0].Offset = c.to
		}
		states, _, err := Keys(t.Context(), log, r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		s := states[keyOf(1)]
		got := s.Why
		if s.Complete {
			got = ""
			for i, v := range s.Row {
				if i > 0 {
					got += " "
				}
				got += string(v.Data)
			}
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A writer that was superseded repeats what its successor has long passed: who
// begins there must not take it for news.
func TestKeysBesideALateWriter(t *testing.T) {
	log := &memLog{first: []int64{0}, parts: [][]*change.Change{{
		at(1, change.Insert, 1, "old"), at(2, change.Update, 1, "new"), at(1, change.Insert, 1, "old"),
	}}}
	for i := range 20 {
		c := at(10+i, change.Insert, 1)
		c.Key = keyOf(2)
		log.parts[0] = append(log.parts[0], c)
	}
	states, stats, err := Keys(t.Context(), log, Request{Table: table, Partitions: 1, Keys: []change.Key{keyOf(1)}, To: []sink.Watermark{{Offset: 23, Pos: log.parts[0][22].Pos}}, Window: 19, Settle: 2})
	if err != nil || string(states[keyOf(1)].Row[0].Data) != "new" {
		t.Errorf("%+v, %v", states, err)
	}
	if stats.Reads != 2 || stats.From[0] != 0 {
		t.Errorf("%+v", stats)
	}
}

// What is farther back than reading it pays is not looked for.
func TestKeysReach(t *testing.T) {
	log := &memLog{first: []int64{0}, parts: [][]*change.Change{{at(1, change.Insert, 1, "old")}}}
	for i := range 1000 {
		c := at(10+i, change.Insert, 1)
		c.Key = keyOf(2)
		log.parts[0] = append(log.parts[0], c)
	}
	r := Request{Table: table, Partitions: 1, Keys: []change.Key{keyOf(1), keyOf(2)}, To: []sink.Watermark{{Offset: 1001, Pos: log.parts[0][1000].Pos}}, Window: 16, Settle: -1}
	for most, want := range map[int64]string{0: "", 100: TooFar, 1000: TooFar, 4000: ""} {
		r.Most = most
		states, stats, err := Keys(t.Context(), log, r)
		if s := states[keyOf(1)]; err != nil || s.Complete != (want == "") || s.Why != want || !states[keyOf(2)].Complete {
			t.Errorf("%d records: %+v, %v", most, states, err)
		}
		if most > 0 && stats.Records > most {
			t.Errorf("%d records: %+v", most, stats)
		}
	}
}

func TestBadRequests(t *testing.T) {
	for _, r := range []Request{{}, {Partitions: 2, To: make([]sink.Watermark, 1)}, {Partitions: 1, To: make([]sink.Watermark, 1), Keys: []change.Key{""}}} {
		if _, _, err := Keys(t.Context(), &memLog{}, r); !fault.Is(err, CodeBadRequest) || fault.Retryable(err) {
			t.Errorf("%+v: %v", r, err)
		}
	}
}
