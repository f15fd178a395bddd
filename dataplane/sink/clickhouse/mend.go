package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// mendTries is how often rows are looked at again, and written again, before it is left
// to a later attempt.
const mendTries = 5

// Mend writes rows in place of whatever the table has of their keys. Whatever lies below
// a row's version loses against it. Of what does not, and of what lies elsewhere in a
// sorting key with more than the primary key in it, exactly the rows that were seen are
// removed, and only after there is another for readers to find:
//
//   - A row under higher versions is written first, and those are removed then.
//   - Where another row has the very same version, FINAL would take whichever was written
//     last, or merged last, and the view any of them. So the row is first written one
//     above all that are there, the others are removed, it is written at its own version,
//     and the first one is removed. An attempt that is killed in between leaves a row
//     of too high a version, as it found one or worse, and the next attempt mends it.
//
// A merge at the wrong moment can take the row away with a higher version that is then
// removed. The last look, the same that verification takes, finds that and it is written
// again; for that moment readers miss it.
//
// Each removal is preceded by a look at the rows and then one at the hold. A lane that
// releases the keys of a lapsed lease records that before it writes rows: so these are
// either not among those seen, or the hold is found to be gone.
func (s *Sink) Mend(ctx context.Context, repair string, b sink.TableBatch) (sink.Applied, error) {
	var a sink.Applied
	if len(b.Rows) == 0 {
		return a, nil
	}
	id := b.Schema.Table
	r, err := s.record(ctx, id)
	if err != nil {
		return a, err
	}
	l, err := s.fitting(ctx, b.Schema, b.Options)
	if err != nil {
		return a, err
	}
	if l.appends {
		return a, fault.Permanent(sink.CodeTableMismatch, nil, "resync the table", "table %s is append-only: it has no keys whose rows could be mended", id)
	}
	floor, err := s.floor(ctx, id.String())
	if err != nil {
		return a, err
	}
	m := &mending{Sink: s, repair: repair, lay: l, options: b.Options, rows: slices.Clone(b.Rows), wrote: make([]bool, len(b.Rows))}
	var todo []int
	scratch := newBlock(l)
	for i := range m.rows {
		w := &m.rows[i]
		w.Pos = raise(w.Pos, max(b.Epoch, r.def.Epoch))
		if w.Pos.Before(floor) {
			return a, fault.Permanent(CodeTruncated, nil, "repair it anew", "a row of table %s is older than its last TRUNCATE or load", id)
		}
		var why *rejection
		switch err := m.add(scratch, i, w.Pos); {
		case errors.As(err, &why):
			a.Dead = append(a.Dead, sink.DeadLetter{Partition: sink.Partition{Table: id}, Key: w.Key, Pos: w.Pos, Code: sink.CodeRowRejected, Reason: why.Error()})
		case err != nil:
			return a, err
		case w.Op == change.Delete:
			a.Deleted++
			todo = append(todo, i)
		default:
			a.Written++
			todo = append(todo, i)
		}
		scratch.reset()
	}
	all := make([]int, len(m.rows))
	for i := range all {
		all[i] = i
	}
	if err := m.held(ctx, all); err != nil {
		return sink.Applied{}, err
	}
	for some := range slices.Chunk(todo, lookupKeys) {
		if err := m.mend(ctx, some); err != nil {
			return sink.Applied{}, err
		}
	}
	a.Bytes = m.sent
	return a, nil
}

// mending is one call of Mend.
type mending struct {
	*Sink
	repair  string
	lay     *layout
	options sink.TableOptions
	rows    []sink.Row
	wrote   []bool // at its own version, with none of another writer beside it
	sent    int64
}

// found is what the table has of a key, in any number of versions.
type found struct {
	higher, lower []*big.Int
	same, graves  uint64 // rows of the very version, and how many of them are tombstones
}

func (f *found) top(v *big.Int) *big.Int {
	for _, h := range f.higher {
		if h.Cmp(v) > 0 {
			v = h
		}
	}
	return v
}

