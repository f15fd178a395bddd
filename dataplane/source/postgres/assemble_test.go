package postgres

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/source/postgres/pgoutput"
)

// fakeCatalog resolves relations by what the message says: text columns, key as flagged.
type fakeCatalog struct{ filled int }

func (f *fakeCatalog) resolve(_ context.Context, m *pgoutput.Relation, _ uint32) (*change.Schema, error) {
	s := &change.Schema{Table: change.TableID{Schema: m.Schema, Name: m.Name}, Full: m.Identity == 'f'}
	for i, c := range m.Columns {
		s.Columns = append(s.Columns, change.Column{Name: c.Name, Type: change.Type{Name: "text", Base: "text", Kind: change.Base}})
		if c.Key {
			s.Key = append(s.Key, i)
		}
	}
	return s, nil
}

func (f *fakeCatalog) fill(_ context.Context, _ *change.Schema, row change.Row, _ uint32) error {
	f.filled++
	for i := range row {
		if row[i].Kind == change.Unchanged {
			row[i] = change.TextValue("filled")
		}
	}
	return nil
}

func testRelation(id uint32, identity byte) *pgoutput.Relation {
	return &pgoutput.Relation{ID: id, Schema: "public", Name: fmt.Sprintf("t%d", id), Identity: identity,
		Columns: []pgoutput.Column{{Key: true, Name: "id", Type: 25, Mod: -1}, {Key: identity == 'f', Name: "v", Type: 25, Mod: -1}}}
}

func row2(k, v string) change.Row { return change.Row{change.TextValue(k), change.TextValue(v)} }

// feeder plays messages to an assembler and collects what comes out.
type feeder struct {
	t      interface{ Fatal(...any) }
	a      *assembler
	block  bool
	events []string
	queue  int // longest
}

func (f *feeder) send(m pgoutput.Message) {
	raw := pgoutput.Append(nil, f.block, &m)
	f.block = (f.block || m.Kind == pgoutput.StreamStart) && m.Kind != pgoutput.StreamStop
	if err := f.a.receive(context.Background(), raw); err != nil {
		f.t.Fatal(err)
	}
	clear(raw) // the connection's buffer is used again
	for {
		f.pop()
		if f.a.replaying == nil {
			return
		}
		if err := f.a.replay(context.Background()); err != nil {
			f.t.Fatal(err)
		}
	}
}

func (f *feeder) pop() {
	f.queue = max(f.queue, len(f.a.queue)-f.a.head)
	for {
		ev, ok := f.a.pop()
		if !ok {
			return
		}
		f.events = append(f.events, eventText(ev))
	}
}

func eventText(ev capture.Event) string {
	s := ""
	if ev.Schema != nil {
		s += "schema " + ev.Schema.Table.String()
	}
	if ev.Change != nil {
		s += fmt.Sprintf("%s x%d %s %s", ev.Change.Pos, ev.Change.XID, ev.Change.Table, text(*ev.Change))
	}
	if ev.Through != 0 {
		s += " through " + ev.Through.String()
	}
	return s
}

// model is a transaction as the test made it, and what of it survives.
type model struct {
	xid     uint32
	blocks  [][]pgoutput.Message
	aborted []uint32 // subtransactions, in the order of their rollback
	abortAt map[uint32]int
	alive   []pgoutput.Message
}

func drawTransaction(t *rapid.T, xid uint32) *model {
	m := &model{xid: xid, abortAt: map[uint32]int{}}
	type change2 struct {
		sub uint32
		msg pgoutput.Message
	}
	var all []change2
	dead := map[uint32]bool{}
	subs := []uint32{xid}
	for b := range rapid.IntRange(1, 5).Draw(t, "blocks") {
		var block []pgoutput.Message
		for range rapid.IntRange(1, 6).Draw(t, "changes") {
			sub := rapid.SampledFrom(subs).Draw(t, "sub")
			if rapid.Bool().Draw(t, "new sub") {
				sub = xid + uint32(len(subs))
				subs = append(subs, sub)
			}
			if dead[sub] {
				sub = xid
			}
			n := fmt.Sprint(len(all))
			msg := pgoutput.Message{Kind: pgoutput.Insert, XID: sub, RelID: 1, New: row2(n, rapid.StringN(0, 40, 200).Draw(t, "v"))}
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0:
				msg = pgoutput.Message{Kind: pgoutput.Delete, XID: sub, RelID: 1, OldKind: pgoutput.OldKey, Old: change.Row{change.TextValue(n), {}}}
			case 1:
				msg = pgoutput.Message{Kind: pgoutput.Update, XID: sub, RelID: 1, OldKind: pgoutput.OldKey, Old: change.Row{change.TextValue("old" + n), {}}, New: row2(n, "moved")}
			}
			all = append(all, change2{sub, msg})
			block = append(block, msg)
		}
		m.blocks = append(m.blocks, block)
		if len(subs) > 1 && rapid.Bool().Draw(t, "abort") {
			sub := rapid.SampledFrom(subs[1:]).Draw(t, "aborted")
			if !dead[sub] {
				dead[sub] = true
				m.aborted = append(m.aborted, sub)
				m.abortAt[sub] = b
			}
		}
	}
	for _, c := range all {
		if !dead[c.sub] {
			m.alive = append(m.alive, c.msg)
		}
	}
	return m
}

