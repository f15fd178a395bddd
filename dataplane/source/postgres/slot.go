package postgres

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// SlotInfo is a replication slot as the server shows it.
type SlotInfo struct {
	Name          string     `json:"name"`
	Plugin        string     `json:"plugin"`
	Database      string     `json:"database"`
	Confirmed     change.LSN `json:"confirmed"`    // confirmed_flush_lsn
	Restart       change.LSN `json:"restart"`      // restart_lsn: WAL from here is kept
	WALStatus     string     `json:"wal_status"`   // reserved, extended, unreserved or lost
	Invalidation  string     `json:"invalidation"` // why it is invalid (Postgres 17), "" if it is not
	RetainedBytes int64      `json:"retained"`     // WAL kept for it
	LagBytes      int64      `json:"lag"`          // WAL not yet confirmed
	SafeBytes     int64      `json:"safe"`         // WAL that may be written before it is lost; -1: no limit
	Failover      bool       `json:"failover"`     // synchronised to standbys (Postgres 17)
	ActivePID     int32      `json:"active_pid"`   // 0: nobody reads it
	ActiveName    string     `json:"active_name"`  // application_name of that reader
	ActiveUser    string     `json:"active_user"`  //
	InRecovery    bool       `json:"in_recovery"`  // the server is a standby
	ServerLSN     change.LSN `json:"server_lsn"`   // end of WAL when this was read
	CatalogXMin   uint32     `json:"catalog_xmin"` // vacuum of catalogs is held back to here
	ServerTime    time.Time  `json:"server_time"`  //
	CreatedNow    bool       `json:"-"`            // by the call that returned it
}

const slotQuery = `
SELECT s.slot_name::text, coalesce(s.plugin, ''), coalesce(s.database, ''),
  coalesce(s.confirmed_flush_lsn, '0/0')::text, coalesce(s.restart_lsn, '0/0')::text, coalesce(s.wal_status, ''),
  coalesce(j ->> 'invalidation_reason', CASE WHEN (j ->> 'conflicting')::bool THEN 'conflicting' END, ''),
  coalesce(pg_wal_lsn_diff(w.lsn, s.restart_lsn), 0)::int8, coalesce(pg_wal_lsn_diff(w.lsn, s.confirmed_flush_lsn), 0)::int8,
  coalesce(s.safe_wal_size, -1), coalesce((j ->> 'failover')::bool, false),
  coalesce(s.active_pid, 0), coalesce(a.application_name, ''), coalesce(a.usename::text, ''),
  pg_is_in_recovery(), w.lsn::text, coalesce(s.catalog_xmin::text, '0')::int8, clock_timestamp()
FROM pg_replication_slots s
CROSS JOIN LATERAL to_jsonb(s) j
CROSS JOIN (SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END AS lsn) w
LEFT JOIN pg_stat_activity a ON a.pid = s.active_pid
WHERE s.slot_name = $1`

// querier is a connection, a pool or a transaction.
type querier interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// Slot returns a slot; CodeSlotMissing if there is none of that name.
func (s *Server) Slot(ctx context.Context, name string) (SlotInfo, error) {
	i, err := readSlot(ctx, s.pool, name)
	return i, classify(ctx, err, "read replication slot %q", name)
}

func readSlot(ctx context.Context, q querier, name string) (SlotInfo, error) {
	var i SlotInfo
	var confirmed, restart, end string
	var xmin int64
	err := q.QueryRow(ctx, slotQuery, name).Scan(&i.Name, &i.Plugin, &i.Database, &confirmed, &restart, &i.WALStatus,
		&i.Invalidation, &i.RetainedBytes, &i.LagBytes, &i.SafeBytes, &i.Failover, &i.ActivePID, &i.ActiveName, &i.ActiveUser,
		&i.InRecovery, &end, &xmin, &i.ServerTime)
	if errors.Is(err, pgx.ErrNoRows) {
		return i, fault.Permanent(CodeSlotMissing, nil,
			"changes since its last confirmation are lost: resync the tables", "replication slot %q does not exist", name)
	}
	if err != nil {
		return i, err
	}
	i.CatalogXMin = uint32(xmin)
	for _, f := range []struct {
		text string
		lsn  *change.LSN
	}{{confirmed, &i.Confirmed}, {restart, &i.Restart}, {end, &i.ServerLSN}} {
		if *f.lsn, err = change.ParseLSN(f.text); err != nil {
			return i, err
		}
	}
	return i, nil
}

// unfinished reports that the slot is being made: it has no beginning yet.
func (i SlotInfo) unfinished() bool { return i.Confirmed == 0 && i.Plugin != "" }

// usable reports what keeps the slot from being read, other than another reader.
func (i SlotInfo) usable() error {
	switch {
	case i.Plugin != "pgoutput":
		return fault.Permanent(CodeSlotForeign, nil, "choose another slot name", "slot %q is for plugin %q", i.Name, i.Plugin)
	case i.WALStatus == "lost" || i.Invalidation != "":
		reason := i.Invalidation
		if reason == "" {
			reason = "wal_removed"
		}
		return fault.Permanent(CodeSlotInvalidated, nil, fixResync, "slot %q was invalidated by the server (%s)", i.Name, reason)
	}
	return nil
}

