package pipeline

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"syncline/secrets"
)

// decoder checks nodes against the field table and builds the normalised tree,
// in which every value is in the form that Spec's JSON has.
type decoder struct {
	env      func(string) (string, bool) // nil: no expansion
	problems Problems
	at       map[string]pos   // of every field that is given, by path
	kept     map[string][]int // of every list, by path: the indexes of the elements that have a value
}

func (d *decoder) problem(p pos, path, message, expected, suggestion string) {
	d.problems = append(d.problems, Problem{Line: p.line, Column: p.col, Path: path, Message: message, Expected: expected, Suggestion: suggestion})
}

// value decodes n as f. ok is false if it had a mistake that leaves no value.
func (d *decoder) value(f *field, n *node, path string, blame pos) (v any, ok bool) {
	if n.bad {
		return nil, false
	}
	if n.kind == nodeText && d.env != nil && !n.done && f.kind != kindObject {
		if n, ok = d.expand(n, path); !ok {
			return nil, false
		}
	}
	switch f.kind {
	case kindObject:
		return d.object(f, n, path, blame)
	case kindList:
		return d.list(f, n, path)
	case kindInteger:
		return d.integer(f, n, path)
	case kindBoolean:
		return d.boolean(f, n, path)
	case kindDuration, kindSize, kindRatio:
		return d.quantity(f, n, path)
	case kindRef, kindLogin:
		return d.ref(f, n, path)
	case kindMoment:
		return d.moment(f, n, path)
	case kindDecimal:
		return d.decimal(f, n, path)
	}
	return d.text(f, n, path)
}

// expand replaces variables. A plain field then takes the outcome as if it had
// been written there without quotes.
func (d *decoder) expand(n *node, path string) (*node, bool) {
	out, used, mistakes := expand(n.text, d.env)
	for _, m := range mistakes {
		d.problem(n.pos, path, m, "", "")
	}
	if len(mistakes) > 0 {
		return nil, false
	}
	return &node{pos: n.pos, kind: nodeText, text: out, original: n.text, expanded: used, done: true}, true
}

func (d *decoder) mismatch(f *field, n *node, path string) (any, bool) {
	suggestion := ""
	switch {
	case n.kind == nodeText && !n.expanded && f.kind == kindBoolean:
		suggestion = map[string]string{"yes": "true", "on": "true", "no": "false", "off": "false"}[strings.ToLower(n.text)]
	case n.kind == nodeText && !n.expanded && f.kind == kindInteger && isNumber(n.text):
		suggestion = n.text
	case (n.kind == nodeInt || n.kind == nodeFloat) && (f.kind == kindSize || f.kind == kindDuration || f.kind == kindRatio):
		suggestion = unitHint(f.kind, n.text)
	}
	message := n.describe(f.kind == kindRef || f.kind == kindLogin)
	if suggestion != "" && f.kind == kindInteger {
		suggestion, message = "", message+", which quotes made of a number"
	}
	expected := f.expected()
	if f.kind == kindText && (n.kind == nodeInt || n.kind == nodeFloat || n.kind == nodeBool) {
		expected += " (put it in quotes)"
	}
	d.problem(n.pos, path, message, expected, suggestion)
	return nil, false
}

func isNumber(s string) bool { _, err := strconv.ParseInt(s, 10, 64); return err == nil }

func (d *decoder) object(f *field, n *node, path string, blame pos) (any, bool) {
	if f.short != "" && n.kind == nodeList {
		n = &node{pos: n.pos, kind: nodeMap, entries: []entry{{n.pos, f.short, n}}}
	}
	if n.kind != nodeMap {
		return d.mismatch(f, n, path)
	}
	out := map[string]any{}
	given := map[string]bool{}
	for _, e := range n.entries {
		p := join(path, e.key)
		c := f.child(e.key)
		if c == nil {
			given[d.unknown(f, e, path)] = true // do not report what was meant as missing
			continue
		}
		given[c.name] = true
		d.at[p] = e.value.pos
		if v, ok := d.value(c, e.value, p, e.pos); ok {
			out[c.name] = v
		}
	}
	for _, e := range n.entries {
		typ, _ := out[f.selects()].(string)
		if c := f.child(e.key); c != nil && c.when != "" && typ != "" && typ != c.when {
			d.problem(e.pos, join(path, e.key), "is for "+c.when+" only, and this is "+typ, "", "")
			delete(out, c.name)
		}
	}
	inactive := d.choose(f, given, path, blame)
	for _, c := range f.fields {
		_, set := out[c.name]
		switch {
		case set || given[c.name] || inactive[c.name]:
		case c.when != "" && c.when != out[f.selects()]:
		case c.required:
			d.problem(blame, join(path, c.name), "is missing", c.expected(), "")
		case c.def == nil:
		case c.kind == kindObject:
			out[c.name], _ = d.object(c, &node{kind: nodeMap, pos: blame}, join(path, c.name), blame)
		default:
			out[c.name] = c.def
		}
	}
	return out, true
}