// However transactions are cut into blocks, interleaved, partly rolled back and
// spilled, what comes out is what sending each of them whole, at its commit, and
// without what was rolled back, gives.
func TestStreamedIsTheSameAsWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		dir, err := os.MkdirTemp("", "spill")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = os.RemoveAll(dir) }()
		limit := rapid.SampledFrom([]int64{0, 50, 500, 1 << 20}).Draw(t, "limit")
		sp, err := newSpools(dir, "slot", limit)
		if err != nil {
			t.Fatal(err)
		}
		got := &feeder{t: t, a: newAssembler(3, &fakeCatalog{}, sp)}
		plainSpools, err := newSpools(dir, "plain", 0)
		if err != nil {
			t.Fatal(err)
		}
		want := &feeder{t: t, a: newAssembler(3, &fakeCatalog{}, plainSpools)}

		var open []*model
		for i := range rapid.IntRange(1, 3).Draw(t, "transactions") {
			open = append(open, drawTransaction(t, uint32(1000*(i+1))))
		}
		next := map[uint32]int{}
		lsn := change.LSN(1000)
		at := time.Unix(1_700_000_000, 0).UTC()
		whole := func(xid uint32, msgs []pgoutput.Message) {
			want.send(pgoutput.Message{Kind: pgoutput.Begin, XID: xid, Commit: lsn, Time: at})
			want.send(pgoutput.Message{Kind: pgoutput.RelationKind, Relation: testRelation(1, 'd')})
			for _, m := range msgs {
				want.send(m)
			}
			want.send(pgoutput.Message{Kind: pgoutput.Commit, Commit: lsn, End: lsn + 5, Time: at})
		}
		for len(open) > 0 {
			i := rapid.IntRange(0, len(open)-1).Draw(t, "which")
			m := open[i]
			if b := next[m.xid]; b < len(m.blocks) {
				next[m.xid]++
				got.send(pgoutput.Message{Kind: pgoutput.StreamStart, XID: m.xid, First: b == 0})
				if b == 0 {
					got.send(pgoutput.Message{Kind: pgoutput.RelationKind, XID: m.blocks[0][0].XID, Relation: testRelation(1, 'd')})
				}
				for _, msg := range m.blocks[b] {
					got.send(msg)
				}
				got.send(pgoutput.Message{Kind: pgoutput.StreamStop})
				for _, sub := range m.aborted {
					if m.abortAt[sub] == b {
						got.send(pgoutput.Message{Kind: pgoutput.StreamAbort, XID: m.xid, SubXID: sub})
					}
				}
				if rapid.Bool().Draw(t, "plain between") {
					lsn += 100
					between := []pgoutput.Message{{Kind: pgoutput.Insert, RelID: 1, New: row2("plain", "x")}}
					whole(7, between)
					got.send(pgoutput.Message{Kind: pgoutput.Begin, XID: 7, Commit: lsn, Time: at})
					got.send(pgoutput.Message{Kind: pgoutput.RelationKind, Relation: testRelation(1, 'd')})
					got.send(between[0])
					got.send(pgoutput.Message{Kind: pgoutput.Commit, Commit: lsn, End: lsn + 5, Time: at})
				}
				continue
			}
			open = slices.Delete(open, i, i+1)
			lsn += 100
			if rapid.IntRange(0, 3).Draw(t, "outcome") == 0 {
				got.send(pgoutput.Message{Kind: pgoutput.StreamAbort, XID: m.xid, SubXID: m.xid})
				continue
			}
			got.send(pgoutput.Message{Kind: pgoutput.StreamCommit, XID: m.xid, Commit: lsn, End: lsn + 5, Time: at})
			whole(m.xid, m.alive)
		}
		if g, w := fmt.Sprint(dropSchemas(got.events)), fmt.Sprint(dropSchemas(want.events)); g != w {
			t.Fatalf("streamed:\n%s\nwhole:\n%s", g, w)
		}
		if got.queue > 4 {
			t.Fatalf("%d events waited", got.queue)
		}
		if !got.a.idle() || sp.used != 0 || len(sp.open) != 0 {
			t.Fatal("something is left")
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
			t.Fatalf("files left: %v %v", left, err)
		}
	})
}

