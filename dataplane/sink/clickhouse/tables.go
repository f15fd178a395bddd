package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// existing is what the server says of a table.
type existing struct {
	engine, full, order string
	columns             map[string]string // name → type; without MATERIALIZED and ALIAS
}

// inspect returns nil if there is no such table.
func (s *Sink) inspect(ctx context.Context, t target) (*existing, error) {
	var e *existing
	what := "SELECT the definition of " + t.String()
	q := fmt.Sprintf("SELECT engine, engine_full, sorting_key FROM system.tables WHERE database = %s AND name = %s", lit(t.db), lit(t.table))
	err := s.conn.query(ctx, what, q, func(scan func(...any) error) error {
		e = &existing{columns: map[string]string{}}
		return scan(&e.engine, &e.full, &e.order)
	})
	if err != nil || e == nil {
		return nil, err
	}
	q = fmt.Sprintf("SELECT name, type FROM system.columns WHERE database = %s AND table = %s AND default_kind NOT IN ('MATERIALIZED', 'ALIAS')", lit(t.db), lit(t.table))
	err = s.conn.query(ctx, what, q, func(scan func(...any) error) error {
		var name, typ string
		if err := scan(&name, &typ); err != nil {
			return err
		}
		e.columns[name] = typ
		return nil
	})
	return e, err
}

// adopt changes the layout to the columns that the table has. It returns the
// columns that are missing, and why the others cannot hold the rows, if so.
func (l *layout) adopt(e *existing) (missing []int, problem string) {
	if !strings.HasSuffix(e.engine, "ReplacingMergeTree") {
		return nil, fmt.Sprintf("its engine is %s; it must be a ReplacingMergeTree(%s, %s)", e.engine, colVersion, colDeleted)
	}
	if !strings.Contains(strings.ReplaceAll(e.full, "`", ""), colVersion+", "+colDeleted) {
		return nil, fmt.Sprintf("its engine's parameters must be (%s, %s)", colVersion, colDeleted)
	}
	for _, c := range l.service() {
		if have, ok := e.columns[c.name]; !ok {
			return nil, fmt.Sprintf("it lacks the column %s %s", c.name, c.typ)
		} else if !sameType(have, c.typ) {
			return nil, fmt.Sprintf("its column %s is %s and must be %s", c.name, have, c.typ)
		}
	}
	if want := strings.Join(l.order, ", "); !sameOrder(e.order, want) {
		return nil, fmt.Sprintf("its sorting key is (%s) and must be (%s): a sorting key cannot be changed, so create the table anew or name another", e.order, want)
	}
	for i := range l.cols {
		c := &l.cols[i]
		have, ok := e.columns[c.name]
		if !ok {
			missing = append(missing, i)
			continue
		}
		m, null, ok := fit(c.mapping, &l.schema.Columns[i].Type, have)
		if !ok {
			return missing, fmt.Sprintf("its column %q is %s and must be %s (or String, for the exact text)", c.name, have, c.typeName(c.null))
		}
		c.mapping, c.null = m, null
	}
	return missing, ""
}

// lacks says which columns are missing.
func (l *layout) lacks(missing []int) string {
	var b strings.Builder
	b.WriteString("it lacks")
	for n, i := range missing {
		if n > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, " column %q %s", l.cols[i].name, l.cols[i].typeName(l.cols[i].null))
	}
	return b.String()
}

func sameOrder(a, b string) bool {
	strip := func(s string) string { // the server puts a single column in parentheses
		s = strings.NewReplacer(" ", "", "`", "").Replace(s)
		if strings.HasPrefix(s, "(") && strings.HasSuffix(s, ")") {
			s = s[1 : len(s)-1]
		}
		return s
	}
	return strip(a) == strip(b)
}

