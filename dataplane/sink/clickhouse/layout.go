package clickhouse

import (
	"fmt"
	"math/big"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// Columns that Syncline adds to a table.
const (
	colVersion = "_version"     // Position.Version() of the change that made the row
	colDeleted = "_deleted"     // 1: the row is a tombstone
	colExact   = "_exact"       // exact text of each value that its column's type cannot hold
	colKey     = "_key"         // normalised text of key columns that do not identify a row by themselves
	colSeq     = "_seq"         // append-only tables: number of a snapshot's row in its chunk
	colCommit  = "_commit_time" // commit time at the source; 1970 for a snapshot's rows
	colSynced  = "_synced_at"   // when ClickHouse took the row
)

const timeType = "DateTime64(6, 'UTC')"

// service returns the added columns that an INSERT carries, and their types.
func (l *layout) service() []column {
	var out []column
	if len(l.keyText) > 0 {
		out = append(out, column{name: colKey, typ: "String"})
	}
	out = append(out, column{name: colVersion, typ: "UInt128"}, column{name: colDeleted, typ: "UInt8"})
	if l.appends {
		out = append(out, column{name: colSeq, typ: "UInt64"})
	}
	return append(out, column{name: colExact, typ: "Map(String, String)"}, column{name: colCommit, typ: timeType})
}

type column struct{ name, typ string }

// layoutColumn is a source's column at the sink.
type layoutColumn struct {
	name string
	mapping
	null bool // the sink's column takes NULL
}

// layout is how rows of one schema lie in one table of ClickHouse.
type layout struct {
	schema  *change.Schema
	at      target
	cols    []layoutColumn
	appends bool
	keyText []int    // key columns whose text goes to _key
	order   []string // sorting key
	pk      []string // the part of it that identifies a row; empty if appends
	extra   []int    // columns of the sorting key that are not part of the primary key
}

// wide reports whether equal primary keys may lie apart in the sorting key.
func (l *layout) wide() bool { return len(l.extra) > 0 && !l.appends }

func (s *Sink) target(id change.TableID, o sink.TableOptions) target {
	t := target{o.Schema, o.Name}
	if t.db == "" {
		t.db = s.opts.Database
	}
	if t.db == "" {
		t.db = id.Schema
	}
	if t.table == "" {
		t.table = id.Name
	}
	return t
}

// newLayout returns the layout that Syncline would create, and why it cannot, if so.
func (s *Sink) newLayout(sch *change.Schema, o sink.TableOptions) (*layout, string) {
	l := &layout{schema: sch, at: s.target(sch.Table, o), appends: o.AppendOnly || len(sch.Key) == 0}
	if len(sch.Columns) == 0 {
		return l, "the table has no columns"
	}
	for i := range sch.Columns {
		c := &sch.Columns[i]
		m := mapType(&c.Type, &s.opts)
		null := !c.NotNull && !sch.IsKey(i) && (m.shape == scalar || m.shape == dictText)
		l.cols = append(l.cols, layoutColumn{name: c.Name, mapping: m, null: null})
	}
	if problem := l.sort(o.OrderBy); problem != "" {
		return l, problem
	}
	for _, c := range append(l.service(), column{name: colSynced}) {
		if sch.Column(c.name) >= 0 {
			return l, fmt.Sprintf("the source's column %q has the name of a column that Syncline adds; exclude it", c.name)
		}
	}
	return l, ""
}

// sort works out the sorting key. A key column whose type cannot hold all its
// values stands there beside its exact text in _key; one whose equal values may
// have different texts is there by its normalised text alone.
func (l *layout) sort(orderBy []string) string {
	var chosen []int
	for _, name := range orderBy {
		i := l.schema.Column(name)
		if i < 0 {
			return fmt.Sprintf("order_by names %q, which is not a column of the source's table", name)
		}
		if slices.Contains(chosen, i) {
			return fmt.Sprintf("order_by names %q twice", name)
		}
		chosen = append(chosen, i)
	}
	if l.appends {
		for _, i := range chosen {
			l.order = append(l.order, l.cols[i].name)
			l.extra = append(l.extra, i)
		}
		l.order = append(l.order, colVersion, colSeq)
		return ""
	}
	for _, i := range l.schema.Key {
		c := &l.cols[i]
		direct := !c.folds && (c.shape == scalar || c.shape == dictText) && c.lossy == ""
		if !direct || c.clamps {
			l.keyText = append(l.keyText, i)
		}
		if direct {
			l.pk = append(l.pk, c.name)
		}
	}
	for _, i := range chosen {
		name := l.cols[i].name
		l.order = append(l.order, name)
		if !slices.Contains(l.pk, name) {
			l.extra = append(l.extra, i)
		}
	}
	if len(l.keyText) > 0 {
		l.pk = append(l.pk, colKey)
	}
	for _, name := range l.pk {
		if !slices.Contains(l.order, name) {
			l.order = append(l.order, name)
		}
	}
	if len(l.extra) > 0 && !l.schema.Full {
		return "order_by names columns outside of the primary key, so updates and deletes must carry the old values: " +
			"set REPLICA IDENTITY FULL on the source's table, or leave these columns out"
	}
	return ""
}

func (l *layout) create() string {
	var b strings.Builder
	fmt.Fprintf(&b, "CREATE TABLE IF NOT EXISTS %s (\n", l.at)
	nullKey := false
	for i, c := range l.cols {
		fmt.Fprintf(&b, "  %s %s,\n", ident(c.name), c.typeName(c.null))
		nullKey = nullKey || c.null && slices.Contains(l.extra, i)
	}
	for _, c := range l.service() {
		fmt.Fprintf(&b, "  %s %s,\n", ident(c.name), c.typ)
	}
	fmt.Fprintf(&b, "  %s %s MATERIALIZED now64(6, 'UTC')\n", ident(colSynced), timeType)
	fmt.Fprintf(&b, ") ENGINE = ReplacingMergeTree(%s, %s) ORDER BY (%s)", colVersion, colDeleted, idents(l.order))
	if nullKey {
		b.WriteString(" SETTINGS allow_nullable_key = 1")
	}
	return b.String()
}

// createView shows live rows without the added columns. Rows below the floor
// were truncated, or belong to a load that was started over: a superseded
// writer may still bring some in after they have been removed.
func (l *layout) createView(floor change.Position) string {
	names := make([]string, len(l.cols))
	for i, c := range l.cols {
		names[i] = c.name
	}
	above := ""
	if !floor.IsZero() {
		above = fmt.Sprintf("%s >= %s", colVersion, versionLit(floor))
	}
	var from string
	switch {
	case l.wide():
		// FINAL would drop tombstones before they hide rows that lie elsewhere in the sorting key.
		if above != "" {
			above = " WHERE " + above
		}
		from = fmt.Sprintf("(SELECT * FROM %s%s ORDER BY %s DESC, %s LIMIT 1 BY %s) WHERE %s = 0",
			l.at, above, colVersion, colDeleted, idents(l.pk), colDeleted)
	default:
		if above != "" {
			above = " AND " + above
		}
		from = fmt.Sprintf("%s FINAL WHERE %s = 0%s", l.at, colDeleted, above)
	}
	return fmt.Sprintf("CREATE OR REPLACE VIEW %s AS SELECT %s FROM %s", l.at.view(), idents(names), from)
}

// mappings describes the columns for a plan.
func (l *layout) mappings() []sink.ColumnMapping {
	out := make([]sink.ColumnMapping, len(l.cols))
	for i, c := range l.cols {
		out[i] = sink.ColumnMapping{Column: c.name, Source: l.schema.Columns[i].Type.Name, Sink: c.typeName(c.null), Lossy: c.lossy}
	}
	return out
}

// notes says of which columns some values are kept in _exact.
func (l *layout) notes() []string {
	var clamped, json []string
	for _, c := range l.cols {
		if c.typ == typeJSON {
			json = append(json, c.name)
		}
		if c.clamps {
			clamped = append(clamped, c.name)
		}
	}
	var out []string
	if len(clamped) > 0 {
		out = append(out, fmt.Sprintf("values outside of the type's range (NaN, infinity, years outside 1900 to 2299, NULL and multi-dimensional arrays, JSON that is no object or has integers beyond 64 bits) "+
			"are shown as the nearest one, with the exact text kept in %s; columns %s", colExact, strings.Join(clamped, ", ")))
	}
	if len(json) > 0 {
		out = append(out, verify.NoteInGo(json))
	}
	if l.appends {
		out = append(out, "append-only: every insert and update becomes a row of its own, and deletes are passed over")
	}
	if len(l.keyText) > 0 {
		out = append(out, fmt.Sprintf("%s is part of the sorting key: it tells apart keys that their columns do not", colKey))
	}
	if l.wide() {
		out = append(out, fmt.Sprintf("order_by has columns outside of the primary key: read %s, since FINAL alone cannot tell a row's versions", l.at.view()))
	}
	return out
}

// parseVersion reads a _version that ClickHouse printed.
func parseVersion(s string) (change.Position, error) {
	v, ok := new(big.Int).SetString(s, 10)
	if !ok {
		return change.Position{}, fmt.Errorf("%s is not an integer", colVersion)
	}
	return change.PositionOfVersion(v)
}
