package clickhouse

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// ReadRows calls row for each live row of a table, with every value as the text
// that Postgres prints: what it was made from, to the last digit. Values are valid
// until row returns.
func (s *Sink) ReadRows(ctx context.Context, sch *change.Schema, o sink.TableOptions, row func(change.Row) error) error {
	l, err := s.existingLayout(ctx, sch, o)
	if err != nil {
		return err
	}
	floor, err := s.floor(ctx, sch.Table.String())
	if err != nil {
		return err
	}
	return s.conn.query(ctx, "SELECT from "+l.at.String(), l.live(floor, l.pickTexts()+", "+colExact, "")+textSettings, func(scan func(...any) error) error {
		return l.scanTexts(scan, row)
	})
}

// existingLayout is the layout with the columns that the table has.
func (s *Sink) existingLayout(ctx context.Context, sch *change.Schema, o sink.TableOptions) (*layout, error) {
	l, problem := s.newLayout(sch, o)
	e, err := s.inspect(ctx, l.at)
	if err != nil {
		return nil, err
	}
	if problem == "" && e == nil {
		return nil, fault.Permanent(CodeTableMissing, nil, "restore it, or resync the table", "table %s does not exist", l.at)
	}
	if problem == "" {
		_, problem = l.adopt(e)
	}
	if problem != "" {
		return nil, fault.Permanent(sink.CodeTableMismatch, nil, "change the sink's table", "table %s: %s", l.at, problem)
	}
	return l, nil
}

// textSettings make the server print all digits.
const textSettings = " SETTINGS output_format_decimal_trailing_zeros = 1"

// pickTexts selects what scanTexts reads, without _exact.
func (l *layout) pickTexts() string {
	var pick []string
	for i := range l.cols {
		c := &l.cols[i]
		name := ident(c.name)
		switch c.shape {
		case listOf:
			pick = append(pick, fmt.Sprintf("arrayMap(v -> toString(v), %s)", name))
		case mapOf:
			pick = append(pick, "mapKeys("+name+")", "mapValues("+name+")")
		default:
			pick = append(pick, fmt.Sprintf("CAST(toString(%s), 'Nullable(String)')", name))
		}
	}
	return strings.Join(pick, ", ")
}

// live selects expressions from the table's live rows. where is a condition over
// their primary keys, of which all versions of a row have the same, or empty.
func (l *layout) live(floor change.Position, pick, where string) string {
	if where != "" {
		where = " AND " + where
	}
	above := colVersion + " >= " + versionLit(floor)
	if l.wide() {
		return fmt.Sprintf("SELECT %s FROM (SELECT * FROM %s AS t WHERE %s%s ORDER BY %s DESC, %s LIMIT 1 BY %s) WHERE %s = 0",
			pick, l.at, above, where, colVersion, colDeleted, idents(l.pk), colDeleted)
	}
	return fmt.Sprintf("SELECT %s FROM %s AS t FINAL WHERE %s = 0 AND %s%s", pick, l.at, colDeleted, above, where)
}

func (l *layout) scanTexts(scan func(...any) error, row func(change.Row) error) error {
	got := make([]storedValue, len(l.cols))
	exact := map[string]string{}
	var dest []any
	for i := range l.cols {
		switch l.cols[i].shape {
		case listOf:
			dest = append(dest, &got[i].list)
		case mapOf:
			dest = append(dest, &got[i].keys, &got[i].list)
		default:
			dest = append(dest, &got[i].text)
		}
	}
	if err := scan(append(dest, &exact)...); err != nil {
		return err
	}
	out := make(change.Row, len(l.cols))
	for i := range l.cols {
		c := &l.cols[i]
		if text, ok := exact[c.name]; ok {
			if text != string(wordNull) {
				out[i] = change.TextValue(text)
			}
			continue
		}
		t := l.schema.Columns[i].Type.Root()
		switch {
		case c.shape == listOf:
			out[i] = change.TextValue(arrayText(got[i].list, t.Elem.Root(), c))
		case c.shape == mapOf:
			out[i] = change.TextValue(hstoreText(got[i]))
		case got[i].text != nil:
			out[i] = change.TextValue(postgresText(*got[i].text, t, &c.mapping))
		}
	}
	return row(out)
}

// postgresText turns what toString gives into what Postgres prints.
func postgresText(s string, t *change.Type, m *mapping) string {
	switch {
	case m.typ == "String" && t.Base == "bytea" && m.reread != nil:
		return fmt.Sprintf(`\x%x`, s)
	case m.typ == "Bool":
		return s[:1]
	case m.typ == "Float32":
		return floatText(s, 32)
	case m.typ == "Float64":
		return floatText(s, 64)
	case strings.HasPrefix(m.typ, "Decimal("):
		_, scale, _ := t.NumericPrecision()
		return decimalText(s, scale)
	case m.isTime():
		if whole, frac, ok := strings.Cut(s, "."); ok {
			if frac = strings.TrimRight(frac, "0"); frac != "" {
				whole += "." + frac
			}
			s = whole
		}
		if t.Base == "timestamptz" {
			s += "+00"
		}
	}
	return s
}

// decimalText gives a Decimal all the digits of its scale.
func decimalText(s string, scale int) string {
	if scale <= 0 {
		return s
	}
	whole, frac, _ := strings.Cut(s, ".")
	return whole + "." + frac + strings.Repeat("0", max(0, scale-len(frac)))
}

// floatText prints the shortest text that reads back as the number, as Postgres does.
func floatText(s string, bits int) string {
	f, err := strconv.ParseFloat(s, bits)
	switch {
	case err != nil:
		return s
	case math.IsNaN(f):
		return "NaN"
	case math.IsInf(f, 1):
		return "Infinity"
	case math.IsInf(f, -1):
		return "-Infinity"
	}
	e := strconv.FormatFloat(f, 'e', -1, bits)
	_, exp, _ := strings.Cut(e, "e")
	digits := 15
	if bits == 32 {
		digits = 6
	}
	if x, _ := strconv.Atoi(exp); x < -4 || x >= digits {
		return e
	}
	return strconv.FormatFloat(f, 'f', -1, bits)
}

func arrayText(elems []*string, elem *change.Type, c *layoutColumn) string {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range elems {
		if i > 0 {
			b.WriteByte(c.delim)
		}
		if e == nil {
			b.WriteString("NULL")
			continue
		}
		text := postgresText(*e, elem, &c.mapping)
		if text == "" || strings.EqualFold(text, "null") || strings.ContainsAny(text, "{}\"\\ \t\n\r\v\f"+string(c.delim)) {
			text = `"` + quoteText.Replace(text) + `"`
		}
		b.WriteString(text)
	}
	b.WriteByte('}')
	return b.String()
}

var quoteText = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func hstoreText(v storedValue) string {
	var b strings.Builder
	for i, k := range v.keys {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(`"` + quoteText.Replace(k) + `"=>`)
		if v.list[i] == nil {
			b.WriteString("NULL")
		} else {
			b.WriteString(`"` + quoteText.Replace(*v.list[i]) + `"`)
		}
	}
	return b.String()
}
