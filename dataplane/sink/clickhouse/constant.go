package clickhouse

import (
	"encoding/hex"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/pgtext"
)

// constant returns the expression of a value of the type, given as Postgres text,
// in a column of this mapping. exact is false if the column cannot hold it.
func (c *layoutColumn) constant(t *change.Type, text string) (expr string, exact bool) {
	if ok, err := c.encoder(c.null).text([]byte(text)); !ok || err != nil {
		return "", false
	}
	switch c.shape {
	case dictText:
		return lit(text), true
	case listOf:
		var a pgtext.Array
		if err := a.Parse([]byte(text), c.delim); err != nil || len(a.Dims) > 1 {
			return "", false
		}
		elem := t.Root().Elem
		var items []string
		for _, e := range a.Elems {
			if e.Null {
				items = append(items, "NULL")
				continue
			}
			items = append(items, c.one(elem, string(e.Text)))
		}
		return "CAST([" + strings.Join(items, ", ") + "], " + lit(c.typeName(false)) + ")", true
	case mapOf:
		var h pgtext.Hstore
		if err := h.Parse([]byte(text)); err != nil {
			return "", false
		}
		var items []string
		for _, p := range h.Pairs {
			value := "NULL"
			if !p.Null {
				value = lit(string(p.Value))
			}
			items = append(items, lit(string(p.Key)), value)
		}
		return "CAST(map(" + strings.Join(items, ", ") + "), " + lit(c.typeName(false)) + ")", true
	}
	return c.one(t, text), true
}

// one is a single value.
func (m *mapping) one(t *change.Type, text string) string {
	switch t.Root().Base {
	case "bytea":
		if b, err := hex.DecodeString(strings.TrimPrefix(text, `\x`)); err == nil {
			return "unhex(" + lit(hex.EncodeToString(b)) + ")"
		}
	case "bool":
		if m.typ == "Bool" {
			if text == "t" {
				return "true"
			}
			return "false"
		}
	case "timestamptz":
		if m.typ != "String" {
			text = strings.TrimSuffix(text, "+00") // the source's session is in UTC
		}
	}
	if m.typ == "String" {
		return lit(text)
	}
	return "CAST(" + lit(text) + ", " + lit(m.typ) + ")"
}
