package pipeline

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode/utf8"

	"github.com/goccy/go-yaml"
	"github.com/goccy/go-yaml/ast"
	"github.com/goccy/go-yaml/parser"
)

// Limits of a declaration; beyond them the YAML parser's time and stack are not
// bounded well enough.
const (
	maxBytes   = 256 << 10
	maxNesting = 60
	maxNodes   = 50_000
)

// fromYAML reads one document, of what is wanted. It returns no node if there is nothing
// to go on with.
func fromYAML(data []byte, wanted string) (root *node, problems Problems) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	if p, bad := unreadable(data); bad {
		return nil, Problems{p}
	}
	text, tabs := withoutTabs(string(data))
	for _, at := range tabs {
		problems = append(problems, Problem{Line: at.line, Column: at.col, Message: "is indented with a tab", Expected: "spaces: YAML allows no tabs there"})
	}
	defer func() {
		if r := recover(); r != nil { // the YAML library has had panics on damaged input
			root, problems = nil, append(problems, Problem{Line: 1, Column: 1, Message: "cannot be read as YAML"})
		}
	}()
	file, err := parser.ParseBytes([]byte(text), 0, parser.AllowDuplicateMapKey())
	if err != nil {
		if len(tabs) > 0 {
			return nil, problems
		}
		return nil, append(problems, syntaxProblem(err, text))
	}
	docs := file.Docs
	for len(docs) > 0 && docs[0].Body == nil {
		docs = docs[1:]
	}
	if len(docs) == 0 {
		return nil, append(problems, Problem{Line: 1, Column: 1, Message: "is empty", Expected: wanted})
	}
	c := &converter{anchors: map[string]ast.Node{}, active: map[string]bool{}}
	for _, d := range docs[1:] {
		if d.Body != nil {
			c.problem(start(d.Body), "", "a second document begins here", "one document per file")
		}
	}
	root = c.convert(docs[0].Body, "", 0)
	return root, append(problems, c.problems...)
}

// aPipeline is what a declaration holds.
const aPipeline = "a pipeline: version, name, source, kafka, sinks, tables"

func unreadable(data []byte) (Problem, bool) {
	if len(data) > maxBytes {
		return Problem{Line: 1, Column: 1, Message: "is too large", Expected: "at most " + Size(maxBytes).String()}, true
	}
	line, col, depth, dashes := 1, 1, 0, 0
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == utf8.RuneError && n == 1 || r < ' ' && r != '\n' && r != '\r' && r != '\t' {
			return Problem{Line: line, Column: col, Message: "holds a byte that is not text", Expected: "UTF-8"}, true
		}
		switch r {
		case '[', '{':
			depth++
		case ']', '}':
			depth = max(0, depth-1)
		case '-', '?', ':':
			dashes++
		case ' ', '\t':
		default:
			dashes = 0
		}
		// Counted without regard to quotes: no honest declaration comes near.
		if depth > maxNesting || dashes > 1000 {
			return Problem{Line: line, Column: col, Message: "is nested too deeply"}, true
		}
		if col++; r == '\n' {
			line, col, dashes = line+1, 1, 0
		}
		i += n
	}
	return Problem{}, false
}

// withoutTabs replaces tabs in the indentation, one space each so that columns
// stay, if the text cannot be parsed with them.
func withoutTabs(text string) (string, []pos) {
	if !strings.Contains(text, "\t") {
		return text, nil
	}
	if parses(text) {
		return text, nil
	}
	var at []pos
	lines := strings.Split(text, "\n")
	for i, l := range lines {
		body := strings.TrimLeft(l, " \t")
		indent := l[:len(l)-len(body)]
		if tab := strings.IndexByte(indent, '\t'); tab >= 0 && strings.TrimSpace(body) != "" && body[0] != '#' {
			at = append(at, pos{i + 1, tab + 1})
		}
		lines[i] = strings.ReplaceAll(indent, "\t", " ") + body
	}
	return strings.Join(lines, "\n"), at
}

func parses(text string) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	_, err := parser.ParseBytes([]byte(text), 0, parser.AllowDuplicateMapKey())
	return err == nil
}

func syntaxProblem(err error, text string) Problem {
	p := Problem{Line: 1, Column: 1, Message: "is not valid YAML"}
	var e yaml.Error
	if !errors.As(err, &e) {
		return p
	}
	p.Message += ": " + e.GetMessage()
	if t := e.GetToken(); t != nil && t.Position != nil {
		p.Line, p.Column = max(1, t.Position.Line), max(1, t.Position.Column)
	}
	if lines := strings.Split(text, "\n"); p.Line <= len(lines) {
		if l := lines[p.Line-1]; strings.ContainsAny(l, "[{") && strings.Contains(l, "${") {
			p.Expected = `"${VAR}" in quotes inside [ ] and { }`
		}
	}
	return p
}

// converter turns the library's tree into nodes and resolves aliases.
type converter struct {
	problems Problems
	anchors  map[string]ast.Node
	active   map[string]bool // aliases being resolved
	nodes    int
}

