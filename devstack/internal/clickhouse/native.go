package clickhouse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// The engine writes blocks of protocol version 0: counts, then name, type and
// data of each column. Later versions want more around the data.
const (
	revisionWithBlockInfo           = 1
	revisionWithCustomSerialization = 54454
)

// blockInfo says: no overflow row, no bucket.
var blockInfo = []byte{1, 0, 2, 0xff, 0xff, 0xff, 0xff, 0}

var errShort = errors.New("native block ends early")

// errOpaque is for types whose data has no length that can be told from outside.
var errOpaque = errors.New("this type has no length that the front can tell; select it as a String")

// upgradeBlocks gives the blocks of in as a client of a protocol version expects
// them, as slices to be written one after the other. The columns' data is not
// copied.
func upgradeBlocks(in []byte, revision int) ([][]byte, error) {
	if revision < revisionWithBlockInfo {
		return [][]byte{in}, nil
	}
	var out [][]byte
	for len(in) > 0 {
		parts, rest, err := upgradeBlock(in, revision)
		if err != nil {
			return nil, err
		}
		out, in = append(out, parts...), rest
	}
	return out, nil
}

func upgradeBlock(in []byte, revision int) (out [][]byte, rest []byte, err error) {
	r := nativeReader{b: in}
	columns, rows := r.uvarint(), r.uvarint()
	out = append(out, blockInfo, in[:r.pos])
	for range columns {
		start := r.pos
		r.skip(r.uvarint())
		typeStart := r.uvarint()
		name := r.take(typeStart)
		head := in[start:min(r.pos, len(in))]
		out = append(out, head)
		if revision >= revisionWithCustomSerialization {
			out = append(out, []byte{0})
		}
		if r.err != nil {
			return nil, nil, r.err
		}
		data := r.pos
		if rows > 0 {
			t, err := parseType(string(name))
			if err != nil {
				return nil, nil, err
			}
			t.skipPrefix(&r)
			t.skipData(&r, rows)
		}
		if r.err != nil {
			return nil, nil, r.err
		}
		out = append(out, in[data:r.pos])
	}
	return out, in[r.pos:], r.err
}

// nativeReader walks over a block; its first error stays.
type nativeReader struct {
	b   []byte
	pos int
	err error
}

func (r *nativeReader) uvarint() uint64 {
	if r.err != nil {
		return 0
	}
	v, n := binary.Uvarint(r.b[r.pos:])
	if n <= 0 {
		r.err = errShort
		return 0
	}
	r.pos += n
	return v
}

func (r *nativeReader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *nativeReader) skip(n uint64) { r.take(n) }

