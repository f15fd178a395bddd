package digest

import (
	"fmt"
	"slices"
	"strings"
)

// Postgres builds the statements of one table at a Postgres server. The session must
// have the settings that capture has, and pg_catalog alone in its search path.
type Postgres struct {
	From    string // quoted: the table, or ONLY the table; or a subquery in parentheses, with tableoid, ctid and xmin
	Columns []PostgresColumn
	Key     []int  // primary key, as indexes into Columns
	Where   string // the table's row filter, or ""
	Recode  bool   // the server's encoding is not UTF-8
}

// PostgresColumn is a column as the server has it.
type PostgresColumn struct {
	Name string // quoted
	Base string // name of its type, or of what its domain is over, in pg_catalog; "": it is another's
	Cast string // its type, quoted, to which texts of keys are cast
	Form Form
	// Finish makes the value of a text of a column that is compared in Go; nil: it is the value.
	Finish func([]byte) []byte
}

// plain are types whose cast to text is what Postgres prints. For others (bool, inet,
// char(n), "char") it is not.
var plain = map[string]bool{
	"int2": true, "int4": true, "int8": true, "numeric": true, "text": true, "varchar": true, "uuid": true, "date": true, "time": true,
	"timetz": true, "timestamp": true, "timestamptz": true, "interval": true, "json": true, "jsonb": true, "float4": true, "float8": true,
}

// printed is what Postgres prints of the column, if it is not NULL.
func (c *PostgresColumn) printed() string {
	if plain[c.Base] {
		return c.Name + "::text"
	}
	return "concat(" + c.Name + ")"
}

func (c *PostgresColumn) value() string {
	x := c.Name
	bits := func(fn, v string) string {
		return fmt.Sprintf("CASE WHEN %[2]s = 'NaN' THEN 'NaN' ELSE encode(%[1]s(%[2]s), 'hex') END", fn, v)
	}
	list := func(fn string) string {
		return fmt.Sprintf("CASE WHEN array_ndims(%[1]s) > 1 OR array_lower(%[1]s, 1) <> 1 THEN %[1]s::text ELSE array_to_string(ARRAY(SELECT %[2]s FROM unnest(%[1]s) WITH ORDINALITY u(e, n) ORDER BY n), ',', '~') END", x, bits(fn, "e"))
	}
	var v string
	switch c.Form {
	case Bytes:
		return "md5(" + x + ")"
	case Float32:
		return bits("float4send", x)
	case Float64:
		return bits("float8send", x)
	case Floats32:
		v = list("float4send")
	case Floats64:
		v = list("float8send")
	default:
		if v = c.printed(); plain[c.Base] {
			return v
		}
	}
	return fmt.Sprintf("CASE WHEN %s IS DISTINCT FROM NULL THEN %s END", x, v) // a composite with a NULL in it is not NULL
}

// text is the row text of the columns a0, a1 and so on.
func (p *Postgres) text(cols []int) string {
	parts := make([]string, len(cols))
	for i, c := range cols {
		v := fmt.Sprintf("a%d", c)
		length := "octet_length(" + v + ")"
		if p.Recode {
			length = "octet_length(convert_to(" + v + ", 'UTF8'))"
		}
		parts[i] = fmt.Sprintf("coalesce(%s || ':' || %s, '~')", length, v)
	}
	return strings.Join(parts, " || ")
}

func (p *Postgres) md5(text string) string {
	if p.Recode {
		return "md5(convert_to(" + text + ", 'UTF8'))"
	}
	return "md5(" + text + ")"
}

func lane(h string, from int) string {
	return fmt.Sprintf("('x' || substr(%s, %d, 15))::bit(60)::bigint", h, from)
}

// columns are those that are part of the server's digests, or those that are compared in Go.
func (p *Postgres) columns(inGo bool) (out []int) {
	for i := range p.Columns {
		if p.Columns[i].Form.InGo() == inGo {
			out = append(out, i)
		}
	}
	return out
}

// InGo are the forms of the columns that are compared in Go. If there are any, Keys
// selects their texts too, and Sum, which leaves them out, is of no use.
func (p *Postgres) InGo() (out []Form) {
	for _, i := range p.columns(true) {
		out = append(out, p.Columns[i].Form)
	}
	return out
}

// Finish are those of the columns that are compared in Go.
func (p *Postgres) Finish() (out []func([]byte) []byte) {
	for _, i := range p.columns(true) {
		out = append(out, p.Columns[i].Finish)
	}
	return out
}

func names(letter string, cols []int) []string {
	out := make([]string, len(cols))
	for n, i := range cols {
		out[n] = fmt.Sprintf("%s%d", letter, i)
	}
	return out
}