func (c *converter) problem(p pos, path, message, expected string) {
	c.problems = append(c.problems, Problem{Line: p.line, Column: p.col, Path: path, Message: message, Expected: expected})
}

func at(n ast.Node) pos {
	if n == nil || n.GetToken() == nil || n.GetToken().Position == nil {
		return pos{1, 1}
	}
	p := n.GetToken().Position
	return pos{max(1, p.Line), max(1, p.Column)}
}

// start is where a node begins: for a block mapping its first key, not the colon.
func start(n ast.Node) pos {
	if m, ok := n.(*ast.MappingNode); ok && len(m.Values) > 0 && !m.IsFlowStyle {
		return at(m.Values[0].Key)
	}
	return at(n)
}

func (c *converter) convert(n ast.Node, path string, depth int) *node {
	c.nodes++
	out := &node{pos: at(n)}
	if c.nodes > maxNodes || depth > maxNesting {
		if c.nodes <= maxNodes+1 {
			c.problem(out.pos, path, "is nested too deeply or refers to too many aliases", "")
			c.nodes = maxNodes + 1
		}
		out.bad = true
		return out
	}
	switch n := n.(type) {
	case nil, *ast.NullNode:
	case *ast.BoolNode:
		out.kind, out.boolean = nodeBool, n.Value
	case *ast.IntegerNode:
		out.kind, out.text = nodeInt, n.Token.Value
		switch v := n.Value.(type) {
		case int64:
			out.integer = v
		case uint64:
			out.integer = int64(min(v, math.MaxInt64))
		}
	case *ast.FloatNode:
		out.setFloat(n.Value, n.Token.Value)
	case *ast.InfinityNode, *ast.NanNode:
		out.kind, out.text = nodeFloat, n.GetToken().Value
	case *ast.StringNode:
		out.kind, out.text = nodeText, n.Value
	case *ast.LiteralNode:
		out.kind = nodeText
		if n.Value != nil {
			out.text = n.Value.Value
		}
	case *ast.MappingNode:
		out.kind = nodeMap
		out.pos = start(n)
		c.entries(out, n.Values, path, depth)
	case *ast.MappingValueNode:
		out.kind, out.pos = nodeMap, at(n.Key)
		c.entries(out, []*ast.MappingValueNode{n}, path, depth)
	case *ast.SequenceNode:
		out.kind = nodeList
		for i, v := range n.Values {
			out.items = append(out.items, c.convert(v, fmt.Sprintf("%s[%d]", path, i), depth+1))
		}
	case *ast.AnchorNode:
		if n.Name != nil && n.Name.GetToken() != nil {
			c.anchors[n.Name.GetToken().Value] = n.Value
		}
		return c.convert(n.Value, path, depth+1)
	case *ast.AliasNode:
		return c.alias(n, out.pos, path, depth)
	default:
		c.problem(out.pos, path, "uses a YAML feature that is not supported here (a tag or directive)", "plain values")
		out.bad = true
	}
	return out
}

func (c *converter) alias(n *ast.AliasNode, p pos, path string, depth int) *node {
	name := ""
	if n.Value != nil && n.Value.GetToken() != nil {
		name = n.Value.GetToken().Value
	}
	target, ok := c.anchors[name]
	switch {
	case !ok:
		c.problem(p, path, fmt.Sprintf("alias *%s has no anchor before it", shorten(name)), "")
		return &node{pos: p, bad: true}
	case c.active[name]:
		c.problem(p, path, fmt.Sprintf("alias *%s contains itself", shorten(name)), "")
		return &node{pos: p, bad: true}
	}
	c.active[name] = true
	defer delete(c.active, name)
	return c.convert(target, path, depth+1)
}

func (c *converter) entries(out *node, values []*ast.MappingValueNode, path string, depth int) {
	first := map[string]pos{}
	for _, v := range values {
		p := at(v.Key)
		var key string
		switch k := v.Key.(type) {
		case *ast.StringNode:
			key = k.Value
		case *ast.MergeKeyNode:
			c.problem(p, path, "merge keys (<<) are not supported", "the fields themselves, or an alias as the whole value")
			continue
		case ast.ScalarNode:
			key = k.GetToken().Value
		default:
			c.problem(p, path, "is not a plain field name", "")
			continue
		}
		if prev, dup := first[key]; dup {
			c.problem(p, join(path, shorten(key)), fmt.Sprintf("is given twice (first in line %d)", prev.line), "each field once")
			continue
		}
		first[key] = p
		out.entries = append(out.entries, entry{p, key, c.convert(v.Value, join(path, key), depth+1)})
	}
}

// setFloat takes whole numbers such as 4.0 as integers, as JSON Schema does.
func (n *node) setFloat(v float64, text string) {
	n.kind, n.text = nodeFloat, text
	if v == math.Trunc(v) && math.Abs(v) < 1<<53 {
		n.kind, n.integer = nodeInt, int64(v)
	}
}
