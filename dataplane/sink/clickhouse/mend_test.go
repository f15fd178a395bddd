package clickhouse

import (
	"fmt"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/sinktest"
	"syncline/dataplane/trail"
	"syncline/dataplane/verify"
)

// broken is a table with rows that no change of the log has made.
type broken struct {
	*testing.T
	s   *Sink
	tab sink.Table
	lay *layout
}

func breakTable(t *testing.T, protocol string, sch *change.Schema, o sink.TableOptions) *broken {
	s := openTest(t, protocol, Options{}, "")
	tab := add(t, s, sch, o)
	if err := s.FinishLoad(t.Context(), sch.Table); err != nil {
		t.Fatal(err)
	}
	l, _ := s.newLayout(sch, o)
	return &broken{t, s, tab, l}
}

// stray writes a row, or a tombstone, past everything.
func (b *broken) stray(pos change.Position, deleted bool, texts ...string) {
	b.Helper()
	out := newBlock(b.lay)
	row := sinktest.Values(texts...)
	key, err := change.MakeKey(b.tab.Schema, row)
	if err == nil && deleted {
		err = out.tombstone(key, row, stamp{pos: pos})
	} else if err == nil {
		err = out.add(row, key, stamp{pos: pos}, nil)
	}
	if err == nil {
		_, err = b.s.insert(b.Context(), b.lay.at, out.rows, out.parts())
	}
	if err != nil {
		b.Fatal(err)
	}
}

func (b *broken) hold(rows ...sink.Row) (keys []change.Key) {
	b.Helper()
	var ks []sink.RepairKey
	for _, r := range rows {
		ks, keys = append(ks, sink.RepairKey{Key: r.Key, State: sink.Suspected}), append(keys, r.Key)
	}
	if err := b.s.PutRepair(b.Context(), "r", b.tab.ID, ks); err != nil {
		b.Fatal(err)
	}
	if err := b.s.Hold(b.Context(), "r", b.tab.ID, keys, time.Hour); err != nil {
		b.Fatal(err)
	}
	return keys
}

func (b *broken) mend(rows ...sink.Row) {
	b.Helper()
	a, err := b.s.Mend(b.Context(), "r", sink.TableBatch{Schema: b.tab.Schema, Options: b.tab.Options, Rows: rows})
	if err != nil || len(a.Dead) > 0 {
		b.Fatalf("%+v %v", a, err)
	}
}

// reads compares what each way of reading shows: live, view, and Read of keys with their versions.
func (b *broken) reads(keys []change.Key, at change.Position, lines ...string) {
	b.Helper()
	want(b.T, rowsOf(b.T, b.s, b.tab.Schema, b.tab.Options), lines...)
	var texts []string
	for i := range b.lay.cols {
		texts = append(texts, "ifNull(toString("+ident(b.lay.cols[i].name)+"), 'NULL')")
	}
	want(b.T, slices.Sorted(slices.Values(strings1(b.T, b.s, "SELECT arrayStringConcat(["+strings.Join(texts, ", ")+"], '|') FROM "+b.lay.at.view().String()))), lines...)
	rows, err := b.s.Read(b.Context(), &verify.Subject{Schema: b.tab.Schema, Options: b.tab.Options}, keys)
	if err != nil {
		b.Fatal(err)
	}
	for _, r := range rows {
		if r.Version != at.Version().String() {
			b.Errorf("a row has version %s, want %s", r.Version, at.Version())
		}
	}
}

// versionsOf are the rows of a key, as they lie there.
func (b *broken) versionsOf(id string) []string {
	b.Helper()
	return strings1(b.T, b.s, fmt.Sprintf("SELECT DISTINCT toString(_version) FROM %s WHERE id = %s", b.lay.at, id))
}

func TestMendWhatVersionsDoNot(t *testing.T) { overBoth(t, mendWhatVersionsDoNot) }

