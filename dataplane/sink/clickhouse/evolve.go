package clickhouse

import (
	"context"
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Evolve makes the sink's table able to hold rows of the schema. A schema that
// the table's recorded one covers, as a slower partition still has it, leaves
// the record and the view alone.
func (x *session) Evolve(ctx context.Context, t sink.Table, sch *change.Schema) error {
	if err := x.check(ctx, nil); err != nil {
		return err
	}
	if why := breaking(t.Schema, sch); why != "" {
		return fault.Permanent(sink.CodeSchemaGate, nil, "resync the table: starter resync-table", "table %s: %s", t.ID, why)
	}
	r, err := x.record(ctx, t.ID)
	if err != nil {
		return err
	}
	l, problem := x.newLayout(sch, t.Options)
	if problem != "" {
		return fault.Permanent(sink.CodeSchemaGate, nil, "change the declaration, or resync the table", "table %s: %s", t.ID, problem)
	}
	for i, c := range l.cols {
		if t.Schema != nil && t.Schema.Column(c.name) >= 0 || sch.Columns[i].Missing == nil {
			continue
		}
		if _, exact := c.constant(&sch.Columns[i].Type, *sch.Columns[i].Missing); !exact {
			return fault.Permanent(sink.CodeSchemaGate, nil, "resync the table",
				"table %s: existing rows have a default in the new column %q that %s does not hold exactly", t.ID, c.name, c.typeName(c.null))
		}
	}
	if err := x.addColumns(ctx, l, true); err != nil {
		if fault.Is(err, sink.CodeTableMismatch) {
			return fault.Permanent(sink.CodeSchemaGate, err, "change the sink's table, or resync the table", "table %s cannot hold the new schema", t.ID)
		}
		return err
	}
	x.mu.Lock()
	clear(x.layouts)
	x.mu.Unlock()
	if covers(r.schema, sch) {
		return nil
	}
	if err := x.refreshView(ctx, l, t.ID.String()); err != nil {
		return err
	}
	return x.setAspect(ctx, t.ID.String(), aspectSchema, sch)
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
	return s.setAspect(ctx, id.String(), aspectSchema, to)
}

// covers reports whether have holds every column of sch, as it is or wider.
func covers(have, sch *change.Schema) bool {
	for i := range sch.Columns {
		c := &sch.Columns[i]
		n := have.Column(c.Name)
		if n < 0 {
			return false
		}
		h := have.Columns[n]
		if h.NotNull && !c.NotNull || len(h.Type.Labels) < len(c.Type.Labels) || h.Type.Name != c.Type.Name {
			return false
		}
	}
	return true
}

// breaking says what of a schema's change is more than adding columns.
func breaking(old, new *change.Schema) string {
	if old == nil {
		return ""
	}
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
	keys := func(s *change.Schema) string {
		var names []string
		for _, i := range s.Key {
			names = append(names, lit(s.Columns[i].Name))
		}
		return strings.Join(names, ", ")
	}
	if keys(old) != keys(new) {
		return "the primary key changed"
	}
	return ""
}
