package pipeline

import "strconv"

type nodeKind uint8

const (
	nodeNull nodeKind = iota
	nodeBool
	nodeInt
	nodeFloat
	nodeText
	nodeMap
	nodeList
)

type pos struct{ line, col int }

// node is a value of a declaration with its place, whether it came from YAML or
// from JSON.
type node struct {
	pos
	kind     nodeKind
	text     string // of a text; of another scalar, as written
	boolean  bool
	integer  int64
	entries  []entry // of a map
	items    []*node // of a list
	original string  // of a text that had ${VAR} in it: as written; must not be echoed otherwise
	expanded bool
	done     bool // variables are replaced
	bad      bool // already reported: has no value to check
}

type entry struct {
	pos
	key   string
	value *node
}

func (n *node) get(key string) *node {
	for _, e := range n.entries {
		if e.key == key {
			return e.value
		}
	}
	return nil
}

// describe says what the node is, for messages. hidden keeps its value out.
func (n *node) describe(hidden bool) string {
	switch n.kind {
	case nodeNull:
		return "has no value"
	case nodeBool:
		return "is the boolean " + strconv.FormatBool(n.boolean)
	case nodeInt, nodeFloat:
		if hidden {
			return "is a number"
		}
		return "is the number " + shorten(n.text)
	case nodeMap:
		return "is a mapping"
	case nodeList:
		return "is a list"
	}
	switch {
	case n.expanded:
		return "is " + strconv.Quote(shorten(n.original)) + " after expansion"
	case hidden || looksSecret(n.text):
		return "is text"
	}
	return "is the text " + strconv.Quote(shorten(n.text))
}

func shorten(s string) string {
	const limit = 40
	r := []rune(s)
	if len(r) > limit {
		return string(r[:limit]) + "…"
	}
	return s
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "." + name
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}
