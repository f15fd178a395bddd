package clickhouse

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// RecordFindings adds what a verification has confirmed of a table.
func (s *Sink) RecordFindings(ctx context.Context, run string, table change.TableID, fs []sink.Finding) error {
	n := len(fs)
	if n == 0 {
		return nil
	}
	var keys, kinds, columns []string
	var lsns []uint64
	for _, f := range fs {
		names, err := json.Marshal(append([]string{}, f.Columns...)) // none is not null
		if err != nil {
			return fmt.Errorf("encode a finding of table %s: %w", table, err)
		}
		keys, kinds = append(keys, f.Key.String()), append(kinds, f.Kind)
		columns, lsns = append(columns, string(names)), append(lsns, uint64(f.At))
	}
	_, err := s.insert(ctx, s.ledger("findings"), n, []part{same("pipeline", s.pipeline, n), same("run", run, n), same("tab", table.String(), n),
		strs("key", keys...), dict("kind", kinds...), strs("columns", columns...), numbers("lsn", 8, lsns...)})
	return err
}

// Findings returns what a verification has confirmed of a table.
func (s *Sink) Findings(ctx context.Context, run string, table change.TableID) ([]sink.Finding, error) {
	var out []sink.Finding
	q := fmt.Sprintf("SELECT key, kind, columns, lsn FROM %s FINAL WHERE %s AND run = %s ORDER BY key", s.ledger("findings"), s.where(table.String()), lit(run))
	err := s.conn.query(ctx, "SELECT the findings of table "+table.String(), q, func(scan func(...any) error) error {
		var f sink.Finding
		var key, columns string
		var lsn uint64
		if err := scan(&key, &f.Kind, &columns, &lsn); err != nil {
			return err
		}
		var err error
		if f.Key, err = change.ParseKey(key); err != nil {
			return fmt.Errorf("the ledger has a finding of table %s with a damaged key", table) // without the key, which is row data
		}
		if err := json.Unmarshal([]byte(columns), &f.Columns); err != nil {
			return fmt.Errorf("the ledger's findings of table %s are damaged", table)
		}
		f.At = change.LSN(lsn)
		out = append(out, f)
		return nil
	})
	return out, err
}

// LastFindings returns the run that recorded findings of a table last.
func (s *Sink) LastFindings(ctx context.Context, table change.TableID) (run string, err error) {
	q := fmt.Sprintf("SELECT argMax(run, (at, run)) FROM %s FINAL WHERE %s", s.ledger("findings"), s.where(table.String()))
	err = s.conn.query(ctx, "SELECT the findings of table "+table.String(), q, func(scan func(...any) error) error { return scan(&run) })
	return run, err
}

// ForgetFindings removes those of all runs but the newest, and their walks.
func (s *Sink) ForgetFindings(ctx context.Context, keep int) error {
	for _, table := range []string{"findings", "verifications"} {
		var runs []string
		q := fmt.Sprintf("SELECT run FROM %s FINAL WHERE %s GROUP BY run ORDER BY max(at) DESC, run DESC", s.ledger(table), s.mine())
		err := s.conn.query(ctx, "SELECT the runs of "+table, q, func(scan func(...any) error) error {
			var run string
			if err := scan(&run); err != nil {
				return err
			}
			runs = append(runs, lit(run))
			return nil
		})
		if err != nil {
			return err
		}
		if runs = runs[min(max(keep, 0), len(runs)):]; len(runs) == 0 {
			continue
		}
		old := s.mine() + " AND run IN (" + strings.Join(runs, ", ") + ")"
		if table == "verifications" {
			old += fmt.Sprintf(" AND (tab, run) NOT IN (SELECT tab, argMax(run, (at, run)) FROM %s FINAL WHERE %s AND offsets != '' GROUP BY tab)", s.ledger(table), s.mine())
		}
		if err := s.deleteRows(ctx, s.ledger(table), old); err != nil {
			return err
		}
	}
	return nil
}