func (r *nativeReader) take(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	if n > uint64(len(r.b)-r.pos) {
		r.err = errShort
		return nil
	}
	b := r.b[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}

// nativeType is a column type as far as the size of its data goes.
type nativeType struct {
	kind typeKind
	size uint64 // of a fixed value
	of   []nativeType
}

type typeKind int

const (
	fixedType typeKind = iota
	stringType
	nullableType
	arrayType // also maps and nested tables
	tupleType
	lowCardinalityType
	jsonType
	variantType
)

var fixedSizes = map[string]uint64{
	"Int8": 1, "UInt8": 1, "Bool": 1, "Enum8": 1, "Nothing": 1,
	"Int16": 2, "UInt16": 2, "Date": 2, "Enum16": 2, "BFloat16": 2,
	"Int32": 4, "UInt32": 4, "Float32": 4, "Date32": 4, "DateTime": 4, "DateTime32": 4, "IPv4": 4, "Time": 4,
	"Int64": 8, "UInt64": 8, "Float64": 8, "DateTime64": 8, "Time64": 8,
	"Int128": 16, "UInt128": 16, "UUID": 16, "IPv6": 16, "Point": 16,
	"Int256": 32, "UInt256": 32,
}

func parseType(name string) (nativeType, error) {
	base, inner := name, ""
	if i := strings.IndexByte(name, '('); i > 0 && strings.HasSuffix(name, ")") {
		base, inner = name[:i], name[i+1:len(name)-1]
	}
	if n, ok := fixedSizes[base]; ok {
		return nativeType{size: n}, nil
	}
	if strings.HasPrefix(base, "Interval") {
		return nativeType{size: 8}, nil
	}
	args := splitArgs(inner)
	point := nativeType{size: 16}
	array := func(t nativeType) nativeType { return nativeType{kind: arrayType, of: []nativeType{t}} }
	switch base {
	case "String":
		return nativeType{kind: stringType}, nil
	case "JSON":
		return nativeType{kind: jsonType}, nil
	case "FixedString":
		n, err := strconv.ParseUint(inner, 10, 32)
		return nativeType{size: n}, err
	case "Decimal":
		p, err := strconv.Atoi(args[0])
		size := uint64(32)
		switch {
		case p <= 9:
			size = 4
		case p <= 18:
			size = 8
		case p <= 38:
			size = 16
		}
		return nativeType{size: size}, err
	case "Ring", "LineString":
		return array(point), nil
	case "Polygon", "MultiLineString":
		return array(array(point)), nil
	case "MultiPolygon":
		return array(array(array(point))), nil
	case "SimpleAggregateFunction":
		return parseType(args[len(args)-1])
	case "Nullable", "Array", "LowCardinality":
		t, err := parseType(inner)
		kind := map[string]typeKind{"Nullable": nullableType, "Array": arrayType, "LowCardinality": lowCardinalityType}[base]
		return nativeType{kind: kind, of: []nativeType{t}}, err
	case "Variant":
		t := nativeType{kind: variantType}
		for _, a := range args {
			e, err := parseType(a)
			if err != nil {
				return t, err
			}
			t.of = append(t.of, e)
		}
		return t, nil
	case "Tuple", "Map", "Nested":
		if inner == "" {
			break
		}
		t := nativeType{kind: tupleType}
		for _, a := range args {
			e, err := parseType(a)
			if err != nil && base != "Map" {
				e, err = parseType(afterName(a))
			}
			if err != nil {
				return t, err
			}
			t.of = append(t.of, e)
		}
		if base != "Tuple" {
			t = array(t)
		}
		return t, nil
	}
	return nativeType{}, fmt.Errorf("%s: %w", name, errOpaque)
}

// splitArgs cuts at the commas outside of parentheses and quotes.
func splitArgs(s string) []string {
	var out []string
	sc := scanner{sql: s}
	start := 0
	for t, ok := sc.next(); ok; t, ok = sc.next() {
		if t.kind == signToken && t.depth == 0 && s[t.start] == ',' {
			out = append(out, strings.TrimSpace(s[start:t.start]))
			start = t.end
		}
	}
	return append(out, strings.TrimSpace(s[start:]))
}

// afterName drops the name of a tuple's element.
func afterName(s string) string {
	sc := scanner{sql: s}
	if t, ok := sc.next(); ok {
		return strings.TrimSpace(s[t.end:])
	}
	return s
}

// skipPrefix passes what precedes the data of the whole column.
func (t nativeType) skipPrefix(r *nativeReader) {
	switch t.kind {
	case lowCardinalityType:
		r.skip(8)
	case jsonType:
		// Version 1 is JSON as text; others carry a column per path.
		if r.uint64() != 1 && r.err == nil {
			r.err = errOpaque
		}
	case variantType:
		// Mode 0: a discriminator for every row.
		if r.uint64() != 0 && r.err == nil {
			r.err = errOpaque
		}
	}
	if t.kind == lowCardinalityType {
		return
	}
	for _, e := range t.of {
		e.skipPrefix(r)
	}
}

func (t nativeType) skipData(r *nativeReader, rows uint64) {
	switch t.kind {
	case fixedType:
		if t.size > 0 && rows > uint64(len(r.b))/t.size {
			r.err = errShort
			return
		}
		r.skip(rows * t.size)
	case stringType, jsonType:
		for i := uint64(0); i < rows && r.err == nil; i++ {
			r.skip(r.uvarint())
		}
	case nullableType:
		r.skip(rows)
		t.of[0].skipData(r, rows)
	case tupleType:
		for _, e := range t.of {
			e.skipData(r, rows)
		}
	case arrayType:
		if rows == 0 {
			return
		}
		if rows > uint64(len(r.b))/8 {
			r.err = errShort
			return
		}
		r.skip((rows - 1) * 8)
		t.of[0].skipData(r, r.uint64())
	case lowCardinalityType:
		t.skipDictionary(r, rows)
	case variantType:
		counts := make([]uint64, 256)
		for _, d := range r.take(rows) {
			counts[d]++
		}
		for i, e := range t.of {
			e.skipData(r, counts[i])
		}
	}
}

// skipDictionary passes the parts of a LowCardinality column: each has its keys
// and then indexes of one, two, four or eight bytes.
func (t nativeType) skipDictionary(r *nativeReader, rows uint64) {
	keys := t.of[0]
	if keys.kind == nullableType {
		keys = keys.of[0]
	}
	for done := uint64(0); done < rows && r.err == nil; {
		width := uint64(1) << (r.uint64() & 3)
		keys.skipData(r, r.uint64())
		n := r.uint64()
		if n == 0 || n > rows-done {
			r.err = errShort
			return
		}
		r.skip(n * width)
		done += n
	}
}
