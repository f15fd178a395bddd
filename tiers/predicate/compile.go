package predicate

import (
	"fmt"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// CodeValue: a change has a value that is not of its column's type.
const CodeValue fault.Code = "PredicateValue"

// Matcher decides a predicate on the changes of one definition of a table.
type Matcher struct {
	schema *change.Schema
	eval   func(*image) (Answer, error)
}

// image is what a change tells of a row.
type image struct {
	schema  *change.Schema
	row     change.Row
	old     change.Row // of the same row before; nil: not known
	keyOnly bool
}

// value of a column; open if the change does not carry it.
func (m *image) value(i int) (v change.Value, open bool) {
	if i >= len(m.row) || m.keyOnly && !m.schema.IsKey(i) {
		return v, true
	}
	if v = m.row[i]; v.Kind != change.Unchanged {
		return v, false
	}
	if i < len(m.old) && m.old[i].Kind == change.Text {
		return m.old[i], false
	}
	return v, true
}

// Compile binds the predicate to a table's definition. The error is an *Error.
func (p *Predicate) Compile(s *change.Schema) (*Matcher, error) {
	eval, err := compile(p.root, s)
	if err != nil {
		return nil, err
	}
	return &Matcher{schema: s, eval: eval}, nil
}

// Match decides the predicate on the row after the change, or before it if it is
// deleted.
func (m *Matcher) Match(c *change.Change) (Answer, error) {
	img := image{schema: m.schema, row: c.New, old: c.Old}
	switch c.Op {
	case change.Truncate:
		return Open, nil
	case change.Delete:
		img.row, img.old, img.keyOnly = c.Old, nil, !m.schema.Full
	}
	return m.eval(&img)
}

type eval = func(*image) (Answer, error)

func compile(n node, s *change.Schema) (eval, error) {
	switch n := n.(type) {
	case *negation:
		f, err := compile(n.of, s)
		if err != nil {
			return nil, err
		}
		return func(m *image) (Answer, error) {
			a, err := f(m)
			return a.not(), err
		}, nil
	case *logic:
		parts := make([]eval, len(n.parts))
		for i := range n.parts {
			var err error
			if parts[i], err = compile(n.parts[i], s); err != nil {
				return nil, err
			}
		}
		return chain(parts, answer(n.or)), nil
	case *bare:
		i, f, err := bind(n.test, s)
		if err != nil {
			return nil, err
		}
		return func(m *image) (Answer, error) {
			v, a, err := f.of(m, i)
			if a != True || err != nil {
				return a, err
			}
			return answer(v.n == 1), nil
		}, nil
	}
	return n.(*test).compile(s)
}

// chain of conditions that one answer of a part decides: True of an OR, False of an AND.
func chain(parts []eval, decides Answer) eval {
	return func(m *image) (Answer, error) {
		out := decides.not()
		for _, p := range parts {
			a, err := p(m)
			if err != nil || a == decides {
				return a, err
			}
			if a == Open || a == Null && out != Open {
				out = a
			}
		}
		return out, nil
	}
}

// bind finds the column, and what its values are; the family is nil if only IS NULL can
// be asked.
func bind(t *test, s *change.Schema) (int, *family, error) {
	i := s.Column(t.column)
	if i < 0 {
		names := make([]string, len(s.Columns))
		for j := range s.Columns {
			names[j] = s.Columns[j].Name
		}
		hint := "its columns are " + strings.Join(names, ", ")
		if k := slices.IndexFunc(names, func(n string) bool { return strings.EqualFold(n, t.column) }); k >= 0 {
			hint = "write " + quote(names[k])
		}
		return 0, nil, mistake(t.at, hint, "table %s has no column %s", s.Table, quote(t.column))
	}
	f := familyOf(&s.Columns[i].Type)
	typ := s.Columns[i].Type.Name
	switch {
	case t.op == "null":
	case f == nil:
		return 0, nil, mistake(t.at, "IS NULL and IS NOT NULL can be asked of it", "column %s is of type %s, whose values are not compared here", quote(t.column), typ)
	case (t.op == "true" || t.op == "false" || t.op == "unknown") && !f.bool:
		return 0, nil, mistake(t.at, "compare it with a constant", "column %s is of type %s and so no condition by itself", quote(t.column), typ)
	case t.op == "like" && !f.texts:
		return 0, nil, mistake(t.at, "", "column %s is of type %s, and LIKE is for texts", quote(t.column), typ)
	case (t.op == "between" || strings.ContainsAny(t.op, "<>") && t.op != "<>") && !f.ordered:
		return 0, nil, mistake(t.at, "use =, <>, IN or LIKE", "the order of texts is the collation's of column %s, which the log does not carry", quote(t.column))
	}
	return i, f, nil
}

// of reads a column's value; the answer is True if there is one.
func (f *family) of(m *image, i int) (value, Answer, error) {
	v, open := m.value(i)
	switch {
	case open:
		return value{}, Open, nil
	case v.Kind == change.Null:
		return value{}, Null, nil
	}
	out, err := f.read(v.Data)
	if err != nil {
		return out, Open, fault.Permanent(CodeValue, err, "the change is damaged, or is read with another definition than it was written with", "table %s: column %q", m.schema.Table, m.schema.Columns[i].Name)
	}
	return out, True, nil
}

func (t *test) compile(s *change.Schema) (eval, error) {
	i, f, err := bind(t, s)
	if err != nil {
		return nil, err
	}
	flip := func(a Answer) Answer {
		if t.not {
			return a.not()
		}
		return a
	}
	switch t.op {
	case "null":
		return func(m *image) (Answer, error) {
			v, open := m.value(i)
			if open {
				// A large value that was not sent is one.
				if i < len(m.row) && m.row[i].Kind == change.Unchanged && !m.keyOnly {
					return flip(False), nil
				}
				return Open, nil
			}
			return flip(answer(v.Kind == change.Null)), nil
		}, nil
	case "true", "false", "unknown":
		return func(m *image) (Answer, error) {
			v, a, err := f.of(m, i)
			switch {
			case a == Open || err != nil:
				return Open, err
			case a == Null:
				return flip(answer(t.op == "unknown")), nil
			}
			return flip(answer(t.op == "true" && v.n == 1 || t.op == "false" && v.n == 0)), nil
		}, nil
	case "like":
		return t.like(i, f, flip)
	}
	// Constants are told apart from NULLs, whose comparison is NULL.
	var consts []value
	nulls := 0
	for _, c := range t.consts {
		if c.kind == 0 {
			nulls++
			if t.op == "between" {
				return nil, mistake(c.at, "", "BETWEEN with NULL never holds")
			}
			continue
		}
		v, bad := f.given(c)
		if bad != nil {
			bad.Message = fmt.Sprintf("column %s is of type %s: %s", quote(t.column), s.Columns[i].Type.Name, bad.Message)
			return nil, bad
		}
		consts = append(consts, v)
	}
	holds := map[string]func(v value) bool{
		"=":  func(v value) bool { return f.compare(v, consts[0]) == 0 },
		"<>": func(v value) bool { return f.compare(v, consts[0]) != 0 },
		"<":  func(v value) bool { return f.compare(v, consts[0]) < 0 },
		"<=": func(v value) bool { return f.compare(v, consts[0]) <= 0 },
		">":  func(v value) bool { return f.compare(v, consts[0]) > 0 },
		">=": func(v value) bool { return f.compare(v, consts[0]) >= 0 },
		"in": func(v value) bool {
			return slices.ContainsFunc(consts, func(c value) bool { return f.compare(v, c) == 0 })
		},
		"between":  func(v value) bool { return f.compare(v, consts[0]) >= 0 && f.compare(v, consts[1]) <= 0 },
		"distinct": func(v value) bool { return nulls > 0 || f.compare(v, consts[0]) != 0 },
	}[t.op]
	return func(m *image) (Answer, error) {
		v, a, err := f.of(m, i)
		switch {
		case err != nil:
			return Open, err
		case t.op == "distinct" && a == Null:
			return flip(answer(nulls == 0)), nil
		case t.op != "distinct" && len(consts) == 0:
			return Null, nil // whatever the value is
		case a != True:
			return a, nil
		case holds(v):
			return flip(True), nil
		case nulls > 0 && t.op == "in":
			return Null, nil
		}
		return flip(False), nil
	}, nil
}

func (t *test) like(i int, f *family, flip func(Answer) Answer) (eval, error) {
	c := t.consts[0]
	if c.kind == 0 {
		return func(*image) (Answer, error) { return Null, nil }, nil
	}
	if c.kind != 's' {
		return nil, mistake(c.at, "write it in single quotes", "LIKE wants a pattern")
	}
	pattern, ok := likePattern(c.text)
	if !ok {
		return nil, mistake(c.at, "double it for a backslash", "the pattern ends with a backslash, which escapes nothing")
	}
	return func(m *image) (Answer, error) {
		v, open := m.value(i)
		switch {
		case open:
			return Open, nil
		case v.Kind == change.Null:
			return Null, nil
		}
		// Blanks at the end count here, also those of a character(n).
		return flip(answer(pattern.match([]rune(string(v.Data))))), nil
	}, nil
}

// likeStep is one character of a pattern.
type likeStep struct {
	r        rune
	any, run bool // _ and %
}

type like []likeStep

func likePattern(s string) (out like, ok bool) {
	rs := []rune(s)
	for i := 0; i < len(rs); i++ {
		switch rs[i] {
		case '%':
			if n := len(out); n == 0 || !out[n-1].run {
				out = append(out, likeStep{run: true})
			}
		case '_':
			out = append(out, likeStep{any: true})
		case '\\':
			if i++; i == len(rs) {
				return nil, false
			}
			out = append(out, likeStep{r: rs[i]})
		default:
			out = append(out, likeStep{r: rs[i]})
		}
	}
	return out, true
}

// match goes back to the last % only, so that no pattern takes more than the product of
// both lengths.
func (p like) match(s []rune) bool {
	i, j, star, from := 0, 0, -1, 0
	for j < len(s) {
		switch {
		case i < len(p) && p[i].run:
			star, from = i, j
			i++
		case i < len(p) && (p[i].any || p[i].r == s[j]):
			i, j = i+1, j+1
		case star >= 0:
			from++
			i, j = star+1, from
		default:
			return false
		}
	}
	for i < len(p) && p[i].run {
		i++
	}
	return i == len(p)
}
