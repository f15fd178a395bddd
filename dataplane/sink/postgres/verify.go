package postgres

import (
	"context"
	"slices"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/verify"
	"syncline/dataplane/verify/pgside"
)

var _ verify.Sink = (*Sink)(nil)

// ordered are types that every server orders alike: text follows a collation, which
// may be another one, and an enum its labels.
var ordered = []string{"int2", "int4", "int8", "oid", "numeric", "bool", "uuid", "date", "time", "timestamp", "timestamptz", "bytea"}

// digesting runs f in a transaction in which the table can be digested.
func (s *Sink) digesting(ctx context.Context, t *verify.Subject, what string, f func(tx pgx.Tx, r *relation, p *digest.Postgres) error) error {
	err := pgx.BeginTxFunc(ctx, s.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		recode, err := pgside.Begin(ctx, tx)
		if err != nil {
			return err
		}
		at := name(t.Schema.Table, t.Options)
		r, err := s.relation(ctx, tx, at)
		if err != nil {
			return err
		}
		if err := checkTarget(t.Schema, at, r); err != nil {
			return err
		}
		p := &digest.Postgres{From: quoted(at), Key: t.Schema.Key, Recode: recode}
		for i := range t.Schema.Columns {
			c := r.column(t.Schema.Columns[i].Name)
			col := digest.PostgresColumn{Name: ident(c.name), Base: c.plainType(), Cast: c.castType(), Form: digest.Text}
			if i < len(t.Forms) {
				col.Form = t.Forms[i]
			}
			p.Columns = append(p.Columns, col)
		}
		return f(tx, r, p)
	})
	return s.wrap(ctx, err, "%s table %s", what, t.Schema.Table)
}

// plainType is the name of the column's type, or of what its domain is over, if that
// is one of pg_catalog.
func (c *column) plainType() string {
	switch {
	case c.base != 0 && c.bnsp == "pg_catalog":
		return c.btp
	case c.base == 0 && c.nsp == "pg_catalog":
		return c.typ
	}
	return ""
}

// Forms tells in which form each column is digested at both sides, and whether the
// sink has the source's order of primary keys.
func (s *Sink) Forms(ctx context.Context, t *verify.Subject) (forms []digest.Form, inOrder bool, err error) {
	err = s.digesting(ctx, t, "look at", func(_ pgx.Tx, r *relation, _ *digest.Postgres) error {
		forms, inOrder = make([]digest.Form, len(t.Schema.Columns)), true
		for i := range t.Schema.Columns {
			c := &t.Schema.Columns[i]
			have, root := r.column(c.Name).plainType(), c.Type.Root()
			same := root.Kind == change.Base && root.Base == have
			forms[i] = form(&c.Type, r.column(c.Name))
			if t.Schema.IsKey(i) && !(same && slices.Contains(ordered, have)) {
				inOrder = false
			}
		}
		return nil
	})
	return forms, inOrder, err
}

// form is how values of a type are digested that are in a column of the sink.
func form(t *change.Type, c *column) digest.Form {
	root, have := t.Root(), c.plainType()
	switch {
	case root.Kind != change.Base:
	case root.Base == "bytea" && have == "bytea":
		return digest.Bytes
	case root.Base == "json" && have == "jsonb":
		return digest.JSON
	}
	return digest.Text
}

// Sum digests a part of a table.
func (s *Sink) Sum(ctx context.Context, t *verify.Subject, part digest.Scope) (out digest.Sum, err error) {
	err = s.digesting(ctx, t, "digest", func(tx pgx.Tx, _ *relation, p *digest.Postgres) (err error) {
		out, err = pgside.Sum(ctx, tx, p, part)
		return err
	})
	return out, err
}

// Keys gives the key and the digest of each row of a part.
func (s *Sink) Keys(ctx context.Context, t *verify.Subject, part digest.Scope, each func(change.Key, digest.Digest) error) error {
	return s.digesting(ctx, t, "digest", func(tx pgx.Tx, _ *relation, p *digest.Postgres) error {
		return pgside.Keys(ctx, tx, p, t.Schema, part, each)
	})
}

// Read returns those of the rows that are there.
func (s *Sink) Read(ctx context.Context, t *verify.Subject, keys []change.Key) (out []verify.Row, err error) {
	err = s.digesting(ctx, t, "read rows of", func(tx pgx.Tx, _ *relation, p *digest.Postgres) (err error) {
		out, err = pgside.Read(ctx, tx, p, t.Schema, keys)
		return err
	})
	return out, err
}
