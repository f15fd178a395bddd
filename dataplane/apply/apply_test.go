package apply

import (
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// table is the model of a table: rows by key.
type table map[change.Key]change.Row

func (m table) write(op change.Op, k change.Key, row change.Row) {
	switch op {
	case change.Truncate:
		clear(m)
	case change.Delete:
		delete(m, k)
	default:
		m[k] = over(m[k], row)
	}
}

func (m table) equal(o table) error {
	if len(m) != len(o) {
		return fmt.Errorf("have %d rows, want %d", len(m), len(o))
	}
	for k, want := range o {
		if !slices.EqualFunc(m[k], want, change.Value.Equal) {
			return fmt.Errorf("key %s: have %q, want %q", k, m[k], want)
		}
	}
	return nil
}

const columns = 3

func keyOf(i int) change.Key {
	k, err := change.ParseKey("(" + strconv.Quote(strconv.Itoa(i)) + ")")
	if err != nil {
		panic(err)
	}
	return k
}

// keyRow is an old image that has its key only.
func keyRow(k change.Key) change.Row {
	v, _ := k.Values()
	return change.Row{change.TextValue(v[0]), {}, {}}
}

// history is a random log of one partition: transactions whose ids are given in
// the order of their start and whose changes come in the order of their commit.
type history struct {
	changes []*change.Change
	xids    []uint32 // by commit
	commits []change.LSN
}

func drawHistory(t *rapid.T, truncate bool) history {
	var h history
	n := rapid.IntRange(1, 25).Draw(t, "transactions")
	order := make([]uint32, n)
	for i := range order {
		order[i] = uint32(100 + i)
	}
	for i := range order { // a transaction may commit a few places later than it started
		j := min(n-1, i+rapid.IntRange(0, 3).Draw(t, "delay"))
		order[i], order[j] = order[j], order[i]
	}
	live := map[change.Key]bool{}
	for i, xid := range order {
		lsn := change.LSN(1000 + 10*i)
		h.xids, h.commits = append(h.xids, xid), append(h.commits, lsn)
		m := rapid.IntRange(1, 5).Draw(t, "changes")
		for o := range m {
			k := keyOf(rapid.IntRange(0, 5).Draw(t, "key"))
			c := &change.Change{Pos: change.Position{Epoch: 1, Commit: lsn, Ordinal: uint32(2*o + 2)}, XID: xid, Key: k, CommitTime: time.Unix(int64(i), 0), Last: o == m-1}
			pick := rapid.IntRange(0, 9).Draw(t, "op")
			to := keyOf(rapid.IntRange(0, 5).Draw(t, "to"))
			switch {
			case live[k] && !live[to] && pick == 8: // a change of key comes as its two halves
				d := *c
				d.Op, d.Old, d.Moved, d.Last = change.Delete, keyRow(k), keyRow(to)[:1], false
				d.Pos.Ordinal = uint32(2*o + 1)
				h.changes = append(h.changes, &d)
				c.Op, c.Key, c.Moved = change.Insert, to, keyRow(k)[:1]
				delete(live, k)
				live[to] = true
			case truncate && pick == 9 && rapid.Bool().Draw(t, "truncate"):
				c.Op, c.Key = change.Truncate, ""
				clear(live)
			case !live[k]:
				c.Op, live[k] = change.Insert, true
			case pick < 3:
				c.Op = change.Delete
				delete(live, k)
			default:
				c.Op = change.Update
			}
			if c.Op == change.Insert || c.Op == change.Update {
				for col := range columns {
					v := change.TextValue(fmt.Sprintf("%d.%d.%d", i, o, col))
					switch {
					case c.Op == change.Update && rapid.IntRange(0, 2).Draw(t, "unchanged") == 0:
						v = change.Value{Kind: change.Unchanged}
					case rapid.IntRange(0, 5).Draw(t, "null") == 0:
						v = change.Value{}
					}
					c.New = append(c.New, v)
				}
			}
			h.changes = append(h.changes, c)
		}
	}
	return h
}

// after returns the model after the first n commits.
func (h history) after(n int) table {
	m := table{}
	for _, c := range h.changes {
		if i := slices.Index(h.commits, c.Pos.Commit); i < n {
			m.write(c.Op, c.Key, c.New)
		}
	}
	return m
}

// snapshot returns what a reader after the first n commits sees.
func (h history) snapshot(n int) change.Snapshot {
	s := change.Snapshot{XMin: 100, XMax: 100}
	for _, x := range h.xids[:n] {
		s.XMax = max(s.XMax, uint64(x)+1)
	}
	for _, x := range h.xids[n:] {
		if uint64(x) < s.XMax {
			s.XIP = append(s.XIP, uint64(x))
		}
	}
	slices.Sort(s.XIP)
	if len(s.XIP) > 0 {
		s.XMin = s.XIP[0]
	} else {
		s.XMin = s.XMax
	}
	return s
}

// resent returns the changes as a crashing capture leaves them: now and then a
// run of them comes again.
func (h history) resent(t *rapid.T) []*change.Change {
	var out []*change.Change
	for i := 0; i < len(h.changes); i++ {
		out = append(out, h.changes[i])
		if rapid.IntRange(0, 9).Draw(t, "crash") == 0 {
			i = max(-1, i-rapid.IntRange(1, 12).Draw(t, "resend"))
			if len(out) > 400 {
				break
			}
		}
	}
	return append(out, h.changes...)
}

// deliver applies a log through Decide and Coalesce, cutting batches at random.
func deliver(t *rapid.T, m table, log []*change.Change, l *Load, place func(change.Key) int) {
	var co Coalescer
	co.Reset(false)
	var mark change.Position
	flush := func() {
		seen := map[change.Key]bool{}
		for _, r := range co.Rows() {
			if seen[r.Key] {
				t.Fatalf("key %s twice in a batch", r.Key)
			}
			seen[r.Key] = true
			if len(r.Old) > 0 && r.Op == change.Insert {
				t.Fatal("an insertion with an old image: sinks would take it for the row's")
			}
			m.write(r.Op, r.Key, r.New)
		}
		co.Reset(false)
	}
	for i, c := range log {
		read := new(change.Change)
		if err := change.Decode(change.Encode(nil, c), read); err != nil {
			t.Fatal(err)
		}
		if !slices.EqualFunc(read.Moved, c.Moved, change.Value.Equal) {
			t.Fatal("the log lost the other half's key")
		}
		c = read
		v := Decide(c, mark, l, nil)
		if v == Ambiguous {
			var ok bool
			if v, ok = DecidePlaced(c, l, place(c.Key), nil); !ok {
				t.Fatal("no such chunk")
			}
		}
		switch v {
		case Duplicate:
			continue
		case Contained:
		case Barrier:
			flush()
			m.write(c.Op, "", nil)
			l = nil
		case Write:
			if !co.Add(c, Origin{Offset: int64(i)}) {
				flush()
				if !co.Add(c, Origin{Offset: int64(i)}) {
					t.Fatal("an empty coalescer refused a change")
				}
			}
		default:
			t.Fatalf("verdict %s", v)
		}
		mark = c.Pos
		if rapid.IntRange(0, 5).Draw(t, "cut") == 0 {
			flush()
		}
	}
	flush()
}

func TestBatchesHaveTheEffectOfEachChange(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := drawHistory(t, false)
		m := table{}
		deliver(t, m, h.resent(t), nil, nil)
		if err := m.equal(h.after(len(h.xids))); err != nil {
			t.Fatal(err)
		}
	})
}

