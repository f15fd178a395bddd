package clickhouse

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// filled is a row whose Unchanged values have been found: in its old image, or
// in what the sink holds.
type filled struct {
	row    change.Row
	stored map[int]storedValue
}

const (
	lookupKeys  = 500       // of one SELECT, at most
	lookupBytes = 256 << 10 // of their texts, about
)

// complete finds the values that updates left alone. What the sink holds may be
// newer than the change if the batch is applied again; then the row loses anyway.
func (x *session) complete(ctx context.Context, l *layout, rows []sink.Row) ([]filled, error) {
	out := make([]filled, len(rows))
	var ask []int
	bytes := 0
	need := map[int]bool{}
	flush := func() error {
		if len(ask) == 0 {
			return nil
		}
		err := x.lookup(ctx, l, rows, ask, need, out)
		ask, bytes = ask[:0], 0
		clear(need)
		return err
	}
	for i := range rows {
		r := &rows[i]
		out[i].row = r.New
		if r.Op == change.Delete || l.appends && l.schema.Key == nil {
			continue
		}
		missing := false
		for c := range r.New {
			if r.New[c].Kind != change.Unchanged {
				continue
			}
			if l.schema.Full && c < len(r.Old) && r.Old[c].Kind != change.Unchanged {
				if &out[i].row[0] == &r.New[0] {
					out[i].row = append(change.Row(nil), r.New...)
				}
				out[i].row[c] = r.Old[c]
				continue
			}
			missing, need[c] = true, true
		}
		if !missing || l.appends {
			continue
		}
		ask = append(ask, i)
		if bytes += len(r.Key); len(ask) >= lookupKeys || bytes >= lookupBytes {
			if err := flush(); err != nil {
				return nil, err
			}
		}
	}
	return out, flush()
}