var slotName = regexp.MustCompile(`^[a-z0-9_]{1,63}$`)

// CreateSlot creates a failover-ready pgoutput slot and returns where it
// begins, in Confirmed. It waits until every transaction that is running has
// ended. A slot that is there already, for this database and plugin, is returned
// as it is: the step may be retried. Create the publication first: a slot that
// begins before its publication cannot be read.
func (s *Server) CreateSlot(ctx context.Context, name string) (SlotInfo, error) {
	return s.CreateSlotReporting(ctx, name, nil)
}

// CreateSlotReporting is CreateSlot that tells, about once a second while it
// waits, for whom. No call of waiting comes after it has returned.
func (s *Server) CreateSlotReporting(ctx context.Context, name string, waiting func([]Blocker)) (SlotInfo, error) {
	if !slotName.MatchString(name) {
		return SlotInfo{}, fmt.Errorf("slot name %q: only a-z, 0-9 and _, at most 63", name)
	}
	i, err := s.createSlot(ctx, name, waiting)
	return i, classify(ctx, err, "create replication slot %q", name)
}

func (s *Server) createSlot(ctx context.Context, name string, waiting func([]Blocker)) (SlotInfo, error) {
	i, err := readSlot(ctx, s.pool, name)
	if err == nil && i.unfinished() {
		// An attempt before this one died, and its backend does not notice while it
		// waits. Taken for finished, the slot would begin nowhere. It goes with the backend.
		if err = s.release(ctx, name); err == nil {
			i, err = readSlot(ctx, s.pool, name)
		}
	}
	if !fault.Is(err, CodeSlotMissing) {
		if err == nil && i.unfinished() {
			err = inUse(i)
		}
		if err != nil {
			return i, err
		}
		return i, s.ours(ctx, i)
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return i, err
	}
	defer conn.Release()
	var version int
	if err := conn.QueryRow(ctx, "SELECT current_setting('server_version_num')::int").Scan(&version); err != nil {
		return i, err
	}
	failover := "" // before 17 a slot cannot follow a failover, and the name of the option is not known
	if version >= 170000 {
		failover = ", failover => true"
	}
	if waiting != nil {
		defer s.watchBlockers(ctx, conn.Conn().PgConn().PID(), waiting)()
	}
	if _, err := conn.Exec(ctx, "SELECT pg_create_logical_replication_slot($1, 'pgoutput', false, false"+failover+")", name); err != nil {
		return i, err
	}
	i, err = readSlot(ctx, conn, name)
	i.CreatedNow = true
	return i, err
}

func (s *Server) ours(ctx context.Context, i SlotInfo) error {
	var db string
	if err := s.pool.QueryRow(ctx, "SELECT current_database()::text").Scan(&db); err != nil {
		return err
	}
	if i.Database != db {
		return fault.Permanent(CodeSlotForeign, nil, "choose another slot name", "slot %q is for database %q", i.Name, i.Database)
	}
	return i.usable()
}

// DropSlot drops the slot, ending this pipeline's own reader of it first. A
// slot that is not there is fine.
func (s *Server) DropSlot(ctx context.Context, name string) error {
	err := func() error {
		for {
			if err := s.release(ctx, name); err != nil {
				return err
			}
			_, err := s.pool.Exec(ctx, "SELECT pg_drop_replication_slot($1)", name)
			if sqlState(err) != "55006" { // a reader came back in between
				return err
			}
			if err := pause(ctx, 200*time.Millisecond); err != nil {
				return err
			}
		}
	}()
	err = classify(ctx, err, "drop replication slot %q", name)
	if fault.Is(err, CodeSlotMissing) {
		return nil
	}
	return err
}

// TerminateStale ends a connection that holds the slot, if it is a capture of
// this pipeline: one whose worker is stopped or cut off and would hold the slot
// until it times out. It returns once the slot is free. Anybody else's
// connection is left alone and reported as CodeSlotInUse.
func (s *Server) TerminateStale(ctx context.Context, slot string) error {
	return classify(ctx, s.release(ctx, slot), "free replication slot %q", slot)
}

func (s *Server) release(ctx context.Context, slot string) error {
	limit := time.Now().Add(releaseWait)
	for {
		i, err := readSlot(ctx, s.pool, slot)
		if err != nil || i.ActivePID == 0 {
			return err
		}
		own := i.ActiveName == appName(s.o.Pipeline, captureRole) || i.unfinished() && i.ActiveName == appName(s.o.Pipeline, poolRole)
		if !own || time.Now().After(limit) {
			return inUse(i)
		}
		// The name is checked again in the same statement: the process may be another by now.
		if _, err := s.pool.Exec(ctx, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND application_name = $2",
			i.ActivePID, i.ActiveName); err != nil {
			return err
		}
		if err := pause(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

func inUse(i SlotInfo) error {
	f := fault.Transient(CodeSlotInUse, nil, "slot %q is read by process %d (%q, user %q)", i.Name, i.ActivePID, i.ActiveName, i.ActiveUser)
	f.Fix = "stop the other reader, or give this pipeline a slot of its own"
	return f
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
