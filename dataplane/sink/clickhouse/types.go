package clickhouse

import (
	"fmt"
	"strconv"
	"strings"

	"syncline/dataplane/change"
)

// shape of a type decides about NULL and about reading a value back.
type shape byte

const (
	scalar   shape = iota // may be Nullable
	dictText              // LowCardinality(String)
	listOf                // Array(Nullable(T)): NULL is [] with NULL in _exact
	mapOf                 // Map(String, Nullable(String)): NULL is {} with NULL in _exact
)

// mapping is how values of one Postgres type are kept.
type mapping struct {
	shape  shape
	typ    string // ClickHouse type without Nullable; of an array: of its elements
	parse  appendFunc
	reread appendFunc // of what ClickHouse prints, where parse does not read that
	zero   []byte     // wire form of the default
	delim  byte       // of an array's text
	clamps bool       // some values have no place in the type: their exact text goes to _exact
	folds  bool       // equal keys may have different texts: the key goes to _key
	lossy  string

	nullInexact bool // NULL, not the nearest value, stands for what the type cannot hold
}

// typeName is the full ClickHouse type.
func (m *mapping) typeName(null bool) string {
	switch m.shape {
	case dictText:
		if null {
			return "LowCardinality(Nullable(String))"
		}
		return "LowCardinality(String)"
	case listOf:
		return "Array(Nullable(" + m.typ + "))"
	case mapOf:
		return "Map(String, Nullable(String))"
	}
	if null {
		return "Nullable(" + m.typ + ")"
	}
	return m.typ
}

func (m *mapping) encoder(null bool) encoder {
	value := plain{fill: m.zero, parse: m.parse, reread: m.reread}
	switch m.shape {
	case dictText:
		return newLowcard(null)
	case listOf:
		return &array{item: nullable{plain: value, nullInexact: m.nullInexact}, delim: m.delim}
	case mapOf:
		p := &pairs{keys: *newStrings(), values: nullable{plain: *newStrings()}}
		p.begin()
		return p
	}
	if null {
		return &nullable{plain: value, nullInexact: m.nullInexact}
	}
	return &value
}

func fixed(name string, size int, parse appendFunc) mapping {
	return mapping{typ: name, parse: parse, zero: make([]byte, size)}
}

func text() mapping { return mapping{typ: "String", parse: appendString, zero: []byte{0}} }

// mapType returns how values of the type are kept. Where ClickHouse has no type
// that holds them all, the choice is the exact text.
func mapType(t *change.Type, o *Options) mapping {
	root := t.Root()
	switch root.Kind {
	case change.Array:
		if root.Elem == nil {
			return text()
		}
		elem := mapType(root.Elem, o)
		switch elem.shape {
		case dictText, mapOf, listOf:
			// Elements keep their text: dictionaries and maps may not stand in a Nullable.
			elem = text()
		}
		if elem.typ == typeJSON { // which is sent as its text, and a list of texts is another type
			elem = text()
		}
		elem.shape, elem.delim = listOf, ','
		if root.Elem.Root().Base == "box" {
			elem.delim = ';'
		}
		elem.clamps, elem.folds = true, false // NULL, more dimensions, other bounds
		return elem
	case change.Enum:
		m := text()
		m.shape = dictText
		return m
	case change.Base, "":
		return mapBase(root, o)
	}
	return text() // composites, ranges, multiranges
}

func mapBase(t *change.Type, o *Options) mapping {
	switch t.Base {
	case "int2":
		return fixed("Int16", 2, intOf(16, 16))
	case "int4":
		return fixed("Int32", 4, intOf(32, 32))
	case "int8":
		return fixed("Int64", 8, intOf(64, 64))
	case "oid", "xid", "cid":
		return fixed("UInt32", 4, uintOf(32))
	case "xid8":
		return fixed("UInt64", 8, uintOf(64))
	case "float4":
		return fixed("Float32", 4, appendFloat32)
	case "float8":
		return fixed("Float64", 8, appendFloat64)
	case "bool":
		return fixed("Bool", 1, appendBool)
	case "uuid":
		return fixed("UUID", 16, appendUUID)
	case "numeric":
		return mapNumeric(t, o)
	case "date":
		m := fixed("Date32", 4, appendDate)
		m.clamps = true
		return m
	case "timestamp", "timestamptz":
		m := fixed("DateTime64(6, 'UTC')", 8, timestampOf(t.Base == "timestamptz"))
		m.reread, m.clamps = timestampOf(false), true
		return m
	case "bytea":
		m := text()
		m.parse, m.reread = appendBytea, appendString
		return m
	case "citext", "bpchar":
		m := text()
		m.folds = true
		return m
	case "hstore":
		m := text()
		m.shape, m.clamps = mapOf, true
		return m
	case "json", "jsonb":
		if o.JSON {
			return mapJSON()
		}
	}
	return text()
}

func mapNumeric(t *change.Type, o *Options) mapping {
	precision, scale, ok := t.NumericPrecision()
	if scale < 0 { // numeric(3,-2) holds up to 99900
		precision, scale = precision-scale, 0
	}
	precision = max(precision, scale) // numeric(2,5) holds up to 0.00099
	if !ok || o.NumericText || precision > 76 {
		m := text()
		m.folds = true
		return m
	}
	m := fixed(fmt.Sprintf("Decimal(%d, %d)", precision, scale), decimalWidth(precision), decimalOf(precision, scale))
	m.clamps, m.nullInexact = true, true
	return m
}

// fit returns how values of the type are kept in an existing column of the type
// have, and whether that column takes NULL.
func fit(m mapping, t *change.Type, have string) (fitted mapping, null, ok bool) {
	inner, null := unwrap(have, "Nullable(")
	switch {
	case m.shape == scalar && inner == m.typ:
		return m, null, true
	case m.shape == listOf || m.shape == mapOf:
		if have == m.typeName(false) {
			return m, false, true
		}
	case m.shape == dictText:
		if have == m.typeName(false) || have == m.typeName(true) {
			return m, have == m.typeName(true), true
		}
	}
	if low, is := unwrap(have, "LowCardinality("); is && m.typ == "String" && m.shape == scalar && t.Root().Base != "bytea" {
		if inner, null := unwrap(low, "Nullable("); inner == "String" {
			m.shape = dictText
			return m, null, true
		}
	}
	if root := t.Root(); inner == typeJSON && root.Kind == change.Base && (root.Base == "json" || root.Base == "jsonb") {
		return mapJSON(), null, true
	}
	if inner == "String" { // holds the exact text of anything
		folds := m.folds
		if m.shape != scalar || m.typ != "String" {
			m = text()
		}
		m.folds = folds
		return m, null, true
	}
	if want, is := intBits(m.typ); is && m.shape == scalar {
		if bits, is := intBits(inner); is && bits > want {
			return fixed(inner, bits/8, intOf(want, bits)), null, true
		}
	}
	return m, null, false
}

func unwrap(s, head string) (string, bool) {
	if strings.HasPrefix(s, head) && strings.HasSuffix(s, ")") {
		return s[len(head) : len(s)-1], true
	}
	return s, false
}

func intBits(name string) (int, bool) {
	if n, ok := strings.CutPrefix(name, "Int"); ok {
		bits, err := strconv.Atoi(n)
		return bits, err == nil && bits <= 64
	}
	return 0, false
}
