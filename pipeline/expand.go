package pipeline

import (
	"fmt"
	"regexp"
	"strings"
)

var variableName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// expand replaces ${VAR} and ${VAR:-default} in s; $${ stands for ${. As in a
// shell, the default also replaces an empty value. It returns every mistake and
// reports whether a variable was used.
func expand(s string, env func(string) (string, bool)) (out string, used bool, mistakes []string) {
	var b strings.Builder
	for {
		i := strings.Index(s, "${")
		if i < 0 {
			b.WriteString(s)
			return b.String(), used, mistakes
		}
		if i > 0 && s[i-1] == '$' {
			b.WriteString(s[:i-1])
			b.WriteString("${")
			s = s[i+2:]
			continue
		}
		b.WriteString(s[:i])
		body, rest, closed := strings.Cut(s[i+2:], "}")
		if !closed {
			return b.String(), true, append(mistakes, "${ is not closed by }; write $${ for a literal ${")
		}
		s, used = rest, true
		name, def, hasDefault := strings.Cut(body, ":-")
		switch {
		case !variableName.MatchString(name):
			mistakes = append(mistakes, fmt.Sprintf("${%s} does not name a variable", shorten(name)))
			continue
		case strings.Contains(def, "${"):
			mistakes = append(mistakes, fmt.Sprintf("the default of ${%s} holds another variable, which is not supported", name))
			continue
		}
		value, ok := env(name)
		switch {
		case ok && (value != "" || !hasDefault):
			b.WriteString(value)
		case hasDefault:
			b.WriteString(def)
		default:
			mistakes = append(mistakes, fmt.Sprintf("variable %s is not defined; set it, or give a default with ${%s:-…}", name, name))
		}
	}
}
