// Package shaped gives a log and a source as a sink is to see them, and a log as capture
// is to fill it: with the rows and columns that shapes (package tiers/shape) leave of
// them. Whatever reads or writes for a sink does so through these views, so that loads,
// delivery, sweeps, verification, repair and replay all hold the same of a row.
//
// # States
//
// A view remembers the shape of each definition that it has met, and nothing else. Changes
// that are withheld stay as records without a row (deliver.Record.Withheld), since places
// in the log have to be passed.
//
// # Failure
//
// A rule that does not fit a definition is a permanent shape.CodeMisfit: delivery gates
// the table, capture ends. Nothing that a shape could not be told of is handed on.
package shaped

import (
	"context"
	"slices"
	"sync"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/replay"
	"syncline/dataplane/sink"
	"syncline/tiers/shape"
)

// Of gives the shape of a definition; nil if it is left as it is.
type Of func(s *change.Schema) (*shape.Shape, error)

// Misfit is the fault that rules do not fit a table.
func Misfit(err error) error {
	return fault.Permanent(shape.CodeMisfit, err, "declare residency, thin and tiers so that they fit the table, apply, and resync the table", "what a sink is to hold cannot be told")
}

// shapes remembers those of definitions by their versions.
type shapes struct {
	of   Of
	mu   sync.Mutex
	have map[change.Version]*shape.Shape
}

func newShapes(of Of) *shapes { return &shapes{of: of, have: map[change.Version]*shape.Shape{}} }

func (m *shapes) get(v change.Version, schema func() (*change.Schema, error)) (*shape.Shape, error) {
	m.mu.Lock()
	sh, ok := m.have[v]
	m.mu.Unlock()
	if ok {
		return sh, nil
	}
	s, err := schema()
	if err != nil {
		return nil, err
	}
	if sh, err = m.of(s); err != nil {
		return nil, err
	}
	m.mu.Lock()
	m.have[v] = sh
	m.mu.Unlock()
	return sh, nil
}

// Source is what delivery asks of a source, of columns that are not left out.
type Source struct {
	deliver.Source
	Of Of
}

// Carried implements deliver.Source: what is left out is NULL in all rows.
func (s Source) Carried(ctx context.Context, d *change.Schema, columns []string, chunks []sink.Chunk) error {
	sh, err := s.Of(d)
	if err != nil {
		return err
	}
	if sh != nil {
		columns = slices.DeleteFunc(slices.Clone(columns), sh.Omitted)
	}
	if len(columns) == 0 {
		return nil
	}
	return s.Source.Carried(ctx, shape.Own(d), columns, chunks)
}

// Place implements deliver.Source.
func (s Source) Place(ctx context.Context, d *change.Schema, chunks []sink.Chunk, keys []change.Key) ([]int, error) {
	return s.Source.Place(ctx, shape.Own(d), chunks, keys)
}

// Under is the log that a view is of.
type Under interface {
	deliver.Log
	replay.Log
	Between(ctx context.Context, p sink.Partition, from, to int64, each func(*change.Change) error) error
}

// Log is a view of a log for one sink. Versions are those of the log, definitions those
// of the sink.
type Log struct {
	Under
	shapes *shapes
}

// NewLog returns the view.
func NewLog(log Under, of Of) *Log { return &Log{log, newShapes(of)} }

func (l *Log) shape(ctx context.Context, v change.Version) (*shape.Shape, error) {
	return l.shapes.get(v, func() (*change.Schema, error) { return l.Under.Schema(ctx, v) })
}

// Schema implements deliver.Log.
func (l *Log) Schema(ctx context.Context, v change.Version) (*change.Schema, error) {
	sh, err := l.shape(ctx, v)
	if err != nil || sh == nil {
		if err != nil {
			return nil, err
		}
		return l.Under.Schema(ctx, v)
	}
	return sh.Schema(), nil
}

// apply shapes a change.
func (l *Log) apply(ctx context.Context, c *change.Change) (*change.Change, bool, error) {
	if c.Op == change.Truncate {
		return c, false, nil
	}
	sh, err := l.shape(ctx, c.Schema)
	if err != nil || sh == nil {
		return c, false, err
	}
	return sh.Apply(c)
}

// Between implements verify.Changes: changes of rows that are not there are left out.
func (l *Log) Between(ctx context.Context, p sink.Partition, from, to int64, each func(*change.Change) error) error {
	return l.Under.Between(ctx, p, from, to, func(c *change.Change) error {
		out, withheld, err := l.apply(ctx, c)
		if err != nil || withheld {
			return err
		}
		return each(out)
	})
}

// Open implements deliver.Log.
func (l *Log) Open(ctx context.Context, p sink.Partition, offset int64) (deliver.Reader, error) {
	r, err := l.Under.Open(ctx, p, offset)
	if err != nil {
		return nil, err
	}
	return &reader{Reader: r, l: l}, nil
}

type reader struct {
	deliver.Reader
	l    *Log
	left []deliver.Record // that were read, and not shaped yet
}

// Read implements deliver.Reader.
func (r *reader) Read(ctx context.Context, most int) ([]deliver.Record, error) {
	recs := r.left
	if len(recs) == 0 {
		var err error
		if recs, err = r.Reader.Read(ctx, most); err != nil {
			return nil, err
		}
	}
	r.left = nil
	for i := range recs {
		out, withheld, err := r.l.apply(ctx, recs[i].Change)
		if err != nil {
			// What comes before the change is delivered before anybody is told of the error.
			if r.left = recs[i:]; i > 0 {
				return recs[:i], nil
			}
			return nil, err
		}
		recs[i].Change, recs[i].Withheld = out, withheld
	}
	return recs, nil
}

// Capture is a log that is filled with what its place may hold.
type Capture struct {
	capture.Log
	shapes *shapes
	by     map[change.Version]captured
	seq    uint64
}

// captured is a definition of the source as the log has it.
type captured struct {
	sh *shape.Shape
	v  change.Version
}

// NewCapture returns the view. Its methods PutSchema and Append are for one goroutine.
func NewCapture(log capture.Log, of Of) *Capture {
	return &Capture{Log: log, shapes: newShapes(of), by: map[change.Version]captured{}}
}

// PutSchema implements capture.Log.
func (c *Capture) PutSchema(ctx context.Context, s *change.Schema) error {
	v := s.Version()
	sh, err := c.shapes.get(v, func() (*change.Schema, error) { return s, nil })
	if err != nil {
		return err
	}
	to := captured{v: v}
	if sh != nil {
		s = sh.Schema()
		to = captured{sh, s.Version()}
	}
	c.by[v] = to
	return c.Log.PutSchema(ctx, s)
}

// Append implements capture.Log. A change that is withheld has the sequence number of the
// one before it: there is nothing to wait for.
func (c *Capture) Append(ctx context.Context, ch *change.Change) (uint64, error) {
	if ch.Op != change.Truncate {
		to, known := c.by[ch.Schema]
		if !known { // capture makes definitions known first
			return 0, fault.Permanent(shape.CodeMisfit, nil, "report it", "table %s: a change came before its definition", ch.Table)
		}
		if to.sh != nil {
			out, withheld, err := to.sh.Apply(ch)
			if err != nil {
				return 0, err
			}
			if withheld {
				return c.seq, nil
			}
			out.Schema, ch = to.v, out
		}
	}
	seq, err := c.Log.Append(ctx, ch)
	if err == nil {
		c.seq = seq
	}
	return seq, err
}