func mendWhatVersionsDoNot(t *testing.T, protocol string) {
	sch := sinktest.Schema("wrong", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("v", sinktest.TextT))
	b := breakTable(t, protocol, sch, sink.TableOptions{})
	at := sinktest.Pos(20)
	above := change.Position{Epoch: 9, Commit: 7}
	top, err := change.PositionOfVersion(new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 128), big.NewInt(1)))
	if err != nil {
		t.Fatal(err)
	}
	b.stray(above, false, "1", "higher")
	b.stray(top, false, "1", "highest")
	b.stray(at, false, "2", "same version")
	b.stray(at, true, "3")
	b.stray(above, true, "4")
	b.stray(at, false, "5", "twice")
	b.stray(at, false, "5", "twice")
	b.stray(at, false, "6", "to be deleted")
	b.stray(above, false, "7", "to be deleted")
	b.stray(at, false, "8", "and above")
	b.stray(top, false, "8", "and on top")
	b.stray(at, false, "9", "right")
	b.stray(above, false, "10", "another's")
	var rows []sink.Row
	var lines []string
	for id := 1; id <= 9; id++ {
		if id == 6 || id == 7 {
			rows = append(rows, sinktest.Del(sch, 20, fmt.Sprint(id)))
			continue
		}
		r := sinktest.Put(sch, 20, fmt.Sprint(id), "right")
		r.Op = change.Insert
		rows, lines = append(rows, r), append(lines, fmt.Sprintf("%d|right", id))
	}
	keys := b.hold(rows...)
	lines = append(lines, "10|another's")
	for range 3 {
		b.mend(rows...)
		b.reads(keys, at, lines...)
		for id := 1; id <= 9; id++ {
			if vs := b.versionsOf(fmt.Sprint(id)); len(vs) != 1 || vs[0] != at.Version().String() {
				t.Errorf("key %d has versions %v", id, vs)
			}
		}
	}
	// What changes it afterwards wins; what is older loses.
	x := claim(t, b.s)
	now, err := b.s.Table(t.Context(), sch.Table)
	if err != nil {
		t.Fatal(err)
	}
	batch := sinktest.Batch(b.tab, 1, sinktest.Put(sch, 21, "1", "newer"), sinktest.Put(sch, 19, "2", "older"), sinktest.Put(sch, 21, "6", "back"), sinktest.Put(sch, 19, "7", "older"))
	batch.Tables[0].Holds = now.Holds
	if _, err := x.Apply(t.Context(), batch); err != nil {
		t.Fatal(err)
	}
	lines[slices.Index(lines, "1|right")] = "1|newer"
	want(t, rowsOf(t, b.s, sch, b.tab.Options), append(lines, "6|back")...)
}

// TestMendInWideKeys has rows of one key at several places of the sorting key.
func TestMendInWideKeys(t *testing.T) {
	sch := sinktest.Schema("wide", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("region", sinktest.TextT), sinktest.Col("n", sinktest.Int4))
	sch.Full = true
	b := breakTable(t, "http", sch, sink.TableOptions{OrderBy: []string{"region"}})
	at := sinktest.Pos(20)
	b.stray(sinktest.Pos(5), false, "1", "eu", "1")
	b.stray(sinktest.Pos(6), false, "1", "us", "2")
	b.stray(at, false, "2", "eu", "1")
	b.stray(at, false, "2", "us", "2")
	b.stray(sinktest.Pos(30), false, "3", "eu", "1")
	b.stray(sinktest.Pos(7), false, "4", sinktest.NULL, "1")
	b.stray(sinktest.Pos(30), true, "5", "eu", "1")
	b.stray(sinktest.Pos(8), false, "6", "eu", "1")
	var rows []sink.Row
	for _, texts := range [][]string{{"1", "asia", "9"}, {"2", "us", "9"}, {"3", sinktest.NULL, "9"}, {"5", "eu", "9"}} {
		r := sinktest.Put(sch, 20, texts...)
		r.Op = change.Insert
		rows = append(rows, r)
	}
	rows = append(rows, sinktest.Del(sch, 20, "4")) // it carries no old row
	keys := b.hold(rows...)
	for range 2 {
		b.mend(rows...)
		b.reads(keys, at, "1|asia|9", "2|us|9", "3|NULL|9", "5|eu|9", "6|eu|1")
		// FINAL alone shows the same.
		want(t, slices.Sorted(slices.Values(strings1(t, b.s, "SELECT concat(toString(id), ifNull(region, 'NULL')) FROM "+b.lay.at.String()+" FINAL WHERE _deleted = 0"))), "1asia", "2us", "3NULL", "5eu", "6eu")
	}
	b.stray(sinktest.Pos(9), false, "4", "eu", "3") // from before, and late
	b.reads(keys, at, "1|asia|9", "2|us|9", "3|NULL|9", "5|eu|9", "6|eu|1")
}

