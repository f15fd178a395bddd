package pipeline

import (
	"slices"
	"strings"

	"syncline/dataplane/change"
)

// Options resolves the options of one table.
func (s *Spec) Options(t change.TableID) Selected {
	out := Selected{Table: t, ChunkBytes: s.Snapshot.ChunkBytes}
	for _, o := range s.Tables.Options {
		if g, err := parseGlob(o.Match); err == nil && g.match(t) {
			out.apply(o)
		}
	}
	return out
}

// Selects reports whether the declaration takes the table, should it exist.
func (s *Spec) Selects(t change.TableID) bool {
	return !system(t.Schema) && anyMatches(s.Tables.Include, t) && !anyMatches(s.Tables.Exclude, t)
}

func anyMatches(patterns []string, t change.TableID) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		g, err := parseGlob(p)
		return err == nil && g.match(t)
	})
}

// WithTables returns the declaration with some tables added and others removed.
// An added table that a broader pattern excludes stays excluded: see Selects.
func (s *Spec) WithTables(add, remove []change.TableID) Spec {
	out := *s
	in, ex := slices.Clone(s.Tables.Include), slices.Clone(s.Tables.Exclude)
	names := func(t change.TableID) func(string) bool { // patterns that name just t
		return func(p string) bool { return p == t.String() || p == Literal(t) }
	}
	for _, t := range add {
		ex = slices.DeleteFunc(ex, names(t))
		if !anyMatches(in, t) {
			in = append(in, Literal(t))
		}
	}
	for _, t := range remove {
		in = slices.DeleteFunc(in, names(t))
		if anyMatches(in, t) && !anyMatches(ex, t) {
			ex = append(ex, Literal(t))
		}
	}
	if len(ex) == 0 {
		ex = nil
	}
	out.Tables.Include, out.Tables.Exclude = in, ex
	return out
}

// Only returns the declaration with one of its tables.
func (s *Spec) Only(t change.TableID) Spec {
	out := *s
	out.Tables.Include, out.Tables.Exclude = []string{Literal(t)}, nil
	return out
}

// Narrowed returns the declaration with one more condition on the rows of a table.
func (s *Spec) Narrowed(t change.TableID, where string) Spec {
	out := *s
	if had := s.Options(t).Where; had != "" {
		where = "(" + had + ") AND (" + where + ")"
	}
	out.Tables.Options = append(slices.Clone(s.Tables.Options), TableOption{Match: Literal(t), Where: where})
	return out
}

// Literal is the pattern that matches t alone.
func Literal(t change.TableID) string {
	quote := func(s string) string {
		if s == "" || strings.ContainsAny(s, "*?[]{}\\.\" \t\n") {
			return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
		}
		return s
	}
	return quote(t.Schema) + "." + quote(t.Name)
}
