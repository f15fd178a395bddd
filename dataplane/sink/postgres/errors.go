package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Conditions of a Postgres sink beyond those of package sink.
const (
	// CodeLedgerNewer: a newer release has migrated the ledger.
	CodeLedgerNewer fault.Code = "LedgerNewer"
	// CodeUnknownTable: the pipeline has no such table at this sink.
	CodeUnknownTable fault.Code = "UnknownTable"
	// CodeLoadIncomplete: chunks of the table are not loaded yet.
	CodeLoadIncomplete fault.Code = "LoadIncomplete"
	// CodeChunkTaken: a newer attempt loads the chunk.
	CodeChunkTaken fault.Code = "ChunkTaken"
	// CodeConflict: a deadlock, a lock or a foreign key whose parent is not there yet.
	CodeConflict fault.Code = "SinkConflict"
	// CodeReadOnly: the server is a standby, or read-only.
	CodeReadOnly fault.Code = "SinkReadOnly"
	// CodeFailed: the server reports an error that has no code of its own here.
	CodeFailed fault.Code = "SinkFailed"
)

// SQLSTATEs that the ledger's functions raise.
const (
	stateFenced     = "SYN01"
	stateLost       = "SYN02"
	stateNoStream   = "SYN03"
	stateRowMissing = "SYN04"
)

// stateNames has the names of the conditions that rejected rows usually have.
var stateNames = map[string]string{
	"22001": "string too long", "22003": "number out of range", "22007": "invalid date or time",
	"22008": "date or time out of range", "22P02": "invalid text for the column's type",
	"22P05": "character that the sink's encoding lacks", "22021": "character not in the encoding",
	"22026": "bit string of the wrong length", "2202E": "array subscript error", "22023": "invalid parameter",
	"22030": "duplicate JSON key", "22032": "invalid JSON", "23502": "null in a column that does not take it",
	"23503": "foreign key", "23505": "duplicate in a unique index", "23514": "check constraint",
	"23P01": "exclusion constraint", "23000": "integrity constraint", "44000": "check option of a view",
	"54000": "row or index entry too large", "P0001": "exception of a trigger",
	stateRowMissing: "the row is missing at the sink and the change does not carry all of its columns",
}

// describe says what a server error means without its message and detail, which
// may repeat row values.
func describe(pe *pgconn.PgError) string {
	s := stateNames[pe.Code]
	if s == "" {
		s = "SQLSTATE class " + class(pe.Code)
	}
	if pe.ColumnName != "" {
		s += fmt.Sprintf(", column %q", pe.ColumnName)
	}
	if pe.DataTypeName != "" {
		s += fmt.Sprintf(", type %q", pe.DataTypeName)
	}
	if pe.ConstraintName != "" {
		s += fmt.Sprintf(", constraint %q", pe.ConstraintName)
	}
	return s + " (SQLSTATE " + pe.Code + ")"
}

func class(state string) string {
	if len(state) < 2 {
		return "?"
	}
	return state[:2]
}

// rejects reports whether a row, and not the sink or its table, is the reason of the error.
func rejects(err error) (*pgconn.PgError, bool) {
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return nil, false
	}
	switch pe.Code {
	case stateRowMissing, "54000", "54001", "21000":
		return pe, true
	case "23503": // the parent may be on its way in another lane
		return pe, false
	}
	switch class(pe.Code) {
	case "22", "23", "44", "P0":
		return pe, true
	}
	return pe, false
}

// wrap turns an error of the driver into a fault that names what was going on.
func (s *Sink) wrap(ctx context.Context, err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	what := "Postgres sink of pipeline " + s.pipeline + ": " + fmt.Sprintf(format, args...)
	if ended := fault.Ended(ctx, sink.CodeUnreachable, what); ended != nil {
		return ended
	}
	if errors.Is(err, context.Canceled) { // of a context within, which whoever ended it explains
		return fmt.Errorf("%s: %w", what, err)
	}
	var pe *pgconn.PgError
	if !errors.As(err, &pe) {
		return fault.Transient(sink.CodeUnreachable, err, "%s", what)
	}
	// The cause is left out: its message and its fields may repeat row values.
	switch pe.Code {
	case stateFenced:
		return fault.Permanent(sink.CodeFenced, nil, "stop this attempt; the newer one goes on", "%s", what)
	case stateLost:
		return fault.Transient(sink.CodeSessionLost, nil, "%s: the ledger is not where this session left it", what)
	case stateNoStream:
		return fault.Permanent(sink.CodeNotStreaming, nil, "read the tables again", "%s: a table of the batch is not streaming", what)
	case "42501":
		return fault.Permanent(sink.CodePrivilege, nil, "grant the right to the sink's role", "%s: %s", what, pe.Message)
	case "25006":
		return fault.Transient(CodeReadOnly, nil, "%s: the server is read-only", what)
	case "42P01", "42703", "42804", "42846", "42P10", "42704", "428C9":
		return fault.Permanent(sink.CodeTableMismatch, nil, "restore the table's definition, or resync the table", "%s: %s", what, pe.Message)
	case "55P03", "40001", "40P01":
		return fault.Transient(CodeConflict, nil, "%s: %s", what, pe.Message)
	case "23503":
		return fault.Transient(CodeConflict, nil, "%s: %s; its parent row may be on its way", what, describe(pe))
	case "3D000":
		return fault.Permanent(sink.CodeUnreachable, nil, "create the database", "%s: the database does not exist", what)
	}
	switch class(pe.Code) {
	case "28":
		return fault.Transient(sink.CodeAuth, nil, "%s: the server refuses the credentials (SQLSTATE %s)", what, pe.Code)
	case "08", "53", "57", "58":
		return fault.Transient(sink.CodeUnreachable, nil, "%s: %s (SQLSTATE %s)", what, pe.Message, pe.Code)
	}
	if class(pe.Code) == "42" { // syntax and names: objects, not values
		return fault.Transient(CodeFailed, nil, "%s: %s (SQLSTATE %s)", what, pe.Message, pe.Code)
	}
	return fault.Transient(CodeFailed, nil, "%s: %s", what, describe(pe))
}

func unknownTable(id change.TableID) error {
	return fault.Permanent(CodeUnknownTable, nil, "add the table to the pipeline", "table %s is not in the sink's ledger", id)
}
