package check

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/pgtext"
)

// canonical brings the text of a value to the form in which both sides are
// compared. Equal values of a type have equal forms; texts that say more than
// the value (the scale of an unconstrained numeric, the white space of a json)
// are kept, since a copy must keep them too.
func canonical(t *change.Type, text string) (string, error) {
	root := t.Root()
	if root.Kind == change.Array && root.Elem != nil {
		return canonicalArray(root.Elem, text)
	}
	switch root.Base {
	case "bool":
		switch text {
		case "t", "true", "1":
			return "t", nil
		case "f", "false", "0":
			return "f", nil
		}
		return "", fmt.Errorf("not a boolean")
	case "float4":
		return canonicalFloat(text, 32)
	case "float8":
		return canonicalFloat(text, 64)
	case "numeric":
		if _, _, ok := root.NumericPrecision(); ok && strings.Contains(text, ".") {
			text = strings.TrimRight(strings.TrimRight(text, "0"), ".")
		}
		return text, nil
	case "timestamp", "timestamptz":
		return canonicalTime(text), nil
	case "hstore":
		return canonicalHstore(text)
	}
	return text, nil
}

func canonicalFloat(text string, bits int) (string, error) {
	f, err := strconv.ParseFloat(text, bits)
	if err != nil {
		return "", fmt.Errorf("not a number")
	}
	if math.IsNaN(f) {
		return "NaN", nil
	}
	return strconv.FormatFloat(f, 'g', -1, bits), nil
}

// canonicalTime drops the zone, which is UTC on both sides, and zeros at the end.
func canonicalTime(text string) string {
	body, bc := strings.CutSuffix(text, " BC")
	body = strings.TrimSuffix(body, "+00")
	if strings.Contains(body, ".") {
		body = strings.TrimRight(strings.TrimRight(body, "0"), ".")
	}
	if bc {
		body += " BC"
	}
	return body
}

// item is an element of an array or map.
type item struct {
	null bool
	text string
}

// joinItems writes elements such that different lists are different texts.
func joinItems(items []item) string {
	var b strings.Builder
	b.WriteByte('[')
	for _, i := range items {
		if i.null {
			b.WriteByte('~')
			continue
		}
		fmt.Fprintf(&b, "%d:%s", len(i.text), i.text)
	}
	b.WriteByte(']')
	return b.String()
}

func canonicalArray(elem *change.Type, text string) (string, error) {
	delim := byte(',')
	if elem.Root().Base == "box" {
		delim = ';'
	}
	var a pgtext.Array
	if err := a.Parse([]byte(text), delim); err != nil {
		return "", err
	}
	if !a.Plain() { // more dimensions or other bounds: the text says it all
		return text, nil
	}
	items := make([]item, len(a.Elems))
	for i, e := range a.Elems {
		items[i].null = e.Null
		if !e.Null {
			var err error
			if items[i].text, err = canonical(elem, string(e.Text)); err != nil {
				return "", err
			}
		}
	}
	return joinItems(items), nil
}

func canonicalHstore(text string) (string, error) {
	var h pgtext.Hstore
	if err := h.Parse([]byte(text)); err != nil {
		return "", err
	}
	m := make(map[string]item, len(h.Pairs))
	for _, p := range h.Pairs {
		m[string(p.Key)] = item{p.Null, string(p.Value)}
	}
	return joinMap(m), nil
}

func joinMap(m map[string]item) string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	items := make([]item, 0, 2*len(m))
	for _, k := range keys {
		items = append(items, item{text: k}, m[k])
	}
	return joinItems(items)
}