// Check reports what a plan should say of the table.
func (s *Sink) Check(ctx context.Context, sch *change.Schema, o sink.TableOptions) (sink.TableCheck, error) {
	l, problem := s.newLayout(sch, o)
	check := sink.TableCheck{Problem: problem}
	if len(l.cols) > 0 {
		check.Columns = l.mappings()
	}
	if problem != "" {
		return check, nil
	}
	check.Notes = l.notes()
	e, err := s.inspect(ctx, l.at)
	if err != nil || e == nil {
		return check, err
	}
	check.Exists = true
	missing, problem := l.adopt(e)
	if problem != "" {
		check.Problem = fmt.Sprintf("table %s exists and cannot be used: %s", l.at, problem)
		return check, nil
	}
	check.Columns, check.Notes = l.mappings(), l.notes()
	if len(missing) > 0 {
		check.Problem = fmt.Sprintf("table %s exists and cannot be used: %s", l.at, l.lacks(missing))
		return check, nil
	}
	check.Rows, err = s.hasRows(ctx, l)
	return check, err
}

func (s *Sink) hasRows(ctx context.Context, l *layout) (bool, error) {
	found := false
	q := fmt.Sprintf("SELECT 1 FROM %s FINAL WHERE %s = 0 LIMIT 1", l.at, colDeleted)
	err := s.conn.query(ctx, "SELECT from "+l.at.String(), q, func(scan func(...any) error) error { found = true; return nil })
	return found, err
}

// AddTable creates or checks the sink's table and records it as loading.
func (s *Sink) AddTable(ctx context.Context, t sink.Table) error {
	if t.Schema == nil {
		return fault.Permanent(CodeConfig, nil, "read the table's definition first", "table %s is added without a schema", t.ID)
	}
	tab := t.ID.String()
	rs, err := s.records(ctx, tab)
	if err != nil {
		return err
	}
	known := len(rs) > 0 && rs[0].state.State != sink.Removed
	if known && rs[0].state.State != sink.Loading {
		return nil
	}
	l, err := s.prepareTable(ctx, t.Schema, t.Options, known)
	if err != nil {
		return err
	}
	if known { // a repetition: chunks may have been loaded, so the rows stay
		return s.refreshView(ctx, l, tab)
	}
	if err := s.roomForPartials(ctx, t); err != nil {
		return err
	}
	def := definition{Partitions: t.Partitions, Epoch: t.Epoch, Schema: t.Schema, Options: t.Options}
	if def.Base, err = s.makeRoom(ctx, l, t); err != nil {
		return err
	}
	// What an earlier life of the table evolved to is over.
	if err := s.deleteRows(ctx, s.ledger("tables"), s.where(tab)+" AND startsWith(aspect, "+lit(aspectSchemas)+")"); err != nil {
		return err
	}
	if err := s.setAspect(ctx, tab, aspectDef, def); err != nil {
		return err
	}
	if err := s.refreshView(ctx, l, tab); err != nil {
		return err
	}
	return s.setAspect(ctx, tab, aspectState, state{State: sink.Loading})
}

// prepareTable creates the sink's table if there is none. An existing one gets
// the columns that it lacks only if it is known to be the pipeline's.
func (s *Sink) prepareTable(ctx context.Context, sch *change.Schema, o sink.TableOptions, known bool) (*layout, error) {
	l, problem := s.newLayout(sch, o)
	if problem != "" {
		return nil, fault.Permanent(sink.CodeTableMismatch, nil, "change the declaration or the table", "table %s: %s", sch.Table, problem)
	}
	what := "create table " + l.at.String()
	if _, err := s.conn.exec(ctx, what, "CREATE DATABASE IF NOT EXISTS "+ident(l.at.db)); err != nil {
		return nil, err
	}
	if _, err := s.conn.exec(ctx, what, l.create()+" COMMENT "+lit(s.createdBy())); err != nil {
		return nil, err
	}
	view, err := s.inspect(ctx, l.at.view())
	if err != nil {
		return nil, err
	}
	if view != nil && view.engine != "View" {
		return nil, fault.Permanent(sink.CodeTableMismatch, nil, "rename it, or give the table another name at the sink",
			"%s exists and is not a view; table %s needs that name", l.at.view(), sch.Table)
	}
	return l, s.addColumns(ctx, l, known)
}

