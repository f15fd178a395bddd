package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"strings"

	ch "github.com/ClickHouse/clickhouse-go/v2"

	"syncline/dataplane/fault"
	"syncline/dataplane/login/chlogin"
	"syncline/dataplane/sink"
)

// Codes of ClickHouse's exceptions.
var (
	busyCodes = map[int32]string{
		159: "a timeout was exceeded", 202: "too many queries at once", 241: "its memory limit is reached", 242: "the table is read-only",
		243: "no disk space is left", 252: "too many parts: merges are behind", 285: "too few live replicas", 286: "the insert quorum was not reached",
		319: "the state of the insert is unknown", 425: "a system error", 499: "object storage failed", 999: "Keeper failed", 745: "the server is overloaded",
		209: "a socket timeout", 210: "a network error", 394: "the query was cancelled",
		// What stops a mutation for a moment: DROP PARTITION on the same table, a restart. The server goes on with it by itself.
		236: "the server broke it off", 341: "the server has not finished the mutation yet",
	}
	missingCodes = map[int32]bool{60: true, 81: true}
)

const codeAccessDenied = 497

// wrap names an error of the client library. The server's message is kept only
// up to where it could repeat parts of the statement, which may hold keys. ctx is
// the caller's: when it is cancelled the library closes the connection, which may
// look like an error of the network.
func wrap(ctx context.Context, err error, what string) error {
	if err == nil {
		return nil
	}
	var f *fault.Error
	if errors.As(err, &f) {
		return err
	}
	if ended := fault.Ended(ctx, sink.CodeUnreachable, what); ended != nil {
		return ended
	}
	if errors.Is(err, context.Canceled) { // of a context within, which whoever ended it explains
		return err
	}
	var ex *ch.Exception
	if errors.As(err, &ex) {
		return wrapException(ex, what)
	}
	var he *ch.HTTPError
	if errors.As(err, &he) {
		if chlogin.Refused(err) {
			return fault.Transient(sink.CodeAuth, nil, "%s: HTTP status %d", what, he.StatusCode)
		}
		return fault.Transient(sink.CodeUnreachable, nil, "%s: HTTP status %d", what, he.StatusCode)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.Transient(sink.CodeUnreachable, context.DeadlineExceeded, "%s: no answer in time", what)
	}
	return fault.Transient(sink.CodeUnreachable, redact(err), "%s", what)
}

// redact keeps the innermost cause, without the URL that net/http puts before it.
func redact(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

func wrapException(ex *ch.Exception, what string) error {
	cause := fmt.Errorf("ClickHouse code %d", ex.Code)
	if ex.CodeName != "" { // told over HTTP alone
		cause = fmt.Errorf("%w, %s", cause, ex.CodeName)
	}
	switch {
	case chlogin.Refusal(ex.Code):
		return fault.Transient(sink.CodeAuth, cause, "%s: the server refuses the user or password", what)
	case ex.Code == codeAccessDenied:
		return fault.Permanent(sink.CodePrivilege, cause, "grant the sink's user SELECT, INSERT, ALTER, CREATE and DROP on its databases", "%s", what)
	case missingCodes[ex.Code]:
		return fault.Permanent(CodeTableMissing, cause, "restore it, or resync the table", "%s: the table or database does not exist", what)
	case busyCodes[ex.Code] != "":
		return fault.Transient(CodeBusy, cause, "%s: %s", what, busyCodes[ex.Code])
	}
	if !strings.HasPrefix(what, "INSERT") && !strings.HasPrefix(what, "SELECT") && !strings.HasPrefix(what, "DELETE") {
		cause = fmt.Errorf("%w: %s", cause, firstLine(ex.Message)) // a definition: no row values in it
	}
	return fault.Permanent(CodeQuery, cause, "see the server's log for the statement", "%s", what)
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	return s[:min(len(s), 400)]
}
