package postgres

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/fault"
)

// Conditions of a Postgres source.
const (
	// CodeUnreachable: no connection, or the one there was is lost. Transient.
	CodeUnreachable fault.Code = "SourceUnreachable"
	// CodeAuth: the source refuses the credentials. Transient while they rotate.
	CodeAuth fault.Code = "SourceAuthFailed"
	// CodePrivilege: the role lacks a right on a table, schema or database.
	CodePrivilege fault.Code = "SourcePrivilege"
	// CodeNoReplication: the role may not use replication slots.
	CodeNoReplication fault.Code = "NoReplicationPrivilege"
	// CodeWALLevel: the server does not log what logical decoding needs.
	CodeWALLevel fault.Code = "WalLevelNotLogical"
	// CodeVersion: the server is older than Postgres 15.
	CodeVersion fault.Code = "SourceVersion"
	// CodeSlotInUse: another connection reads the slot. Transient.
	CodeSlotInUse fault.Code = "SlotInUse"
	// CodeSlotMissing: the slot is gone, and with it the changes since it was last confirmed.
	CodeSlotMissing fault.Code = "SlotMissing"
	// CodeSlotInvalidated: the server has removed WAL that the slot needs.
	CodeSlotInvalidated fault.Code = "SlotInvalidated"
	// CodeSlotForeign: a slot of that name exists for another database or plugin.
	CodeSlotForeign fault.Code = "SlotForeign"
	// CodeSlotsExhausted: max_replication_slots or max_wal_senders is reached.
	CodeSlotsExhausted fault.Code = "SlotsExhausted"
	// CodePublicationMissing: the publication does not exist.
	CodePublicationMissing fault.Code = "PublicationMissing"
	// CodeTableMissing: a declared table does not exist.
	CodeTableMissing fault.Code = "TableMissing"
	// CodeTableWithoutKey: changes of the table's rows could not be told apart.
	CodeTableWithoutKey fault.Code = "TableWithoutKey"
	// CodeIdentityColumns: a row filter or column list would make the source refuse updates.
	CodeIdentityColumns fault.Code = "IdentityColumns"
	// CodeFilter: the row filter is not one that a publication takes.
	CodeFilter fault.Code = "RowFilterInvalid"
	// CodeTimeline: the source was promoted; positions of before may not hold.
	CodeTimeline fault.Code = "TimelineChanged"
	// CodeSourceChanged: it is another database cluster than the one we read before.
	CodeSourceChanged fault.Code = "SourceChanged"
	// CodeSnapshotGone: the exported snapshot's holder has ended; a new generation is needed.
	CodeSnapshotGone fault.Code = "SnapshotGone"
	// CodeProtocol: the server sent what pgoutput version 2 does not allow.
	CodeProtocol fault.Code = "SourceProtocol"
	// CodeSpill: the spill directory cannot take a transaction. Transient.
	CodeSpill fault.Code = "SpillFailed"
)

const fixResync = "resync the tables: starter resync-table; raise max_slot_wal_keep_size before"

// classify names err, which came up while doing what.
func classify(ctx context.Context, err error, what string, args ...any) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	what = fmt.Sprintf(what, args...)
	if ended := fault.Ended(ctx, CodeUnreachable, what); ended != nil {
		return ended
	}
	if errors.Is(err, context.Canceled) { // of a context within, which whoever ended it explains
		return err
	}
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return fault.Transient(CodeUnreachable, err, "%s", what)
	}
	err = withoutValues(pg)
	switch {
	case pg.Code == "28P01" || pg.Code == "28000":
		f := fault.Transient(CodeAuth, err, "%s", what)
		f.Fix = "check user, password and pg_hba.conf of the source"
		return f
	case pg.Code == "42501" && (strings.Contains(pg.Message, "replication") || strings.Contains(pg.Message, "WAL sender")): // the latter since 16
		return fault.Permanent(CodeNoReplication, err, "ALTER ROLE … REPLICATION (on RDS: GRANT rds_replication TO …)", "%s", what)
	case pg.Code == "42501":
		return fault.Permanent(CodePrivilege, err, "grant the role what the message names", "%s", what)
	case pg.Code == "55006":
		return fault.Transient(CodeSlotInUse, err, "%s", what)
	case pg.Code == "55000" && strings.Contains(pg.Message, "wal_level"):
		return walLevel(err)
	case pg.Code == "53400" && strings.Contains(pg.Message, "replication slots"):
		return fault.Permanent(CodeSlotsExhausted, err, "raise max_replication_slots or drop unused slots", "%s", what)
	case pg.Code == "53300" && strings.Contains(pg.Message, "wal_senders"):
		return fault.Transient(CodeSlotsExhausted, err, "%s", what)
	case pg.Code == "42704" && strings.Contains(pg.Message, "replication slot"):
		return fault.Permanent(CodeSlotMissing, err, "changes since the slot's last confirmation are lost: resync the tables", "%s", what)
	case pg.Code == "42704" && strings.Contains(pg.Message, "publication"):
		return fault.Permanent(CodePublicationMissing, err, "apply the pipeline again, then resync the tables", "%s", what)
	case pg.Code == "42P01" || pg.Code == "3F000":
		return fault.Permanent(CodeTableMissing, err, "correct the table's name or exclude it", "%s", what)
	case transientState(pg.Code):
		return fault.Transient(CodeUnreachable, err, "%s", what)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// transientState tells the SQLSTATEs of servers that start, stop or are full.
func transientState(code string) bool {
	return strings.HasPrefix(code, "08") || strings.HasPrefix(code, "53") || strings.HasPrefix(code, "57P") || strings.HasPrefix(code, "40")
}

// withoutValues drops what may quote a row: details always, and the message of data errors.
func withoutValues(e *pgconn.PgError) error {
	if strings.HasPrefix(e.Code, "22") || strings.HasPrefix(e.Code, "23") {
		return fmt.Errorf("SQLSTATE %s", e.Code)
	}
	return fmt.Errorf("%s (SQLSTATE %s)", e.Message, e.Code)
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

func walLevel(cause error) error {
	return fault.Permanent(CodeWALLevel, cause, "ALTER SYSTEM SET wal_level = logical, then restart the server", "wal_level is not logical")
}
