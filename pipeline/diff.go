package pipeline

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// Change is one difference between two declarations of a pipeline.
type Change struct {
	Path   string `json:"path"` // list elements by name: sinks[warehouse].lanes
	Old    string `json:"old"`  // "" if it was absent
	New    string `json:"new"`  // "" if it is absent
	Effect Effect `json:"effect"`
	Note   string `json:"note,omitempty"`
}

// String returns path: old → new (effect; note).
func (c Change) String() string {
	show := func(s string) string {
		if s == "" {
			return "(none)"
		}
		return s
	}
	note := ""
	if c.Note != "" {
		note = "; " + c.Note
	}
	return fmt.Sprintf("%s: %s → %s (%s%s)", c.Path, show(c.Old), show(c.New), c.Effect, note)
}

// Strongest returns the strongest effect among changes, Live if there are none.
func Strongest(changes []Change) Effect {
	order := []Effect{Live, RestartStream, NeedsResync, Refused}
	best := 0
	for _, c := range changes {
		best = max(best, slices.Index(order, c.Effect))
	}
	return order[best]
}

// Diff says what next changes compared with running, in the order of the field
// table. It is empty if nothing runs (running is nil) or nothing changes.
func Diff(running, next *Spec) []Change {
	if running == nil || next == nil {
		return nil
	}
	var d differ
	d.object(root, "", treeOf(running), treeOf(next))
	// Which rows are of a tier decides what sinks hold of them, if it does not keep them whole.
	shapes := func(t Tier) bool { return t.Shapes() }
	if slices.ContainsFunc(running.Tiers, shapes) || slices.ContainsFunc(next.Tiers, shapes) {
		for i := range d.changes {
			if c := &d.changes[i]; c.Path == classifyField.name && c.Effect == RestartStream {
				c.Effect, c.Note = NeedsResync, shapeNote
			}
		}
	}
	return d.changes
}

// treeOf gives the JSON form as maps and lists.
func treeOf(s *Spec) map[string]any {
	data, err := json.Marshal(s)
	tree := map[string]any{}
	if err == nil {
		err = json.Unmarshal(data, &tree)
	}
	if err != nil {
		panic(err) // plain data: cannot fail
	}
	return tree
}

type differ struct{ changes []Change }

func (d *differ) add(f *field, path string, a, b any) {
	d.changes = append(d.changes, Change{path, show(a), show(b), f.effect, f.effectNote})
}

func (d *differ) object(f *field, path string, a, b map[string]any) {
	for _, c := range f.fields {
		d.value(c, join(path, c.name), a[c.name], b[c.name])
	}
}

func (d *differ) value(f *field, path string, a, b any) {
	if reflect.DeepEqual(a, b) {
		return
	}
	am, aok := a.(map[string]any)
	bm, bok := b.(map[string]any)
	switch {
	case aok && bok:
		d.object(f, path, am, bm)
	case f.uniqueBy != "":
		d.elements(f, path, list(a), list(b))
	case f.set && !orderMatters(f) && sameSet(list(a), list(b)):
	default:
		d.add(f, path, a, b)
	}
}

// orderMatters tells the lists whose order has a meaning.
func orderMatters(f *field) bool { return f.name == "order_by" }

func list(v any) []any { l, _ := v.([]any); return l }

func sameSet(a, b []any) bool {
	in := func(x any, l []any) bool {
		return slices.ContainsFunc(l, func(y any) bool { return reflect.DeepEqual(x, y) })
	}
	for _, x := range a {
		if !in(x, b) {
			return false
		}
	}
	for _, x := range b {
		if !in(x, a) {
			return false
		}
	}
	return true
}

// elements compares lists of objects by the field that identifies an element.
func (d *differ) elements(f *field, path string, a, b []any) {
	index := func(l []any) (keys []string, by map[string]map[string]any) {
		by = map[string]map[string]any{}
		for _, x := range l {
			m, _ := x.(map[string]any)
			k, _ := m[f.uniqueBy].(string)
			keys, by[k] = append(keys, k), m
		}
		return keys, by
	}
	oldKeys, oldBy := index(a)
	newKeys, newBy := index(b)
	var oldCommon, newCommon []string
	for _, k := range oldKeys {
		p := path + "[" + k + "]"
		switch m, still := newBy[k]; {
		case still:
			oldCommon = append(oldCommon, k)
			d.object(f.elem, p, oldBy[k], m)
		case f.atOnce:
			d.changes = append(d.changes, Change{p, summary(oldBy[k], f.uniqueBy), "", RestartStream, f.effectNote})
		default:
			d.object(f.elem, p, oldBy[k], map[string]any{f.uniqueBy: k})
		}
	}
	for _, k := range newKeys {
		p := path + "[" + k + "]"
		switch _, was := oldBy[k]; {
		case was:
			newCommon = append(newCommon, k)
		case f.atOnce:
			d.changes = append(d.changes, Change{p, "", summary(newBy[k], f.uniqueBy), f.effect, f.effectNote})
		default:
			d.object(f.elem, p, map[string]any{f.uniqueBy: k}, newBy[k])
		}
	}
	// The order of sinks means nothing; of two options that match a table the later wins.
	if !f.atOnce && !slices.Equal(oldCommon, newCommon) {
		d.changes = append(d.changes, Change{path, strings.Join(oldCommon, ", "), strings.Join(newCommon, ", "), f.effect, "later entries win, so their order matters"})
	}
}

func summary(m map[string]any, id string) string {
	name, _ := m[id].(string)
	if _, ok := m["indicator"]; ok {
		var o Objective
		if data, err := json.Marshal(m); err == nil && json.Unmarshal(data, &o) == nil {
			name += " (" + o.Describe() + ")"
		}
	}
	if typ, ok := m["type"].(string); ok {
		name += " (" + typ + ")"
	}
	return name
}

// show prints a value of the JSON form for people. Secrets are references, so
// nothing in it needs to be hidden.
func show(v any) string {
	switch v := v.(type) {
	case nil:
		return ""
	case string:
		if v == "" {
			return `""`
		}
		return v
	case []any:
		parts := make([]string, len(v))
		for i, x := range v {
			parts[i] = show(x)
		}
		return strings.Join(parts, ", ")
	}
	data, err := json.Marshal(v)
	if err != nil {
		return "(unprintable)"
	}
	return string(data)
}
