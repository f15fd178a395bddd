package secrets

import (
	"regexp"
	"strings"
)

const secretNames = `(?:password|passwd|passphrase|pwd|secret|secret_id|token|access_key|api_key)`

// What drivers put into their errors when a connection string is wrong.
var redactions = []struct {
	re   *regexp.Regexp
	with string
}{
	// password='it\'s' and password="…", as in connection strings, SQL and JSON.
	{regexp.MustCompile(`(?i)(` + secretNames + `["']?\s*(?:=|:|\s)\s*)(?:'(?:[^'\\]|\\.|'')*'|"(?:[^"\\]|\\.)*")`), "${1}***"},
	// password=secret up to the end of the word or of the query parameter, also
	// when a quote was opened and not closed.
	{regexp.MustCompile(`(?i)(` + secretNames + `\s*=\s*)['"]?[^\s&'"]+`), "${1}***"},
	{regexp.MustCompile(`(?i)((?:x-vault-token|x-clickhouse-key|authorization)\s*[:=]\s*(?:(?:bearer|basic)\s+)?)[^\s,;]+`), "${1}***"},
	// Vault's own tokens, wherever they stand.
	{regexp.MustCompile(`\b(hv[sbr]\.)[A-Za-z0-9_-]{8,}`), "${1}***"},
	// net/url quotes the piece it choked on, which is a piece of the password
	// when the password was not escaped.
	{regexp.MustCompile(`(invalid (?:port|URL escape|character|userinfo) )"[^"]*"`), `${1}"***"`},
}

var (
	authority = regexp.MustCompile("://[^\\s:/@\"'`]*:")
	port      = regexp.MustCompile("^[0-9]{1,5}([/?#:,;)\\s\"'`]|$)")
)

// Redact removes passwords and tokens from a text that may quote a connection
// string, such as a driver's error. It is a second line of defence: it knows
// the usual notations only, and rather removes too much.
func Redact(s string) string {
	s = redactURLs(s)
	for _, r := range redactions {
		s = r.re.ReplaceAllString(s, r.with)
	}
	return s
}

// redactURLs removes what stands between scheme://user: and the host. The
// password may hold @, / # or a space, since a password that was not escaped is
// what makes such a string wrong and so quoted in an error.
func redactURLs(s string) string {
	var out strings.Builder
	for {
		at := authority.FindStringIndex(s)
		if at == nil {
			out.WriteString(s)
			return out.String()
		}
		out.WriteString(s[:at[1]])
		s = s[at[1]:]
		word := s
		if i := strings.IndexAny(s, " \t\n"); i >= 0 {
			word = s[:i]
		}
		quoted := s
		if i := strings.IndexAny(s, "\n\"`"); i >= 0 {
			quoted = s[:i]
		}
		switch {
		case strings.Contains(word, "@"):
			s = "***" + s[strings.LastIndexByte(word, '@'):]
		case port.MatchString(s):
		case strings.Contains(quoted, "@"):
			s = "***" + s[strings.LastIndexByte(quoted, '@'):]
		default:
			s = "***" + s[min(len(word), len(quoted)):]
		}
	}
}
