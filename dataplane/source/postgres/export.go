package postgres

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// Exported is a snapshot that other connections, also of other workers, can
// read in while its holder's transaction is open: one generation of a load.
type Exported struct {
	Name     string          // for SET TRANSACTION SNAPSHOT
	Snapshot change.Snapshot // what it sees
	LSN      change.LSN      // at or after every commit that it sees

	moved <-chan struct{}

	mu   sync.Mutex
	conn *pgx.Conn
	tx   pgx.Tx
}

// Moved is closed when another login is in force than that which holds the snapshot.
func (e *Exported) Moved() <-chan struct{} { return e.moved }

// Export takes a snapshot and holds it until Close. The tables' publication and
// the slot must be there before, or changes in between would be in neither.
func (s *Server) Export(ctx context.Context) (*Exported, error) {
	conn, generation, err := s.connect(ctx, "snapshot", nil)
	if err != nil {
		return nil, err
	}
	e := &Exported{conn: conn, moved: s.as.Moved(generation)}
	if err := e.export(ctx); err != nil {
		_ = e.Close()
		return nil, classify(ctx, err, "export a snapshot")
	}
	return e, nil
}

func (e *Exported) export(ctx context.Context) (err error) {
	e.tx, err = e.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	var snap, lsn string
	if err := e.tx.QueryRow(ctx, "SELECT pg_export_snapshot(), pg_current_snapshot()::text").Scan(&e.Name, &snap); err != nil {
		return err
	}
	if e.Snapshot, err = change.ParseSnapshot(snap); err != nil {
		return err
	}
	// After the snapshot: whatever it sees was in the log by then.
	if err := e.tx.QueryRow(ctx, `SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
		ELSE pg_current_wal_insert_lsn() END)::text`).Scan(&lsn); err != nil {
		return err
	}
	e.LSN, err = change.ParseLSN(lsn)
	return err
}

// Alive reports CodeSnapshotGone once the snapshot can no longer be read in.
func (e *Exported) Alive(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if e.conn == nil || e.conn.IsClosed() {
		return snapshotGone(ctx, nil)
	}
	var one int
	if err := e.tx.QueryRow(ctx, "SELECT 1").Scan(&one); err != nil {
		return snapshotGone(ctx, err)
	}
	return nil
}

// Close ends the transaction; chunks being copied in the snapshot go on.
func (e *Exported) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := e.conn.Close(ctx)
	e.conn = nil
	return err
}

func snapshotGone(ctx context.Context, cause error) error {
	if errors.Is(ctx.Err(), context.Canceled) { // which says nothing of the snapshot
		return fmt.Errorf("read in the snapshot: %w", ctx.Err())
	}
	if cause != nil {
		cause = classify(ctx, cause, "read in the snapshot")
	}
	return fault.Permanent(CodeSnapshotGone, cause, "", "the exported snapshot is no longer there; another generation goes on from the chunks that are done")
}