// mend writes rows until the table has them.
func (m *mending) mend(ctx context.Context, rows []int) error {
	for range mendTries {
		fs, err := m.find(ctx, rows)
		if err != nil {
			return err
		}
		right, err := m.right(ctx, rows, fs)
		if err != nil {
			return err
		}
		if rows = slices.DeleteFunc(slices.Clone(rows), func(i int) bool { return right[i] }); len(rows) == 0 {
			return nil
		}
		if err := m.write(ctx, rows, fs); err != nil {
			return err
		}
	}
	return fault.Transient(CodeBusy, nil, "rows of table %s are not as they were written: others write or merge them at the same time", m.lay.schema.Table)
}

// write is one round.
func (m *mending) write(ctx context.Context, rows []int, fs map[int]*found) error {
	at := map[int]change.Position{} // where a row is written first
	var again []int                 // rows to be written at their version after that
	out, bridges := map[int][]*big.Int{}, map[int][]*big.Int{}
	for _, i := range rows {
		f, own := fs[i], m.rows[i].Pos
		if len(f.higher) > 0 {
			out[i] = append(out[i], f.higher...)
		}
		if m.lay.wide() {
			out[i] = append(out[i], f.lower...) // FINAL would show them
		}
		if f.same == 0 {
			at[i] = own
			m.wrote[i] = true
			continue
		}
		if m.wrote[i] {
			continue // only what is beside it has to go
		}
		v := new(big.Int).Add(f.top(own.Version()), big.NewInt(1))
		above, err := change.PositionOfVersion(v)
		if err != nil {
			continue // there is no version above: first remove what has the highest
		}
		at[i], bridges[i] = above, []*big.Int{v}
		out[i] = append(out[i], own.Version())
		again = append(again, i)
	}
	if err := m.held(ctx, rows); err != nil {
		return err
	}
	if err := m.insertAt(ctx, at); err != nil {
		return err
	}
	err := m.held(ctx, rows)
	if err == nil {
		err = m.erase(ctx, out)
	} else if fault.Is(err, sink.CodeNotHeld) {
		return errors.Join(err, m.erase(ctx, bridges)) // no change of a lane is to lose against it
	}
	if err != nil || len(again) == 0 {
		return err
	}
	clear(at)
	for _, i := range again {
		at[i] = m.rows[i].Pos
		m.wrote[i] = true
	}
	if err := m.insertAt(ctx, at); err != nil {
		return err
	}
	return m.erase(ctx, bridges)
}

// right tells which of the rows the table has as they should be, and nothing beside them.
// A row that another attempt has written is compared, one of this attempt is known.
func (m *mending) right(ctx context.Context, rows []int, fs map[int]*found) (map[int]bool, error) {
	out := map[int]bool{}
	at := map[change.Key]int{}
	var ask []change.Key
	for _, i := range rows {
		f, w := fs[i], &m.rows[i]
		switch {
		case f.same == 0 || len(f.higher) > 0 || m.lay.wide() && len(f.lower) > 0 || f.same > 1 && !m.wrote[i]:
		case w.Op == change.Delete:
			out[i] = f.graves == f.same
		case f.graves == 0:
			ask = append(ask, w.Key)
			at[w.Key] = i
		}
	}
	live, err := m.Read(ctx, &verify.Subject{Schema: m.lay.schema, Options: m.options}, ask)
	if err != nil {
		return nil, err
	}
	for _, r := range live {
		i, ok := at[r.Key]
		if !ok || r.Version != m.rows[i].Pos.Version().String() {
			continue
		}
		out[i] = m.wrote[i] || slices.EqualFunc(r.Values, m.rows[i].New, change.Value.Equal)
	}
	return out, nil
}

// held looks whether the repair still holds the keys.
func (m *mending) held(ctx context.Context, rows []int) error {
	for some := range slices.Chunk(rows, lookupKeys) {
		want := map[change.Key]bool{}
		keys := make([]change.Key, len(some))
		for n, i := range some {
			keys[n] = m.rows[i].Key
			want[keys[n]] = true
		}
		hs, err := m.holdings(ctx, m.lay.schema.Table, "repair = "+lit(m.repair)+" AND "+keyIn(keys), stateIn(sink.Quarantined, sink.Replayed, sink.Verified))
		if err != nil {
			return err
		}
		for _, h := range hs {
			if !h.Lapsed {
				delete(want, h.Key)
			}
		}
		if len(want) > 0 {
			return notHeld(m.repair, m.lay.schema.Table)
		}
	}
	return nil
}

