package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// lockTable waits for every Apply that has the table under way, and holds back
// later ones until the transaction ends.
func (s *Sink) lockTable(ctx context.Context, tx pgx.Tx, id change.TableID) error {
	_, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(syncline.table_lock($1, $2))", s.pipeline, id.String())
	return err
}

// AddTable creates the sink's table if there is none, or checks the existing
// one, and records it as loading.
func (s *Sink) AddTable(ctx context.Context, t sink.Table) error {
	target := name(t.ID, t.Options)
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		// One at a time: tables may share types that do not exist yet.
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('syncline add table', 5971))"); err != nil {
			return err
		}
		if err := s.lockTable(ctx, tx, t.ID); err != nil {
			return err
		}
		old, err := s.table(ctx, tx, t.ID)
		switch {
		case err == nil && old.State != sink.Removed:
			return nil
		case err != nil && !fault.Is(err, CodeUnknownTable):
			return err
		}
		if err := s.roomForPartials(ctx, tx, t); err != nil {
			return err
		}
		r, err := s.relation(ctx, tx, target)
		if err != nil {
			return err
		}
		created := r == nil || old.created
		if r == nil {
			err = s.createTable(ctx, tx, t, target)
		} else {
			err = s.adoptTable(ctx, tx, t, target, r, old.created)
		}
		if err != nil {
			return err
		}
		schema, err1 := json.Marshal(t.Schema)
		options, err2 := json.Marshal(t.Options)
		if err1 != nil || err2 != nil {
			return fmt.Errorf("record table %s: %w %w", t.ID, err1, err2)
		}
		_, err = tx.Exec(ctx, `
			INSERT INTO syncline.tables (pipeline, source_table, state, partitions, epoch, schema, options, created)
			VALUES ($1, $2, 'loading', $3, $4, $5, $6, $7)
			ON CONFLICT (pipeline, source_table) DO UPDATE SET state = 'loading', reason = '', partitions = EXCLUDED.partitions,
				epoch = EXCLUDED.epoch, schema = EXCLUDED.schema, options = EXCLUDED.options,
				schema_epoch = 0, schema_lsn = '0/0', schema_ordinal = 0,
				created = EXCLUDED.created, planned = false, chunks = 0, rows = 0, bytes = 0, loaded_to = '0/0', updated_at = now()`,
			s.pipeline, t.ID.String(), t.Partitions, int64(t.Epoch), schema, options, created)
		return err
	})
	return s.wrap(ctx, err, "add table %s", t.ID)
}

func (s *Sink) createTable(ctx context.Context, tx pgx.Tx, t sink.Table, target change.TableID) error {
	var cols []string
	for i := range t.Schema.Columns {
		c := &t.Schema.Columns[i]
		st, err := s.resolve(ctx, tx, &c.Type, true)
		if err != nil {
			return err
		}
		def := ident(c.Name) + " " + st.sql
		if c.NotNull || t.Schema.IsKey(i) && !t.Options.AppendOnly {
			def += " NOT NULL"
		}
		cols = append(cols, def)
	}
	var exists bool
	if err := tx.QueryRow(ctx, "SELECT to_regnamespace($1) IS NOT NULL", ident(target.Schema)).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if _, err := tx.Exec(ctx, "CREATE SCHEMA IF NOT EXISTS "+ident(target.Schema)); err != nil {
			return err
		}
	}
	// The primary key is built after the load, by FinishLoad.
	_, err := tx.Exec(ctx, "CREATE TABLE "+quoted(target)+" (\n\t"+strings.Join(cols, ",\n\t")+"\n)")
	return err
}

// adoptTable takes a table that exists already. ours says that an earlier life
// of this pipeline created it, perhaps without coming to build its key.
func (s *Sink) adoptTable(ctx context.Context, tx pgx.Tx, t sink.Table, target change.TableID, r *relation, ours bool) error {
	if diffs := differences(t.Schema, t.Options, r, ours); len(diffs) > 0 {
		return fault.Permanent(sink.CodeTableMismatch, nil, "alter or rename the sink's table, or map the source's to another name",
			"table %s cannot hold the rows of %s: %s", target, t.ID, strings.Join(diffs, "; "))
	}
	for i := range t.Schema.Columns { // labels that an enum lacks
		if ty := t.Schema.Columns[i].Type.Root(); ty.Kind == change.Enum {
			if _, err := s.resolve(ctx, tx, ty, true); err != nil {
				return err
			}
		}
	}
	switch t.Options.Existing {
	case sink.KeepRows: // whose rows are found by their key
		return s.buildKey(ctx, tx, record{Table: t, created: ours})
	case sink.Clear:
		return emptyTable(ctx, tx, target, r)
	}
	rows, err := hasRows(ctx, tx, target)
	if err == nil && rows {
		return fault.Permanent(sink.CodeTableNotEmpty, nil, "empty it, or set on_existing to truncate or append",
			"table %s at the sink has rows", target)
	}
	return err
}

func hasRows(ctx context.Context, q querier, target change.TableID) (yes bool, err error) {
	err = q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM "+quoted(target)+")").Scan(&yes)
	return yes, err
}