// TestMendWithoutTimes: in somebody else's table the last one inserted counts.
func TestMendWithoutTimes(t *testing.T) {
	sch := sinktest.Schema("untimed", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("v", sinktest.TextT))
	b := breakTable(t, "http", sch, sink.TableOptions{})
	if _, err := b.s.conn.exec(t.Context(), "alter", "ALTER TABLE "+b.lay.at.String()+" DROP COLUMN "+colSynced); err != nil {
		t.Fatal(err)
	}
	at := sinktest.Pos(20)
	b.stray(at, false, "1", "wrong")
	b.stray(at, true, "2")
	b.stray(at, false, "3", "extra")
	b.stray(change.Position{Epoch: 9}, false, "3", "and above")
	one, two := sinktest.Put(sch, 20, "1", "right"), sinktest.Put(sch, 20, "2", "right")
	one.Op, two.Op = change.Insert, change.Insert
	rows := []sink.Row{one, two, sinktest.Del(sch, 20, "3")}
	keys := b.hold(rows...)
	for range 2 {
		b.mend(rows...)
		b.reads(keys, at, "1|right", "2|right")
	}
	if _, err := b.s.conn.exec(t.Context(), "merge", "OPTIMIZE TABLE "+b.lay.at.String()+" FINAL"); err != nil {
		t.Fatal(err)
	}
	b.reads(keys, at, "1|right", "2|right")
}

// TestMendBelowTheFloor: what nobody would see is refused.
func TestMendBelowTheFloor(t *testing.T) {
	sch := sinktest.Schema("floor", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("v", sinktest.TextT))
	b := breakTable(t, "http", sch, sink.TableOptions{})
	x := claim(t, b.s)
	if done, err := x.Truncate(t.Context(), sink.Watermark{Partition: sink.Partition{Table: sch.Table}, Pos: sinktest.Pos(10), Offset: 1}, 2); err != nil || !done {
		t.Fatal(done, err)
	}
	old, now := sinktest.Put(sch, 9, "1", "old"), sinktest.Put(sch, 10, "1", "now")
	keys := b.hold(old)
	_, err := b.s.Mend(t.Context(), "r", sink.TableBatch{Schema: sch, Options: b.tab.Options, Rows: []sink.Row{old}})
	if !fault.Is(err, CodeTruncated) || fault.Retryable(err) {
		t.Fatalf("below the floor: %v", err)
	}
	b.mend(now)
	b.reads(keys, sinktest.Pos(10), "1|now")
}

// TestMendOddKeys: keys that their columns do not tell apart.
func TestMendOddKeys(t *testing.T) {
	sch := sinktest.Schema("periods", 3, sinktest.Col("id", sinktest.Citext), sinktest.Col("until", timestamptz),
		sinktest.Col("n", sinktest.Builtin("numeric", "numeric", 1700, -1)), sinktest.Col("v", sinktest.TextT))
	b := breakTable(t, "http", sch, sink.TableOptions{})
	above := change.Position{Epoch: 9}
	b.stray(above, false, "a", "infinity", "1", "wrong")
	b.stray(above, false, "a", "9999-12-31 00:00:00+00", "1", "another's")
	b.stray(sinktest.Pos(20), false, "B?", "2024-01-01 00:00:00+00", "1.50", "wrong")
	b.stray(above, false, "it's", "-infinity", "NaN", "extra")
	rows := []sink.Row{sinktest.Put(sch, 20, "A", "infinity", "1.0", "right"), sinktest.Put(sch, 20, "b?", "2024-01-01 00:00:00+00", "1.5", "right"), sinktest.Del(sch, 20, "it's", "-infinity", "NaN")}
	b.hold(rows...)
	b.mend(rows...)
	want(t, rowsOf(t, b.s, sch, b.tab.Options), "A|infinity|1.0|right", "a|9999-12-31 00:00:00+00|1|another's", "b?|2024-01-01 00:00:00+00|1.5|right")
}

