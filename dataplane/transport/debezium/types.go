package debezium

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"math"
	"math/big"
	"strconv"
	"strings"

	"syncline/dataplane/change"
)

// conv writes a value's text form as JSON.
type conv func(dst, text []byte) ([]byte, error)

// mapped is how a type is written.
type mapped struct {
	schema connectSchema
	conv   conv
	toast  string // JSON of a value that the source did not send
}

// Infinite timestamps, as the Postgres JDBC driver numbers them.
const (
	positiveInfinity = 9223372036825200000
	negativeInfinity = -9223372036832400000
)

func (e *Encoder) mapType(t *change.Type) mapped {
	t = t.Root()
	text := string(appendString(nil, []byte(e.opts.Unavailable)))
	str := func(name string, version int) mapped {
		return mapped{connectSchema{Type: "string", Name: name, Version: version}, stringConv, text}
	}
	num := func(typ, name string, version int, c conv) mapped {
		return mapped{connectSchema{Type: typ, Name: name, Version: version}, c, "null"}
	}
	switch t.Kind {
	case change.Enum:
		m := str("io.debezium.data.Enum", 1)
		m.schema.Parameters = map[string]string{"allowed": strings.Join(t.Labels, ",")}
		return m
	case change.Array:
		if t.Elem == nil || t.Elem.Root().Base == "box" { // boxes are separated by semicolons
			return str("", 0)
		}
		return e.mapArray(t)
	case change.Base:
	default:
		return str("", 0)
	}
	switch t.Base {
	case "bool":
		return num("boolean", "", 0, boolConv)
	case "int2":
		return num("int16", "", 0, intConv)
	case "int4":
		return num("int32", "", 0, intConv)
	case "int8", "oid":
		return num("int64", "", 0, intConv)
	case "float4":
		return num("float", "", 0, floatConv(32))
	case "float8":
		return num("double", "", 0, floatConv(64))
	case "numeric":
		return e.mapNumeric(t)
	case "money":
		return e.mapMoney()
	case "bytea":
		return mapped{connectSchema{Type: "bytes"}, byteaConv, `"` + base64.StdEncoding.EncodeToString([]byte(e.opts.Unavailable)) + `"`}
	case "bit", "varbit":
		return mapBits(t)
	case "date":
		return num("int32", "io.debezium.time.Date", 1, dateConv)
	case "time":
		if p := t.Mod; p >= 0 && p <= 3 {
			return num("int32", "io.debezium.time.Time", 1, timeConv(1000))
		}
		return num("int64", "io.debezium.time.MicroTime", 1, timeConv(1))
	case "timetz":
		return mapped{connectSchema{Type: "string", Name: "io.debezium.time.ZonedTime", Version: 1}, timetzConv, "null"}
	case "timestamp":
		if p := t.Mod; p >= 0 && p <= 3 {
			return num("int64", "io.debezium.time.Timestamp", 1, timestampConv(1000))
		}
		return num("int64", "io.debezium.time.MicroTimestamp", 1, timestampConv(1))
	case "timestamptz":
		return mapped{connectSchema{Type: "string", Name: "io.debezium.time.ZonedTimestamp", Version: 1}, timestamptzConv, "null"}
	case "interval":
		return num("int64", "io.debezium.time.MicroDuration", 1, intervalConv)
	case "uuid":
		return str("io.debezium.data.Uuid", 1)
	case "json", "jsonb":
		return str("io.debezium.data.Json", 1)
	case "xml":
		return str("io.debezium.data.Xml", 1)
	case "ltree":
		return str("io.debezium.data.Ltree", 1)
	case "tsvector":
		return str("io.debezium.data.TsVector", 1)
	case "hstore":
		m := str("io.debezium.data.Json", 1)
		m.conv = hstoreConv
		m.toast = string(appendString(nil, []byte(`{`+text+`:`+text+`}`)))
		return m
	case "point":
		return mapPoint()
	}
	return str("", 0)
}

func stringConv(dst, s []byte) ([]byte, error) { return appendString(dst, s), nil }

func boolConv(dst, s []byte) ([]byte, error) {
	switch string(s) {
	case "t":
		return append(dst, "true"...), nil
	case "f":
		return append(dst, "false"...), nil
	}
	return dst, errForm
}

func intConv(dst, s []byte) ([]byte, error) {
	v, err := strconv.ParseInt(string(s), 10, 64)
	if err != nil {
		return dst, errForm
	}
	return strconv.AppendInt(dst, v, 10), nil
}

func floatConv(bits int) conv {
	return func(dst, s []byte) ([]byte, error) {
		f, err := strconv.ParseFloat(string(s), bits)
		if err != nil {
			return dst, errForm
		}
		return appendFloat(dst, f, bits), nil
	}
}

func byteaConv(dst, s []byte) ([]byte, error) {
	h, ok := bytes.CutPrefix(s, []byte(`\x`))
	b := make([]byte, len(h)/2)
	if _, err := hex.Decode(b, h); !ok || err != nil {
		return dst, errForm
	}
	return appendBytes(dst, b), nil
}

// mapBits: one bit is a boolean, more are bytes, the last bit of the text first.
func mapBits(t *change.Type) mapped {
	length := int(t.Mod)
	if t.Base == "bit" && length == 1 {
		return mapped{connectSchema{Type: "boolean"}, func(dst, s []byte) ([]byte, error) {
			return strconv.AppendBool(dst, string(s) == "1"), nil
		}, "null"}
	}
	if length < 0 {
		length = math.MaxInt32
	}
	return mapped{connectSchema{Type: "bytes", Name: "io.debezium.data.Bits", Version: 1, Parameters: map[string]string{"length": strconv.Itoa(length)}},
		func(dst, s []byte) ([]byte, error) {
			b := make([]byte, (len(s)+7)/8)
			for i := range s {
				switch s[len(s)-1-i] {
				case '1':
					b[i/8] |= 1 << (i % 8)
				case '0':
				default:
					return dst, errForm
				}
			}
			return appendBytes(dst, b), nil
		}, "null"}
}

func dateConv(dst, s []byte) ([]byte, error) {
	switch string(s) {
	case "infinity":
		return strconv.AppendInt(dst, math.MaxInt32, 10), nil
	case "-infinity":
		return strconv.AppendInt(dst, math.MinInt32, 10), nil
	}
	days, err := parseDate(s)
	if err != nil {
		return dst, err
	}
	return strconv.AppendInt(dst, days, 10), nil
}

func timeConv(unit int64) conv {
	return func(dst, s []byte) ([]byte, error) {
		micros, err := parseClock(s)
		if err != nil {
			return dst, err
		}
		return strconv.AppendInt(dst, micros/unit, 10), nil
	}
}

func timetzConv(dst, s []byte) ([]byte, error) {
	clock, offset, err := parseZone(s)
	if err != nil {
		return dst, err
	}
	micros, err := parseClock(clock)
	if err != nil {
		return dst, err
	}
	_, micros = floorDiv(micros-offset*1_000_000, dayMicros)
	return append(appendClock(append(dst, '"'), micros, false), `Z"`...), nil
}

func timestampConv(unit int64) conv {
	return func(dst, s []byte) ([]byte, error) {
		switch string(s) {
		case "infinity":
			return strconv.AppendInt(dst, positiveInfinity, 10), nil
		case "-infinity":
			return strconv.AppendInt(dst, negativeInfinity, 10), nil
		}
		micros, err := parseTimestamp(s, false)
		if err != nil {
			return dst, err
		}
		v, _ := floorDiv(micros, unit)
		return strconv.AppendInt(dst, v, 10), nil
	}
}

func timestamptzConv(dst, s []byte) ([]byte, error) {
	if string(s) == "infinity" || string(s) == "-infinity" {
		return appendString(dst, s), nil
	}
	micros, err := parseTimestamp(s, true)
	if err != nil {
		return dst, err
	}
	return append(appendISO(append(dst, '"'), micros), '"'), nil
}

func intervalConv(dst, s []byte) ([]byte, error) {
	micros, err := parseInterval(s)
	if err != nil {
		return dst, err
	}
	return strconv.AppendInt(dst, micros, 10), nil
}

// decimal splits a numeric's text into its unscaled value and scale; ok is
// false for NaN and infinities.
func decimal(s []byte) (unscaled *big.Int, scale int, ok bool, err error) {
	switch string(s) {
	case "NaN", "Infinity", "-Infinity":
		return nil, 0, false, nil
	}
	whole, fraction, _ := strings.Cut(string(s), ".")
	v, good := new(big.Int).SetString(whole+fraction, 10)
	if !good {
		return nil, 0, false, errForm
	}
	return v, len(fraction), true, nil
}

