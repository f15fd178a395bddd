package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

const ledgerV9 = `
CREATE TABLE syncline.erasures (
	pipeline text  NOT NULL,
	erasure  text  NOT NULL,
	secret   bytea NOT NULL,
	saved_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (pipeline, erasure)
);
COMMENT ON TABLE syncline.erasures IS 'what opens the keys of erasures that are under way; gone when they are over';
`

// SaveErasure keeps the secret of an erasure.
func (s *Sink) SaveErasure(ctx context.Context, erasure string, secret []byte) ([]byte, error) {
	if _, err := s.pool.Exec(ctx, "INSERT INTO syncline.erasures (pipeline, erasure, secret) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING", s.pipeline, erasure, secret); err != nil {
		return nil, s.wrap(ctx, err, "begin erasure %s", erasure)
	}
	return s.Erasure(ctx, erasure)
}

// Erasure returns the secret of an erasure.
func (s *Sink) Erasure(ctx context.Context, erasure string) (secret []byte, err error) {
	err = s.pool.QueryRow(ctx, "SELECT secret FROM syncline.erasures WHERE pipeline = $1 AND erasure = $2", s.pipeline, erasure).Scan(&secret)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	return secret, s.wrap(ctx, err, "read erasure %s", erasure)
}

// ForgetErasure removes what is kept of an erasure.
func (s *Sink) ForgetErasure(ctx context.Context, erasure string) error {
	_, err := s.pool.Exec(ctx, "DELETE FROM syncline.erasures WHERE pipeline = $1 AND erasure = $2", s.pipeline, erasure)
	return s.wrap(ctx, err, "forget erasure %s", erasure)
}

// ledgerOfKeys are the ledger's tables with keys.
var ledgerOfKeys = []string{"dead_letters", "findings", "repairs"}

// erasing is a table of which something is looked for by key.
type erasing struct {
	*Sink
	t    sink.Table
	rows erased
	kept []erased     // of its aggregates those by the key,
	sums []sink.Trace // and the others
}

// erased is a table whose rows are looked for by key.
type erased struct {
	at   change.TableID
	cond string // with a parameter for each column of the key; "" if the table is not there
}

func (s *Sink) erasing(ctx context.Context, q querier, t sink.Table) (*erasing, error) {
	names := t.Schema.KeyNames()
	if len(names) == 0 {
		return nil, fault.Permanent(sink.CodeEraseKey, nil, "name columns of it", "table %s has no key at the sink", t.ID)
	}
	e := &erasing{Sink: s, t: t}
	var err error
	if e.rows, err = s.erased(ctx, q, name(t.ID, t.Options), names); err != nil {
		return nil, err
	}
	ps, err := s.partialsOf(ctx, q, t.ID)
	for _, p := range ps {
		if !sink.ByGroup(p.plan, names) {
			e.sums = append(e.sums, sink.SumsTrace("aggregates "+p.at.String(), p.plan))
			continue
		}
		k, err := s.erased(ctx, q, p.at, names)
		if err != nil {
			return nil, err
		}
		e.kept = append(e.kept, k)
	}
	return e, err
}

func (s *Sink) erased(ctx context.Context, q querier, at change.TableID, names []string) (erased, error) {
	out := erased{at: at}
	r, err := s.relation(ctx, q, at)
	if err != nil || r == nil {
		return out, err // a table that is not there has no rows
	}
	var and []string
	for n, col := range names {
		c := r.column(col)
		if c == nil {
			return out, fault.Permanent(sink.CodeTableMismatch, nil, "restore it, or resync the table", "table %s lacks column %q", at, col)
		}
		and = append(and, fmt.Sprintf("%s = $%d::text::%s", ident(col), n+1, c.castType()))
	}
	out.cond = strings.Join(and, " AND ")
	return out, nil
}

// each runs a statement over the table's rows of each key.
func (e *erasing) each(keys []change.Key, f func(values []string, args []any) error) error {
	for _, k := range keys {
		vs, err := k.Values()
		if err != nil || len(vs) != len(e.t.Schema.Key) {
			return fmt.Errorf("a key of table %s is damaged", e.t.ID)
		}
		args := make([]any, len(vs))
		for i := range vs {
			args[i] = vs[i]
		}
		if err := f(vs, args); err != nil {
			return err
		}
	}
	return nil
}

func (e *erasing) count(ctx context.Context, keys []change.Key, in erased) (found int64, err error) {
	if in.cond == "" {
		return 0, nil
	}
	err = e.each(keys, func(_ []string, args []any) error {
		var n int64
		err := e.pool.QueryRow(ctx, "SELECT count(*) FROM "+quoted(in.at)+" WHERE "+in.cond, args...).Scan(&n)
		found += n
		return err
	})
	return found, err
}

const staysDeleted = "what a deleted row took up is free space after VACUUM, which was run; the server's WAL archive, standbys and backups are not reached"

// Traces counts what there is of keys.
func (s *Sink) Traces(ctx context.Context, _ string, t sink.Table, keys []change.Key, _ change.Position) (out []sink.Trace, _ int64, err error) {
	out, err = s.traces(ctx, t, keys)
	return out, 0, s.wrap(ctx, err, "look for keys of table %s", t.ID)
}

