package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// RecordFindings adds what a verification has confirmed of a table, as one.
func (s *Sink) RecordFindings(ctx context.Context, run string, table change.TableID, fs []sink.Finding) error {
	if len(fs) == 0 {
		return nil
	}
	var text [4][]string
	for i := range fs {
		f := &fs[i]
		columns, err := json.Marshal(append([]string{}, f.Columns...)) // none is not NULL
		if err != nil {
			return fmt.Errorf("encode a finding of table %s: %w", table, err)
		}
		for c, v := range []string{f.Key.String(), f.Kind, string(columns), f.At.String()} {
			text[c] = append(text[c], v)
		}
	}
	_, err := s.pool.Exec(ctx, `INSERT INTO syncline.findings (pipeline, run, source_table, key, kind, columns, lsn)
		SELECT $1, $2, $3, u.key, u.kind, ARRAY(SELECT json_array_elements_text(u.columns::json)), u.lsn::pg_lsn
		FROM unnest($4::text[], $5::text[], $6::text[], $7::text[]) AS u (key, kind, columns, lsn) ON CONFLICT DO NOTHING`,
		s.pipeline, run, table.String(), text[0], text[1], text[2], text[3])
	return s.wrap(ctx, err, "record findings of table %s", table)
}

// Findings returns what a verification has confirmed of a table.
func (s *Sink) Findings(ctx context.Context, run string, table change.TableID) ([]sink.Finding, error) {
	// In the same order whatever the database's collation is.
	rows, err := s.pool.Query(ctx, `SELECT key, kind, columns, lsn::text FROM syncline.findings
		WHERE pipeline = $1 AND run = $2 AND source_table = $3 ORDER BY key COLLATE "C"`, s.pipeline, run, table.String())
	if err != nil {
		return nil, s.wrap(ctx, err, "read the findings of table %s", table)
	}
	fs, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f sink.Finding, err error) {
		var key, lsn string
		if err = row.Scan(&key, &f.Kind, &f.Columns, &lsn); err != nil {
			return f, err
		}
		if f.Key, err = change.ParseKey(key); err != nil {
			return f, errors.New("damaged key in syncline.findings") // without the key, which is row data
		}
		f.At, err = change.ParseLSN(lsn)
		return f, err
	})
	return fs, s.wrap(ctx, err, "read the findings of table %s", table)
}

// LastFindings returns the run that recorded findings of a table last.
func (s *Sink) LastFindings(ctx context.Context, table change.TableID) (run string, err error) {
	err = s.pool.QueryRow(ctx, `SELECT coalesce((SELECT run FROM syncline.findings WHERE pipeline = $1 AND source_table = $2
		ORDER BY found_at DESC, run DESC LIMIT 1), '')`, s.pipeline, table.String()).Scan(&run)
	return run, s.wrap(ctx, err, "read the findings of table %s", table)
}

// ForgetFindings removes those of all runs but the newest, and their walks.
func (s *Sink) ForgetFindings(ctx context.Context, keep int) error {
	b := &pgx.Batch{}
	b.Queue(`DELETE FROM syncline.findings WHERE pipeline = $1 AND run NOT IN (
		SELECT run FROM syncline.findings WHERE pipeline = $1 GROUP BY run ORDER BY max(found_at) DESC, run DESC LIMIT $2)`,
		s.pipeline, max(keep, 0))
	b.Queue(`DELETE FROM syncline.verifications v WHERE pipeline = $1 AND run NOT IN (
		SELECT run FROM syncline.verifications WHERE pipeline = $1 GROUP BY run ORDER BY max(saved_at) DESC, run DESC LIMIT $2)
		AND run IS DISTINCT FROM (SELECT run FROM syncline.verifications l
			WHERE l.pipeline = $1 AND l.source_table = v.source_table AND offsets IS NOT NULL ORDER BY saved_at DESC, run DESC LIMIT 1)`,
		s.pipeline, max(keep, 0))
	return s.wrap(ctx, s.pool.SendBatch(ctx, b).Close(), "forget older findings")
}
