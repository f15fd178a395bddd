package clickhouse

import (
	"context"
	"fmt"
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Evolve makes the sink's table able to hold rows of the schema. One that is
// older than the table's recorded one, as a slower partition may still have it,
// leaves the record and the table alone.
func (x *session) Evolve(ctx context.Context, t sink.Table, sch *change.Schema, at change.Position) error {
	if err := x.check(ctx, nil); err != nil {
		return err
	}
	r, err := x.record(ctx, t.ID)
	if err != nil {
		return err
	}
	older, newer := r.schema, sch
	if at.Before(r.at) {
		older, newer = sch, r.schema
	}
	if why := breaking(older, newer); why != "" {
		return fault.Permanent(sink.CodeSchemaGate, nil, "resync the table: starter resync-table", "table %s: %s", t.ID, why)
	}
	if newer == sch && sch.Version() != r.schema.Version() {
		if err := x.widen(ctx, r, sch); err != nil {
			return err
		}
		if err := x.setAspect(ctx, t.ID.String(), schemaAspect(r.def.Epoch, at), sch); err != nil {
			return err
		}
	}
	x.mu.Lock()
	clear(x.layouts)
	x.mu.Unlock()
	return x.settleView(ctx, r.id)
}

// widen adds the columns that a newer schema has.
func (x *session) widen(ctx context.Context, r *record, sch *change.Schema) error {
	l, problem := x.newLayout(sch, r.def.Options)
	if problem != "" {
		return fault.Permanent(sink.CodeSchemaGate, nil, "change the declaration, or resync the table", "table %s: %s", r.id, problem)
	}
	for i, c := range l.cols {
		if r.schema.Column(c.name) >= 0 || sch.Columns[i].Missing == nil {
			continue
		}
		if _, exact := c.constant(&sch.Columns[i].Type, *sch.Columns[i].Missing); !exact {
			return fault.Permanent(sink.CodeSchemaGate, nil, "resync the table",
				"table %s: existing rows have a default in the new column %q that %s does not hold exactly", r.id, c.name, c.typeName(c.null))
		}
	}
	err := x.addColumns(ctx, l, true)
	if fault.Is(err, sink.CodeTableMismatch) {
		return fault.Permanent(sink.CodeSchemaGate, err, "change the sink's table, or resync the table", "table %s cannot hold the new schema", r.id)
	}
	return err
}

// settleView makes the view show the columns of the newest schema on record. It
// looks again afterwards, as another lane may have brought a newer one meanwhile.
func (x *session) settleView(ctx context.Context, id change.TableID) error {
	r, err := x.record(ctx, id)
	for err == nil {
		l, problem := x.newLayout(r.schema, r.def.Options)
		if problem != "" {
			return fault.Permanent(sink.CodeSchemaGate, nil, "change the declaration, or resync the table", "table %s: %s", id, problem)
		}
		if err = x.refreshView(ctx, l, id.String()); err != nil {
			return err
		}
		was := r.schema.Version()
		if r, err = x.record(ctx, id); err == nil && r.schema.Version() == was {
			return nil
		}
	}
	return err
}

// Redefine makes the table able to be loaded with a newer definition.
func (s *Sink) Redefine(ctx context.Context, id change.TableID, to *change.Schema) error {
	r, err := s.record(ctx, id)
	if err != nil || r.state.State != sink.Loading {
		return err
	}
	p, err := s.plan(ctx, r)
	if err != nil || len(p.chunks) > 0 {
		return err
	}
	l, err := s.prepareTable(ctx, to, r.def.Options, true)
	if fault.Is(err, sink.CodeTableMismatch) {
		return fault.Permanent(sink.CodeTableMismatch, err, "change the sink's table, or remove it from the pipeline with --drop-rows and add it again", "the present definition of table %s", id)
	}
	if err != nil {
		return err
	}
	if err := s.refreshView(ctx, l, id.String()); err != nil {
		return err
	}
	def := r.def
	def.Schema = to
	return s.setAspect(ctx, id.String(), aspectDef, def)
}

// breaking says what of a schema's change is more than adding columns.
func breaking(old, new *change.Schema) string {
	for i := range old.Columns {
		o := &old.Columns[i]
		n := new.Column(o.Name)
		switch {
		case n < 0:
			return fmt.Sprintf("column %q was dropped or renamed", o.Name)
		case o.Type.Name != new.Columns[n].Type.Name:
			return fmt.Sprintf("the type of column %q changed from %s to %s", o.Name, o.Type.Name, new.Columns[n].Type.Name)
		}
	}
	if !slices.Equal(old.KeyNames(), new.KeyNames()) {
		return "the primary key changed"
	}
	return ""
}
