package postgres

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/source/postgres/pgoutput"
)

// firstUserOID: types below it are built in and never change.
const firstUserOID = 16384

// catalog turns what the protocol says of a table into a Schema. Names and
// type OIDs come from the message, which is as old as the changes that follow;
// the catalog, which may be newer, adds what the message lacks.
type catalog struct {
	q querier

	mu      sync.Mutex
	builtin map[uint32]typeRow
	names   map[typeRef]string
}

type typeRef struct {
	oid uint32
	mod int32
}

type typeRow struct {
	oid, elem, base, sub uint32
	kind                 byte
	name                 string
	mod                  int32
	array                bool
	labels               []string
}

func newCatalog(q querier) *catalog {
	return &catalog{q: q, builtin: map[uint32]typeRow{}, names: map[typeRef]string{}}
}

// schema resolves a relation. An append-only table is given no key.
func (c *catalog) schema(ctx context.Context, r *pgoutput.Relation, appendOnly bool) (*change.Schema, error) {
	s := &change.Schema{Table: change.TableID{Schema: r.Schema, Name: r.Name}, Full: r.Identity == 'f'}
	attributes, err := c.attributes(ctx, r.ID)
	if err != nil {
		return nil, err
	}
	refs := make([]typeRef, len(r.Columns))
	for i, col := range r.Columns {
		refs[i] = typeRef{col.Type, col.Mod}
	}
	types, err := c.types(ctx, refs)
	if err != nil {
		return nil, fmt.Errorf("types of table %s: %w", s.Table, err)
	}
	for i, col := range r.Columns {
		out := change.Column{Name: col.Name, Type: types[i]}
		if a := attributes[col.Name]; a.oid == col.Type && col.Type != 0 {
			out.NotNull, out.Missing = a.notNull, a.missing
		}
		s.Columns = append(s.Columns, out)
	}
	if appendOnly {
		return s, nil
	}
	s.Key, err = c.key(ctx, r, s)
	return s, err
}

// attribute is what the catalog has of a column now.
type attribute struct {
	oid     uint32
	notNull bool
	missing *string
}

// attributes returns a table's columns. Of a partitioned one, the partitions know
// what their older rows have in a column that was added. Values of a type whose
// arrays have another delimiter (box) come apart as text[] and count as unknown.
func (c *catalog) attributes(ctx context.Context, rel uint32) (map[string]attribute, error) {
	rows, err := c.q.Query(ctx, `SELECT a.attname::text, a.atttypid, a.attnotnull,
		(SELECT CASE WHEN count(DISTINCT v) = 1 THEN min(v[1]) END
			FROM pg_attribute m CROSS JOIN LATERAL (SELECT m.attmissingval::text::text[] AS v) t
			WHERE m.attrelid IN (SELECT a.attrelid UNION ALL SELECT relid FROM pg_partition_tree(a.attrelid))
			AND m.attname = a.attname AND m.atttypid = a.atttypid AND m.atthasmissing AND NOT m.attisdropped
			HAVING max(cardinality(v)) = 1)
		FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped`, rel)
	if err != nil {
		return nil, err
	}
	out := map[string]attribute{}
	var name string
	var a attribute
	_, err = pgx.ForEachRow(rows, []any{&name, &a.oid, &a.notNull, &a.missing}, func() error { out[name] = a; return nil })
	return out, err
}

// key finds the columns that identify a row: those of the replica identity
// index if one is named, or else of the primary key, in the index's order.
func (c *catalog) key(ctx context.Context, r *pgoutput.Relation, s *change.Schema) ([]int, error) {
	want := "indisprimary"
	if r.Identity == 'i' {
		want = "indisreplident"
	}
	rows, err := c.q.Query(ctx, `SELECT a.attname::text FROM pg_index i
		CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
		JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = k.attnum
		WHERE i.indrelid = $1 AND i.`+want+` AND i.indisvalid AND k.n <= i.indnkeyatts ORDER BY k.n`, r.ID)
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	var key, flagged []int
	for _, n := range names {
		i := s.Column(n)
		if i < 0 {
			key = nil
			break
		}
		key = append(key, i)
	}
	if r.Identity != 'd' && r.Identity != 'i' {
		return key, nil
	}
	for i, col := range r.Columns {
		if col.Key {
			flagged = append(flagged, i)
		}
	}
	sorted := slices.Sorted(slices.Values(key))
	if slices.Equal(sorted, flagged) {
		return key, nil
	}
	return flagged, nil // the key was changed after these changes were made
}

