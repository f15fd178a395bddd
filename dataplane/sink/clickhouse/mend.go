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

// repairKeys is how many keys of a repair a statement names at most. Where it says more
// of each than the key, it names fewer: a condition for each of eraseKeys.
const (
	repairKeys = 5000
	eraseKeys  = 500
)

// Mend writes rows in place of whatever the table has of their keys. Whatever lies below
// a row's version loses against it. The rest is removed: higher versions, other rows of
// the very same version, and what lies elsewhere in a sorting key with more than the
// primary key in it. Exactly the rows that were seen are, and only where there is another
// for readers to find.
//
//   - Of rows of one version FINAL and merges take the one that was inserted last, so the
//     mended row counts at once. Those before it are told from it by the server's time.
//   - A merge may take the mended row away with one of a higher version, just before that
//     is removed. So rows are removed from those parts alone in which they were seen while
//     the mended row was seen too. Such a merge makes another part, which keeps its row.
//
// A last look, the same that verification takes, finds what went wrong all the same, and
// the row is written again.
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
	if m.timed, err = s.timed(ctx, l.at); err != nil {
		return a, err
	}
	if l.wide() && !m.timed {
		return a, fault.Permanent(sink.CodeTableMismatch, nil, "add the column", "table %s lacks %s %s MATERIALIZED now64(6, 'UTC'), by which rows of one version are told apart", l.at, colSynced, timeType)
	}
	var todo []int
	scratch := newBlock(l)
	for i := range m.rows {
		w := &m.rows[i]
		w.Pos = raise(w.Pos, max(b.Epoch, r.def.Epoch))
		if w.Pos.Before(floor) {
			return a, fault.Permanent(CodeTruncated, nil, "repair it anew", "a row of table %s is older than its last TRUNCATE or load", id)
		}
		var why *rejection
		switch err := m.add(scratch, i); {
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
	for some := range slices.Chunk(todo, repairKeys) {
		if err := m.mend(ctx, some); err != nil {
			return sink.Applied{}, err
		}
	}
	a.Bytes = m.sent
	return a, nil
}

// timed reports whether rows have the time at which the server took them: in a table
// that somebody else created they need not.
func (s *Sink) timed(ctx context.Context, t target) (bool, error) {
	var typ string
	q := fmt.Sprintf("SELECT type FROM system.columns WHERE database = %s AND table = %s AND name = '%s'", lit(t.db), lit(t.table), colSynced)
	err := s.conn.query(ctx, "SELECT the definition of "+t.String(), q, func(scan func(...any) error) error { return scan(&typ) })
	return sameType(typ, timeType), err
}

// mending is one call of Mend.
type mending struct {
	*Sink
	repair  string
	lay     *layout
	options sink.TableOptions
	timed   bool
	rows    []sink.Row
	wrote   []bool // by this call
	sent    int64
}

// found is what the table has of a key.
type found struct {
	higher, lower []string // versions
	same          uint64   // rows of the very version
	last          int64    // when the server took the last of these, in microseconds
	parts         []string // in which any of them is, as partBlocks
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

// write is one round: the rows, and then without what is beside them.
func (m *mending) write(ctx context.Context, rows []int, before map[int]*found) error {
	var put, crowded []int
	for _, i := range rows {
		if before[i].same == 0 || !m.wrote[i] {
			put = append(put, i)
		}
		if m.beside(before[i], i, before[i], nil) != "" {
			crowded = append(crowded, i)
		}
	}
	if err := m.held(ctx, rows); err != nil {
		return err
	}
	if err := m.put(ctx, put); err != nil {
		return err
	}
	for some := range slices.Chunk(crowded, eraseKeys) {
		if err := m.erase(ctx, some, before); err != nil {
			return err
		}
	}
	for _, i := range put {
		m.wrote[i] = true
	}
	return nil
}

// erase removes what is beside rows that are there, with a lightweight DELETE, which
// marks them instead of writing the table's parts anew.
func (m *mending) erase(ctx context.Context, rows []int, before map[int]*found) error {
	now, err := m.find(ctx, rows)
	if err != nil {
		return err
	}
	keys, err := keyTexts(m.lay, m.rows, rows)
	if err != nil {
		return err
	}
	var which, parts []string
	for n, i := range rows {
		if now[i].same == 0 {
			continue // merged away already: the next round writes it again
		}
		if c := m.beside(now[i], i, before[i], keys[n]); c != "" {
			which, parts = append(which, c), append(parts, now[i].parts...)
		}
	}
	if len(which) == 0 {
		return nil
	}
	if err := m.held(ctx, rows); err != nil {
		return err
	}
	slices.Sort(parts)
	for i := range parts {
		parts[i] = lit(parts[i])
	}
	_, err = m.conn.exec(ctx, "DELETE from "+m.lay.at.String(), fmt.Sprintf("DELETE FROM %s WHERE (%s) AND %s IN (%s)",
		m.lay.at, strings.Join(which, " OR "), partBlocks, strings.Join(slices.Compact(parts), ", ")))
	return err
}

// partBlocks names a part by its partition and the blocks in it, which a mutation leaves
// as they are and a merge does not.
const partBlocks = "arrayStringConcat(arraySlice(splitByChar('_', _part), 1, 3), '_')"

// beside is the condition of rows of a key that are to go, or empty. before is what was
// found before this round wrote its row.
func (m *mending) beside(f *found, i int, before *found, key []string) string {
	l := m.lay
	var or []string
	versions := f.higher
	if l.wide() {
		versions = append(slices.Clone(versions), f.lower...) // FINAL would show them
	}
	if len(versions) > 0 {
		or = append(or, colVersion+" IN ("+strings.Join(versions, ", ")+")")
	}
	if before.same > 0 && !m.wrote[i] && m.timed {
		or = append(or, fmt.Sprintf("%s = %s AND %s <= fromUnixTimestamp64Micro(%d, 'UTC')", colVersion, versionLit(m.rows[i].Pos), colSynced, before.last))
	}
	if len(or) == 0 {
		return ""
	}
	var and []string
	for k, text := range key {
		name := l.pk[k]
		and = append(and, ident(name)+" = "+l.castKey(name, lit(text)))
	}
	return "(" + strings.Join(append(and, "("+strings.Join(or, " OR ")+")"), " AND ") + ")"
}

// right tells which of the rows the table has as they should be, and nothing beside them.
// A row that another attempt has written is compared, one of this attempt is known.
func (m *mending) right(ctx context.Context, rows []int, fs map[int]*found) (map[int]bool, error) {
	out := map[int]bool{}
	at := map[change.Key]int{}
	var ask []change.Key
	for _, i := range rows {
		f := fs[i]
		if f.same == 0 || len(f.higher) > 0 || m.lay.wide() && len(f.lower) > 0 || f.same > 1 && !m.wrote[i] {
			continue
		}
		ask = append(ask, m.rows[i].Key)
		at[m.rows[i].Key] = i
		out[i] = m.rows[i].Op == change.Delete
	}
	live, err := m.Read(ctx, &verify.Subject{Schema: m.lay.schema, Options: m.options}, ask)
	if err != nil {
		return nil, err
	}
	for _, r := range live {
		if i, ok := at[r.Key]; ok {
			w := &m.rows[i]
			out[i] = w.Op != change.Delete && r.Version == w.Pos.Version().String() && (m.wrote[i] || slices.EqualFunc(r.Values, w.New, change.Value.Equal))
		}
	}
	return out, nil
}

// held looks whether the repair still holds the keys.
func (m *mending) held(ctx context.Context, rows []int) error {
	for some := range slices.Chunk(rows, repairKeys) {
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
	last := "toInt64(0)"
	if m.timed {
		last = "toInt64(toUnixTimestamp64Micro(max(t." + colSynced + ")))"
	}
	q := fmt.Sprintf(`%s SELECT keys.n, toString(t.%s), count(), %s, groupUniqArray(%s) FROM %s AS t INNER JOIN keys ON tuple(%s) = keys.k
		WHERE %s GROUP BY keys.n, t.%s`, l.withKeys(rows, keys), colVersion, last, strings.Replace(partBlocks, "_part", "t._part", 1), l.at, l.pkTuple(), l.inKeys(""), colVersion)
	err = m.conn.query(ctx, "SELECT versions from "+l.at.String(), q, func(scan func(...any) error) error {
		var i uint32
		var text string
		var n uint64
		var last int64
		var parts []string
		if err := scan(&i, &text, &n, &last, &parts); err != nil {
			return err
		}
		v, ok := new(big.Int).SetString(text, 10)
		if !ok {
			return fmt.Errorf("version of a row: not a number")
		}
		f := out[int(i)]
		f.parts = append(f.parts, parts...)
		switch v.Cmp(m.rows[i].Pos.Version()) {
		case -1:
			f.lower = append(f.lower, "toUInt128('"+text+"')")
		case 0:
			f.same, f.last = n, last
		default:
			f.higher = append(f.higher, "toUInt128('"+text+"')")
		}
		return nil
	})
	return out, err
}

// add appends a row, or its tombstone. Where the sorting key has more than the primary
// key, the tombstone may lie anywhere: the view finds it by the primary key.
func (m *mending) add(b *block, i int) error {
	w := &m.rows[i]
	st := stamp{pos: w.Pos, commit: w.Commit, adrift: true}
	if w.Op == change.Delete {
		return b.tombstone(w.Key, w.Old, st)
	}
	return b.add(w.New, w.Key, st, nil)
}

// put inserts rows.
func (m *mending) put(ctx context.Context, rows []int) error {
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
	for _, i := range rows {
		if err := m.add(b, i); err != nil {
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