// emptyTable truncates where the catalog and the role's rights allow it. TRUNCATE
// refuses a table that foreign keys point to, even when they are not enforced.
func emptyTable(ctx context.Context, tx pgx.Tx, target change.TableID, r *relation) error {
	var may bool
	if err := tx.QueryRow(ctx, "SELECT has_table_privilege($1::oid, 'TRUNCATE')", r.oid).Scan(&may); err != nil {
		return err
	}
	sql := "TRUNCATE " + quoted(target)
	if !may || r.refs > 0 {
		sql = "DELETE FROM " + quoted(target)
	}
	_, err := tx.Exec(ctx, sql)
	return err
}

// differences says why an existing table cannot hold the rows of the schema.
func differences(s *change.Schema, o sink.TableOptions, r *relation, keyLater bool) []string {
	var out []string
	add := func(format string, args ...any) { out = append(out, fmt.Sprintf(format, args...)) }
	if r.kind != "r" && r.kind != "p" {
		return []string{"it is not a table"}
	}
	for i := range s.Columns {
		c := &s.Columns[i]
		have := r.column(c.Name)
		switch {
		case have == nil:
			add("column %q is missing", c.Name)
		case have.generated:
			add("column %q is generated", c.Name)
		case have.identity == "a" && !s.IsKey(i):
			add("column %q is GENERATED ALWAYS AS IDENTITY, which cannot be updated", c.Name)
		default:
			if ok, _ := assignable(&c.Type, have); !ok {
				add("column %q is %s, which does not hold every %s", c.Name, have.format, c.Type.Name)
			}
		}
	}
	for i := range r.columns {
		c := &r.columns[i]
		if s.Column(c.name) < 0 && c.notNull && !c.hasDef && c.identity == "" && !c.generated {
			add("column %q is NOT NULL without a default and is not in the source", c.name)
		}
	}
	if !appends(s, o) && !keyLater && !r.keyed(s.KeyNames()) {
		add("there is no primary key or unique index on just (%s)", strings.Join(s.KeyNames(), ", "))
	}
	return out
}

// Check reports what a plan should say of the table.
func (s *Sink) Check(ctx context.Context, schema *change.Schema, o sink.TableOptions) (sink.TableCheck, error) {
	var out sink.TableCheck
	target := name(schema.Table, o)
	r, err := s.relation(ctx, s.pool, target)
	if err != nil {
		return out, s.wrap(ctx, err, "check table %s", target)
	}
	out.Exists = r != nil
	var inGo []string
	for i := range schema.Columns {
		c := &schema.Columns[i]
		m := sink.ColumnMapping{Column: c.Name, Source: c.Type.Name}
		if have := r.columnOrNil(c.Name); have != nil {
			m.Sink = have.format
			_, m.Lossy = assignable(&c.Type, have)
			if form(&c.Type, have).InGo() {
				inGo = append(inGo, c.Name)
			}
		} else if r == nil {
			st, err := s.resolve(ctx, s.pool, &c.Type, false)
			if err != nil {
				return out, s.wrap(ctx, err, "check table %s", target)
			}
			m.Sink, m.Lossy = st.sql, st.lossy
			if st.note != "" {
				out.Notes = append(out.Notes, fmt.Sprintf("column %q: %s", c.Name, st.note))
			}
		}
		out.Columns = append(out.Columns, m)
	}
	if len(inGo) > 0 {
		out.Notes = append(out.Notes, verify.NoteInGo(inGo))
	}
	if appends(schema, o) {
		out.Notes = append(out.Notes, "append-only: rows are inserted and never updated; deletes are left out")
	}
	if r == nil {
		return out, nil
	}
	out.Problem = strings.Join(differences(schema, o, r, false), "; ")
	if out.Problem == "" {
		if out.Rows, err = hasRows(ctx, s.pool, target); err != nil {
			return out, s.wrap(ctx, err, "check table %s", target)
		}
	}
	out.Notes = append(out.Notes, s.notes(schema, o, r)...)
	return out, nil
}

func (r *relation) columnOrNil(name string) *column {
	if r == nil {
		return nil
	}
	return r.column(name)
}

// notes are things that work, but that the owner of an existing table should know.
func (s *Sink) notes(schema *change.Schema, o sink.TableOptions, r *relation) []string {
	var out []string
	for _, u := range r.uniques {
		if appends(schema, o) || !u.on(schema.KeyNames()) {
			out = append(out, fmt.Sprintf("unique index %q: changes are ordered per key only, so a value that moves from one row to another may meet itself and be set aside; a plain index avoids it", u.name))
		}
	}
	if !s.replica.Load() {
		if r.fks > 0 {
			out = append(out, fmt.Sprintf("%d foreign keys stay enforced, since the role may not set session_replication_role: a row waits until its parent is there", r.fks))
		}
		if r.trigs > 0 {
			out = append(out, fmt.Sprintf("%d triggers fire on replicated rows, since the role may not set session_replication_role", r.trigs))
		}
	}
	return out
}

