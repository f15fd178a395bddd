package clickhouse

import (
	"context"
	"encoding/json"
	"fmt"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// SaveWalk records how far a verification has come with a table.
func (s *Sink) SaveWalk(ctx context.Context, table change.TableID, w sink.Walk) error {
	offsets := ""
	if w.Offsets != nil {
		b, err := json.Marshal(w.Offsets)
		if err != nil {
			return fmt.Errorf("encode the offsets of table %s: %w", table, err)
		}
		offsets = string(b)
	}
	_, err := s.insert(ctx, s.ledger("verifications"), 1, []part{strs("pipeline", s.pipeline), strs("tab", table.String()), strs("run", w.Run),
		numbers("epoch", 4, uint64(w.Epoch)), strs("state", string(w.State)), strs("offsets", offsets)})
	return err
}

// LoadWalk returns how far a verification has come with a table.
func (s *Sink) LoadWalk(ctx context.Context, run string, table change.TableID) (sink.Walk, error) {
	return s.walk(ctx, table, "run = "+lit(run))
}

// LastWalk returns the newest walk of a table that has offsets.
func (s *Sink) LastWalk(ctx context.Context, table change.TableID) (sink.Walk, error) {
	return s.walk(ctx, table, "offsets != '' ORDER BY at DESC, run DESC LIMIT 1")
}

func (s *Sink) walk(ctx context.Context, table change.TableID, which string) (w sink.Walk, err error) {
	q := fmt.Sprintf("SELECT run, epoch, state, offsets FROM %s FINAL WHERE %s AND %s", s.ledger("verifications"), s.where(table.String()), which)
	err = s.conn.query(ctx, "SELECT the verification of table "+table.String(), q, func(scan func(...any) error) error {
		var state, offsets string
		if err := scan(&w.Run, &w.Epoch, &state, &offsets); err != nil {
			return err
		}
		w.State = []byte(state)
		if offsets != "" && json.Unmarshal([]byte(offsets), &w.Offsets) != nil {
			return fmt.Errorf("the ledger's offsets of table %s are damaged", table)
		}
		return nil
	})
	return w, err
}
