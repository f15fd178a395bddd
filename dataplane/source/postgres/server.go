package postgres

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgconn/ctxwatch"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"

	"syncline/dataplane/change"
	"syncline/dataplane/login"
	"syncline/dataplane/login/pglogin"
	"syncline/dataplane/wire"
)

// ServerOptions says which database to read, and as which pipeline.
type ServerOptions struct {
	DSN            string        // URL or keyword form; holds a secret
	Pipeline       string        // names connections: syncline/<pipeline>/<role>
	MaxConns       int32         // ordinary connections besides slot and snapshot; default 6
	ConnectTimeout time.Duration // default 10 s
	Dial           wire.Dial     // opens connections; default wire.Plain
	Login          login.Source  // in place of the DSN's user and password; nil: these
}

// Server is one source database. It connects when it is used. Safe for
// concurrent use.
type Server struct {
	o      ServerOptions
	config *pgxpool.Config
	pool   *pgxpool.Pool
	as     *pglogin.Follower

	carriedLimit time.Duration // instead of the constant, in tests
}

// NewServer checks the options. It does not connect.
func NewServer(o ServerOptions) (*Server, error) {
	if o.Pipeline == "" {
		return nil, fmt.Errorf("source: pipeline name is empty")
	}
	if o.MaxConns <= 0 {
		o.MaxConns = 6
	}
	if o.ConnectTimeout <= 0 {
		o.ConnectTimeout = 10 * time.Second
	}
	c, err := pgxpool.ParseConfig(o.DSN)
	if err != nil {
		return nil, fmt.Errorf("source address: %w", err) // pgx leaves the password out
	}
	prepareConfig(&c.ConnConfig.Config, o, poolRole)
	// Definitions change under us: a cached plan would fail once after each DDL.
	c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeDescribeExec
	c.MaxConns, c.MinConns = o.MaxConns, 0
	c.MaxConnIdleTime = time.Minute
	s := &Server{o: o, config: c, as: pglogin.New(o.Login, o.DSN, &c.ConnConfig.Config, o.Dial)}
	pooled := c.Copy()
	s.as.Prepare(pooled)
	s.pool, err = pgxpool.NewWithConfig(context.Background(), pooled)
	if err != nil {
		s.as.Close()
		return nil, fmt.Errorf("source: %w", err)
	}
	s.as.Reset(s.pool)
	return s, nil
}

// Close ends the ordinary connections.
func (s *Server) Close() error {
	s.as.Close()
	s.pool.Close()
	return nil
}

// Ping checks that the database answers.
func (s *Server) Ping(ctx context.Context) error {
	return classify(ctx, s.pool.Ping(ctx), "connect to the source")
}

func appName(pipeline, role string) string {
	name := "syncline/" + pipeline + "/" + role
	if len(name) > 63 { // Postgres cuts longer ones; the role must stay
		name = name[:62-len(role)] + "/" + role
	}
	return name
}

// prepareConfig fixes everything that the text form of values depends on, so
// that snapshot, stream and catalog agree whatever the role's defaults are.
func prepareConfig(c *pgconn.Config, o ServerOptions, role string) {
	c.ConnectTimeout = o.ConnectTimeout
	if c.DialFunc = pgconn.DialFunc(o.Dial); o.Dial == nil {
		c.DialFunc = wire.Plain
	}
	for k, v := range map[string]string{
		"application_name":                    appName(o.Pipeline, role),
		"client_encoding":                     "UTF8",
		"timezone":                            "UTC",
		"datestyle":                           "ISO, YMD",
		"intervalstyle":                       "postgres",
		"bytea_output":                        "hex",
		"extra_float_digits":                  "3",
		"lc_monetary":                         "C",
		"standard_conforming_strings":         "on",
		"search_path":                         "pg_catalog",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "0",
	} {
		c.RuntimeParams[k] = v
	}
	// A context that ends must end the query at the server too: a COPY or a wait
	// for a slot would go on for hours.
	c.BuildContextWatcherHandler = func(conn *pgconn.PgConn) ctxwatch.Handler {
		return &pgconn.CancelRequestContextWatcherHandler{Conn: conn, DeadlineDelay: 3 * time.Second}
	}
}

// connect opens a connection of its own, outside the pool, and gives the generation of its login.
func (s *Server) connect(ctx context.Context, role string, params map[string]string) (*pgx.Conn, int64, error) {
	c := s.config.ConnConfig.Copy()
	c.RuntimeParams["application_name"] = appName(s.o.Pipeline, role)
	for k, v := range params {
		c.RuntimeParams[k] = v
	}
	conn, generation, err := pglogin.Connect(ctx, s.as, &c.Config, func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, c) })
	return conn, generation, classify(ctx, err, "connect to the source")
}

// connectReplication opens a walsender connection, and gives the generation of its login.
func (s *Server) connectReplication(ctx context.Context) (*pgconn.PgConn, int64, error) {
	c := s.config.ConnConfig.Config.Copy()
	c.RuntimeParams["application_name"] = appName(s.o.Pipeline, captureRole)
	c.RuntimeParams["replication"] = "database"
	c.RuntimeParams["wal_sender_timeout"] = walSenderTimeout.String()
	c.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
		return pgproto3.NewFrontend(bufio.NewReaderSize(r, 256<<10), w)
	}
	conn, generation, err := pglogin.Connect(ctx, s.as, c, func(ctx context.Context) (*pgconn.PgConn, error) { return pgconn.ConnectConfig(ctx, c) })
	return conn, generation, classify(ctx, err, "open a replication connection to the source")
}

// inTx runs f in a read-only, repeatable-read transaction, in the snapshot if
// one is named, with operators of extension types in reach.
func (s *Server) inTx(ctx context.Context, snapshot string, f func(pgx.Tx) error) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	tx, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	if snapshot != "" {
		if _, err := tx.Exec(ctx, "SET TRANSACTION SNAPSHOT "+quoteLiteral(snapshot)); err != nil {
			if st := sqlState(err); st != "" && !transientState(st) {
				return snapshotGone(ctx, err)
			}
			return err
		}
	}
	// Indexes on types like citext are used only if their operators are found.
	if _, err := tx.Exec(ctx, `SELECT set_config('search_path', 'pg_catalog' || coalesce((
		SELECT string_agg(DISTINCT ', ' || quote_ident(n.nspname), '')
		FROM pg_opclass o JOIN pg_namespace n ON n.oid = o.opcnamespace
		WHERE n.nspname <> 'pg_catalog' AND has_schema_privilege(n.oid, 'USAGE')), ''), true)`); err != nil {
		return err
	}
	return f(tx)
}

func quoteIdent(s string) string { return pgx.Identifier{s}.Sanitize() }

func quoteTable(t change.TableID) string { return pgx.Identifier{t.Schema, t.Name}.Sanitize() }

func quoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }
