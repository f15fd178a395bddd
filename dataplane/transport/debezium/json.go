package debezium

import (
	"encoding/base64"
	"encoding/json"
	"math"
	"strconv"
	"unicode/utf8"
)

// connectSchema is a Kafka Connect schema as JsonConverter writes it.
type connectSchema struct {
	Type       string            `json:"type"`
	Items      *connectSchema    `json:"items,omitempty"`
	Fields     []connectSchema   `json:"fields,omitempty"`
	Optional   bool              `json:"optional"`
	Name       string            `json:"name,omitempty"`
	Version    int               `json:"version,omitempty"`
	Parameters map[string]string `json:"parameters,omitempty"`
	Default    any               `json:"default,omitempty"`
	Field      string            `json:"field,omitempty"`
}

func (s connectSchema) json() []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // plain data
	}
	return b
}

// as returns the schema as a struct's field.
func (s connectSchema) as(field string, optional bool) connectSchema {
	s.Field, s.Optional = field, optional
	return s
}

// zero returns the JSON that stands in a field that may not be null and has no
// known value. Debezium does the same; a converter refuses null there.
func (s connectSchema) zero() string {
	switch s.Name {
	case "io.debezium.time.ZonedTimestamp":
		return `"1970-01-01T00:00:00Z"`
	case "io.debezium.time.ZonedTime":
		return `"00:00:00Z"`
	case "io.debezium.data.Json":
		return `"{}"`
	}
	switch s.Type {
	case "string":
		return `""`
	case "bytes":
		if s.Name == "org.apache.kafka.connect.data.Decimal" {
			return `"AA=="` // no bytes are no number
		}
		return `""`
	case "boolean":
		return "false"
	case "array":
		return "[]"
	case "map":
		return "{}"
	case "struct":
		out := "{"
		for i, f := range s.Fields {
			if i > 0 {
				out += ","
			}
			v := "null"
			if !f.Optional {
				v = f.zero()
			}
			if s.Name == "io.debezium.data.VariableScaleDecimal" && f.Type == "bytes" {
				v = `"AA=="`
			}
			out += string(appendString(nil, []byte(f.Field))) + ":" + v
		}
		return out + "}"
	}
	return "0"
}

const lowerHex = "0123456789abcdef"

func appendString(dst, s []byte) []byte {
	dst = append(dst, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := utf8.DecodeRune(s[i:])
			if r == utf8.RuneError && n == 1 {
				dst = append(append(dst, s[start:i]...), "\ufffd"...)
				i++
				start = i
				continue
			}
			i += n
			continue
		}
		dst = append(dst, s[start:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, '\\', 'u', '0', '0', lowerHex[c>>4], lowerHex[c&15])
		}
		i++
		start = i
	}
	return append(append(dst, s[start:]...), '"')
}

func appendBytes(dst, b []byte) []byte {
	dst = append(dst, '"')
	dst = base64.StdEncoding.AppendEncode(dst, b)
	return append(dst, '"')
}

// appendFloat writes what JSON has no number for as a string, as Jackson does.
func appendFloat(dst []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(dst, `"NaN"`...)
	case math.IsInf(f, 1):
		return append(dst, `"Infinity"`...)
	case math.IsInf(f, -1):
		return append(dst, `"-Infinity"`...)
	}
	format := byte('f')
	if abs := math.Abs(f); abs != 0 && (abs < 1e-6 || abs >= 1e21) {
		format = 'e'
	}
	at := len(dst)
	dst = strconv.AppendFloat(dst, f, format, -1, bits)
	for _, c := range dst[at:] {
		if c == '.' || c == 'e' {
			return dst
		}
	}
	return append(dst, '.', '0') // a double stays one
}