// TestReadersNeverMissTheRow reads while a row is mended that lies under others, and while
// parts are merged.
func TestReadersNeverMissTheRow(t *testing.T) {
	sch := sinktest.Schema("watched", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("v", sinktest.TextT))
	b := breakTable(t, "http", sch, sink.TableOptions{})
	r := sinktest.Put(sch, 1, "1", "right")
	b.hold(r)
	b.stray(r.Pos, false, "1", "wrong")
	done, watched := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-done:
				watched <- nil
				return
			default:
			}
			rows := 0
			err := b.s.conn.query(t.Context(), "SELECT", "SELECT 1 FROM "+b.lay.at.view().String(), func(func(...any) error) error { rows++; return nil })
			if err == nil && rows != 1 {
				err = fmt.Errorf("readers find %d rows", rows)
			}
			if err != nil {
				watched <- err
				return
			}
		}
	}()
	for n := 2; n <= 8; n++ {
		r := sinktest.Put(sch, n, "1", "right")
		b.stray(r.Pos, false, "1", "same")
		if n%2 == 0 {
			b.stray(change.Position{Epoch: 9, Commit: change.LSN(n)}, false, "1", "higher")
		}
		merged := make(chan error, 1)
		go func() { // at some moment of it
			time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond)
			_, err := b.s.conn.exec(t.Context(), "merge", "OPTIMIZE TABLE "+b.lay.at.String())
			merged <- err
		}()
		b.mend(r)
		if err := <-merged; err != nil {
			t.Fatal(err)
		}
		want(t, rowsOf(t, b.s, sch, b.tab.Options), "1|right")
	}
	close(done)
	if err := <-watched; err != nil {
		t.Fatal(err)
	}
}

// TestTrailShowsWhatIsStored: what is edited, forked or cut out is seen.
func TestTrailShowsWhatIsStored(t *testing.T) {
	s := openTest(t, "http", Options{}, "")
	ctx := t.Context()
	add := func(id string) {
		t.Helper()
		if err := s.AppendTrail(ctx, []trail.Entry{{ID: id, At: time.Now(), Action: "planned"}}); err != nil {
			t.Fatal(err)
		}
	}
	check := func() error {
		c := trail.Checker{}
		return s.Trail(ctx, func(e trail.Entry) error { return c.Next(&e) })
	}
	add("1")
	add("2")
	add("3")
	if err := check(); err != nil {
		t.Fatal(err)
	}
	at := s.ledger("audit_trail")
	copyOf := func(n int, actor string) string {
		return fmt.Sprintf("INSERT INTO %[1]s (pipeline, n, id, us, repair, actor, action, tab, detail, prev, hash) SELECT pipeline, n, id, us, repair, %[2]s, action, tab, detail, prev, hash FROM %[1]s WHERE n = %[3]d", at, actor, n)
	}
	for _, c := range []struct{ what, edit string }{
		{"a second entry of one number", copyOf(3, "actor")},
		{"another second entry", copyOf(2, "'bob'")},
		{"an edit", fmt.Sprintf("ALTER TABLE %s UPDATE actor = 'bob' WHERE n = 2", at)},
		{"a gap", fmt.Sprintf("ALTER TABLE %s DELETE WHERE n = 2", at)},
	} {
		if _, err := s.conn.exec(ctx, "edit", c.edit); err != nil {
			t.Fatal(err)
		}
		if _, err := s.conn.exec(ctx, "merge", "OPTIMIZE TABLE "+at.String()+" FINAL"); err != nil {
			t.Fatal(err)
		}
		err := check()
		if b, ok := err.(*trail.Broken); !ok {
			t.Errorf("%s is not seen: %v (%v)", c.what, err, b)
		}
	}
}
