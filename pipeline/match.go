package pipeline

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"syncline/dataplane/change"
)

// Selected is a table that a pipeline takes, with its options resolved.
type Selected struct {
	Table      change.TableID `json:"table"`
	Columns    *Columns       `json:"columns,omitempty"` // nil: all
	Where      string         `json:"where,omitempty"`
	AppendOnly bool           `json:"append_only,omitempty"`
	OrderBy    []string       `json:"order_by,omitempty"`
	Target     string         `json:"target,omitempty"` // table name at the sinks; "": the source's
	ChunkBytes Size           `json:"chunk_bytes"`
}

// UnusedGlob is a pattern of the declaration that matches no table.
type UnusedGlob struct {
	Path string `json:"path"` // tables.include[1]
	Glob string `json:"glob"`
}

// Collision is several tables that would share one table of a sink.
type Collision struct {
	Sink   string           `json:"sink"`
	Target change.TableID   `json:"target"`
	Tables []change.TableID `json:"tables"`
}

// Selection is the outcome of Match.
type Selection struct {
	Tables     []Selected   `json:"tables"` // by schema and name
	Unused     []UnusedGlob `json:"unused,omitempty"`
	Collisions []Collision  `json:"collisions,omitempty"`
}

// system tells schemas that are never replicated.
func system(schema string) bool {
	return schema == "information_schema" || schema == "syncline" || strings.HasPrefix(schema, "pg_")
}

// Match chooses among the source's tables. Excludes win over includes. The
// outcome does not depend on the order of tables. Postgres' own schemas and
// Syncline's are never chosen.
func (s *Spec) Match(tables []change.TableID) Selection {
	all := slices.Clone(tables)
	slices.SortFunc(all, func(a, b change.TableID) int {
		return cmp.Or(cmp.Compare(a.Schema, b.Schema), cmp.Compare(a.Name, b.Name))
	})
	all = slices.DeleteFunc(slices.Compact(all), func(t change.TableID) bool { return system(t.Schema) })

	var out Selection
	use := func(path, pattern string, on func(change.TableID)) {
		g, err := parseGlob(pattern)
		used := false
		for _, t := range all {
			if err == nil && g.match(t) {
				used = true
				on(t)
			}
		}
		if !used {
			out.Unused = append(out.Unused, UnusedGlob{path, pattern})
		}
	}
	chosen := map[change.TableID]bool{}
	for i, p := range s.Tables.Include {
		use(fmt.Sprintf("tables.include[%d]", i), p, func(t change.TableID) { chosen[t] = true })
	}
	for i, p := range s.Tables.Exclude {
		use(fmt.Sprintf("tables.exclude[%d]", i), p, func(t change.TableID) { delete(chosen, t) })
	}
	index := map[change.TableID]int{}
	for _, t := range all {
		if chosen[t] {
			index[t] = len(out.Tables)
			out.Tables = append(out.Tables, Selected{Table: t, ChunkBytes: s.Snapshot.ChunkBytes})
		}
	}
	for i, o := range s.Tables.Options {
		hit := false
		path := fmt.Sprintf("tables.options[%d].match", i)
		use(path, o.Match, func(t change.TableID) {
			if n, ok := index[t]; ok {
				hit = true
				out.Tables[n].apply(o)
			}
		})
		if !hit && !slices.Contains(out.Unused, UnusedGlob{path, o.Match}) {
			out.Unused = append(out.Unused, UnusedGlob{path, o.Match})
		}
	}
	out.Collisions = s.collisions(out.Tables)
	return out
}

func (t *Selected) apply(o TableOption) {
	if o.Columns != nil {
		t.Columns = o.Columns
	}
	if o.Where != "" {
		t.Where = o.Where
	}
	if o.AppendOnly != nil {
		t.AppendOnly = *o.AppendOnly
	}
	if len(o.OrderBy) > 0 {
		t.OrderBy = o.OrderBy
	}
	if o.Target != "" {
		t.Target = o.Target
	}
	if o.ChunkBytes > 0 {
		t.ChunkBytes = o.ChunkBytes
	}
}

// At returns where the table goes in a sink.
func (t *Selected) At(k *Sink) change.TableID {
	return change.TableID{Schema: cmp.Or(k.Schema, t.Table.Schema), Name: cmp.Or(t.Target, t.Table.Name)}
}

func (s *Spec) collisions(tables []Selected) []Collision {
	var out []Collision
	for i := range s.Sinks {
		k := &s.Sinks[i]
		at := map[change.TableID][]change.TableID{}
		var order []change.TableID
		for j := range tables {
			target := tables[j].At(k)
			if len(at[target]) == 1 {
				order = append(order, target)
			}
			at[target] = append(at[target], tables[j].Table)
		}
		for _, target := range order {
			out = append(out, Collision{k.Name, target, at[target]})
		}
	}
	return out
}