// lookup reads the needed columns of the rows asked for by their primary keys.
func (x *session) lookup(ctx context.Context, l *layout, rows []sink.Row, ask []int, need map[int]bool, out []filled) error {
	var cols []int
	for c := range l.cols {
		if need[c] {
			cols = append(cols, c)
		}
	}
	keys, err := keyTexts(l, rows, ask)
	if err != nil {
		return err
	}
	q := x.lookupQuery(l, cols, ask, keys)
	return x.conn.query(ctx, "SELECT from "+l.at.String(), q, func(scan func(...any) error) error {
		var n uint32
		dest := []any{&n}
		got := make([]storedValue, len(cols))
		exact := map[string]string{}
		for i, c := range cols {
			switch l.cols[c].shape {
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
		f := &out[n]
		f.stored = make(map[int]storedValue, len(cols))
		for i, c := range cols {
			if text, ok := exact[l.cols[c].name]; ok {
				got[i].exact = &text
			}
			f.stored[c] = got[i]
		}
		return nil
	})
}

// keyTexts returns for each row asked for the values of the primary key as the
// table has them: l.pk, of which the last may be _key.
func keyTexts(l *layout, rows []sink.Row, ask []int) ([][]string, error) {
	b := newBlock(l)
	var out [][]string
	for _, i := range ask {
		texts, err := rows[i].Key.Values()
		if err != nil || len(texts) != len(l.schema.Key) {
			return nil, fmt.Errorf("key of a row of table %s is damaged", l.schema.Table)
		}
		var vs []string
		full := make(change.Row, len(l.cols))
		b.exact.reset()
		for k, c := range l.schema.Key {
			full[c] = change.TextValue(texts[k])
			exact, err := b.cols[c].text([]byte(texts[k]))
			if err != nil {
				continue // the row is rejected when it is written
			}
			if !exact {
				b.exact.put(l.cols[c].name, nil)
			}
		}
		for _, name := range l.pk {
			if name == colKey {
				if err := b.keyText(full, rows[i].Key); err != nil {
					return nil, err
				}
				vs = append(vs, string(b.texts))
				continue
			}
			c := l.schema.Column(name)
			vs = append(vs, nearest(&l.cols[c], full[c].Data, b.cols[c], b.exact.has(name)))
		}
		out = append(out, vs)
	}
	return out, nil
}

// nearest is a key's text in the form that castKey reads: for a type that does
// not hold all values, of the one that stands in the column.
func nearest(c *layoutColumn, text []byte, e encoder, inexact bool) string {
	p, ok := e.(*plain)
	switch {
	case !ok:
	case c.isDate() && len(p.data) >= 4:
		return strconv.Itoa(int(int32(binary.LittleEndian.Uint32(p.data[len(p.data)-4:]))))
	case c.isTime() && len(p.data) >= 8:
		return strconv.FormatInt(int64(binary.LittleEndian.Uint64(p.data[len(p.data)-8:])), 10)
	case inexact:
		return "0"
	}
	return string(text)
}

func (m *mapping) isDate() bool { return m.typ == "Date32" }
func (m *mapping) isTime() bool { return strings.HasPrefix(m.typ, "DateTime64") }

// lookupQuery joins the table with the list of keys. Keys are given as texts and
// cast by the server; one whose column cannot hold it is told apart by _key.
func (x *session) lookupQuery(l *layout, cols, ask []int, keys [][]string) string {
	var pick strings.Builder
	for _, c := range cols {
		name := "t." + ident(l.cols[c].name)
		switch l.cols[c].shape {
		case listOf:
			fmt.Fprintf(&pick, ", arrayMap(v -> toString(v), %s)", name)
		case mapOf:
			fmt.Fprintf(&pick, ", mapKeys(%s), mapValues(%s)", name, name)
		default:
			fmt.Fprintf(&pick, ", CAST(toString(%s), 'Nullable(String)')", name)
		}
	}
	return fmt.Sprintf(`%s
		SELECT keys.n%s, t.%s FROM %s AS t FINAL INNER JOIN keys ON tuple(%s) = keys.k
		WHERE t.%s = 0 AND %s`,
		l.withKeys(ask, keys), pick.String(), colExact, l.at, l.pkTuple(), colDeleted, l.inKeys(""))
}

// inKeys is the condition of rows whose keys are in the table "keys", which with makes
// if it is not there. An index is of use only for columns by themselves, not as a tuple in
// one column.
func (l *layout) inKeys(with string) string {
	columns := make([]string, len(l.pk))
	for i := range columns {
		columns[i] = fmt.Sprintf("c%d", i)
	}
	return fmt.Sprintf("(%s) IN (%s SELECT %s FROM keys)", l.pkTuple(), with, strings.Join(columns, ", "))
}

// withKeys makes the list of keys the table "keys": n, the row's index, k, and the values
// of k by themselves. They are literals of arrays: of rows the server would make out the
// type of each value, which takes it seconds for some thousands.
func (l *layout) withKeys(ask []int, keys [][]string) string {
	var on, each strings.Builder
	index := make([]string, len(ask))
	for i, row := range ask {
		index[i] = strconv.Itoa(row)
	}
	lists := []string{"[" + strings.Join(index, ", ") + "] AS ns"}
	join := []string{"ns AS i"}
	for c, name := range l.pk {
		if c > 0 {
			on.WriteString(", ")
		}
		value := l.castKey(name, fmt.Sprintf("k%d", c))
		on.WriteString(value)
		fmt.Fprintf(&each, ", %s AS c%d", value, c)
		texts := make([]string, len(ask))
		for i := range texts {
			texts[i] = lit(keys[i][c])
		}
		lists = append(lists, fmt.Sprintf("[%s] AS t%d", strings.Join(texts, ", "), c))
		join = append(join, fmt.Sprintf("t%d AS k%[1]d", c))
	}
	return fmt.Sprintf("WITH keys AS (SELECT toUInt32(i) AS n, tuple(%s) AS k%s FROM (SELECT %s) ARRAY JOIN %s)", on.String(), each.String(), strings.Join(lists, ", "), strings.Join(join, ", "))
}

func (l *layout) pkTuple() string {
	q := make([]string, len(l.pk))
	for i, n := range l.pk {
		q[i] = "t." + ident(n)
	}
	return strings.Join(q, ", ")
}

// castKey turns a key's text into its column's value.
func (l *layout) castKey(name, expr string) string {
	c := l.schema.Column(name)
	if c < 0 {
		return expr // _key
	}
	m := &l.cols[c]
	switch {
	case m.typ == "String" || m.shape == dictText:
		if l.schema.Columns[c].Type.Root().Base == "bytea" {
			return "unhex(substring(" + expr + ", 3))"
		}
		return expr
	case m.isDate():
		return fmt.Sprintf("addDays(toDate32('1970-01-01'), toInt32(%s))", expr)
	case m.isTime():
		return fmt.Sprintf("fromUnixTimestamp64Micro(toInt64(%s), 'UTC')", expr)
	}
	return fmt.Sprintf("CAST(%s, %s)", expr, lit(m.typ))
}
