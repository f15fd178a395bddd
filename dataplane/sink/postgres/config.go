package postgres

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/login/pglogin"
	"syncline/dataplane/sink"
	"syncline/dataplane/wire"
)

// CodeConfig: the sink's settings cannot be used.
const CodeConfig fault.Code = "SinkConfig"

// Config of a sink. DSN holds a password: it is never logged and never in an error.
type Config struct {
	DSN      string
	Pipeline string
	Dial     wire.Dial    // opens connections; default wire.Plain
	Login    login.Source // in place of the DSN's user and password; nil: these
	Options  Options
}

// Options of a sink; the zero value is usable.
type Options struct {
	Connections  int           // at most, beside one per lane; default 4
	TakeoverWait time.Duration // how long Claim waits for the lane's last commit before it ends that backend; default 3 s
	Durable      bool          // flush every Apply to disk before it is acknowledged; see the package comment
	ApplyRows    int           // rows per statement, at most; default 5000
}

func (o *Options) setDefaults() error {
	if o.Connections == 0 {
		o.Connections = 4
	}
	if o.TakeoverWait == 0 {
		o.TakeoverWait = 3 * time.Second
	}
	if o.ApplyRows == 0 {
		o.ApplyRows = 5000
	}
	if o.Connections < 2 || o.TakeoverWait < 0 || o.ApplyRows < 1 {
		return errors.New("want at least 2 connections, 1 row per statement and no negative wait")
	}
	return nil
}

// Sink is one pipeline's view of a Postgres database. Safe for concurrent use.
type Sink struct {
	pipeline string
	opts     Options
	lane     *pgx.ConnConfig // template of the connections that lanes apply on
	as       *pglogin.Follower
	follows  bool // whether the login may change
	pool     *pgxpool.Pool
	replica  atomic.Bool // whether triggers and foreign keys are out of the way
}

var _ sink.Sink = (*Sink)(nil)

// Open checks the configuration. It does not connect: that happens at the first call.
func Open(c Config) (*Sink, error) {
	if c.Pipeline == "" {
		return nil, fault.Permanent(CodeConfig, nil, "name the pipeline", "a Postgres sink needs a pipeline")
	}
	if err := c.Options.setDefaults(); err != nil {
		return nil, fault.Permanent(CodeConfig, err, "correct the options", "Postgres sink of pipeline %s", c.Pipeline)
	}
	pc, err := pgxpool.ParseConfig(c.DSN)
	if err != nil {
		// The parser's error may repeat parts of the DSN.
		return nil, fault.Permanent(CodeConfig, nil, "use postgres://user:password@host:port/database",
			"the DSN of the Postgres sink of pipeline %s cannot be parsed", c.Pipeline)
	}
	s := &Sink{pipeline: c.Pipeline, opts: c.Options, follows: c.Login != nil}
	pc.MaxConns = int32(c.Options.Connections)
	pc.MinConns = 0
	pc.MaxConnIdleTime = time.Minute
	sessionDefaults(pc.ConnConfig, c.Pipeline)
	if pc.ConnConfig.DialFunc = pgconn.DialFunc(c.Dial); c.Dial == nil {
		pc.ConnConfig.DialFunc = wire.Plain
	}
	pc.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error { return s.setReplicaRole(ctx, conn) }
	s.lane = pc.ConnConfig.Copy()
	laneDefaults(s.lane)
	s.as = pglogin.New(c.Login, c.DSN, &pc.ConnConfig.Config, c.Dial)
	s.as.Prepare(pc)
	if s.pool, err = pgxpool.NewWithConfig(context.Background(), pc); err != nil {
		s.as.Close()
		return nil, fault.Permanent(CodeConfig, nil, "correct the DSN's pool settings", "Postgres sink of pipeline %s", c.Pipeline)
	}
	s.as.Reset(s.pool)
	return s, nil
}

// sessionDefaults makes texts mean the same whatever the role's and database's settings.
func sessionDefaults(c *pgx.ConnConfig, pipeline string) {
	for k, v := range map[string]string{
		"application_name":                    "syncline " + pipeline,
		"client_encoding":                     "UTF8",
		"TimeZone":                            "UTC",
		"DateStyle":                           "ISO, YMD",
		"IntervalStyle":                       "postgres",
		"xmloption":                           "content",
		"statement_timeout":                   "0",
		"lock_timeout":                        "0",
		"idle_in_transaction_session_timeout": "60s",
		"default_transaction_isolation":       "read committed",
		"row_security":                        "off", // an error instead of rows that a policy hides
		"jit":                                 "off",
	} {
		c.RuntimeParams[k] = v
	}
	if c.ConnectTimeout == 0 {
		c.ConnectTimeout = 10 * time.Second
	}
}

// laneDefaults pins the plans of a lane's statements: each joins an array to a
// table by its key, for which an index loop is right at every size, while
// statistics of a table that was just created would choose a sequential scan
// and the cached plan would keep it.
func laneDefaults(c *pgx.ConnConfig) {
	for k, v := range map[string]string{
		"plan_cache_mode":   "force_generic_plan",
		"enable_seqscan":    "off",
		"enable_hashjoin":   "off",
		"enable_mergejoin":  "off",
		"enable_bitmapscan": "off",
	} {
		c.RuntimeParams[k] = v
	}
}

// setReplicaRole is set per connection and not per transaction, because every
// change of it throws away all cached plans.
func (s *Sink) setReplicaRole(ctx context.Context, conn *pgx.Conn) error {
	_, err := conn.PgConn().Exec(ctx, "SET session_replication_role = replica").ReadAll()
	var pe *pgconn.PgError
	if errors.As(err, &pe) && pe.Code == "42501" {
		s.replica.Store(false)
		return nil
	}
	if err == nil {
		s.replica.Store(true)
	}
	return err
}

// Close closes the sink's connections; those of its sessions are closed by them.
func (s *Sink) Close() error {
	s.as.Close()
	s.pool.Close()
	return nil
}
