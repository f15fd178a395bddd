package postgres

import (
	"testing"

	"syncline/dataplane/change"
)

// A definition does not depend on what was looked up before it: what a known
// type is made of is found again.
func TestTypesDoNotDependOnEarlierLookups(t *testing.T) {
	r := newRig(t)
	r.exec(`CREATE TABLE one (id int PRIMARY KEY, n integer[], r int4range, m nummultirange)`)
	r.exec(`CREATE TABLE two (id bigint PRIMARY KEY, n integer[], r int4range, m nummultirange)`)
	describe := func(names ...string) map[string]change.Version {
		out := map[string]change.Version{}
		for _, n := range names {
			ss, err := r.s.Describe(t.Context(), []PublishedTable{{ID: change.TableID{Schema: "public", Name: n}}})
			if err != nil {
				t.Fatal(err)
			}
			out[n] = ss[0].Version()
			if e := ss[0].Columns[1].Type.Elem; e == nil || e.Base != "int4" || e.Name != "integer" {
				t.Errorf("%s.n has elements of type %+v", n, e)
			}
		}
		return out
	}
	c := newCatalog(r.s.pool)
	first, err := c.types(t.Context(), []typeRef{{1007, -1}, {3904, -1}, {4532, -1}})
	if err != nil {
		t.Fatal(err)
	}
	again, err := c.types(t.Context(), []typeRef{{1007, -1}, {3904, -1}, {4532, -1}})
	if err != nil {
		t.Fatal(err)
	}
	for i := range first {
		if again[i].Elem == nil || again[i].Elem.Base != first[i].Elem.Base {
			t.Errorf("%s: element %+v the first time, %+v the second", first[i].Name, first[i].Elem, again[i].Elem)
		}
	}
	if a, b := describe("one", "two"), describe("two", "one"); a["one"] != b["one"] || a["two"] != b["two"] {
		t.Errorf("versions %v, then %v", a, b)
	}
}
