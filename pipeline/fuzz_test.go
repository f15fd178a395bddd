package pipeline

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"syncline/dataplane/change"
)

func FuzzParse(f *testing.F) {
	messy, _ := os.ReadFile("testdata/messy.yaml")
	for _, s := range []string{small, string(messy), string(example(f, "full.yaml")), string(example(f, "shop.yaml")), "a: &a [*a]\n", "? a\n: b\n", "{", "\t- a", "%YAML 1.2\n---\na", "a: |\n  b\n", "!!x a: b", "<<: *a", "a:\r\n  b: c\r\n"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := Parse("f", data, func(name string) (string, bool) { return "v" + name, len(name) > 3 })
		if err != nil {
			var ps Problems
			if !errors.As(err, &ps) || len(ps) == 0 {
				t.Fatalf("%T: %v", err, err)
			}
			for _, p := range ps {
				if p.Line < 1 || p.Column < 1 || p.Message == "" {
					t.Fatalf("problem without a place: %+v", p)
				}
			}
			return
		}
		sameAgain(t, spec)
		spec.Match([]change.TableID{{Schema: "a", Name: "b"}, {Schema: "shop", Name: strings.Repeat("a", 60)}})
	})
}

func FuzzDecode(f *testing.F) {
	for _, s := range []string{small, string(example(f, "full.yaml"))} {
		spec, err := Parse("f", []byte(s), vars())
		if err != nil {
			f.Fatal(err)
		}
		form, err := json.Marshal(spec)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(form)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		spec, err := Decode(data)
		if err == nil {
			sameAgain(t, spec)
		} else if !errors.As(err, new(Problems)) {
			t.Fatalf("%T", err)
		}
	})
}

func FuzzGlob(f *testing.F) {
	for _, s := range []string{"a.*", `"a""b".{c,d}`, "[a-z].?", `\*.a`, "{a,{b,c}}.**"} {
		f.Add(s, "a", "b")
	}
	f.Fuzz(func(t *testing.T, pattern, schema, name string) {
		if g, err := parseGlob(pattern); err == nil {
			g.match(change.TableID{Schema: schema, Name: name})
		}
	})
}
