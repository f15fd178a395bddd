package postgres

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// relation is a table of the sink's database, as its catalog has it.
type relation struct {
	oid     uint32
	kind    string // pg_class.relkind
	columns []column
	uniques []unique
	refs    int // foreign keys of other tables that point here
	fks     int // foreign keys of this table
	trigs   int // user triggers
}

type column struct {
	name      string
	oid       uint32 // of the type
	nsp, typ  string // of the type
	kind      string // pg_type.typtype
	base      uint32 // what a domain is over
	bnsp, btp string
	format    string // with modifiers
	mod       int32
	notNull   bool
	hasDef    bool
	identity  string // a: always, d: by default
	generated bool
}

type unique struct {
	name    string
	primary bool
	usable  bool // plain columns, whole table, checked at once
	columns []string
}

// name returns the sink's name of a table.
func name(id change.TableID, o sink.TableOptions) change.TableID {
	if o.Schema != "" {
		id.Schema = o.Schema
	}
	if o.Name != "" {
		id.Name = o.Name
	}
	return id
}

func ident(s string) string { return pgx.Identifier{s}.Sanitize() }

func quoted(t change.TableID) string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

// relation reads the catalog; nil if there is no such relation.
func (s *Sink) relation(ctx context.Context, q querier, t change.TableID) (*relation, error) {
	r := new(relation)
	err := q.QueryRow(ctx, `
		SELECT c.oid, c.relkind::text,
			(SELECT count(*) FROM pg_constraint k WHERE k.confrelid = c.oid AND k.contype = 'f' AND k.conrelid <> c.oid),
			(SELECT count(*) FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'f'),
			(SELECT count(*) FROM pg_trigger g WHERE g.tgrelid = c.oid AND NOT g.tgisinternal AND g.tgenabled <> 'D')
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2`, t.Schema, t.Name).Scan(&r.oid, &r.kind, &r.refs, &r.fks, &r.trigs)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, `
		SELECT a.attname, a.atttypid, n.nspname, t.typname, t.typtype::text, t.typbasetype,
			coalesce(bn.nspname, ''), coalesce(b.typname, ''), format_type(a.atttypid, a.atttypmod), a.atttypmod,
			a.attnotnull, a.atthasdef, a.attidentity::text, a.attgenerated <> ''
		FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid JOIN pg_namespace n ON n.oid = t.typnamespace
		LEFT JOIN pg_type b ON b.oid = t.typbasetype LEFT JOIN pg_namespace bn ON bn.oid = b.typnamespace
		WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum`, r.oid)
	if err != nil {
		return nil, err
	}
	r.columns, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c column, err error) {
		err = row.Scan(&c.name, &c.oid, &c.nsp, &c.typ, &c.kind, &c.base, &c.bnsp, &c.btp, &c.format, &c.mod,
			&c.notNull, &c.hasDef, &c.identity, &c.generated)
		return c, err
	})
	if err != nil {
		return nil, err
	}
	rows, err = q.Query(ctx, `
		SELECT k.relname, i.indisprimary, i.indimmediate AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL,
			ARRAY(SELECT a.attname::text FROM unnest(i.indkey[0:i.indnkeyatts-1]) WITH ORDINALITY u (n, o)
				JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = u.n ORDER BY u.o)
		FROM pg_index i JOIN pg_class k ON k.oid = i.indexrelid
		WHERE i.indrelid = $1 AND i.indisunique ORDER BY k.relname`, r.oid)
	if err != nil {
		return nil, err
	}
	r.uniques, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (u unique, err error) {
		err = row.Scan(&u.name, &u.primary, &u.usable, &u.columns)
		return u, err
	})
	return r, err
}

func (r *relation) column(name string) *column {
	for i := range r.columns {
		if r.columns[i].name == name {
			return &r.columns[i]
		}
	}
	return nil
}

// on reports whether the index is over just these columns, in any order.
func (u *unique) on(columns []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(u.columns)), slices.Sorted(slices.Values(columns)))
}

func (r *relation) keyed(columns []string) bool {
	return slices.ContainsFunc(r.uniques, func(u unique) bool { return u.usable && u.on(columns) })
}

// castType is what a text is cast to on its way into the column: the type
// without its modifier, because an explicit cast to varchar(3) cuts silently
// while the assignment that follows reports an error.
func (c *column) castType() string {
	if c.base != 0 {
		return pgx.Identifier{c.bnsp, c.btp}.Sanitize()
	}
	return pgx.Identifier{c.nsp, c.typ}.Sanitize()
}

func columnList(s *change.Schema) string {
	out := make([]string, len(s.Columns))
	for i := range s.Columns {
		out[i] = ident(s.Columns[i].Name)
	}
	return strings.Join(out, ", ")
}

func identList(names []string) string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = ident(n)
	}
	return strings.Join(out, ", ")
}

// appends reports whether rows are appended rather than kept by key.
func appends(s *change.Schema, o sink.TableOptions) bool { return o.AppendOnly || len(s.Key) == 0 }
