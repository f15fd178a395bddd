package pipeline

import (
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/agnivade/levenshtein"

	"syncline/dataplane/fault"
)

// Nearest returns the name that word was probably meant to be, or "".
func Nearest(word string, names []string) string {
	if word == "" || len(word) > 60 {
		return ""
	}
	plain := func(s string) string { return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(s)) }
	w := plain(word)
	best, bestDistance := "", max(1, (len(w)+1)/3)+1
	for _, name := range names {
		n := levenshtein.ComputeDistance(w, plain(name))
		if n == 2 && sameLetters(w, plain(name)) { // two letters swapped are one slip
			n = 1
		}
		if n < bestDistance && n < len(name) {
			best, bestDistance = name, n
		}
	}
	return best
}

func sameLetters(a, b string) bool {
	x, y := []rune(a), []rune(b)
	slices.Sort(x)
	slices.Sort(y)
	return slices.Equal(x, y)
}

var notInName = regexp.MustCompile(`[^a-z0-9]+`)

// checkName suggests a valid name for an invalid one.
func checkName(s string) (message, suggestion string) {
	if len(s) > 200 {
		return "", ""
	}
	s = strings.Trim(notInName.ReplaceAllString(strings.ToLower(s), "-"), "-0123456789")
	if s = strings.TrimRight(s[:min(len(s), MaxName)], "-"); s == "" {
		return "", ""
	}
	return "", s
}

var (
	userInfo   = regexp.MustCompile(`://[^/@\s]*:[^/\s]*@`)
	oneVarOnly = regexp.MustCompile(`^\$\{([A-Za-z_][A-Za-z0-9_]*)(:-[^}]*)?\}$`)
	typoScheme = regexp.MustCompile(`^[A-Za-z]{2,6}:([^/]|$)`)
)

// looksSecret tells texts that must not be repeated in a message.
func looksSecret(s string) bool {
	low := strings.ToLower(s)
	return strings.Contains(s, "://") || strings.Contains(s, "@") || strings.Contains(low, "password") || strings.Contains(low, "passwd")
}

// secretMistake explains why a text is not a reference, without repeating it.
func secretMistake(name string, n *node, err error) (message, suggestion string) {
	low := strings.ToLower(n.text)
	switch {
	case n.expanded:
		message = "takes the secret itself from a variable, so it would be stored in workflow history; secrets must be references that the worker resolves"
		if m := oneVarOnly.FindStringSubmatch(n.original); m != nil && !typoScheme.MatchString(n.text) {
			suggestion = "env:" + m[1]
		}
	case n.text == "":
		message = "is empty"
	case userInfo.MatchString(n.text) || strings.Contains(low, "password="):
		message = "is a connection string with a password in plain text; secrets must be references: keep it in a variable of the workers, a file or Vault, and name that place"
	case strings.Contains(n.text, "://") || strings.Contains(low, "host="):
		message = "is a connection string in plain text; it must be a reference: keep it in a variable of the workers, a file or Vault, and name that place"
	case typoScheme.MatchString(n.text):
		message = "is not a valid reference"
		var f *fault.Error
		if errors.As(err, &f) {
			message = "is " + f.What
		}
	default:
		message = "is a secret in plain text; secrets must be references: keep it in a variable of the workers, a file or Vault, and name that place"
	}
	return message, suggestion
}
