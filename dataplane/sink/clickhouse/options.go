package clickhouse

import (
	"errors"
	"fmt"
	"time"

	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/wire"
)

// Conditions that are ClickHouse's own.
const (
	// CodeConfig: the sink's settings cannot be used.
	CodeConfig fault.Code = "SinkConfig"
	// CodeBusy: the server asks for patience (too many parts, memory, queries). Transient.
	CodeBusy fault.Code = "SinkBusy"
	// CodeTableMissing: a table or database that should be there is not.
	CodeTableMissing fault.Code = "SinkTableMissing"
	// CodeShortWrite: the server reported fewer rows than it was given. Transient.
	CodeShortWrite fault.Code = "SinkShortWrite"
	// CodeTruncated: a row is to be written that is older than the table's last TRUNCATE
	// or load, so nobody would see it.
	CodeTruncated fault.Code = "SinkTruncated"
	// CodeQuery: the server refuses a statement of ours.
	CodeQuery fault.Code = "SinkQueryFailed"
)

// Config of a sink. The DSN is http(s)://user:password@host:port/ or
// clickhouse://user:password@host:port/ for the native protocol, with TLS if
// secure=true is in its query. It holds a
// password: it is never logged and never in an error.
type Config struct {
	DSN      string
	TLS      *certs.Certs // of either protocol; nil: as the DSN says
	Pipeline string
	Dial     wire.Dial    // opens connections; default wire.Plain
	Login    login.Source // in place of the DSN's user and password; nil: these
	Options  Options
}

// Options of a sink; the zero value is usable.
type Options struct {
	Database    string        // of tables that name none; default: the source's schema name
	Ledger      string        // database of the ledger; default syncline
	NumericText bool          // keep every numeric as String instead of Decimal
	JSON        bool          // keep json and jsonb as JSON instead of String (not exact)
	Compression string        // of what is sent: none, lz4 or zstd; default: as the DSN says, else none
	BlockRows   int           // rows of an INSERT, at most; default 100000
	BlockBytes  int           // bytes of an INSERT, about at most; default 16 MiB
	RowBytes    int           // of a snapshot's row in text form, at most; default 256 MiB
	Timeout     time.Duration // of one statement; default 5 minutes
}

func (o *Options) setDefaults() error {
	if _, known := compressions[o.Compression]; !known && o.Compression != "" {
		return fmt.Errorf("compression is %q: use none, lz4 or zstd", o.Compression)
	}
	if o.Ledger == "" {
		o.Ledger = "syncline"
	}
	if o.BlockRows == 0 {
		o.BlockRows = 100_000
	}
	if o.BlockBytes == 0 {
		o.BlockBytes = 16 << 20
	}
	if o.RowBytes == 0 {
		o.RowBytes = 256 << 20
	}
	if o.Timeout == 0 {
		o.Timeout = 5 * time.Minute
	}
	if o.BlockRows < 1 || o.BlockBytes < 1 || o.RowBytes < 1 || o.Timeout < 0 {
		return errors.New("sizes and times must be above zero")
	}
	return nil
}
