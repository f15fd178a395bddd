package postgres

import (
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// target holds the statements that write rows of one schema to one table. Each
// takes one text[] per column and is prepared once per connection.
type target struct {
	table   string // quoted
	schema  *change.Schema
	append  bool
	names   []string // quoted, per column of the schema
	casts   []string // per column: the type a text is cast to
	upsert  string
	insert  string
	delete  string
	partial map[string]string // by the set of present columns
}

// newTarget builds the statements. The relation must have the schema's columns.
func newTarget(s *change.Schema, o sink.TableOptions, r *relation) *target {
	t := &target{table: quoted(name(s.Table, o)), schema: s, append: appends(s, o), partial: map[string]string{}}
	for i := range s.Columns {
		c := r.column(s.Columns[i].Name)
		t.names = append(t.names, ident(c.name))
		t.casts = append(t.casts, c.castType())
	}
	all := make([]int, len(s.Columns))
	for i := range all {
		all[i] = i
	}
	t.insert = fmt.Sprintf("INSERT INTO %s AS t (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s",
		t.table, strings.Join(t.names, ", "), t.exprs(all), params(len(all)))
	if !t.append {
		t.upsert = t.insert + t.onConflict()
		t.delete = fmt.Sprintf("DELETE FROM %s AS t USING %s WHERE %s", t.table, params(len(s.Key)), t.keyMatch(0))
	}
	return t
}

// checkTarget reports the columns that the sink's table lacks.
func checkTarget(s *change.Schema, target change.TableID, r *relation) error {
	if r == nil {
		return fault.Permanent(sink.CodeTableMismatch, nil, "restore the table, or resync it", "table %s is not at the sink", target)
	}
	for i := range s.Columns {
		if r.column(s.Columns[i].Name) == nil {
			return fault.Permanent(sink.CodeTableMismatch, nil, "restore the column, or resync the table",
				"table %s at the sink has no column %q", target, s.Columns[i].Name)
		}
	}
	return nil
}

// params is the row source: column i of it is called c<i>.
func params(n int) string {
	ps, cs := make([]string, n), make([]string, n)
	for i := range n {
		ps[i], cs[i] = fmt.Sprintf("$%d::text[]", i+1), fmt.Sprintf("c%d", i)
	}
	return "unnest(" + strings.Join(ps, ", ") + ") AS a (" + strings.Join(cs, ", ") + ")"
}

// exprs casts the i-th parameter to the type of the i-th of cols.
func (t *target) exprs(cols []int) string {
	out := make([]string, len(cols))
	for i, c := range cols {
		out[i] = fmt.Sprintf("a.c%d::%s", i, t.casts[c])
	}
	return strings.Join(out, ", ")
}

// keyMatch compares the key with the parameters from first on.
func (t *target) keyMatch(first int) string {
	out := make([]string, len(t.schema.Key))
	for i, k := range t.schema.Key {
		out[i] = fmt.Sprintf("t.%s = a.c%d::%s", t.names[k], first+i, t.casts[k])
	}
	return strings.Join(out, " AND ")
}

func (t *target) onConflict() string {
	var set []string
	for i, n := range t.names {
		if !t.schema.IsKey(i) {
			set = append(set, n+" = EXCLUDED."+n)
		}
	}
	key := " ON CONFLICT (" + identList(t.schema.KeyNames()) + ") DO "
	if len(set) == 0 {
		return key + "NOTHING"
	}
	return key + "UPDATE SET " + strings.Join(set, ", ")
}

// upsertFrom writes the rows of a table that has the schema's columns.
func (t *target) upsertFrom(table string) string {
	cols := strings.Join(t.names, ", ")
	return fmt.Sprintf("INSERT INTO %s AS t (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %s%s", t.table, cols, cols, table, t.onConflict())
}

// update writes only the given columns, which are not of the key, of rows that
// must exist: the parameters are those columns, then the key's.
func (t *target) update(present []int) string {
	id := fmt.Sprint(present)
	if sql, ok := t.partial[id]; ok {
		return sql
	}
	set := make([]string, len(present))
	for i, c := range present {
		set[i] = fmt.Sprintf("%s = a.c%d::%s", t.names[c], i, t.casts[c])
	}
	sql := fmt.Sprintf("WITH u AS (UPDATE %s AS t SET %s FROM %s WHERE %s RETURNING 1) SELECT syncline.expect_rows((SELECT count(*) FROM u), cardinality($1::text[]))",
		t.table, strings.Join(set, ", "), params(len(present)+len(t.schema.Key)), t.keyMatch(len(present)))
	t.partial[id] = sql
	return sql
}
