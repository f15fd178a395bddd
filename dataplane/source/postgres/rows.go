package postgres

import (
	"context"
	"fmt"
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/source/postgres/pgoutput"
)

// row handles an insert, update or delete.
func (a *assembler) row(ctx context.Context, raw []byte, inStream bool) error {
	if !a.tx.open {
		return protocol("a change outside a transaction")
	}
	c := a.cell()
	c.raw = append(c.raw[:0], raw...)
	m := &c.msg
	if err := pgoutput.Decode(c.raw, inStream, m); err != nil {
		return protocolError(err)
	}
	if inStream && a.replaying.rolledBack(m.XID) {
		a.release(c)
		return nil
	}
	r := a.rels[m.RelID]
	if r == nil {
		return protocol("a change of a relation that was not described")
	}
	n := len(r.schema.Columns)
	if (m.Kind != pgoutput.Delete && len(m.New) != n) || (m.OldKind != pgoutput.OldNone && len(m.Old) != n) {
		return protocol(fmt.Sprintf("a row of table %s with another number of columns", r.schema.Table))
	}
	if r.enums && m.Kind != pgoutput.Delete {
		var err error
		if r, err = a.checkLabels(ctx, r, m); err != nil {
			return err
		}
	}
	switch m.Kind {
	case pgoutput.Insert:
		return a.put(c, r, change.Insert, m.New, nil)
	case pgoutput.Delete:
		return a.put(c, r, change.Delete, nil, m.Old)
	}
	return a.update(ctx, c, r, m)
}

func (a *assembler) put(c *cell, r *relation, op change.Op, row, old change.Row) error {
	a.fill(c, r, op)
	c.ch.New, c.ch.Old = row, old
	image := row
	if op == change.Delete {
		image = old
	}
	key, err := change.MakeKey(r.schema, image)
	if err != nil {
		return protocolError(err)
	}
	c.ch.Key = key
	a.emit(c, r)
	return nil
}

// update splits a change of the key into a delete and an insert, and takes
// unchanged TOAST values from the old row where the log carries a full one.
func (a *assembler) update(ctx context.Context, c *cell, r *relation, m *pgoutput.Message) error {
	var old change.Row
	if m.OldKind == pgoutput.OldFull {
		old = m.Old
		for i := range m.New {
			if m.New[i].Kind == change.Unchanged {
				m.New[i] = old[i]
			}
		}
	}
	if m.OldKind != pgoutput.OldNone && len(r.schema.Key) > 0 {
		// A large key column that did not change is sent in the old key alone.
		for _, k := range r.schema.Key {
			if m.New[k].Kind == change.Unchanged {
				m.New[k] = m.Old[k]
			}
		}
		before, err := change.MakeKey(r.schema, m.Old)
		if err != nil {
			return protocolError(err)
		}
		after, err := change.MakeKey(r.schema, m.New)
		if err != nil {
			return protocolError(err)
		}
		if before != after {
			return a.moveKey(ctx, c, r, m, before, after)
		}
	}
	return a.put(c, r, change.Update, m.New, old)
}

// moveKey emits delete(before) and insert(after). The sink has no row at the
// new key to take unchanged values from, so they are read from the source. That
// row may be newer than this change, or gone; then a later change in the stream
// says so, and the end state is right.
func (a *assembler) moveKey(ctx context.Context, c *cell, r *relation, m *pgoutput.Message, before, after change.Key) error {
	if slices.ContainsFunc(m.New, func(v change.Value) bool { return v.Kind == change.Unchanged }) {
		if err := a.source.fill(ctx, r.schema, m.New, a.tx.xid); err != nil {
			return err
		}
	}
	d := a.cell()
	a.fill(d, r, change.Delete)
	d.ch.Key, d.ch.Old = before, m.Old // points into c, which is released after d
	d.ch.Moved = keyColumns(r.schema, m.New)
	a.emit(d, r)
	a.fill(c, r, change.Insert)
	c.ch.Key, c.ch.New, c.ch.Moved = after, m.New, keyColumns(r.schema, m.Old)
	a.emit(c, r)
	return nil
}

// keyColumns is the key as the row has it, which change.Key has normalised.
func keyColumns(s *change.Schema, row change.Row) change.Row {
	out := make(change.Row, len(s.Key))
	for n, k := range s.Key {
		out[n] = row[k]
	}
	return out
}

// checkLabels notices labels that were added to an enum: that does not make the
// server describe the relation again.
func (a *assembler) checkLabels(ctx context.Context, r *relation, m *pgoutput.Message) (*relation, error) {
	known := func(r *relation) bool {
		for i, ls := range r.labels {
			if ls == nil || m.New[i].Kind != change.Text {
				continue
			}
			if _, ok := ls[string(m.New[i].Data)]; !ok {
				return false
			}
		}
		return true
	}
	if known(r) {
		return r, nil
	}
	s, err := a.source.resolve(ctx, r.message, a.tx.xid)
	if err != nil {
		return nil, err
	}
	fresh := newRelation(r.message, s)
	if !known(fresh) { // the label was renamed since: keep both
		for i, ls := range fresh.labels {
			if ls == nil {
				continue
			}
			t := s.Columns[i].Type.Root()
			t.Labels = slices.Clone(t.Labels)
			for _, l := range r.schema.Columns[i].Type.Root().Labels {
				if !slices.Contains(t.Labels, l) {
					t.Labels = append(t.Labels, l)
				}
			}
			if v := m.New[i]; v.Kind == change.Text && !slices.Contains(t.Labels, string(v.Data)) {
				t.Labels = append(t.Labels, string(v.Data))
			}
		}
		fresh = newRelation(r.message, s)
	}
	a.rels[m.RelID] = fresh
	return fresh, nil
}