// Where the schema is announced depends on whether a rolled back part used it first.
func dropSchemas(events []string) []string {
	return slices.DeleteFunc(slices.Clone(events), func(e string) bool { return len(e) > 6 && e[:6] == "schema" })
}

func newFeeder(t *testing.T) *feeder {
	t.Helper()
	sp, err := newSpools(t.TempDir(), "slot", 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	return &feeder{t: t, a: newAssembler(1, &fakeCatalog{}, sp)}
}

func TestLastChangeIsKnown(t *testing.T) {
	f := newFeeder(t)
	f.send(pgoutput.Message{Kind: pgoutput.Begin, XID: 5, Commit: 100})
	f.send(pgoutput.Message{Kind: pgoutput.RelationKind, Relation: testRelation(1, 'd')})
	f.send(pgoutput.Message{Kind: pgoutput.Insert, RelID: 1, New: row2("1", "a")})
	if len(f.events) != 1 {
		t.Errorf("the change was returned before its transaction went on: %q", f.events)
	}
	f.send(pgoutput.Message{Kind: pgoutput.Insert, RelID: 1, New: row2("2", "b")})
	f.send(pgoutput.Message{Kind: pgoutput.Commit, Commit: 100, End: 110})
	f.send(pgoutput.Message{Kind: pgoutput.Begin, XID: 6, Commit: 200})
	f.send(pgoutput.Message{Kind: pgoutput.Commit, Commit: 200, End: 210})
	want := []string{"schema public.t1", `1:0/64:1 x5 public.t1 c("1") 1,a`, `1:0/64:2 x5 public.t1 c("2") 2,b. through 0/6E`, " through 0/D2"}
	if !slices.Equal(f.events, want) {
		t.Errorf("%q", f.events)
	}
}

func TestKeyChangeReadsUnchangedValues(t *testing.T) {
	f := newFeeder(t)
	f.send(pgoutput.Message{Kind: pgoutput.Begin, XID: 5, Commit: 100})
	f.send(pgoutput.Message{Kind: pgoutput.RelationKind, Relation: testRelation(1, 'd')})
	same := change.Row{change.TextValue("1"), {Kind: change.Unchanged}}
	f.send(pgoutput.Message{Kind: pgoutput.Update, RelID: 1, New: same})
	// A TOASTed key that did not change is in the old key only.
	f.send(pgoutput.Message{Kind: pgoutput.Update, RelID: 1, OldKind: pgoutput.OldKey, Old: change.Row{change.TextValue("1"), {}},
		New: change.Row{{Kind: change.Unchanged}, change.TextValue("z")}})
	f.send(pgoutput.Message{Kind: pgoutput.Update, RelID: 1, OldKind: pgoutput.OldKey, Old: change.Row{change.TextValue("1"), {}},
		New: change.Row{change.TextValue("2"), {Kind: change.Unchanged}}})
	f.send(pgoutput.Message{Kind: pgoutput.Commit, Commit: 100, End: 110})
	want := []string{"schema public.t1", `1:0/64:1 x5 public.t1 u("1") 1,=`, `1:0/64:2 x5 public.t1 u("1") 1,z`,
		`1:0/64:3 x5 public.t1 d("1") was 1,∅ other 2`, `1:0/64:4 x5 public.t1 c("2") 2,filled other 1. through 0/6E`}
	if !slices.Equal(f.events, want) {
		t.Errorf("%q", f.events)
	}
}

func TestProtocolErrorsAreNamed(t *testing.T) {
	insert := pgoutput.Message{Kind: pgoutput.Insert, RelID: 1, New: row2("1", "a")}
	begin := pgoutput.Message{Kind: pgoutput.Begin, XID: 5, Commit: 100}
	rel := pgoutput.Message{Kind: pgoutput.RelationKind, Relation: testRelation(1, 'd')}
	for name, ms := range map[string][]pgoutput.Message{
		"change outside":     {rel, insert},
		"unknown relation":   {begin, insert},
		"begin twice":        {begin, begin},
		"foreign commit":     {begin, {Kind: pgoutput.Commit, Commit: 99, End: 110}},
		"commit of nothing":  {{Kind: pgoutput.Commit, Commit: 99, End: 110}},
		"stream in tx":       {begin, {Kind: pgoutput.StreamStart, XID: 1}},
		"width":              {begin, rel, {Kind: pgoutput.Insert, RelID: 1, New: row2("1", "a")[:1]}},
		"key without value":  {begin, rel, {Kind: pgoutput.Insert, RelID: 1, New: change.Row{{}, change.TextValue("a")}}},
		"truncate outside":   {rel, {Kind: pgoutput.Truncate, RelIDs: []uint32{1}}},
		"truncate of what":   {begin, {Kind: pgoutput.Truncate, RelIDs: []uint32{1}}},
		"stream commit in a": {begin, {Kind: pgoutput.StreamCommit, XID: 9}},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFeeder(t)
			var err error
			for _, m := range ms {
				if err = f.a.receive(context.Background(), pgoutput.Append(nil, false, &m)); err != nil {
					break
				}
			}
			wantFault(t, err, CodeProtocol, true)
		})
	}
	f := newFeeder(t)
	for _, raw := range [][]byte{{}, {'?'}, {'I'}, {'B', 1}} {
		if err := f.a.receive(context.Background(), raw); !fault.Is(err, CodeProtocol) {
			t.Errorf("%x: %v", raw, err)
		}
	}
}

