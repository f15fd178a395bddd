package clickhouse

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/pgtext"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// CodeLoadRow: a row of the snapshot cannot be read.
const CodeLoadRow fault.Code = "SnapshotRowRejected"

// errSuperseded: another attempt has finished the chunk, or the load is over.
var errSuperseded = errors.New("superseded")

// LoadChunk copies a chunk and records it as done.
func (s *Sink) LoadChunk(ctx context.Context, id change.TableID, n int, seen sink.Loaded, copy sink.CopyFunc, progress func(int64)) (sink.Chunk, error) {
	r, err := s.record(ctx, id)
	if err != nil {
		return sink.Chunk{}, err
	}
	p, err := s.planOf(ctx, r, n)
	if err != nil {
		return sink.Chunk{}, err
	}
	chunk, err := p.only(id, n)
	if err != nil || chunk.Done {
		return chunk, err
	}
	attempt, err := s.beginAttempt(ctx, r, n)
	if err != nil {
		return sink.Chunk{}, err
	}
	l, problem := s.newLayout(r.schema, r.def.Options)
	if problem == "" {
		var e *existing
		if e, err = s.inspect(ctx, l.at); err != nil {
			return sink.Chunk{}, err
		}
		if e == nil {
			return sink.Chunk{}, fault.Permanent(CodeTableMissing, nil, "add the table again", "table %s does not exist", l.at)
		}
		_, problem = l.adopt(e)
	}
	if problem != "" {
		return sink.Chunk{}, fault.Permanent(sink.CodeTableMismatch, nil, "change the sink's table", "table %s: %s", id, problem)
	}
	w := &loader{sink: s, rec: r, plan: p.id, chunk: n, lay: l, stamp: stamp{pos: r.def.loadPosition(n, attempt)}, attempt: attempt, progress: progress}
	if seen.Sort != nil {
		if err := s.makeLoaded(ctx, r, seen.Sort.Plans); err != nil {
			return sink.Chunk{}, err
		}
		w.sorter = seen.Sort.Sorter(id, n, attempt, func(p *aggregate.Plan, rows []change.Row) error { return w.keep(ctx, p, rows) })
	}
	rows, err := w.run(ctx, copy)
	if err == nil {
		err = w.current(ctx)
	}
	if err == nil {
		err = w.finish(ctx, done{true, seen.Snapshot, seen.LSN, rows, w.bytes})
	}
	if errors.Is(err, errSuperseded) {
		if err := s.deleteLoaded(ctx, l, id.String(), versionLit(w.stamp.pos)); err != nil {
			return sink.Chunk{}, err
		}
		c, _, err := s.Chunk(ctx, id, n)
		return c, err
	}
	if err != nil {
		return sink.Chunk{}, err
	}
	chunk.Done, chunk.Snapshot, chunk.LSN, chunk.Rows, chunk.Bytes = true, seen.Snapshot, seen.LSN, rows, w.bytes
	return chunk, nil
}

// loader turns one chunk's COPY stream into INSERTs. While one block is on its
// way to the server, the next is filled.
type loader struct {
	sink     *Sink
	rec      *record
	plan     string
	chunk    int
	attempt  int
	lay      *layout
	stamp    stamp
	sorter   *sink.Sorter // of rows that are not the table's; nil: all are
	progress func(int64)

	filling *block
	spare   *block
	sending chan error // of the INSERT under way; nil if none is
	bytes   int64      // of text
	told    time.Time
}

func (w *loader) run(ctx context.Context, copy sink.CopyFunc) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w.filling, w.spare = newBlock(w.lay), newBlock(w.lay)
	in := pgtext.NewCopyWriter(len(w.lay.cols), w.sink.opts.RowBytes, func(row change.Row) error {
		if w.sorter != nil {
			if taken, err := w.sorter.Take(row); err != nil || taken {
				return err
			}
		}
		w.stamp.seq++
		if err := w.filling.add(row, "", w.stamp, nil); err != nil {
			return fault.Permanent(CodeLoadRow, err, "change the column's type, or leave it out", "row %d of chunk %d of table %s", w.stamp.seq, w.chunk, w.rec.id)
		}
		// The size is looked at now and then: it costs more than a row.
		if w.filling.rows >= w.sink.opts.BlockRows || w.filling.rows%64 == 0 && w.filling.size() >= w.sink.opts.BlockBytes || len(row) > 0 && rowBytes(row) > 1<<20 {
			return w.send(ctx)
		}
		return nil
	})
	rows, err := copy(ctx, &counter{w: in, loader: w}, false)
	if err == nil {
		err = in.Close()
	}
	if err == nil && rows != in.Rows() {
		err = fault.Transient(CodeShortWrite, nil, "chunk %d of table %s: the source sent %d rows and %d arrived", w.chunk, w.rec.id, rows, in.Rows())
	}
	if err == nil && w.filling.rows > 0 {
		err = w.send(ctx)
	}
	if err == nil && w.sorter != nil {
		err = w.sorter.Close()
	}
	if err != nil {
		cancel()
	} else if w.progress != nil {
		w.progress(w.bytes)
	}
	if sent := w.wait(); err == nil {
		err = sent
	}
	return rows, err
}

