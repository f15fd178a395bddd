package pipeline

import (
	"slices"
	"strings"

	"syncline/dataplane/change"
)

// Options returns how the pipeline takes one table, whether or not its globs
// select it.
func (s *Spec) Options(t change.TableID) Selected {
	only := *s
	only.Tables = s.Tables
	only.Tables.Include, only.Tables.Exclude = []string{literalGlob(t)}, nil
	if sel := only.Match([]change.TableID{t}); len(sel.Tables) == 1 {
		return sel.Tables[0]
	}
	return Selected{Table: t, ChunkBytes: s.Snapshot.ChunkBytes}
}

// WithTables returns the declaration that also takes the tables of add, and does
// not take those of remove.
func (s *Spec) WithTables(add, remove []change.TableID) Spec {
	out := *s
	out.Tables.Include = slices.Clone(s.Tables.Include)
	out.Tables.Exclude = slices.Clone(s.Tables.Exclude)
	for _, t := range add {
		g := literalGlob(t)
		out.Tables.Exclude = slices.DeleteFunc(out.Tables.Exclude, func(x string) bool { return x == g })
		if len(out.Match([]change.TableID{t}).Tables) == 0 {
			out.Tables.Include = append(out.Tables.Include, g)
		}
	}
	for _, t := range remove {
		g := literalGlob(t)
		out.Tables.Include = slices.DeleteFunc(out.Tables.Include, func(x string) bool { return x == g })
		if len(out.Match([]change.TableID{t}).Tables) > 0 {
			out.Tables.Exclude = append(out.Tables.Exclude, g)
		}
	}
	return out
}

// Nearest returns the name that word was probably meant to be, or "".
func Nearest(word string, names []string) string { return nearest(word, names) }

// literalGlob is the pattern that matches one table only.
func literalGlob(t change.TableID) string { return literalPart(t.Schema) + "." + literalPart(t.Name) }

func literalPart(s string) string {
	for _, r := range s {
		if r != '_' && (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') {
			return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
		}
	}
	return s
}