// unknown reports a field that is not one and returns what was probably meant.
func (d *decoder) unknown(f *field, e entry, path string) (suggestion string) {
	names, also := []string{}, map[string]string{}
	for _, c := range f.fields {
		names = append(names, c.name)
		for _, a := range c.also {
			also[a] = c.name
		}
	}
	suggestion, ok := also[strings.ToLower(e.key)]
	if !ok {
		suggestion = Nearest(e.key, names)
	}
	expected := ""
	if suggestion == "" {
		expected = oneOf(names)
	}
	d.problem(e.pos, join(path, shorten(e.key)), "is not a field", expected, suggestion)
	return suggestion
}

// alternative is the one that is meant by the fields that are given: that with a field
// which no other has, or else the first with any; -1 if there is none.
func (f *field) alternative(given map[string]bool) int {
	first := -1
	for i, a := range f.choice {
		for _, name := range a.owns {
			if !given[name] {
				continue
			}
			if first < 0 {
				first = i
			}
			if !slices.ContainsFunc(slices.Concat(f.choice[:i], f.choice[i+1:]), func(b alternative) bool { return slices.Contains(b.owns, name) }) {
				return i
			}
		}
	}
	return first
}

// choose applies f's alternatives and returns the fields that need no default.
func (d *decoder) choose(f *field, given map[string]bool, path string, blame pos) (inactive map[string]bool) {
	if len(f.choice) == 0 {
		return nil
	}
	inactive = map[string]bool{}
	chosen := f.alternative(given)
	told := map[string]bool{}
	for i, a := range f.choice {
		for _, name := range a.owns {
			if !given[name] || chosen == i || slices.Contains(f.choice[chosen].owns, name) || told[name] {
				continue
			}
			told[name] = true
			p := join(path, name)
			if !d.given(p) { // a misspelt field, already reported
				continue
			}
			d.problem(d.at[p], p, fmt.Sprintf("cannot be given together with %s", strings.Join(f.choice[chosen].needs, ", ")), "one or the other", "")
		}
	}
	if chosen < 0 {
		var ways []string
		for _, a := range f.choice {
			ways = append(ways, strings.Join(a.needs, ", "))
		}
		d.problem(blame, path, "lacks fields", "either "+strings.Join(ways, " or "), "")
	}
	for i, a := range f.choice {
		for _, name := range a.owns {
			if chosen < 0 || !slices.Contains(f.choice[chosen].owns, name) {
				inactive[name] = true
			}
		}
		if i != chosen {
			continue
		}
		for _, name := range a.needs {
			if !given[name] {
				d.problem(blame, join(path, name), "is missing", f.child(name).expected(), "")
			}
		}
	}
	return inactive
}

func (d *decoder) list(f *field, n *node, path string) (any, bool) {
	items, complete := n.items, true
	if f.commas {
		items, complete = d.splitCommas(n, path)
	}
	if n.kind != nodeList && (!f.commas || n.kind != nodeText) {
		return d.mismatch(f, n, path)
	}
	if complete && int64(len(items)) < f.min {
		d.problem(n.pos, path, "is empty", f.expected(), "")
		return nil, false
	}
	out := make([]any, 0, len(items))
	seen := map[string]pos{}
	for i, item := range items {
		p := fmt.Sprintf("%s[%d]", path, i)
		d.at[p] = item.pos
		v, ok := d.value(f.elem, item, p, item.pos)
		if !ok {
			continue
		}
		id, where := "", p
		if f.set {
			id, _ = v.(string)
		} else if f.uniqueBy != "" {
			id, _ = v.(map[string]any)[f.uniqueBy].(string)
			where = join(p, f.uniqueBy)
		}
		if first, dup := seen[id]; dup && id != "" {
			message := "is there twice"
			if first.line > 0 {
				message += fmt.Sprintf(" (first in line %d)", first.line)
			}
			d.problem(d.at[where], where, message, "each one once", "")
			continue
		}
		seen[id] = d.at[where]
		out = append(out, v)
		d.kept[path] = append(d.kept[path], i)
	}
	if len(out) == 0 && complete && len(items) == 0 {
		return nil, false // an empty list is as good as none
	}
	return out, true
}

// item is the path of the i-th valid element of a list.
func (d *decoder) item(list string, i int) string {
	if k := d.kept[list]; i < len(k) {
		i = k[i]
	}
	return fmt.Sprintf("%s[%d]", list, i)
}

