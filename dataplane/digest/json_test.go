package digest_test

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/digest"
	"syncline/dataplane/digest/jsontest"
)

// TestCanonical: any two texts of a value are equal, and with a leaf changed they are not.
func TestCanonical(t *testing.T) {
	for form, s := range map[digest.Form]jsontest.Spelling{
		digest.JSON:  {Last: true},
		digest.Paths: {Doubles: true, Unkept: true},
	} {
		t.Run(string(form), func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) {
				v := jsontest.Any(t, 4)
				a, b := s.Text(t, v), s.Text(t, v)
				if x, y := form.Canonical([]byte(a)), form.Canonical([]byte(b)); !bytes.Equal(x, y) || x[0] == '!' {
					t.Fatalf("%s\n%s\nare one value, and differ:\n%s\n%s", a, b, x, y)
				}
				other, ok := jsontest.Change(t, v)
				if !ok {
					return
				}
				if c := s.Text(t, other); bytes.Equal(form.Canonical([]byte(a)), form.Canonical([]byte(c))) {
					t.Fatalf("%s\n%s\ndiffer, and are taken for one value", a, c)
				}
			})
		})
	}
}

// TestCanonicalEdges: what the two forms take for the same, and what not.
func TestCanonicalEdges(t *testing.T) {
	for _, tt := range []struct {
		a, b        string
		json, paths bool
	}{
		{`{"a":1,"b":2}`, ` { "b" : 2 , "a" : 1 } `, true, true},
		{`1`, `1.0`, true, true},
		{`1`, `10e-1`, true, true},
		{`0`, `-0.0`, true, true},
		{`1e400`, `1e401`, false, false},
		{`1e400`, `10e399`, true, true},
		{`9007199254740993`, `9007199254740992`, false, false},
		{`9007199254740993`, `9007199254740993.0`, true, false},
		{`18446744073709551615`, `18446744073709551614`, false, false},
		{`18446744073709551616`, `18446744073709551617`, false, false},
		{`0.1`, `0.1000000000000000055511151231257827`, false, true},
		{`"é"`, `"\u00e9"`, true, true},
		{`"1"`, `1`, false, false},
		{`"true"`, `true`, false, false},
		{`{"a":null}`, `{}`, false, true},
		{`{"a":{}}`, `{}`, false, true},
		{`{"a":{"b":{"c":null}}}`, `{}`, false, true},
		{`{"a":[]}`, `{}`, false, false},
		{`[null]`, `[]`, false, false},
		{`[[1],null]`, `[[1],[]]`, false, true},
		{`[{"a":null}]`, `[{}]`, false, true},
		{`{"a.b":1}`, `{"a":{"b":1}}`, false, true},
		{`{"a":1,"a":2}`, `{"a":2}`, true, false},
		{`{"a":1,"a":2}`, `{"a":1}`, false, true},
		{`{"a":null,"a":1}`, `{}`, false, true},
		{`{"a.b":null,"a":{"b":1}}`, `{"a":{"b":1}}`, false, true},
		{`{"a.b":1,"a":{"b":2}}`, `{"a":{"b":1}}`, false, true},
		{`{"a":{"b":1},"a":{"c":2}}`, `{"a":{"b":1}}`, false, true},
		{`{"a":{"c":2},"a.b":1}`, `{"a":{"b":1,"c":2}}`, false, true},
		{`{"a":1,"a":{"b":2}}`, `{"a.b":2,"a":1}`, false, true},
		{`[9007199254740993,1.5]`, `[9007199254740992,1.5]`, false, true},
		{`[[9007199254740993],[null],[],[1.0]]`, `[[9007199254740992],[null],[],[1]]`, false, true},
		{`["",9007199254740993,1.5]`, `["",9007199254740992,1.5]`, false, false},
		{`[[9007199254740993],1.5]`, `[[9007199254740992],1.5]`, false, true},
		{`[9007199254740993,1.5,[]]`, `[9007199254740992,1.5,[]]`, false, false},
		{`[{"a":9007199254740993},{"a":1.5}]`, `[{"a":9007199254740992},{"a":1.5}]`, false, false},
		{`{"a":"b","c":"d"}`, `{"a":"b\",\"c\":\"d"}`, false, false},
		{`[1,2]`, `[2,1]`, false, false},
		{`[[1],2]`, `[[1,2]]`, false, false},
		{`{"a":`, `{"a": `, false, false}, // no JSON
	} {
		for form, want := range map[digest.Form]bool{digest.JSON: tt.json, digest.Paths: tt.paths} {
			if is := bytes.Equal(form.Canonical([]byte(tt.a)), form.Canonical([]byte(tt.b))); is != want {
				t.Errorf("%s: %s and %s: equal is %v", form, tt.a, tt.b, is)
			}
		}
	}
}

// FuzzCanonical: whatever the text, it ends, and its own text again is another form's matter.
func FuzzCanonical(f *testing.F) {
	for _, s := range []string{"", "{", `{"a`, `"\`, `[1,`, `{"a":1}}`, "nul", "-", `{"a":{"b":[{}]}}`, "1e99999999999999999999"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		for _, form := range []digest.Form{digest.JSON, digest.Paths} {
			if len(form.Canonical(text)) == 0 {
				t.Errorf("%s: %q has no form", form, text)
			}
		}
	})
}

// TestSummer: sums are those that the servers make of the same digests.
func TestSummer(t *testing.T) {
	var s digest.Summer
	for range 3 {
		if err := s.Add("ffffffffffffffff000000000000001f"); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.Sum(), (digest.Sum{Rows: 3, A: "3458764513820540925", B: "3"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for range 40 {
		if err := s.Add("ffffffffffffffffffffffffffffffff"); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := s.Sum(), (digest.Sum{Rows: 43, A: "49575624698094419925", B: "46116860184273879003"}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	for _, d := range []digest.Digest{"", "ff", "zzffffffffffffff0000000000000010"} {
		if s.Add(d) == nil {
			t.Errorf("%q is taken for a digest", d)
		}
	}
	// Rows differ by each of their texts, and by NULL.
	texts := digest.Texts{Forms: []digest.Form{digest.JSON, digest.Paths}}
	a, b := "1", "2"
	seen := map[digest.Digest]bool{}
	for _, row := range [][]*string{{&a, &a}, {&a, &b}, {&b, &a}, {nil, &a}, {&a, nil}, {nil, nil}} {
		seen[texts.Row("h", row)] = true
	}
	if seen[texts.Row("i", []*string{nil, nil})] = true; len(seen) != 7 {
		t.Errorf("%d digests of 7 rows", len(seen))
	}
}