// twos returns the shortest big-endian two's complement, as Java's BigInteger.
func twos(v *big.Int) []byte {
	if v.Sign() >= 0 {
		b := v.Bytes()
		if len(b) == 0 || b[0]&0x80 != 0 {
			b = append([]byte{0}, b...)
		}
		return b
	}
	// bytes enough for the value and its sign: -128 takes one, -129 two
	n := new(big.Int).Not(v).BitLen()/8 + 1
	return new(big.Int).Add(v, new(big.Int).Lsh(big.NewInt(1), uint(8*n))).FillBytes(make([]byte, n))
}

func (e *Encoder) mapNumeric(t *change.Type) mapped {
	switch e.opts.Decimal {
	case DecimalString:
		return mapped{connectSchema{Type: "string"}, stringConv, string(appendString(nil, []byte(e.opts.Unavailable)))}
	case DecimalDouble:
		return mapped{connectSchema{Type: "double"}, floatConv(64), "null"}
	}
	precision, scale, ok := t.NumericPrecision()
	if !ok || scale < 0 {
		return mapped{connectSchema{Type: "struct", Name: "io.debezium.data.VariableScaleDecimal", Version: 1, Fields: []connectSchema{
			{Type: "int32", Field: "scale"}, {Type: "bytes", Field: "value"}}},
			func(dst, s []byte) ([]byte, error) {
				v, scale, ok, err := decimal(s)
				if err != nil {
					return dst, err
				}
				if !ok {
					return append(dst, "null"...), nil
				}
				dst = strconv.AppendInt(append(dst, `{"scale":`...), int64(scale), 10)
				return append(appendBytes(append(dst, `,"value":`...), twos(v)), '}'), nil
			}, "null"}
	}
	return fixedDecimal(scale, precision)
}

func fixedDecimal(scale, precision int) mapped {
	params := map[string]string{"scale": strconv.Itoa(scale)}
	if precision > 0 {
		params["connect.decimal.precision"] = strconv.Itoa(precision)
	}
	return mapped{connectSchema{Type: "bytes", Name: "org.apache.kafka.connect.data.Decimal", Version: 1, Parameters: params},
		func(dst, s []byte) ([]byte, error) {
			v, have, ok, err := decimal(s)
			if err != nil || have > scale {
				return dst, errForm
			}
			if !ok {
				return append(dst, "null"...), nil
			}
			v.Mul(v, new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(scale-have)), nil))
			return appendBytes(dst, twos(v)), nil
		}, "null"}
}

// mapMoney: money's text has the server's currency sign and separators.
func (e *Encoder) mapMoney() mapped {
	m := fixedDecimal(2, 0)
	switch e.opts.Decimal {
	case DecimalString:
		m = mapped{connectSchema{Type: "string"}, stringConv, "null"}
	case DecimalDouble:
		m = mapped{connectSchema{Type: "double"}, floatConv(64), "null"}
	}
	inner := m.conv
	m.conv = func(dst, s []byte) ([]byte, error) {
		plain := make([]byte, 0, len(s))
		for _, c := range s {
			if c >= '0' && c <= '9' || c == '-' || c == '.' {
				plain = append(plain, c)
			}
		}
		return inner(dst, plain)
	}
	return m
}

func mapPoint() mapped {
	return mapped{connectSchema{Type: "struct", Name: "io.debezium.data.geometry.Point", Version: 1, Fields: []connectSchema{
		{Type: "double", Field: "x"}, {Type: "double", Field: "y"},
		{Type: "bytes", Optional: true, Field: "wkb"}, {Type: "int32", Optional: true, Field: "srid"}}},
		func(dst, s []byte) ([]byte, error) {
			a, b, ok := strings.Cut(strings.Trim(string(s), "()"), ",")
			x, err1 := strconv.ParseFloat(a, 64)
			y, err2 := strconv.ParseFloat(b, 64)
			if !ok || err1 != nil || err2 != nil {
				return dst, errForm
			}
			wkb := []byte{1, 1, 0, 0, 0} // little-endian, a point
			for _, f := range []float64{x, y} {
				bits := math.Float64bits(f)
				for i := range 8 {
					wkb = append(wkb, byte(bits>>(8*i)))
				}
			}
			dst = appendFloat(append(dst, `{"x":`...), x, 64)
			dst = appendFloat(append(dst, `,"y":`...), y, 64)
			return append(appendBytes(append(dst, `,"wkb":`...), wkb), `,"srid":null}`...), nil
		}, "null"}
}
