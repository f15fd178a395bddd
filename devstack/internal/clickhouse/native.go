package clickhouse

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"slices"
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
var errOpaque = errors.New("this type has no length that the front can tell; use it as a String")

// errLarge is for a block that is not worth believing.
var errLarge = fmt.Errorf("native block exceeds %d MiB", maxBlock>>20)

const (
	// maxBlock bounds the memory of a block that a client sends.
	maxBlock = 1 << 30
	// maxColumns and maxTypeName bound what is made of a block's head.
	maxColumns, maxTypeName = 1 << 16, 1 << 18
	// maxNesting bounds the recursion over a type.
	maxNesting = 64
)

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

// downgradeBlock reads one block of a client, with the block header of protocol
// versions from revisionWithCustomSerialization on, and gives it as the engine
// takes it, appended to dst. Nothing is read beyond the block.
func downgradeBlock(dst []byte, src io.Reader) (out []byte, columns, rows uint64, err error) {
	r := nativeReader{src: src}
	for field := r.uvarint(); field != 0 && r.err == nil; field = r.uvarint() {
		switch field {
		case 1:
			r.skip(1)
		case 2:
			r.skip(4)
		default:
			r.err = fmt.Errorf("native block has the unknown field %d", field)
		}
	}
	columns, rows = r.uvarint(), r.uvarint()
	if r.err == nil && columns > maxColumns {
		r.err = errLarge
	}
	// What stays in the reader from here on is the block for the engine.
	r.b, r.pos = dst, len(dst)
	r.b = binary.AppendUvarint(binary.AppendUvarint(r.b, columns), rows)
	r.pos = len(r.b)
	for i := uint64(0); i < columns && r.err == nil; i++ {
		r.skip(r.uvarint())
		n := r.uvarint()
		if n > maxTypeName {
			return nil, 0, 0, errLarge
		}
		name := string(r.take(n))
		if custom := r.take(1); custom != nil {
			if custom[0] != 0 {
				return nil, 0, 0, fmt.Errorf("custom serialization of a column: %w", errOpaque)
			}
			r.pos--
			r.b = r.b[:r.pos]
		}
		if rows > 0 && r.err == nil {
			t, err := parseType(name)
			if err != nil {
				return nil, 0, 0, err
			}
			t.skipPrefix(&r)
			t.skipData(&r, rows)
		}
	}
	if r.err != nil {
		return nil, 0, 0, r.err
	}
	return r.b, columns, rows, nil
}

// nativeReader walks over a block; its first error stays. What is not in b yet
// comes from src, if there is one, and no byte more than the walk asks for.
type nativeReader struct {
	b   []byte
	pos int
	src io.Reader
	err error
}

func (r *nativeReader) uvarint() uint64 {
	if r.err == nil && r.pos < len(r.b) && r.b[r.pos] < 0x80 { // most are short
		r.pos++
		return uint64(r.b[r.pos-1])
	}
	var v uint64
	for shift := 0; shift < 64; shift += 7 {
		b := r.take(1)
		if b == nil {
			return 0
		}
		v |= uint64(b[0]&0x7f) << shift
		if b[0] < 0x80 {
			return v
		}
	}
	r.err = errShort
	return 0
}

func (r *nativeReader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.LittleEndian.Uint64(b)
	}
	return 0
}

func (r *nativeReader) skip(n uint64) { r.take(n) }

// skipEach passes rows values of a size.
func (r *nativeReader) skipEach(rows, size uint64) {
	hi, n := bits.Mul64(rows, size)
	if hi != 0 && r.err == nil {
		r.err = errShort
	}
	r.skip(n)
}

func (r *nativeReader) take(n uint64) []byte {
	if r.err != nil {
		return nil
	}
	if have := uint64(len(r.b) - r.pos); n > have {
		if r.err = r.fill(n - have); r.err != nil {
			return nil
		}
	}
	b := r.b[r.pos : r.pos+int(n)]
	r.pos += int(n)
	return b
}

// fill reads n bytes more, in pieces: a length that is a lie costs no memory.
func (r *nativeReader) fill(n uint64) error {
	if r.src == nil {
		return errShort
	}
	if n > maxBlock || uint64(len(r.b)) > maxBlock-n {
		return errLarge
	}
	for n > 0 {
		step := int(min(n, appendSize))
		at := len(r.b)
		r.b = slices.Grow(r.b, step)[:at+step]
		if _, err := io.ReadFull(r.src, r.b[at:]); err != nil {
			return fmt.Errorf("read a block: %w", err)
		}
		n -= uint64(step)
	}
	return nil
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

func parseType(name string) (nativeType, error) { return parseNested(name, maxNesting) }

func parseNested(name string, left int) (nativeType, error) {
	if left == 0 {
		return nativeType{}, fmt.Errorf("a type nested deeper than %d: %w", maxNesting, errOpaque)
	}
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
		return parseNested(args[len(args)-1], left-1)
	case "Nullable", "Array", "LowCardinality":
		t, err := parseNested(inner, left-1)
		kind := map[string]typeKind{"Nullable": nullableType, "Array": arrayType, "LowCardinality": lowCardinalityType}[base]
		return nativeType{kind: kind, of: []nativeType{t}}, err
	case "Variant":
		t := nativeType{kind: variantType}
		for _, a := range args {
			e, err := parseNested(a, left-1)
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
			e, err := parseNested(a, left-1)
			if err != nil && base != "Map" {
				e, err = parseNested(afterName(a), left-1)
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
		r.skipEach(rows, t.size)
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
		r.skipEach(rows-1, 8)
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
		r.skipEach(n, width)
		done += n
	}
}