// addColumns adopts the existing table and adds the columns that it lacks. Older
// rows have the column's constant default in them if there is one, or else NULL.
func (s *Sink) addColumns(ctx context.Context, l *layout, known bool) error {
	e, err := s.inspect(ctx, l.at)
	if err != nil {
		return err
	}
	if e == nil {
		return fault.Permanent(CodeTableMissing, nil, "restore it, or resync the table", "table %s does not exist", l.at)
	}
	missing, problem := l.adopt(e)
	if problem == "" && len(missing) > 0 && !known {
		problem = l.lacks(missing)
	}
	if problem != "" {
		return fault.Permanent(sink.CodeTableMismatch, nil, "change or rename the sink's table", "table %s cannot take rows of %s: %s", l.at, l.schema.Table, problem)
	}
	if known {
		if err := s.takeNulls(ctx, l, missing); err != nil {
			return err
		}
	}
	for _, i := range missing {
		c := &l.cols[i]
		c.null = c.shape == scalar || c.shape == dictText
		q := fmt.Sprintf("ALTER TABLE %s ADD COLUMN IF NOT EXISTS %s %s", l.at, ident(c.name), c.typeName(c.null))
		if src := &l.schema.Columns[i]; src.Missing != nil {
			if expr, exact := c.constant(&src.Type, *src.Missing); exact {
				q += " DEFAULT " + expr // of older rows here, and of those that earlier versions still bring
			}
		}
		if _, err := s.conn.exec(ctx, "alter table "+l.at.String(), q); err != nil {
			return err
		}
	}
	return nil
}

// takeNulls makes columns Nullable whose NOT NULL the source has dropped.
func (s *Sink) takeNulls(ctx context.Context, l *layout, missing []int) error {
	for i := range l.cols {
		c := &l.cols[i]
		takes := c.shape == scalar || c.shape == dictText
		if c.null || !takes || l.schema.Columns[i].NotNull || slices.Contains(l.order, c.name) || slices.Contains(missing, i) || l.schema.IsKey(i) {
			continue
		}
		q := fmt.Sprintf("ALTER TABLE %s MODIFY COLUMN %s %s", l.at, ident(c.name), c.typeName(true))
		if _, err := s.conn.exec(ctx, "alter table "+l.at.String(), q); err != nil {
			return err
		}
		c.null = true
	}
	return nil
}

// makeRoom applies the policy for rows that are there already, and returns where
// the load stands above what stays.
func (s *Sink) makeRoom(ctx context.Context, l *layout, t sink.Table) (change.LSN, error) {
	switch t.Options.Existing {
	case sink.Clear:
		if err := s.truncate(ctx, l.at); err != nil {
			return 0, err
		}
	case sink.KeepRows:
	default:
		rows, err := s.hasRows(ctx, l)
		if err != nil {
			return 0, err
		}
		if rows {
			return 0, fault.Permanent(sink.CodeTableNotEmpty, nil, "set on_existing to truncate or append, or name another table", "table %s has rows", l.at)
		}
	}
	// Tombstones count too: they would hide rows that the load brings back.
	var highest string
	q := fmt.Sprintf("SELECT toString(max(%s)) FROM %s", colVersion, l.at)
	if err := s.conn.query(ctx, "SELECT from "+l.at.String(), q, func(scan func(...any) error) error { return scan(&highest) }); err != nil {
		return 0, err
	}
	pos, err := parseVersion(highest)
	if err != nil {
		return 0, err
	}
	floor, err := s.floor(ctx, t.ID.String())
	if err != nil {
		return 0, err
	}
	if pos.Before(floor) {
		pos = floor // rows below it are not shown
	}
	switch {
	case pos.Epoch > t.Epoch:
		return 0, fault.Permanent(sink.CodeTableMismatch, nil, "load it in a higher epoch, or empty it", "table %s holds rows of epoch %d and the load is of epoch %d", l.at, pos.Epoch, t.Epoch)
	case pos.Epoch == t.Epoch && pos != (change.Position{Epoch: t.Epoch}): // also of a load, whose rows are at Base 0
		return pos.Commit + 1, nil // no record of the log begins there
	}
	return 0, nil
}

func (s *Sink) truncate(ctx context.Context, t target) error {
	_, err := s.conn.exec(ctx, "truncate "+t.String(), "TRUNCATE TABLE "+t.String())
	return err
}

