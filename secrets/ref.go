package secrets

import (
	"strings"
	"unicode"

	"github.com/agnivade/levenshtein"

	"syncline/dataplane/fault"
)

// Scheme says where a secret is kept.
type Scheme string

// The schemes that a reference can have.
const (
	SchemeVault Scheme = "vault"
	SchemeEnv   Scheme = "env"
	SchemeFile  Scheme = "file"
)

// CodeRefInvalid is the fault of a text that is not a reference.
const CodeRefInvalid fault.Code = "RefInvalid"

const refForms = "vault:<path>#<field>, env:NAME or file:<path>"

// Ref names a secret without holding it. It is comparable, and its text form is
// its JSON and YAML form. The zero Ref is "no secret" and has the text "".
type Ref struct {
	scheme Scheme
	path   string // path in Vault, name of the variable, or path of the file
	field  string // Vault only
}

// Scheme is where the secret is kept; "" for the zero Ref.
func (r Ref) Scheme() Scheme { return r.scheme }

// Path is the path in Vault, the variable's name or the file's path.
func (r Ref) Path() string { return r.path }

// Field is the field of a Vault secret, "" for other schemes.
func (r Ref) Field() string { return r.field }

// IsZero reports whether r names nothing.
func (r Ref) IsZero() bool { return r == Ref{} }

// String is the text that ParseRef accepts. It is not secret.
func (r Ref) String() string {
	switch r.scheme {
	case "":
		return ""
	case SchemeVault:
		return string(r.scheme) + ":" + r.path + "#" + r.field
	default:
		return string(r.scheme) + ":" + r.path
	}
}

// MarshalText gives String.
func (r Ref) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRef, and gives the zero Ref for no text.
func (r *Ref) UnmarshalText(text []byte) error {
	if len(text) == 0 {
		*r = Ref{}
		return nil
	}
	p, err := ParseRef(string(text))
	if err != nil {
		return err
	}
	*r = p
	return nil
}

// ParseRef reads a reference. Its errors never repeat a text that could be a
// secret given in place of a reference.
func ParseRef(s string) (Ref, error) {
	if s == "" {
		return Ref{}, badRef("it is empty")
	}
	if s != strings.TrimSpace(s) {
		return Ref{}, badRef("it begins or ends with white space")
	}
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Ref{}, badRef("it has no scheme; if it is the secret itself, store it in a file, a variable or Vault and name that place here")
	}
	switch Scheme(scheme) {
	case SchemeVault:
		return parseVault(rest)
	case SchemeEnv:
		return parseEnv(rest)
	case SchemeFile:
		return parseFile(rest)
	}
	if near, ok := nearScheme(scheme); ok {
		return Ref{}, badRef("its scheme is %q; did you mean %q?", scheme+":", string(near)+":")
	}
	return Ref{}, badRef("its scheme is not vault:, env: or file:; if it is the secret itself, store it in a file, a variable or Vault and name that place here")
}

// MustParseRef is ParseRef for constants.
func MustParseRef(s string) Ref {
	r, err := ParseRef(s)
	if err != nil {
		panic(err)
	}
	return r
}

func badRef(format string, args ...any) error {
	e := fault.Permanent(CodeRefInvalid, nil, "write "+refForms, format, args...)
	e.What = "not a secret reference: " + e.What
	return e
}

func parseVault(s string) (Ref, error) {
	path, field, ok := strings.Cut(s, "#")
	switch {
	case !ok:
		return Ref{}, badRef("a vault reference needs #<field> after its path")
	case field == "":
		return Ref{}, badRef("the field after # is empty")
	case strings.Contains(field, "#"):
		return Ref{}, badRef("it has more than one #")
	case hasControl(field):
		return Ref{}, badRef("the field holds a control character")
	}
	if strings.HasPrefix(path, "//") {
		return Ref{}, badRef("a vault reference is vault:<path>#<field>, without // and without the server's address (that is SYNCLINE_VAULT_ADDR)")
	}
	path = strings.TrimPrefix(path, "/")
	if path == "" {
		return Ref{}, badRef("the path before # is empty")
	}
	if hasControl(path) || strings.ContainsAny(path, " ?\\") {
		return Ref{}, badRef("the path holds a space, a control character, ? or \\")
	}
	segments := strings.Split(path, "/")
	for _, seg := range segments {
		if seg == "" || seg == "." || seg == ".." {
			return Ref{}, badRef("the path has an empty, . or .. segment")
		}
	}
	if len(segments) < 2 {
		return Ref{}, badRef("the path needs the engine's mount and the secret's name below it, as in secret/orders")
	}
	return Ref{SchemeVault, path, field}, nil
}

func parseEnv(s string) (Ref, error) {
	if s == "" {
		return Ref{}, badRef("the variable's name after env: is empty")
	}
	for i, c := range s {
		letter := c == '_' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z'
		if !letter && (i == 0 || c < '0' || c > '9') {
			return Ref{}, badRef("what follows env: is not a variable's name (letters, digits and _, not beginning with a digit)")
		}
	}
	return Ref{SchemeEnv, s, ""}, nil
}

func parseFile(s string) (Ref, error) {
	if strings.HasPrefix(s, "//") {
		// file:///run/x is how many write /run/x; file://run/x would name a host.
		if !strings.HasPrefix(s, "///") {
			return Ref{}, badRef("a file reference is file:<path>, without //")
		}
		s = s[2:]
	}
	switch {
	case s == "":
		return Ref{}, badRef("the path after file: is empty")
	case hasControl(s):
		return Ref{}, badRef("the path holds a control character")
	case strings.HasSuffix(s, "/"):
		return Ref{}, badRef("the path after file: ends with /, so it names a folder")
	}
	return Ref{SchemeFile, s, ""}, nil
}

func hasControl(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }

// nearScheme finds the scheme meant by a typo. Only a typo may be echoed: what
// stands before the colon of a pasted password is not one.
func nearScheme(s string) (Scheme, bool) {
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsLetter(r) }) {
		return "", false
	}
	low := strings.ToLower(s)
	for _, c := range []Scheme{SchemeVault, SchemeEnv, SchemeFile} {
		if levenshtein.ComputeDistance(low, string(c)) <= len(c)/2 {
			return c, true
		}
	}
	return "", false
}
