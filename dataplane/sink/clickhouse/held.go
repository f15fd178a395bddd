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

// longestName is how many bytes a view's name has at most: it names files, too.
const longestName = 200

// keyValues are the texts of a key's columns, of the form that change.Key.String has.
const keyValues = `arrayMap(q -> if(position(q, '\\') = 0, q, arrayStringConcat(arrayMap(t -> multiIf(
	NOT startsWith(t, '\\'), t,
	substring(t, 2, 1) = 'x', unhex(substring(t, 3)),
	substring(t, 2, 1) IN ('u', 'U'), arrayElement(arrayMap(c -> multiIf(
		c < 128, char(c),
		c < 2048, char(192 + intDiv(c, 64), 128 + c % 64),
		c < 65536, char(224 + intDiv(c, 4096), 128 + intDiv(c, 64) % 64, 128 + c % 64),
		char(240 + intDiv(c, 262144), 128 + intDiv(c, 4096) % 64, 128 + intDiv(c, 64) % 64, 128 + c % 64)), [reinterpretAsUInt32(reverse(unhex(substring(t, 3))))]), 1),
	transform(substring(t, 2), ['a', 'b', 'f', 'n', 'r', 't', 'v'], ['\x07', '\x08', '\x0C', '\n', '\r', '\t', '\x0B'], substring(t, 2))),
	extractAll(q, '\\\\x[0-9a-f][0-9a-f]|\\\\u[0-9a-f][0-9a-f][0-9a-f][0-9a-f]|\\\\U[0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f][0-9a-f]|\\\\.|[^\\\\]+')))),
	extractAll(key, '"([^"\\\\]*(\\\\.[^"\\\\]*)*)"'))`

// heldColumn gives what the column shows of a key's text, and whether that is the value
// itself ("1" where it always is).
func (c *layoutColumn) heldColumn(t *change.Type, text string) (value, exact string) {
	beyond := func(first, last string) string { // years have four digits, or more
		return fmt.Sprintf("multiIf(%[1]s = 'infinity' OR match(%[1]s, '^[0-9][0-9][0-9][0-9][0-9]') AND NOT endsWith(%[1]s, ' BC') OR %[1]s >= '2300' AND NOT startsWith(%[1]s, '-') AND NOT endsWith(%[1]s, ' BC'), %[3]s, "+
			"%[1]s = '-infinity' OR endsWith(%[1]s, ' BC') OR %[1]s < '1900', %[2]s, '')", text, lit(first), lit(last))
	}
	switch {
	case c.shape == listOf || c.shape == mapOf || c.typ == "JSON": // as rows have it, or none
		return fmt.Sprintf("defaultValueOfTypeName(%s)", lit(c.typeName(false))), "0"
	case c.isDate():
		b := beyond("1900-01-01", "2299-12-31")
		return fmt.Sprintf("toDate32(if(%[1]s = '', %[2]s, %[1]s))", b, text), b + " = ''"
	case c.isTime():
		b := beyond("1900-01-01 00:00:00", "2299-12-31 23:59:59.999999")
		return fmt.Sprintf("toDateTime64(if(%[1]s = '', replaceRegexpOne(%[2]s, '[+]00$', ''), %[1]s), 6, 'UTC')", b, text), b + " = ''"
	case strings.HasPrefix(c.typ, "Decimal("):
		// NaN, the one value that it does not hold, stands as 0.
		return fmt.Sprintf("CAST(if(%[1]s = 'NaN', '0', %[1]s), %[2]s)", text, lit(c.typ)), text + " != 'NaN'"
	case c.typ == "Bool":
		return text + " = 't'", "1"
	case c.typ == "String" && t.Root().Base == "bytea" && c.reread != nil:
		return "unhex(substring(" + text + ", 3))", "1"
	case c.typ == "String":
		return text, "1"
	}
	return fmt.Sprintf("CAST(%s, %s)", text, lit(c.typ)), "1"
}