// find looks at every version that the table has of the rows' keys.
func (m *mending) find(ctx context.Context, rows []int) (map[int]*found, error) {
	l := m.lay
	out := map[int]*found{}
	for _, i := range rows {
		out[i] = &found{}
	}
	keys, err := keyTexts(l, m.rows, rows)
	if err != nil {
		return nil, err
	}
	q := fmt.Sprintf(`%s SELECT keys.n, toString(t.%s), count(), countIf(t.%s = 1) FROM %s AS t INNER JOIN keys ON tuple(%s) = keys.k
		WHERE tuple(%s) IN (SELECT k FROM keys) GROUP BY keys.n, t.%s`, l.withKeys(rows, keys), colVersion, colDeleted, l.at, l.pkTuple(), l.pkTuple(), colVersion)
	err = m.conn.query(ctx, "SELECT versions from "+l.at.String(), q, func(scan func(...any) error) error {
		var i uint32
		var text string
		var n, graves uint64
		if err := scan(&i, &text, &n, &graves); err != nil {
			return err
		}
		v, ok := new(big.Int).SetString(text, 10)
		if !ok {
			return fmt.Errorf("version of a row: not a number")
		}
		f := out[int(i)]
		switch v.Cmp(m.rows[i].Pos.Version()) {
		case -1:
			f.lower = append(f.lower, v)
		case 0:
			f.same, f.graves = n, graves
		default:
			f.higher = append(f.higher, v)
		}
		return nil
	})
	return out, err
}

// add appends a row, or its tombstone. Where the sorting key has more than the primary
// key, the tombstone may lie anywhere: the view finds it by the primary key.
func (m *mending) add(b *block, i int, pos change.Position) error {
	w := &m.rows[i]
	st := stamp{pos: pos, commit: w.Commit, adrift: true}
	if w.Op == change.Delete {
		return b.tombstone(w.Key, w.Old, st)
	}
	return b.add(w.New, w.Key, st, nil)
}

// insertAt writes rows at versions.
func (m *mending) insertAt(ctx context.Context, at map[int]change.Position) error {
	b := newBlock(m.lay)
	flush := func() error {
		if b.rows == 0 {
			return nil
		}
		n, err := m.insert(ctx, m.lay.at, b.rows, b.parts())
		m.sent += n
		b.reset()
		return err
	}
	for i, pos := range at {
		if err := m.add(b, i, pos); err != nil {
			return err
		}
		if b.rows >= m.opts.BlockRows || b.size() >= m.opts.BlockBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	return flush()
}

// erase removes versions of rows with a lightweight DELETE, which marks them instead of
// writing the table's parts anew.
func (m *mending) erase(ctx context.Context, versions map[int][]*big.Int) error {
	l := m.lay
	var ask []int
	for i, vs := range versions {
		if len(vs) > 0 {
			ask = append(ask, i)
		}
	}
	if len(ask) == 0 {
		return nil
	}
	keys, err := keyTexts(l, m.rows, ask)
	if err != nil {
		return err
	}
	which := make([]string, len(ask))
	for n, i := range ask {
		var and, vs []string
		for k, name := range l.pk {
			and = append(and, ident(name)+" = "+l.castKey(name, lit(keys[n][k])))
		}
		for _, v := range versions[i] {
			vs = append(vs, "toUInt128('"+v.String()+"')")
		}
		which[n] = "(" + strings.Join(and, " AND ") + " AND " + colVersion + " IN (" + strings.Join(vs, ", ") + "))"
	}
	_, err = m.conn.exec(ctx, "DELETE from "+l.at.String(), "DELETE FROM "+l.at.String()+" WHERE "+strings.Join(which, " OR "))
	return err
}