// Whatever a server sends, the assembler answers with events or an error.
func FuzzAssembler(f *testing.F) {
	var seed []byte
	for _, m := range []pgoutput.Message{
		{Kind: pgoutput.Begin, XID: 5, Commit: 100}, {Kind: pgoutput.RelationKind, Relation: testRelation(1, 'f')},
		{Kind: pgoutput.Update, RelID: 1, OldKind: pgoutput.OldFull, Old: row2("1", "a"), New: row2("2", "a")}, {Kind: pgoutput.Commit, Commit: 100, End: 110},
		{Kind: pgoutput.StreamStart, XID: 1}, {Kind: pgoutput.StreamStop}, {Kind: pgoutput.StreamCommit, XID: 1},
	} {
		raw := pgoutput.Append(nil, false, &m)
		seed = append(append(seed, byte(len(raw))), raw...)
	}
	f.Add(seed)
	f.Fuzz(func(t *testing.T, in []byte) {
		sp, err := newSpools(t.TempDir(), "slot", 100)
		if err != nil {
			t.Fatal(err)
		}
		a := newAssembler(1, &fakeCatalog{}, sp)
		for len(in) > 0 {
			n := min(int(in[0]), len(in)-1)
			err := a.receive(context.Background(), in[1:1+n])
			in = in[1+n:]
			for err == nil {
				for {
					if _, ok := a.pop(); !ok {
						break
					}
				}
				if a.replaying == nil {
					break
				}
				err = a.replay(context.Background())
			}
			if err != nil {
				return
			}
		}
	})
}

func BenchmarkAssemble(b *testing.B) {
	sp, err := newSpools(b.TempDir(), "slot", 1<<20)
	if err != nil {
		b.Fatal(err)
	}
	a := newAssembler(1, &fakeCatalog{}, sp)
	enc := func(m pgoutput.Message) []byte { return pgoutput.Append(nil, false, &m) }
	begin := enc(pgoutput.Message{Kind: pgoutput.Begin, XID: 5, Commit: 100})
	commit := enc(pgoutput.Message{Kind: pgoutput.Commit, Commit: 100, End: 110})
	ins := enc(pgoutput.Message{Kind: pgoutput.Update, RelID: 1, New: row2("123456", "some text of a usual length")})
	ctx := context.Background()
	feed := func(raw []byte) {
		if err := a.receive(ctx, raw); err != nil {
			b.Fatal(err)
		}
		for {
			if _, ok := a.pop(); !ok {
				return
			}
		}
	}
	feed(begin)
	feed(enc(pgoutput.Message{Kind: pgoutput.RelationKind, Relation: testRelation(1, 'd')}))
	feed(commit)
	b.ReportAllocs()
	b.ResetTimer()
	for i := 0; b.Loop(); i++ {
		if i%10 == 0 {
			feed(begin)
		}
		feed(ins)
		if i%10 == 9 {
			feed(commit)
		}
	}
}
