package debezium

import (
	"bytes"
	"strconv"

	"syncline/dataplane/change"
)

func (e *Encoder) mapArray(t *change.Type) mapped {
	elem := e.mapType(t.Elem)
	item := elem.schema
	item.Optional = true
	toast := "null"
	switch item.Type {
	case "int16", "int32", "int64", "float", "double": // the placeholder's bytes, as Debezium has it
		toast = "["
		for i, b := range []byte(e.opts.Unavailable) {
			if i > 0 {
				toast += ","
			}
			toast += strconv.Itoa(int(b))
		}
		toast += "]"
	default:
		if elem.toast != "null" {
			toast = "[" + elem.toast + "]"
		}
	}
	return mapped{connectSchema{Type: "array", Items: &item}, func(dst, s []byte) ([]byte, error) {
		return appendArray(dst, s, elem.conv)
	}, toast}
}

// appendArray reads {1,NULL,"a b",{…}}, optionally behind [2:3]= bounds, and
// writes the elements of all dimensions in one array.
func appendArray(dst, s []byte, elem conv) ([]byte, error) {
	if len(s) > 0 && s[0] == '[' {
		i := bytes.IndexByte(s, '=')
		if i < 0 {
			return dst, errForm
		}
		s = s[i+1:]
	}
	dst = append(dst, '[')
	depth, first := 0, true
	wrap := func() {
		if !first {
			dst = append(dst, ',')
		}
		first = false
	}
	var err error
	for i := 0; i < len(s); {
		switch c := s[i]; c {
		case '{':
			depth++
			i++
		case '}':
			depth--
			i++
			if depth == 0 && i != len(s) {
				return dst, errForm
			}
		case ',':
			i++
		case '"':
			var v []byte
			if v, i, err = cutQuoted(s, i); err != nil {
				return dst, err
			}
			wrap()
			if dst, err = elem(dst, v); err != nil {
				return dst, err
			}
		default:
			n := bytes.IndexAny(s[i:], ",}")
			if n < 0 || depth == 0 {
				return dst, errForm
			}
			v := s[i : i+n]
			i += n
			wrap()
			if string(v) == "NULL" {
				dst = append(dst, "null"...)
			} else if dst, err = elem(dst, v); err != nil {
				return dst, err
			}
		}
		if depth < 0 || depth == 0 && i < len(s) {
			return dst, errForm
		}
	}
	if depth != 0 || len(s) == 0 {
		return dst, errForm
	}
	return append(dst, ']'), nil
}

// cutQuoted reads the quoted text that begins at s[i], and returns where it ends.
func cutQuoted(s []byte, i int) ([]byte, int, error) {
	var v []byte
	for i++; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i++; i == len(s) {
				return nil, 0, errForm
			}
			v = append(v, s[i])
		case '"':
			if v == nil {
				v = []byte{}
			}
			return v, i + 1, nil
		default:
			v = append(v, s[i])
		}
	}
	return nil, 0, errForm
}

// hstoreConv writes "a"=>"1", "b"=>NULL as a JSON object in a string.
func hstoreConv(dst, s []byte) ([]byte, error) {
	obj := []byte{'{'}
	for i := 0; i < len(s); {
		if s[i] != '"' {
			return dst, errForm
		}
		key, next, err := cutQuoted(s, i)
		if err != nil || !bytes.HasPrefix(s[next:], []byte("=>")) {
			return dst, errForm
		}
		i = next + 2
		if len(obj) > 1 {
			obj = append(obj, ',')
		}
		obj = append(appendString(obj, key), ':')
		switch {
		case bytes.HasPrefix(s[i:], []byte("NULL")):
			obj = append(obj, "null"...)
			i += 4
		case i < len(s) && s[i] == '"':
			var v []byte
			if v, i, err = cutQuoted(s, i); err != nil {
				return dst, err
			}
			obj = appendString(obj, v)
		default:
			return dst, errForm
		}
		if i < len(s) {
			if !bytes.HasPrefix(s[i:], []byte(", ")) || i+2 == len(s) {
				return dst, errForm
			}
			i += 2
		}
	}
	return appendString(dst, append(obj, '}')), nil
}