// SetDue asks for what waits in a tier up to a position to be applied.
func (s *Sink) SetDue(ctx context.Context, id change.TableID, tier string, at change.Position) error {
	sql := `UPDATE syncline.tables SET due_epoch = $3::bigint, due_lsn = $4::text::pg_lsn
		WHERE pipeline = $1 AND source_table = $2 AND (due_epoch, due_lsn) < ($3::bigint, $4::text::pg_lsn)`
	args := []any{s.pipeline, id.String(), int64(at.Epoch), at.Commit.String()}
	if tier != sink.AllTiers {
		sql = `UPDATE syncline.tables SET due_tiers = due_tiers || jsonb_build_object($5::text, jsonb_build_object('epoch', $3::bigint, 'lsn', $4::text))
			WHERE pipeline = $1 AND source_table = $2 AND (coalesce((due_tiers -> $5::text ->> 'epoch')::bigint, 0), coalesce(due_tiers -> $5::text ->> 'lsn', '0/0')::pg_lsn) < ($3::bigint, $4::text::pg_lsn)`
		args = append(args, tier)
	}
	tag, err := s.pool.Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() == 0 {
		_, err = s.table(ctx, s.pool, id) // it is due already, or not there
	}
	return s.wrap(ctx, err, "set what is due of table %s", id)
}

// ResetTable empties the table and its chunk plan for another load.
func (s *Sink) ResetTable(ctx context.Context, id change.TableID, epoch uint32) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		t, err := s.table(ctx, tx, id)
		if err != nil {
			return err
		}
		if err := s.endLoaders(ctx, tx, id); err != nil {
			return err
		}
		target := name(id, t.Options)
		r, err := s.relation(ctx, tx, target)
		if err != nil {
			return err
		}
		if r == nil {
			return fault.Permanent(sink.CodeTableMismatch, nil, "remove the table from the pipeline and add it again", "table %s is not at the sink", target)
		}
		if err := emptyTable(ctx, tx, target, r); err != nil {
			return err
		}
		if err := s.emptyPartials(ctx, tx, id); err != nil {
			return err
		}
		if err := s.clearPlan(ctx, tx, id, "loaded again"); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE syncline.tables SET state = 'loading', reason = '', epoch = $3, planned = false,
			chunks = 0, rows = 0, bytes = 0, loaded_to = '0/0', updated_at = now() WHERE pipeline = $1 AND source_table = $2`,
			s.pipeline, id.String(), int64(epoch))
		return err
	})
	return s.wrap(ctx, err, "reset table %s", id)
}

// clearPlan removes chunks and barriers, and resolves dead letters and ends repairs,
// whose rows another load brings anew.
func (s *Sink) clearPlan(ctx context.Context, tx pgx.Tx, id change.TableID, why string) error {
	for _, sql := range []string{
		"DELETE FROM syncline.chunks WHERE pipeline = $1 AND source_table = $2",
		"DELETE FROM syncline.barriers WHERE pipeline = $1 AND source_table = $2",
	} {
		if _, err := tx.Exec(ctx, sql, s.pipeline, id.String()); err != nil {
			return err
		}
	}
	why = "the table was " + why
	if _, err := tx.Exec(ctx, `UPDATE syncline.dead_letters SET resolved_at = now(), resolution = $3
		WHERE pipeline = $1 AND source_table = $2 AND resolved_at IS NULL`, s.pipeline, id.String(), why); err != nil {
		return err
	}
	_, err := tx.Exec(ctx, `UPDATE syncline.repairs SET state = 'failed', reason = $3, updated_at = now()
		WHERE pipeline = $1 AND source_table = $2 AND held`, s.pipeline, id.String(), why)
	return err
}

// RemoveTable stops delivery of the table; its rows stay unless drop is set and
// this pipeline created the table.
func (s *Sink) RemoveTable(ctx context.Context, id change.TableID, drop bool) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		t, err := s.table(ctx, tx, id)
		if fault.Is(err, CodeUnknownTable) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.endLoaders(ctx, tx, id); err != nil {
			return err
		}
		at := heldName(id, t.Options)
		if err := s.dropHeld(ctx, tx, &at); err != nil {
			return err
		}
		if drop {
			if err := s.removePartials(ctx, tx, id); err != nil {
				return err
			}
		}
		if drop && t.created {
			if _, err := tx.Exec(ctx, "DROP TABLE IF EXISTS "+quoted(name(id, t.Options))); err != nil {
				return err
			}
		}
		if err := s.clearPlan(ctx, tx, id, "removed"); err != nil {
			return err
		}
		// Added again, the table may have a new topic, whose offsets begin anew.
		if _, err := tx.Exec(ctx, "DELETE FROM syncline.watermarks WHERE pipeline = $1 AND source_table = $2", s.pipeline, id.String()); err != nil {
			return err
		}
		_, err = tx.Exec(ctx, `UPDATE syncline.tables SET state = 'removed', reason = '', planned = false, chunks = 0,
			rows = 0, bytes = 0, loaded_to = '0/0', updated_at = now() WHERE pipeline = $1 AND source_table = $2`, s.pipeline, id.String())
		return err
	})
	return s.wrap(ctx, err, "remove table %s", id)
}
