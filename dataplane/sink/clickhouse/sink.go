package clickhouse

import (
	"context"
	"sync"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Sink is one pipeline's view of a ClickHouse server. Safe for concurrent use.
type Sink struct {
	pipeline string
	opts     Options
	conn     *conn
	buffers  sync.Pool // of []byte: encoded blocks
	loads    sync.Map  // table → progress of its load, as last read
}

var _ sink.Sink = (*Sink)(nil)

// Open checks the configuration. It does not connect: that happens at the first call.
func Open(c Config) (*Sink, error) {
	if c.Pipeline == "" {
		return nil, fault.Permanent(CodeConfig, nil, "name the pipeline", "a ClickHouse sink needs a pipeline")
	}
	s := &Sink{pipeline: c.Pipeline, opts: c.Options}
	if err := s.opts.setDefaults(); err != nil {
		return nil, fault.Permanent(CodeConfig, err, "correct the options", "ClickHouse sink of pipeline %s", c.Pipeline)
	}
	var err error
	if s.conn, err = openConn(c.DSN, c.TLS, c.Dial, c.Login, &s.opts); err != nil {
		return nil, fault.Permanent(CodeConfig, err, "correct the DSN", "the DSN of the ClickHouse sink of pipeline %s cannot be used", c.Pipeline)
	}
	return s, nil
}

// Close closes the connections, also those of the sink's sessions.
func (s *Sink) Close() error { return s.conn.close() }

// insert writes rows and returns the bytes sent.
func (s *Sink) insert(ctx context.Context, t target, rows int, parts []part) (int64, error) {
	return s.insertOver(ctx, s.conn, t, rows, parts)
}

func (s *Sink) insertOver(ctx context.Context, c *conn, t target, rows int, parts []part) (int64, error) {
	buf, _ := s.buffers.Get().([]byte)
	n, buf, err := c.insert(ctx, t, rows, parts, buf)
	//lint:ignore SA6002 a slice header is small beside what it keeps
	s.buffers.Put(buf)
	return n, err
}
