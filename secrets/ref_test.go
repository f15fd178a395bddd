package secrets

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/fault"
)

func TestParseRef(t *testing.T) {
	for _, c := range []struct {
		in, out string
		scheme  Scheme
	}{
		{"vault:secret/data/orders#password", "", SchemeVault},
		{"vault:/team/kv/orders#dsn", "vault:team/kv/orders#dsn", SchemeVault},
		{"vault:secret/x#with space", "", SchemeVault},
		{"env:ORDERS_DSN", "", SchemeEnv},
		{"env:_x9", "", SchemeEnv},
		{"file:/run/secrets/dsn", "", SchemeFile},
		{"file:///run/secrets/dsn", "file:/run/secrets/dsn", SchemeFile},
		{"file:relative/dsn", "", SchemeFile},
		{"file:/with:colon#and hash", "", SchemeFile},
	} {
		if c.out == "" {
			c.out = c.in
		}
		r, err := ParseRef(c.in)
		if err != nil {
			t.Errorf("%s: %v", c.in, err)
			continue
		}
		if r.String() != c.out || r.Scheme() != c.scheme {
			t.Errorf("%s: got %q scheme %s", c.in, r, r.Scheme())
		}
		var back struct{ R Ref }
		text, _ := json.Marshal(struct{ R Ref }{r})
		if err := json.Unmarshal(text, &back); err != nil || back.R != r {
			t.Errorf("%s: through JSON: %v %v", c.in, back.R, err)
		}
	}
}

func TestParseRefSaysWhatIsWrong(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "empty",
		" env:X":                       "white space",
		"hunter2":                      "no scheme",
		"postgres://u:hunter2@h/db":    "scheme is not",
		"vualt:secret/x#y":             `did you mean "vault:"`,
		"ENV:X":                        `did you mean "env:"`,
		"flie:/x":                      `did you mean "file:"`,
		"vault:secret/x":               "needs #<field>",
		"vault:secret/x#":              "field after # is empty",
		"vault:secret/x#a#b":           "more than one #",
		"vault:#a":                     "path before # is empty",
		"vault:secret#a":               "mount",
		"vault:secret//x#a":            "segment",
		"vault:secret/../sys/x#a":      "segment",
		"vault:secret/x?version=1#a":   "?",
		"vault://vault:8200/secret/x#": "field after # is empty",
		"vault://host/secret/x#a":      "without //",
		"env:":                         "name after env: is empty",
		"env:9X":                       "not a variable's name",
		"env:A-B":                      "not a variable's name",
		"env:$HOME":                    "not a variable's name",
		"file:":                        "path after file: is empty",
		"file://host/x":                "without //",
		"file:/run/":                   "folder",
		"file:/a\x00b":                 "control character",
	} {
		_, err := ParseRef(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want it to say %q", in, err, want)
			continue
		}
		if !fault.Is(err, CodeRefInvalid) || fault.Retryable(err) {
			t.Errorf("%q: not a permanent %s: %v", in, CodeRefInvalid, err)
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%q: error repeats the text: %v", in, err)
		}
	}
}

func TestZeroRefIsEmptyText(t *testing.T) {
	text, err := json.Marshal(Ref{})
	if err != nil || string(text) != `""` {
		t.Fatalf("%s %v", text, err)
	}
	var r Ref
	if err := json.Unmarshal(text, &r); err != nil || !r.IsZero() {
		t.Fatalf("%v %v", r, err)
	}
}

func TestRefTextRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.OneOf(
			rapid.StringMatching(`vault:[a-z]{1,5}(/[a-zA-Z0-9_.-]{1,6}){1,4}#[^#\pC]{1,9}`),
			rapid.StringMatching(`env:[A-Za-z_][A-Za-z0-9_]{0,12}`),
			rapid.StringMatching(`file:/?[^\pC/]{1,5}(/[^\pC/]{1,5})?`),
			rapid.String(),
		).Draw(t, "text")
		r, err := ParseRef(in)
		if err != nil {
			if r != (Ref{}) {
				t.Fatal("a Ref beside an error")
			}
			return
		}
		again, err := ParseRef(r.String())
		if err != nil || again != r {
			t.Fatalf("%q → %q → %v, %v", in, r, again, err)
		}
	})
}

func FuzzParseRef(f *testing.F) {
	f.Add("vault:secret/data/x#y")
	f.Add("env:X")
	f.Add("file:///x")
	f.Fuzz(func(t *testing.T, in string) {
		r, err := ParseRef(in)
		if err != nil {
			return
		}
		if again, err := ParseRef(r.String()); err != nil || again != r {
			t.Fatalf("%q → %q → %v, %v", in, r, again, err)
		}
	})
}
