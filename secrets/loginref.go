package secrets

import (
	"strings"
)

// LoginRef names a login, which is a user with a password, by its path in Vault:
//
//	vault:secret/orders/source            a pointer to one of two logins (see Pointer), which
//	                                      is moved by a rotation; or a secret with the fields
//	                                      username and password
//	vault:database/creds/orders           a dynamic role of Vault's database engine
//	vault:database/static-creds/orders    a static one
//
// It is comparable. The zero LoginRef names nothing.
type LoginRef struct{ path string }

// Path is the path in Vault.
func (r LoginRef) Path() string { return r.path }

// IsZero reports whether r names nothing.
func (r LoginRef) IsZero() bool { return r.path == "" }

// String is the text that ParseLoginRef accepts. It is not secret.
func (r LoginRef) String() string {
	if r.path == "" {
		return ""
	}
	return string(SchemeVault) + ":" + r.path
}

// MarshalText gives String.
func (r LoginRef) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseLoginRef, and gives the zero LoginRef for no text.
func (r *LoginRef) UnmarshalText(text []byte) (err error) {
	if len(text) == 0 {
		*r = LoginRef{}
		return nil
	}
	*r, err = ParseLoginRef(string(text))
	return err
}

// ParseLoginRef reads a reference. Its errors never repeat a text that could be a secret.
func ParseLoginRef(s string) (LoginRef, error) {
	path, ok := strings.CutPrefix(s, string(SchemeVault)+":")
	switch {
	case !ok:
		return LoginRef{}, badLogin("it does not begin with vault:")
	case strings.Contains(path, "#"):
		return LoginRef{}, badLogin("it names a field after #; a login is a whole secret, with user and password")
	}
	// The rules for paths are those of other references.
	r, err := parseVault(path + "#password")
	if err != nil {
		return LoginRef{}, err
	}
	if end := r.path[strings.LastIndex(r.path, "/")+1:]; end == string(SlotA) || end == string(SlotB) {
		return LoginRef{}, badLogin("it names one of the two slots; name the path above it, which says which of them counts")
	}
	return LoginRef{r.path}, nil
}

func badLogin(what string) error { return badRef("%s (write vault:<path>)", what) }