// splitCommas returns the elements of a list that may be one text with commas,
// or hold variables that stand for several elements. complete is false if a
// variable could not be replaced.
func (d *decoder) splitCommas(n *node, path string) (items []*node, complete bool) {
	complete = true
	from := n.items
	if n.kind == nodeText {
		from = []*node{n}
	}
	for i, item := range from {
		if item.kind == nodeText && d.env != nil && !item.done {
			e, ok := d.expand(item, fmt.Sprintf("%s[%d]", path, i))
			if !ok {
				complete = false
				continue
			}
			item = e
		}
		if item.bad || item.kind != nodeText || n.kind == nodeList && !item.expanded {
			items = append(items, item)
			continue
		}
		for _, part := range strings.Split(item.text, ",") {
			one := *item
			one.text = strings.TrimSpace(part)
			items = append(items, &one)
		}
	}
	return items, complete
}

func (d *decoder) integer(f *field, n *node, path string) (any, bool) {
	v := n.integer
	if n.kind == nodeText && n.expanded && isNumber(n.text) {
		v, _ = strconv.ParseInt(n.text, 10, 64)
	} else if n.kind != nodeInt {
		return d.mismatch(f, n, path)
	}
	if !f.inRange(v) {
		d.problem(n.pos, path, n.describe(false)+", out of range", f.expected(), "")
		return nil, false
	}
	return v, true
}

func (d *decoder) boolean(f *field, n *node, path string) (any, bool) {
	if n.kind == nodeBool {
		return n.boolean, true
	}
	if n.kind == nodeText && n.expanded && (n.text == "true" || n.text == "false") {
		return n.text == "true", true
	}
	return d.mismatch(f, n, path)
}

func (d *decoder) quantity(f *field, n *node, path string) (any, bool) {
	var v int64
	var err error
	switch {
	case f.kind == kindSize && n.kind == nodeInt:
		v = n.integer
	case f.kind == kindSize && n.kind == nodeText && n.expanded && isNumber(n.text):
		v, _ = strconv.ParseInt(n.text, 10, 64)
	case n.kind != nodeText:
		return d.mismatch(f, n, path)
	case f.kind == kindRatio:
		var r Ratio
		r, err = ParseRatio(n.text)
		v = int64(r)
	case f.kind == kindSize:
		var s Size
		s, err = ParseSize(n.text)
		v = int64(s)
	default:
		var u Duration
		u, err = ParseDuration(n.text)
		v = int64(u)
	}
	switch {
	case err != nil:
		hint := ""
		if !n.expanded {
			hint = unitHint(f.kind, n.text)
		}
		d.problem(n.pos, path, n.describe(false)+", "+err.Error(), f.expected(), hint)
		return nil, false
	case !f.inRange(v):
		d.problem(n.pos, path, n.describe(false)+", out of range", f.expected(), "")
		return nil, false
	case f.kind == kindSize:
		return Size(v).String(), true
	case f.kind == kindRatio:
		return Ratio(v).String(), true
	}
	return Duration(v).String(), true
}

func (d *decoder) ref(f *field, n *node, path string) (any, bool) {
	if n.kind != nodeText {
		return d.mismatch(f, n, path)
	}
	var r fmt.Stringer
	var err error
	if f.kind == kindLogin {
		r, err = secrets.ParseLoginRef(n.text)
	} else {
		r, err = secrets.ParseRef(n.text)
	}
	if err != nil {
		message, suggestion := secretMistake(f.name, n, err)
		d.problem(n.pos, path, message, f.expected(), suggestion)
		return nil, false
	}
	return r.String(), true
}

func (d *decoder) text(f *field, n *node, path string) (any, bool) {
	if n.kind != nodeText {
		return d.mismatch(f, n, path)
	}
	if n.text == "" && !f.emptyOK {
		message := "is empty"
		if n.expanded {
			message = n.describe(false) + ", which is empty"
		}
		d.problem(n.pos, path, message, f.expected(), "")
		return nil, false
	}
	message, suggestion := "", ""
	switch {
	case len(f.enum) > 0 && !contains(f.enum, n.text):
		message = n.describe(false)
		if suggestion = Nearest(n.text, f.enum); n.expanded {
			suggestion = ""
		}
	case f.kind == kindGlob:
		if _, err := parseGlob(n.text); err != nil {
			message, suggestion = n.describe(false)+": "+err.message, err.suggestion
		}
	case f.re != nil && !f.re.MatchString(n.text):
		message = n.describe(false)
		if f.check != nil && !n.expanded {
			_, suggestion = f.check(n.text)
		}
	}
	if message != "" {
		d.problem(n.pos, path, message, f.expected(), suggestion)
		return nil, false
	}
	return n.text, true
}