// Chunks of several generations, then the stream from before the first of them.
func TestLoadAndStreamMakeTheSource(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		truncate := rapid.Bool().Draw(t, "with truncates")
		h := drawHistory(t, truncate)
		place := func(k change.Key) int {
			v, _ := k.Values()
			i, _ := strconv.Atoi(v[0])
			return 10 + i/2
		}
		m := table{}
		var chunks []sink.Chunk
		for n := 10; n < 13; n++ {
			at := rapid.IntRange(0, len(h.xids)).Draw(t, "generation")
			lsn := change.LSN(999)
			if at > 0 {
				lsn = h.commits[at-1] + change.LSN(rapid.IntRange(0, 12).Draw(t, "lsn after"))
			}
			chunks = append(chunks, sink.Chunk{N: n, Done: true, Snapshot: h.snapshot(at), LSN: lsn})
			for k, row := range h.after(at) {
				if place(k) == n {
					m[k] = row
				}
			}
		}
		deliver(t, m, h.resent(t), NewLoad(1, chunks), place)
		if err := m.equal(h.after(len(h.xids))); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDecide(t *testing.T) {
	snap := func(s string) change.Snapshot {
		v, err := change.ParseSnapshot(s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	load := NewLoad(2, []sink.Chunk{
		{N: 0, Snapshot: snap("110:120:115"), LSN: 500},
		{N: 1, Snapshot: snap("130:130:"), LSN: 900},
	})
	parked := map[change.Key]struct{}{keyOf(1): {}}
	at := func(epoch uint32, lsn change.LSN, xid uint32, k int) *change.Change {
		return &change.Change{Op: change.Update, Pos: change.Position{Epoch: epoch, Commit: lsn, Ordinal: 1}, XID: xid, Key: keyOf(k)}
	}
	tests := []struct {
		name string
		c    *change.Change
		mark change.Position
		l    *Load
		want Verdict
	}{
		{"at the watermark", at(2, 300, 1, 0), change.Position{Epoch: 2, Commit: 300, Ordinal: 1}, load, Duplicate},
		{"seen by all", at(2, 300, 105, 0), change.Position{}, load, Contained},
		{"seen by none", at(2, 800, 130, 0), change.Position{}, load, Write},
		{"seen by one", at(2, 800, 125, 0), change.Position{}, load, Ambiguous},
		{"running when one was taken", at(2, 800, 115, 0), change.Position{}, load, Ambiguous},
		{"past the load, old id", at(2, 901, 1, 0), change.Position{}, load, Write},
		{"older epoch", at(1, 300, 999, 0), change.Position{}, load, Contained},
		{"older epoch past the load", at(1, 901, 999, 0), change.Position{}, load, Contained},
		{"newer epoch", at(3, 100, 999, 0), change.Position{}, load, Write},
		{"no load", at(1, 1, 1, 0), change.Position{}, nil, Write},
		{"parked", at(2, 901, 1, 1), change.Position{}, load, Park},
		{"parked but contained", at(2, 300, 1, 1), change.Position{}, load, Contained},
	}
	for _, tt := range tests {
		if got := Decide(tt.c, tt.mark, tt.l, parked); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
	amb := at(2, 800, 125, 1)
	if v, ok := DecidePlaced(amb, load, 0, parked); v != Park || !ok {
		t.Errorf("chunk 0: %s %v", v, ok)
	}
	if v, ok := DecidePlaced(amb, load, 1, parked); v != Contained || !ok {
		t.Errorf("chunk 1: %s %v", v, ok)
	}
	if _, ok := DecidePlaced(amb, load, 7, parked); ok {
		t.Error("placed in a chunk that does not exist")
	}
	if load.Over(change.Position{Epoch: 2, Commit: 900, Ordinal: 9}) || !load.Over(change.Position{Epoch: 2, Commit: 901}) {
		t.Error("a load is over past its last position, not before")
	}
}

func TestCoalescerKeepsWhatSinksNeed(t *testing.T) {
	old := change.Row{change.TextValue("first")}
	c := func(op change.Op, ord uint32, old change.Row) *change.Change {
		ch := &change.Change{Op: op, Key: keyOf(1), Old: old, Pos: change.Position{Epoch: 1, Commit: 1, Ordinal: ord}, CommitTime: time.Unix(int64(ord), 0)}
		if op != change.Delete {
			ch.New = change.Row{change.TextValue(strconv.Itoa(int(ord)))}
		}
		return ch
	}
	tests := []struct {
		ops  []*change.Change
		want change.Op
	}{
		{[]*change.Change{c(change.Insert, 1, nil), c(change.Update, 2, nil)}, change.Insert},
		{[]*change.Change{c(change.Update, 1, old), c(change.Update, 2, change.Row{change.TextValue("second")})}, change.Update},
		{[]*change.Change{c(change.Update, 1, old), c(change.Delete, 2, change.Row{})}, change.Delete},
		{[]*change.Change{c(change.Insert, 1, nil), c(change.Delete, 2, old)}, change.Delete},
		{[]*change.Change{c(change.Delete, 1, old), c(change.Insert, 2, nil)}, change.Update},
		{[]*change.Change{c(change.Insert, 1, nil), c(change.Delete, 2, old), c(change.Insert, 3, nil)}, change.Update},
	}
	for i, tt := range tests {
		var co Coalescer
		co.Reset(false)
		for n, ch := range tt.ops {
			if !co.Add(ch, Origin{Offset: int64(n)}) {
				t.Fatalf("%d: refused", i)
			}
		}
		last := tt.ops[len(tt.ops)-1]
		r := co.Rows()[0]
		if len(co.Rows()) != 1 || r.Op != tt.want || r.Pos != last.Pos || r.Commit != last.CommitTime || co.Origin(0).Offset != int64(len(tt.ops)-1) || co.Changes() != len(tt.ops) {
			t.Errorf("%d: %+v", i, r)
		}
		if i > 0 && !slices.EqualFunc(r.Old, old, change.Value.Equal) {
			t.Errorf("%d: lost the first old image", i)
		}
		if r.Op == change.Delete && r.New != nil {
			t.Errorf("%d: a deletion with values", i)
		}
	}
}

func TestAppendOnlyKeepsEveryRow(t *testing.T) {
	var co Coalescer
	co.Reset(true)
	for i := range 10 {
		co.Add(&change.Change{Op: change.Insert, Key: keyOf(i % 2), Pos: change.Position{Ordinal: uint32(i + 1)}}, Origin{})
	}
	for i, r := range co.Rows() {
		if r.Pos.Ordinal != uint32(i+1) {
			t.Fatalf("row %d is change %d", i, r.Pos.Ordinal)
		}
	}
	if len(co.Rows()) != 10 {
		t.Fatalf("%d rows", len(co.Rows()))
	}
}

func TestTake(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var co Coalescer
		co.Reset(false)
		want := map[change.Key]int64{}
		for i, k := range rapid.SliceOf(rapid.IntRange(0, 8)).Draw(t, "keys") {
			co.Add(&change.Change{Op: change.Update, Key: keyOf(k)}, Origin{Offset: int64(i)})
			want[keyOf(k)] = int64(i)
		}
		for _, k := range rapid.SliceOf(rapid.IntRange(0, 9)).Draw(t, "taken") {
			_, o, ok := co.Take(keyOf(k))
			if w, had := want[keyOf(k)]; had != ok || ok && o.Offset != w {
				t.Fatalf("took %v %v, want %v %v", o.Offset, ok, w, had)
			}
			delete(want, keyOf(k))
		}
		if len(co.Rows()) != len(want) {
			t.Fatalf("%d rows left, want %d", len(co.Rows()), len(want))
		}
		for i, r := range co.Rows() {
			if co.Origin(i).Offset != want[r.Key] {
				t.Fatal("row and origin parted")
			}
		}
	})
}

func BenchmarkDecideAndCoalesce(b *testing.B) {
	changes := make([]*change.Change, 4096)
	for i := range changes {
		changes[i] = &change.Change{Op: change.Update, Key: keyOf(i % 3000), Pos: change.Position{Epoch: 1, Commit: change.LSN(1000 + i), Ordinal: 1},
			New: change.Row{change.TextValue("1"), {Kind: change.Unchanged}, change.TextValue("some text")}}
	}
	var co Coalescer
	b.ReportAllocs()
	for b.Loop() {
		co.Reset(false)
		var mark change.Position
		for i, c := range changes {
			if Decide(c, mark, nil, nil) == Write {
				co.Add(c, Origin{Offset: int64(i)})
			}
			mark = c.Pos
		}
	}
	b.ReportMetric(float64(len(changes))*float64(b.N)/b.Elapsed().Seconds(), "changes/s")
}

// Filter and Has agree with a plain list of rows, whatever was taken before.
func TestFilterKeepsTheOthers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var co Coalescer
		co.Reset(false)
		want := map[change.Key]int64{}
		key := func(what string) change.Key { return change.Key(rapid.StringMatching("[a-h]").Draw(t, what)) }
		for i := range rapid.IntRange(0, 20).Draw(t, "changes") {
			k := key("key")
			co.Add(&change.Change{Op: change.Update, Key: k, Pos: change.Position{Commit: change.LSN(i + 1)}}, Origin{Offset: int64(i)})
			want[k] = int64(i)
		}
		drop := key("drop")
		co.Filter(func(r *sink.Row, from Origin) bool {
			if want[r.Key] != from.Offset {
				t.Fatalf("key %q of %d, want %d", r.Key, from.Offset, want[r.Key])
			}
			return r.Key > drop
		})
		for k := range want {
			if k <= drop {
				delete(want, k)
			}
		}
		if len(co.Rows()) != len(want) {
			t.Fatalf("%d rows, want %d", len(co.Rows()), len(want))
		}
		for k, at := range want {
			if !co.Has(k) {
				t.Fatalf("key %q is gone", k)
			}
			if r, from, ok := co.Take(k); !ok || r.Key != k || from.Offset != at || co.Has(k) {
				t.Fatalf("key %q: %+v of %d", k, r, from.Offset)
			}
		}
	})
}