func rowBytes(row change.Row) (n int) {
	for i := range row {
		n += len(row[i].Data)
	}
	return n
}

// counter tells progress while text arrives.
type counter struct {
	w      *pgtext.CopyWriter
	loader *loader
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	l := c.loader
	l.bytes += int64(n)
	if l.progress != nil && c.w.Rows()%256 == 0 {
		if now := time.Now(); now.Sub(l.told) > 200*time.Millisecond {
			l.told = now
			l.progress(l.bytes)
		}
	}
	return n, err
}

func (w *loader) wait() error {
	if w.sending == nil {
		return nil
	}
	err := <-w.sending
	w.sending = nil
	return err
}

// send starts an INSERT of the block once the one before it is through.
func (w *loader) send(ctx context.Context) error {
	if err := w.wait(); err != nil {
		return err
	}
	b := w.filling
	w.filling, w.spare = w.spare, b
	w.filling.reset()
	w.sending = make(chan error, 1)
	go func(result chan error) {
		// Not after the load was taken over: nobody would remove these rows.
		err := w.current(ctx)
		if err == nil {
			_, err = w.sink.insert(ctx, w.lay.at, b.rows, b.parts())
		}
		result <- err
	}(w.sending)
	return nil
}

// keep writes partial aggregates of the attempt. They stand where its rows do, so that both
// are removed if another counts.
func (w *loader) keep(ctx context.Context, p *aggregate.Plan, rows []change.Row) error {
	l, problem := w.sink.newLayout(p.Schema(), sink.PartialsOptions(p, w.rec.def.Options))
	if problem != "" {
		return sink.PartialsRejected(p, errors.New(problem))
	}
	b := newBlock(l)
	send := func() error {
		err := w.current(ctx)
		if err == nil && b.rows > 0 {
			_, err = w.sink.insert(ctx, l.at, b.rows, b.parts())
		}
		b.reset()
		return err
	}
	for i, row := range rows {
		if err := b.add(row, "", stamp{pos: w.stamp.pos}, nil); err != nil {
			return sink.PartialsRejected(p, err)
		}
		if b.rows >= w.sink.opts.BlockRows || i%64 == 63 && b.size() >= w.sink.opts.BlockBytes {
			if err := send(); err != nil {
				return err
			}
		}
	}
	return send()
}

// current returns errSuperseded if the chunk is done or the table is no longer loading.
func (w *loader) current(ctx context.Context) error {
	s, tab := w.sink, w.rec.id.String()
	var doneRows, loading uint64
	q := fmt.Sprintf(`SELECT (SELECT count() FROM %s WHERE %s AND epoch = %d AND plan = %s AND n = %d),
		(SELECT count() FROM %s FINAL WHERE %s AND (aspect = '%s' AND (JSONExtractString(body, 'state') = '%s' OR JSONExtractUInt(body, 'epoch') BETWEEN 1 AND %d)
			OR aspect = '%s' AND JSONExtractUInt(body, 'epoch') = %d))`,
		s.ledger("loaded"), s.where(tab), w.rec.def.Epoch, lit(w.plan), w.chunk,
		s.ledger("tables"), s.where(tab), aspectState, sink.Loading, int(w.rec.def.Epoch)-1, aspectDef, w.rec.def.Epoch)
	err := s.conn.query(ctx, "SELECT the state of chunk of "+tab, q, func(scan func(...any) error) error { return scan(&doneRows, &loading) })
	if err == nil && (doneRows > 0 || loading < 2) {
		return errSuperseded
	}
	return err
}

// finish records the chunk, and looks whether it is this attempt that counts.
func (w *loader) finish(ctx context.Context, d done) error {
	body, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("encode chunk %d of table %s: %w", w.chunk, w.rec.id, err)
	}
	s, tab := w.sink, w.rec.id.String()
	_, err = s.insert(ctx, s.ledger("loaded"), 1, []part{strs("pipeline", s.pipeline), strs("tab", tab), numbers("epoch", 4, uint64(w.rec.def.Epoch)),
		strs("plan", w.plan), numbers("n", 4, uint64(w.chunk)), numbers("attempt", 4, uint64(w.attempt)), numbers("ver", 8, uint64(w.attempt)), strs("body", string(body))})
	if err != nil {
		return err
	}
	p, err := s.planOf(ctx, w.rec, w.chunk)
	if err != nil {
		return err
	}
	if p.id != w.plan || len(p.attempts) != 1 || p.attempts[0] != w.attempt {
		return errSuperseded
	}
	return nil
}
