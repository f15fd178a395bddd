package shape

import (
	"fmt"
	"strconv"
	"strings"

	"syncline/dataplane/change"
)

// Marks before the text of a value that a statement reads of a masked column.
const (
	markMask = '!' // it is to be masked
	markAsIs = '='
)

func quote(name string) string { return `"` + strings.ReplaceAll(name, `"`, `""`) + `"` }

func literal(text string) string { return "'" + strings.ReplaceAll(text, "'", "''") + "'" }

// sql is the condition in the words of Postgres, which is never NULL.
func (c *condition) sql() string {
	if c.always {
		return "true"
	}
	parts := make([]string, len(c.parts))
	for i := range c.parts {
		parts[i] = c.parts[i].sql()
	}
	return "(" + strings.Join(parts, " OR ") + ")"
}

func (p *part) sql() string {
	if p.tier == "" {
		return p.tests[0].sql()
	}
	var b strings.Builder
	b.WriteString("CASE")
	for i := range p.tests {
		fmt.Fprintf(&b, " WHEN %s THEN %t", p.tests[i].sql(), p.tests[i].is)
	}
	return b.String() + " ELSE false END"
}

func (t *test) sql() string {
	if t.m == nil {
		return "true"
	}
	return "coalesce((" + t.text + "\n), false)"
}

// Where is the condition on rows of the source that are there, together with a filter of
// the table ("" for none).
func (s *Shape) Where(filter string) string {
	var and []string
	if filter != "" {
		and = append(and, "("+filter+"\n)")
	}
	if !s.rows.none() {
		and = append(and, "NOT "+s.rows.sql())
	}
	for i := range s.samples {
		smp := &s.samples[i]
		sql := smp.sql()
		if !smp.of.always {
			sql = "(NOT " + smp.of.sql() + " OR " + sql + ")"
		}
		and = append(and, sql)
	}
	return strings.Join(and, " AND ")
}

func (s *sample) sql() string {
	b := literal(strconv.Itoa(len(s.salt)) + ":" + s.salt)
	for _, name := range s.names {
		v := quote(name) + "::text"
		b += fmt.Sprintf(" || coalesce(octet_length(convert_to(%s, 'UTF8')) || ':' || %s, '~')", v, v)
	}
	return fmt.Sprintf("('x' || substr(encode(sha256(convert_to(%s, 'UTF8')), 'hex'), 1, 15))::bit(60)::bigint < %d", b, s.below)
}

// Column is the expression of a column of Schema at the source. That of a masked column
// has a mark before its text; Finish and Finisher make the value of it.
func (s *Shape) Column(i int) string {
	if i >= len(s.cols) {
		return s.rateSQL()
	}
	c := &s.cols[i]
	name := quote(s.raw.Columns[i].Name)
	out := name
	if !c.mask.none() {
		mark := literal(string(markMask))
		if !c.mask.always {
			mark = fmt.Sprintf("CASE WHEN %s THEN '%c' ELSE '%c' END", c.mask.sql(), markMask, markAsIs)
		}
		out = fmt.Sprintf("(%s || %s::text)", mark, name)
	}
	switch {
	case c.omit.always:
		out = "NULL::" + s.raw.Columns[i].Type.Name
	case !c.omit.none():
		out = fmt.Sprintf("CASE WHEN %s THEN NULL ELSE %s END", c.omit.sql(), out)
	}
	return out
}

// rateSQL is the rate of a row.
func (s *Shape) rateSQL() string {
	if s.samples[0].of.always { // there is no other
		return literal(string(s.samples[0].rate.Data)) + "::float8"
	}
	var b strings.Builder
	b.WriteString("(CASE")
	for i := range s.samples {
		fmt.Fprintf(&b, " WHEN %s THEN %s", s.samples[i].of.sql(), literal(string(s.samples[i].rate.Data)))
	}
	return b.String() + " ELSE " + literal(string(everyRow.Data)) + " END)::float8"
}

// Relation is what the sink is to hold of a table of the source, as a subquery without a
// name. filter is the table's own.
func (s *Shape) Relation(from, filter string) string {
	cols := []string{"tableoid", "ctid", "xmin"}
	for i := range s.out.Columns {
		cols = append(cols, s.Column(i)+" AS "+quote(s.out.Columns[i].Name))
	}
	sql := "(SELECT " + strings.Join(cols, ", ") + " FROM " + from
	if w := s.Where(filter); w != "" {
		sql += " WHERE " + w
	}
	return sql + ")"
}

// Finish makes the value of a masked column of what Column reads.
func (s *Shape) Finish(i int, marked []byte) []byte {
	if len(marked) > 0 && marked[0] == markAsIs {
		return marked[1:]
	}
	if len(marked) > 0 { // without a mark it was not read by Column: masked all the same
		marked = marked[1:]
	}
	return s.cols[i].hash(marked)
}

// FinishRow makes the values of a row of what Column reads.
func (s *Shape) FinishRow(row change.Row) {
	for _, i := range s.masked {
		if row[i].Kind == change.Text {
			row[i].Data = s.Finish(i, row[i].Data)
		}
	}
}