func (s *Sink) traces(ctx context.Context, t sink.Table, keys []change.Key) (out []sink.Trace, err error) {
	e, err := s.erasing(ctx, s.pool, t)
	if err != nil {
		return nil, err
	}
	rows := sink.Trace{Place: "table " + e.rows.at.String(), How: "counted by key, as any reader sees it", Stays: staysDeleted}
	if rows.Found, err = e.count(ctx, keys, e.rows); err != nil {
		return nil, err
	}
	out = append(out, rows)
	appended := appends(t.Schema, t.Options)
	for _, l := range ledgerOfKeys {
		tr := sink.Trace{Place: "ledger syncline." + l, How: "counted by key"}
		if err := s.pool.QueryRow(ctx, "SELECT count(*) FROM syncline."+l+" WHERE pipeline = $1 AND source_table = $2 AND (key = ANY ($3::text[]) OR $4)",
			s.pipeline, t.ID.String(), keyTexts(keys), appended && l == "dead_letters").Scan(&tr.Found); err != nil {
			return nil, err
		}
		if tr.Found > 0 && appended {
			tr.How, tr.Stays = "all of the table counted", sink.StayingLetters
		}
		out = append(out, tr)
	}
	bounds := sink.Trace{Place: "ledger syncline.chunks", How: "counted by bound"}
	by := []string{} // the columns of a chunk's bounds, unless they are the key
	if appended {
		by = t.Schema.KeyNames()
	}
	if err := e.each(keys, func(values []string, _ []any) error {
		var n int64
		err := s.pool.QueryRow(ctx, "SELECT count(*) FROM syncline.chunks WHERE pipeline = $1 AND source_table = $2 AND (after = $3::text[] OR up_to = $3::text[]) AND coalesce(cut_by, '{}') = $4::text[]",
			s.pipeline, t.ID.String(), values, by).Scan(&n)
		bounds.Found += n
		return err
	}); err != nil {
		return nil, err
	}
	if bounds.Found > 0 {
		bounds.Stays = sink.StayingBounds
	}
	out = append(out, bounds)
	for _, k := range e.kept {
		tr := sink.Trace{Place: "aggregates " + k.at.String(), How: "groups counted by key, of each run", Stays: staysDeleted}
		if tr.Found, err = e.count(ctx, keys, k); err != nil {
			return nil, err
		}
		out = append(out, tr)
	}
	return append(out, e.sums...), nil
}

// EraseKeys deletes rows and what the ledger has of the keys, in one transaction that
// keeps lanes off the table, and then has the server reuse what they took up.
func (s *Sink) EraseKeys(ctx context.Context, _ string, t sink.Table, keys []change.Key, _ change.Position, gone func(context.Context) error) error {
	var changed []change.TableID
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if err := s.lockTable(ctx, tx, t.ID); err != nil {
			return err
		}
		var held bool
		if err := tx.QueryRow(ctx, "SELECT EXISTS (SELECT FROM syncline.repairs WHERE pipeline = $1 AND source_table = $2 AND key = ANY ($3::text[]) AND held)", s.pipeline, t.ID.String(), keyTexts(keys)).Scan(&held); err != nil {
			return err
		}
		if held {
			return fault.Transient(sink.CodeHeld, nil, "table %s: a repair holds one of the keys", t.ID)
		}
		// What lanes have committed by now is known to be of before, and none commits until
		// the end: a row that the source does not have now is one that it will not have.
		if err := gone(ctx); err != nil {
			return err
		}
		e, err := s.erasing(ctx, tx, t)
		if err != nil {
			return err
		}
		for _, in := range append([]erased{e.rows}, e.kept...) {
			if in.cond == "" {
				continue
			}
			changed = append(changed, in.at)
			if err := e.each(keys, func(_ []string, args []any) error {
				_, err := tx.Exec(ctx, "DELETE FROM "+quoted(in.at)+" WHERE "+in.cond, args...)
				return err
			}); err != nil {
				return err
			}
		}
		for _, l := range ledgerOfKeys {
			if _, err := tx.Exec(ctx, "DELETE FROM syncline."+l+" WHERE pipeline = $1 AND source_table = $2 AND key = ANY ($3::text[])", s.pipeline, t.ID.String(), keyTexts(keys)); err != nil {
				return err
			}
		}
		// The place of a verification that is not over is a key; one that runs records it again.
		_, err = tx.Exec(ctx, "DELETE FROM syncline.verifications WHERE pipeline = $1 AND source_table = $2 AND offsets IS NULL", s.pipeline, t.ID.String())
		return err
	})
	if err != nil {
		return s.wrap(ctx, err, "erase keys of table %s", t.ID)
	}
	for _, l := range append([]string{"verifications"}, ledgerOfKeys...) {
		if _, err := s.pool.Exec(ctx, "VACUUM syncline."+l); err != nil {
			return s.wrap(ctx, err, "vacuum the ledger")
		}
	}
	for _, at := range changed {
		if _, err := s.pool.Exec(ctx, "VACUUM "+quoted(at)); err != nil {
			return s.wrap(ctx, err, "vacuum table %s", at)
		}
	}
	return nil
}
