package digest

import (
	"strings"
	"testing"

	"syncline/dataplane/change"
)

// Values and names come as arguments or quoted by the caller: nothing of a scope is
// ever part of a statement's text.
func TestScopesAreArguments(t *testing.T) {
	p := &Postgres{From: `"s"."t"`, Columns: []PostgresColumn{{Name: `"k"`, Base: "int8", Cast: "bigint", Form: Text}, {Name: `"v"`, Base: "json", Form: JSON}}, Key: []int{0}, Where: "v > 0 -- live"}
	s := Scope{After: []string{"1'; DROP TABLE t; --"}, UpTo: []string{"9'"}, Slice: 1, Slices: 3}
	for name, f := range map[string]func(Scope) (string, []any){"sum": p.Sum, "keys": p.Keys} {
		sql, args := f(s)
		if strings.Contains(sql, "DROP") || len(args) != 2 || args[0] != s.After[0] || args[1] != s.UpTo[0] {
			t.Errorf("%s: %s with %v", name, sql, args)
		}
		if !strings.Contains(sql, "(v > 0 -- live\n)") || strings.Contains(sql, "octet_length(a1)") {
			t.Errorf("%s: a filter's comment hides what follows, or a column that is compared in Go is digested: %s", name, sql)
		}
	}
	if sql, args := p.Next(s.After, 10); strings.Contains(sql, "DROP") || len(args) != 1 || !strings.Contains(sql, "OFFSET 9") {
		t.Errorf("next: %s with %v", sql, args)
	}
}

func TestFloatForm(t *testing.T) {
	f8 := change.Type{Kind: change.Base, Base: "float8"}
	domain := change.Type{Kind: change.Domain, Base: "ratio", Elem: &f8}
	list := change.Type{Kind: change.Array, Base: "_float8", Elem: &domain}
	for _, tt := range []struct {
		t    change.Type
		want Form
		ok   bool
	}{{f8, Float64, true}, {domain, Float64, true}, {list, Floats64, true}, {change.Type{Kind: change.Base, Base: "text"}, Text, false}} {
		if f, ok := FloatForm(&tt.t); f != tt.want || ok != tt.ok {
			t.Errorf("%s: %s, %v", tt.t.Base, f, ok)
		}
	}
}