// rows selects h, the digest, k0, k1 and so on, the printed key, and of the columns that
// are compared in Go the texts, of the scope's rows.
// Subqueries with OFFSET are not merged: each value is computed once.
func (p *Postgres) rows(s Scope) (sql string, args []any) {
	pick := make([]string, 0, len(p.Columns)+len(p.Key))
	for i := range p.Columns {
		pick = append(pick, fmt.Sprintf("%s AS a%d", p.Columns[i].value(), i))
	}
	keys := make([]string, len(p.Key))
	for n, i := range p.Key {
		pick = append(pick, fmt.Sprintf("%s AS k%d", p.Columns[i].printed(), n))
		keys[n] = fmt.Sprintf("k%d", n)
	}
	where, args := p.in(s)
	inner := fmt.Sprintf("SELECT %s FROM %s r%s OFFSET 0", strings.Join(pick, ", "), p.From, where)
	out := append(slices.Clone(keys), names("a", p.columns(true))...)
	sql = fmt.Sprintf("SELECT %s AS h, %s FROM (%s) r", p.md5(p.text(p.columns(false))), strings.Join(out, ", "), inner)
	if s.Slices > 1 {
		key := make([]string, len(p.Key))
		for n := range p.Key {
			key[n] = fmt.Sprintf("octet_length(k%d) || ':' || k%d", n, n)
			if p.Recode {
				key[n] = fmt.Sprintf("octet_length(convert_to(k%d, 'UTF8')) || ':' || k%d", n, n)
			}
		}
		sql += fmt.Sprintf(" WHERE %s %% %d = %d", lane(p.md5(strings.Join(key, " || ")), 1), s.Slices, s.Slice)
	}
	return sql + " OFFSET 0", args
}

func (p *Postgres) in(s Scope) (where string, args []any) {
	var and []string
	bound := func(op string, key []string) {
		names, values := make([]string, len(p.Key)), make([]string, len(p.Key))
		for n, i := range p.Key {
			args = append(args, key[n])
			names[n], values[n] = p.Columns[i].Name, fmt.Sprintf("$%d::text::%s", len(args), p.Columns[i].Cast)
		}
		and = append(and, fmt.Sprintf("(%s) %s (%s)", strings.Join(names, ", "), op, strings.Join(values, ", ")))
	}
	if s.After != nil {
		bound(">", s.After)
	}
	if s.UpTo != nil {
		bound("<=", s.UpTo)
	}
	if p.Where != "" {
		and = append(and, "("+p.Where+"\n)")
	}
	if len(and) == 0 {
		return "", args
	}
	return " WHERE " + strings.Join(and, " AND "), args
}

// Sum selects one row: the number of rows and the decimal sums of both lanes.
func (p *Postgres) Sum(s Scope) (sql string, args []any) {
	rows, args := p.rows(s)
	return fmt.Sprintf("SELECT count(*), coalesce(sum(%s), 0)::text, coalesce(sum(%s), 0)::text FROM (%s) d", lane("h", 1), lane("h", 17), rows), args
}

// Keys selects the printed primary key, as a text[], and the digest of each row; and if
// there are columns that are compared in Go, their texts, as a text[].
func (p *Postgres) Keys(s Scope) (sql string, args []any) {
	rows, args := p.rows(s)
	keys := make([]string, len(p.Key))
	for n := range p.Key {
		keys[n] = fmt.Sprintf("k%d", n)
	}
	texts := ""
	if cols := p.columns(true); len(cols) > 0 {
		texts = fmt.Sprintf(", ARRAY[%s]::text[]", strings.Join(names("a", cols), ", "))
	}
	return fmt.Sprintf("SELECT ARRAY[%s]::text[], h%s FROM (%s) d", strings.Join(keys, ", "), texts, rows), args
}

// Next selects the primary key of the row that ends a part of so many rows after a
// key, as a text[]; none if there are fewer.
func (p *Postgres) Next(after []string, rows int) (sql string, args []any) {
	where, args := p.in(Scope{After: after})
	names, keys := make([]string, len(p.Key)), make([]string, len(p.Key))
	for n, i := range p.Key {
		names[n], keys[n] = p.Columns[i].Name, p.Columns[i].printed()
	}
	return fmt.Sprintf("SELECT ARRAY[%s]::text[] FROM %s r%s ORDER BY %s OFFSET %d LIMIT 1", strings.Join(keys, ", "), p.From, where, strings.Join(names, ", "), rows-1), args
}

// Read selects rows by their primary keys: what names the row's version at this
// server, and the columns, to be had in the text format, which is what Postgres
// prints. Its arguments are one text[] per key column.
func (p *Postgres) Read() string {
	values := make([]string, len(p.Columns))
	for i := range p.Columns {
		values[i] = "r." + p.Columns[i].Name
	}
	match, lists, names := make([]string, len(p.Key)), make([]string, len(p.Key)), make([]string, len(p.Key))
	for n, i := range p.Key {
		c := &p.Columns[i]
		match[n] = fmt.Sprintf("r.%s = u.k%d::%s", c.Name, n, c.Cast)
		lists[n], names[n] = fmt.Sprintf("$%d::text[]", n+1), fmt.Sprintf("k%d", n)
	}
	where := ""
	if p.Where != "" {
		where = " WHERE (" + p.Where + "\n)"
	}
	return fmt.Sprintf("SELECT concat_ws(' ', r.tableoid, r.ctid, r.xmin), %s FROM %s r JOIN unnest(%s) u(%s) ON %s%s",
		strings.Join(values, ", "), p.From, strings.Join(lists, ", "), strings.Join(names, ", "), strings.Join(match, " AND "), where)
}
