package pipeline

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"strconv"
)

// fromJSON reads the JSON form. Its nodes have no places: a workflow's input is
// not a file.
func fromJSON(data []byte) (*node, error) {
	if len(data) > maxBytes {
		return nil, errors.New("is too large")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	n, err := jsonNode(dec, 0)
	if err != nil {
		return nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, errors.New("has more than one value")
	}
	return n, nil
}

func jsonNode(dec *json.Decoder, depth int) (*node, error) {
	if depth > maxNesting {
		return nil, errors.New("is nested too deeply")
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, errors.New("is not valid JSON")
	}
	n := &node{}
	switch v := tok.(type) {
	case nil:
	case bool:
		n.kind, n.boolean = nodeBool, v
	case string:
		n.kind, n.text = nodeText, v
	case json.Number:
		n.kind, n.text = nodeInt, v.String()
		if n.integer, err = strconv.ParseInt(n.text, 10, 64); err != nil {
			f, _ := v.Float64()
			if n.setFloat(f, n.text); math.Abs(f) >= 1<<53 && f == math.Trunc(f) {
				n.kind, n.integer = nodeInt, math.MaxInt64
			}
		}
	case json.Delim:
		if v == '[' {
			n.kind = nodeList
			for dec.More() {
				item, err := jsonNode(dec, depth+1)
				if err != nil {
					return nil, err
				}
				n.items = append(n.items, item)
			}
		} else {
			n.kind = nodeMap
			for dec.More() {
				key, err := jsonNode(dec, depth+1)
				if err != nil {
					return nil, err
				}
				value, err := jsonNode(dec, depth+1)
				if err != nil {
					return nil, err
				}
				if n.get(key.text) != nil {
					return nil, fmt.Errorf("field %q is given twice", shorten(key.text))
				}
				n.entries = append(n.entries, entry{key: key.text, value: value})
			}
		}
		if _, err := dec.Token(); err != nil { // the closing delimiter
			return nil, errors.New("is not valid JSON")
		}
	}
	return n, nil
}
