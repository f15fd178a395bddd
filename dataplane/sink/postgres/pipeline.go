package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5/pgconn"
)

// pipeline sends statements without waiting for their results. Statements are
// prepared once per connection, in the same round trip as their first use.
type pipeline struct {
	x       *session
	p       *pgconn.Pipeline
	bytes   int64
	pending int
	fresh   []string // statements prepared by this pipeline: known once it has succeeded
	err     error
}

// maxPrepared bounds the statements that a connection keeps.
const maxPrepared = 500

func (x *session) pipeline(ctx context.Context) *pipeline {
	p := &pipeline{x: x, p: x.conn.PgConn().StartPipeline(ctx)}
	if len(x.prepared) > maxPrepared {
		for _, name := range x.prepared {
			p.p.SendDeallocate(name)
		}
		clear(x.prepared)
	}
	return p
}

// query sends a statement. formats are the parameters'; nil: all binary.
func (p *pipeline) query(sql string, params [][]byte, formats []int16) {
	if p.err != nil {
		return
	}
	name, ok := p.x.prepared[sql]
	if !ok {
		p.x.serial++
		name = fmt.Sprintf("syncline_%d", p.x.serial)
		p.p.SendPrepare(name, sql, nil)
		p.x.prepared[sql] = name
		p.fresh = append(p.fresh, sql)
	}
	if formats == nil && len(params) > 0 {
		formats = []int16{1}
	}
	p.p.SendQueryPrepared(name, params, formats, nil)
	for _, b := range params {
		p.bytes += int64(len(b)) + 4
		p.pending += len(b) + 4
	}
	if p.pending >= flushBytes {
		p.pending = 0
		p.err = p.p.Flush()
	}
}

// sync ends the pipeline and returns the first error of its statements.
func (p *pipeline) sync() error {
	if p.err == nil {
		p.err = p.p.Sync()
	}
	for p.err == nil {
		res, err := p.p.GetResults()
		if rr, ok := res.(*pgconn.ResultReader); ok && err == nil {
			_, err = rr.Close()
		}
		if err != nil {
			p.err = err
		}
		if _, end := res.(*pgconn.PipelineSync); end {
			break
		}
		if res == nil && err == nil {
			p.err = errors.New("the server's answer ended early")
		}
	}
	return p.close()
}

func (p *pipeline) close() error {
	cerr := p.p.Close()
	if p.err == nil {
		p.err = cerr
	}
	if p.err != nil {
		// Which of them the server came to prepare is not known; names are not used again.
		for _, sql := range p.fresh {
			delete(p.x.prepared, sql)
		}
	}
	return p.err
}

// abandon gives up before anything was committed: the connection is closed, since
// a pipeline can only be ended by a Sync, which would commit.
func (p *pipeline) abandon() {
	_ = p.x.conn.PgConn().Conn().Close()
	p.err = errors.New("abandoned")
	_ = p.close()
}
