package pipeline

import (
	"strings"

	"github.com/bmatcuk/doublestar/v4"

	"syncline/dataplane/change"
)

// glob is a pattern of table names: one part for the schema, one for the table.
type glob struct{ schema, table part }

type part struct {
	text    string
	literal bool // quoted in the declaration
}

// globPattern is what the JSON Schema can say of a glob.
const globPattern = `^(` + globPart + `)\.(` + globPart + `)$`
const globPart = `"([^"\x00-\x1f\x7f]|"")+"|[^ ".\x00-\x1f\x7f]+`

type globError struct{ message, suggestion string }

// doublestar takes / for a separator, which in a table's name is a character
// like any other; NUL cannot be in one.
var noSlash = strings.NewReplacer("/", "\x00")

func (p part) match(name string) bool {
	if p.literal {
		return p.text == name
	}
	ok, err := doublestar.Match(noSlash.Replace(p.text), noSlash.Replace(name))
	return err == nil && ok
}

func (g glob) match(t change.TableID) bool { return g.schema.match(t.Schema) && g.table.match(t.Name) }

// parseGlob reads schema.table, each part a pattern, or quoted and literal.
func parseGlob(s string) (glob, *globError) {
	if len(s) > 400 {
		return glob{}, &globError{message: "is too long"}
	}
	if strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return glob{}, &globError{message: "holds a control character"}
	}
	schema, rest, err := cutGlob(s)
	if err != nil {
		return glob{}, err
	}
	if rest == "" {
		g := &globError{message: "names no schema"}
		if !strings.ContainsAny(s, `"`) {
			g.suggestion = "*." + s
		}
		return glob{}, g
	}
	table, rest, err := cutGlob(rest[1:])
	if err != nil {
		return glob{}, err
	}
	if rest != "" {
		return glob{}, &globError{message: "has more than two parts (quote a part with a dot in it)"}
	}
	return glob{schema, table}, nil
}

// cutGlob takes one part; rest is empty or begins with the dot after it.
func cutGlob(s string) (part, string, *globError) {
	if strings.HasPrefix(s, `"`) {
		var b strings.Builder
		for i := 1; i < len(s); i++ {
			switch {
			case s[i] != '"':
				b.WriteByte(s[i])
			case i+1 < len(s) && s[i+1] == '"':
				b.WriteByte('"')
				i++
			case b.Len() == 0:
				return part{}, "", &globError{message: "has an empty part"}
			case i+1 < len(s) && s[i+1] != '.':
				return part{}, "", &globError{message: "has text behind a closing quote"}
			default:
				return part{b.String(), true}, s[i+1:], nil
			}
		}
		return part{}, "", &globError{message: "has a quote that is not closed"}
	}
	end, braces := len(s), 0
scan:
	for i := 0; i < len(s); i++ {
		switch s[i] {
		case '\\':
			if i+1 < len(s) && strings.IndexByte(`*?[]{}\`, s[i+1]) >= 0 {
				i++
			}
		case '{', '[':
			braces++
		case '}', ']':
			braces--
		case '.':
			if braces > 0 {
				return part{}, "", &globError{message: "has a dot inside { } or [ ]; write one pattern each"}
			}
			end = i
			break scan
		case ' ', '"':
			return part{}, "", &globError{message: "has white space or a quote inside a part (quote the whole part)"}
		}
	}
	text := s[:end]
	switch {
	case text == "":
		return part{}, "", &globError{message: "has an empty part"}
	case strings.Count(text, "{") > 3 || strings.Count(text, "*") > 10: // matching them could take very long
		return part{}, "", &globError{message: "has too many { } or *"}
	case !doublestar.ValidatePattern(noSlash.Replace(text)):
		return part{}, "", &globError{message: "is not a valid pattern: a bracket, brace or backslash is left open"}
	}
	return part{text: text}, s[end:], nil
}