// heldQuery is the query of a table's view. A column whose equal values have several
// texts is shown as the table's rows of the key have it, in a row for each of its texts,
// and as the ledger has it where the table has no row.
func (s *Sink) heldQuery(l *layout) string {
	type keyColumn struct {
		i            int
		value, exact string
		folds        bool
	}
	cols := make([]keyColumn, len(l.schema.Key))
	names := make([]string, len(cols))
	folds := false
	for n, i := range l.schema.Key {
		c := &l.cols[i]
		k := keyColumn{i: i, folds: slices.Contains(l.keyText, i) && !slices.Contains(l.pk, c.name)}
		k.value, k.exact = c.heldColumn(&l.schema.Columns[i].Type, fmt.Sprintf("vs[%d]", n+1))
		cols[n], names[n], folds = k, c.name, folds || k.folds
	}
	since, repair, state, reason := sink.HeldColumns(names)
	var shown, inner []string
	for n, k := range cols {
		inner = append(inner, fmt.Sprintf("%s AS c%d", k.value, n))
		if k.folds {
			shown = append(shown, fmt.Sprintf("if(r.found = 1, r.c%d, h.c%d) AS %s", n, n, ident(names[n])))
		} else {
			shown = append(shown, fmt.Sprintf("h.c%d AS %s", n, ident(names[n])))
		}
	}
	held := fmt.Sprintf("SELECT %s AS vs, if(held_at = toDateTime64(0, 6, 'UTC'), at, held_at) AS since, repair, state, reason FROM %s FINAL WHERE %s AND %s",
		keyValues, s.ledger("repairs"), s.where(l.schema.Table.String()), inHold)
	service := fmt.Sprintf("h.since AS %s, h.repair AS %s, toString(h.state) AS %s, h.reason AS %s", ident(since), ident(repair), ident(state), ident(reason))
	if !folds {
		return fmt.Sprintf("SELECT %s, %s FROM (SELECT %s, since, repair, state, reason FROM (%s)) AS h", strings.Join(shown, ", "), service, strings.Join(inner, ", "), held)
	}
	// _key, as rows have it, finds them.
	var texts []string
	for _, i := range l.keyText {
		n := slices.Index(l.schema.Key, i)
		text := fmt.Sprintf("vs[%d]", n+1)
		if c := &l.cols[i]; c.clamps && c.shape == scalar {
			text = fmt.Sprintf("if(%s, '', %s)", cols[n].exact, text)
		}
		texts = append(texts, text)
	}
	inner = append(inner, fmt.Sprintf("arrayStringConcat([%s], '\\x00') AS k", strings.Join(texts, ", ")))
	rows := []string{colKey + " AS k"}
	on := []string{"h.k = r.k"}
	for n, k := range cols {
		rows = append(rows, fmt.Sprintf("%s AS c%d", ident(names[n]), n))
		if !k.folds {
			on = append(on, fmt.Sprintf("h.c%d = r.c%d", n, n))
		}
	}
	with := fmt.Sprintf("(SELECT %s, since, repair, state, reason FROM (%s))", strings.Join(inner, ", "), held)
	return fmt.Sprintf("SELECT %s, %s FROM %s AS h LEFT JOIN (SELECT DISTINCT %s, 1 AS found FROM %s WHERE %s = 0 AND %s IN (SELECT k FROM %s)) AS r ON %s",
		strings.Join(shown, ", "), service, with, strings.Join(rows, ", "), l.at, colDeleted, colKey, with, strings.Join(on, " AND "))
}

// heldViews are those of the pipeline that exist, with their comments.
func (s *Sink) heldViews(ctx context.Context) (map[target]string, error) {
	out := map[target]string{}
	q := fmt.Sprintf("SELECT database, name, comment FROM system.tables WHERE engine = 'View' AND startsWith(comment, %s)", lit(sink.HeldComment(s.pipeline)))
	err := s.conn.query(ctx, "SELECT the views of held keys", q, func(scan func(...any) error) error {
		var at target
		var mark string
		err := scan(&at.db, &at.table, &mark)
		out[at] = mark
		return err
	})
	return out, err
}

// ShowHeld makes the views of held keys, or drops them. They run with the rights of the
// sink's user: a reader needs none on the ledger, which holds rows of all tables.
func (s *Sink) ShowHeld(ctx context.Context, show bool) error {
	stale, err := s.heldViews(ctx)
	if err != nil {
		return err
	}
	var tables []record
	if show {
		if tables, err = s.records(ctx, ""); err != nil {
			return err
		}
	}
	for i := range tables {
		r := &tables[i]
		if r.state.State == sink.Removed {
			continue
		}
		l, err := s.existingLayout(ctx, r.schema, r.def.Options)
		if fault.Is(err, CodeTableMissing) || err == nil && l.appends {
			continue
		}
		if err != nil {
			return err
		}
		at := l.at.held()
		query := s.heldQuery(l)
		mark := sink.HeldMark(s.pipeline, r.id, query)
		was, mine := stale[at]
		delete(stale, at)
		if was == mark {
			continue
		}
		make := "CREATE VIEW "
		if mine {
			make = "CREATE OR REPLACE VIEW "
		} else if e, err := s.inspect(ctx, at); err != nil {
			return err
		} else if e != nil {
			return heldNameTaken(at)
		}
		_, err = s.conn.exec(ctx, "create the view of held keys "+at.String(), make+at.String()+" DEFINER = CURRENT_USER SQL SECURITY DEFINER AS "+query+" COMMENT "+lit(mark))
		if err != nil {
			return err
		}
	}
	for at := range stale {
		if _, err := s.conn.exec(ctx, "drop the view of held keys "+at.String(), "DROP VIEW IF EXISTS "+at.String()); err != nil {
			return err
		}
	}
	return nil
}

func heldNameTaken(at target) error {
	return fault.Permanent(sink.CodeViewName, nil, "rename it, map the table to another name (target), or set quarantine_views of the sink to false",
		"%s exists at the sink, and is to be the view of held keys", at)
}

// dropHeld drops a view, if it is one of the pipeline's.
func (s *Sink) dropHeld(ctx context.Context, at target) error {
	views, err := s.heldViews(ctx)
	if _, ok := views[at]; err != nil || !ok {
		return err
	}
	_, err = s.conn.exec(ctx, "drop the view of held keys "+at.String(), "DROP VIEW IF EXISTS "+at.String())
	return err
}

// HeldView tells the name of a table's view, and whether something else has it.
func (s *Sink) HeldView(ctx context.Context, sc *change.Schema, o sink.TableOptions) (string, string, error) {
	if o.AppendOnly || len(sc.Key) == 0 {
		return "", "", nil
	}
	at := s.target(sc.Table, o).held()
	name := change.TableID{Schema: at.db, Name: at.table}.String()
	e, err := s.inspect(ctx, at)
	if err != nil || e == nil {
		return name, "", err
	}
	views, err := s.heldViews(ctx)
	if _, ok := views[at]; err != nil || ok {
		return name, "", err
	}
	return name, heldNameTaken(at).Error(), nil
}
