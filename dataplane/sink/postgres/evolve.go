package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Evolve makes the table able to hold rows of the schema. Columns and enum labels
// are added and NOT NULL is dropped; everything else is for an operator. Rows of
// earlier versions, which other partitions may still hold, stay welcome.
func (x *session) Evolve(ctx context.Context, table sink.Table, s *change.Schema, at change.Position) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := pgx.BeginFunc(ctx, x.s.pool, func(tx pgx.Tx) error {
		if err := x.hold(ctx, tx); err != nil {
			return err
		}
		if err := x.s.lockTable(ctx, tx, table.ID); err != nil {
			return err
		}
		t, err := x.s.table(ctx, tx, table.ID)
		if err != nil {
			return err
		}
		if s.Version() == t.Schema.Version() {
			return nil
		}
		older, newer := t.Schema, s
		if at.Before(t.schemaAt) {
			older, newer = s, t.Schema
		}
		if why := notAdditive(older, newer); len(why) > 0 {
			return fault.Permanent(sink.CodeSchemaGate, nil, "resync the table: starter resync-table",
				"the new definition of table %s is not additive: %s", table.ID, strings.Join(why, "; "))
		}
		if newer != s {
			return nil // the table holds it already
		}
		if err := x.s.alter(ctx, tx, t, s); err != nil {
			return err
		}
		schema, err := json.Marshal(s)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE syncline.tables SET schema = $3, schema_epoch = $4, schema_lsn = $5::text::pg_lsn, schema_ordinal = $6, updated_at = now()
			WHERE pipeline = $1 AND source_table = $2`, x.s.pipeline, table.ID.String(), schema, int64(at.Epoch), at.Commit.String(), int64(at.Ordinal))
		return err
	})
	if err == nil {
		x.targets = map[*change.Schema]*target{}
	}
	return x.s.wrap(ctx, err, "evolve table %s", table.ID)
}

// fixRemade is for a table that its source's present definition does not fit.
const fixRemade = "alter the sink's table, or remove it from the pipeline with --drop-rows and add it again"

// Redefine makes the table able to be loaded with a newer definition.
func (s *Sink) Redefine(ctx context.Context, id change.TableID, to *change.Schema) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		t, err := s.table(ctx, tx, id)
		if err != nil {
			return err
		}
		var planned bool
		if err := tx.QueryRow(ctx, "SELECT planned FROM syncline.tables WHERE pipeline = $1 AND source_table = $2", s.pipeline, id.String()).Scan(&planned); err != nil {
			return err
		}
		if planned || t.State != sink.Loading {
			return nil
		}
		if err := s.alter(ctx, tx, t, to); fault.Is(err, sink.CodeSchemaGate) {
			return fault.Permanent(sink.CodeTableMismatch, err, fixRemade, "the present definition of table %s", id)
		} else if err != nil {
			return err
		}
		target := name(id, t.Options)
		r, err := s.relation(ctx, tx, target)
		if err != nil {
			return err
		}
		if t.created { // what the source has dropped stays, empty
			for i := range r.columns {
				if c := &r.columns[i]; to.Column(c.name) < 0 && c.notNull && !slices.Contains(t.Schema.KeyNames(), c.name) {
					if _, err := tx.Exec(ctx, "ALTER TABLE "+quoted(target)+" ALTER COLUMN "+ident(c.name)+" DROP NOT NULL"); err != nil {
						return err
					}
				}
			}
			if r, err = s.relation(ctx, tx, target); err != nil {
				return err
			}
		}
		if diffs := differences(to, t.Options, r, t.created); len(diffs) > 0 {
			return fault.Permanent(sink.CodeTableMismatch, nil, fixRemade, "table %s cannot hold the rows of %s: %s", target, id, strings.Join(diffs, "; "))
		}
		schema, err := json.Marshal(to)
		if err != nil {
			return err
		}
		_, err = tx.Exec(ctx, "UPDATE syncline.tables SET schema = $3, updated_at = now() WHERE pipeline = $1 AND source_table = $2",
			s.pipeline, id.String(), schema)
		return err
	})
	return s.wrap(ctx, err, "redefine table %s", id)
}

func (s *Sink) alter(ctx context.Context, tx pgx.Tx, t record, to *change.Schema) error {
	target := name(t.ID, t.Options)
	r, err := s.relation(ctx, tx, target)
	if err != nil {
		return err
	}
	if r == nil {
		return fault.Permanent(sink.CodeTableMismatch, nil, "restore the table, or resync it", "table %s is not at the sink", target)
	}
	var parts []string
	for i := range to.Columns {
		c := &to.Columns[i]
		st, err := s.resolve(ctx, tx, &c.Type, true)
		if err != nil {
			return err
		}
		switch have := r.column(c.Name); {
		case have == nil:
			add := "ADD COLUMN IF NOT EXISTS " + ident(c.Name) + " " + st.sql
			if c.Missing != nil { // it stays: rows of earlier versions that are still to come have it too
				add += " DEFAULT " + literal(*c.Missing) + "::" + st.sql
			}
			parts = append(parts, add)
		case have.generated:
			return fault.Permanent(sink.CodeSchemaGate, nil, "drop the sink's column", "column %q of table %s is generated at the sink", c.Name, target)
		default:
			if ok, _ := assignable(&c.Type, have); !ok {
				return fault.Permanent(sink.CodeSchemaGate, nil, "alter the sink's column", "column %q of table %s is %s at the sink, which does not hold every %s",
					c.Name, target, have.format, c.Type.Name)
			}
			if have.notNull && !c.NotNull && !to.IsKey(i) {
				parts = append(parts, "ALTER COLUMN "+ident(c.Name)+" DROP NOT NULL")
			}
		}
	}
	if len(parts) == 0 {
		return nil
	}
	_, err = tx.Exec(ctx, "ALTER TABLE "+quoted(target)+" "+strings.Join(parts, ", "))
	return err
}

// notAdditive says what makes the step from one definition to the next more than
// an addition.
func notAdditive(from, to *change.Schema) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	for i := range from.Columns {
		old := &from.Columns[i]
		j := to.Column(old.Name)
		if j < 0 {
			add("column %q is gone", old.Name)
			continue
		}
		if !sameType(&old.Type, &to.Columns[j].Type) {
			add("column %q was %s and is %s", old.Name, old.Type.Name, to.Columns[j].Type.Name)
		}
	}
	if !slices.Equal(from.KeyNames(), to.KeyNames()) {
		add("the key was (%s) and is (%s)", strings.Join(from.KeyNames(), ", "), strings.Join(to.KeyNames(), ", "))
	}
	return out
}

// sameType allows an enum more labels.
func sameType(a, b *change.Type) bool {
	if a.Name != b.Name || a.Kind != b.Kind || a.Mod != b.Mod || (a.Elem == nil) != (b.Elem == nil) {
		return false
	}
	for _, l := range a.Labels {
		if !slices.Contains(b.Labels, l) {
			return false
		}
	}
	return a.Elem == nil || sameType(a.Elem, b.Elem)
}