// types resolves type references, each with what it is made of.
func (c *catalog) types(ctx context.Context, refs []typeRef) ([]change.Type, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	rows := map[uint32]typeRow{}
	var need []uint32
	var want func(oid uint32)
	want = func(oid uint32) {
		if _, ok := rows[oid]; ok || oid == 0 || slices.Contains(need, oid) {
			return
		}
		if r, ok := c.builtin[oid]; ok {
			rows[oid] = r
			want(r.elem) // what a known type is made of may not have been asked for in this call
			want(r.base)
			want(r.sub)
			return
		}
		need = append(need, oid)
	}
	for _, r := range refs {
		want(r.oid)
	}
	for len(need) > 0 {
		got, err := c.typeRows(ctx, need)
		if err != nil {
			return nil, err
		}
		for _, oid := range need {
			r, ok := got[oid]
			if !ok { // dropped since: values are texts all the same
				r = typeRow{oid: oid, kind: 'b', name: fmt.Sprintf("dropped_%d", oid), mod: -1}
			}
			rows[oid] = r
			if oid < firstUserOID {
				c.builtin[oid] = r
			}
		}
		need = need[:0]
		for _, r := range got {
			want(r.elem)
			want(r.base)
			want(r.sub)
		}
	}
	out := make([]change.Type, len(refs))
	var all []*change.Type
	for i, r := range refs {
		out[i] = makeType(rows, r.oid, r.mod, 0, &all)
		all = append(all, &out[i])
	}
	return out, c.nameTypes(ctx, all)
}

const maxTypeDepth = 32 // domains over arrays of domains …

func makeType(rows map[uint32]typeRow, oid uint32, mod int32, depth int, all *[]*change.Type) change.Type {
	r, ok := rows[oid]
	t := change.Type{Base: r.name, OID: oid, Mod: mod, Kind: change.Base, Labels: r.labels, Name: r.name}
	if !ok || depth > maxTypeDepth {
		return t
	}
	elem, elemMod := uint32(0), int32(-1)
	switch {
	case r.array:
		t.Kind, elem, elemMod = change.Array, r.elem, mod
	case r.kind == 'e':
		t.Kind = change.Enum
	case r.kind == 'd':
		t.Kind, elem, elemMod = change.Domain, r.base, r.mod
	case r.kind == 'c':
		t.Kind = change.Composite
	case r.kind == 'r':
		t.Kind, elem = change.Range, r.sub
	case r.kind == 'm':
		t.Kind, elem = change.MultiRange, r.sub
	}
	if elem != 0 {
		e := makeType(rows, elem, elemMod, depth+1, all)
		t.Elem = &e
		*all = append(*all, t.Elem)
	}
	return t
}

func (c *catalog) typeRows(ctx context.Context, oids []uint32) (map[uint32]typeRow, error) {
	rows, err := c.q.Query(ctx, `SELECT t.oid, t.typname::text, t.typtype::text, t.typelem, t.typbasetype, t.typtypmod,
		t.typelem <> 0 AND t.typcategory = 'A' AND t.typlen = -1,
		coalesce(r.rngsubtype, m.rngtypid, 0),
		coalesce((SELECT array_agg(e.enumlabel::text ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid), '{}')
		FROM pg_type t LEFT JOIN pg_range r ON r.rngtypid = t.oid LEFT JOIN pg_range m ON m.rngmultitypid = t.oid
		WHERE t.oid = ANY($1)`, oids)
	if err != nil {
		return nil, err
	}
	out := map[uint32]typeRow{}
	var r typeRow
	var kind string
	_, err = pgx.ForEachRow(rows, []any{&r.oid, &r.name, &kind, &r.elem, &r.base, &r.mod, &r.array, &r.sub, &r.labels}, func() error {
		n := r
		n.kind, n.labels = kind[0], slices.Clone(r.labels)
		if len(n.labels) == 0 {
			n.labels = nil
		}
		if !n.array {
			n.elem = 0 // point and the like have elements without being arrays
		}
		out[n.oid] = n
		return nil
	})
	return out, err
}

// nameTypes fills in Name as format_type prints it, with search_path pg_catalog:
// the same on every connection.
func (c *catalog) nameTypes(ctx context.Context, ts []*change.Type) error {
	var oids []uint32
	var mods []int32
	for _, t := range ts {
		if _, ok := c.names[typeRef{t.OID, t.Mod}]; !ok {
			oids, mods = append(oids, t.OID), append(mods, t.Mod)
		}
	}
	found := map[typeRef]string{}
	if len(oids) > 0 {
		rows, err := c.q.Query(ctx, `SELECT o, m, format_type(o, m) FROM unnest($1::oid[], $2::int4[]) u(o, m)`, oids, mods)
		if err != nil {
			return err
		}
		var r typeRef
		var name string
		if _, err := pgx.ForEachRow(rows, []any{&r.oid, &r.mod, &name}, func() error { found[r] = name; return nil }); err != nil {
			return err
		}
	}
	for _, t := range ts {
		r := typeRef{t.OID, t.Mod}
		name, ok := c.names[r]
		if !ok {
			name = found[r]
			if r.oid < firstUserOID {
				c.names[r] = name
			}
		}
		if name != "" && name != "???" {
			t.Name = name
		}
	}
	return nil
}