// ResetTable empties the table for a load in a higher epoch. The record is
// written last: until then a repetition does all of it again.
func (s *Sink) ResetTable(ctx context.Context, id change.TableID, epoch uint32) error {
	r, err := s.record(ctx, id)
	if err != nil {
		return err
	}
	tab := id.String()
	switch {
	case epoch == r.def.Epoch && r.state.State == sink.Loading:
		return nil
	case epoch <= r.def.Epoch:
		return fault.Permanent(CodeConfig, nil, "use a higher epoch", "table %s is in epoch %d and cannot be reset to %d", id, r.def.Epoch, epoch)
	}
	if err := s.setAspect(ctx, tab, aspectState, state{State: sink.Loading}); err != nil {
		return err
	}
	if err := outwait(ctx); err != nil {
		return err
	}
	l, err := s.prepareTable(ctx, r.schema, r.def.Options, true)
	if err != nil {
		return err
	}
	if err := s.raiseFloor(ctx, tab, change.Position{Epoch: epoch}); err != nil {
		return err
	}
	if err := s.refreshView(ctx, l, tab); err != nil {
		return err
	}
	if err := s.truncate(ctx, l.at); err != nil {
		return err
	}
	if err := s.cutPartials(ctx, tab, change.Position{Epoch: epoch}); err != nil {
		return err
	}
	// Keys that were parked are loaded afresh.
	if err := s.deleteRows(ctx, s.ledger("dead_letters"), s.where(tab)); err != nil {
		return err
	}
	if err := s.failHolds(ctx, tab, "the table was loaded again"); err != nil {
		return err
	}
	def := r.def
	def.Schema, def.Epoch, def.Base = r.schema, epoch, 0
	return s.setAspect(ctx, tab, aspectDef, def)
}

// createdBy is the comment of tables that this pipeline created: it comes and
// goes with the table, so that nobody else's is ever taken for ours.
func (s *Sink) createdBy() string { return "created by Syncline for pipeline " + s.pipeline }

// RemoveTable stops delivery of the table and forgets how far it was. drop also
// drops the table, if this pipeline created it.
func (s *Sink) RemoveTable(ctx context.Context, id change.TableID, drop bool) error {
	tab := id.String()
	rs, err := s.records(ctx, tab)
	if err != nil || len(rs) == 0 {
		return err
	}
	if err := s.setAspect(ctx, tab, aspectState, state{State: sink.Removed}); err != nil {
		return err
	}
	if err := outwait(ctx); err != nil {
		return err
	}
	at := s.target(id, rs[0].def.Options)
	floor, err := s.floor(ctx, tab)
	if err != nil {
		return err
	}
	if drop {
		if err := s.removePartials(ctx, tab); err != nil {
			return err
		}
	} else if err := s.cutPartials(ctx, tab, floor); err != nil {
		return err
	}
	if !floor.IsZero() && !drop { // gone for good before the floor is forgotten
		if err := s.deleteRows(ctx, at, colVersion+" < "+versionLit(floor)); err != nil && !fault.Is(err, CodeTableMissing) {
			return err
		}
	}
	for _, t := range []string{"chunks", "attempts", "loaded", "watermarks", "dead_letters", "floors"} {
		if err := s.deleteRows(ctx, s.ledger(t), s.where(tab)); err != nil {
			return err
		}
	}
	if err := s.failHolds(ctx, tab, "the table was removed"); err != nil {
		return err
	}
	if err := s.dropHeld(ctx, at.held()); err != nil {
		return err
	}
	if !drop {
		return nil
	}
	ours := false
	q := fmt.Sprintf("SELECT 1 FROM system.tables WHERE database = %s AND name = %s AND comment = %s", lit(at.db), lit(at.table), lit(s.createdBy()))
	if err := s.conn.query(ctx, "SELECT who created "+at.String(), q, func(func(...any) error) error { ours = true; return nil }); err != nil || !ours {
		return err
	}
	for _, q := range []string{"DROP VIEW IF EXISTS " + at.view().String(), "DROP TABLE IF EXISTS " + at.String() + " SYNC"} {
		if _, err := s.conn.exec(ctx, "drop "+at.String(), q); err != nil {
			return err
		}
	}
	return nil
}
