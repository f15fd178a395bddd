package clickhouse

import (
	"context"
	"errors"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// applyAtOnce is how many tables of a batch are written side by side: each is a
// round trip, and a batch may touch many.
const applyAtOnce = 4

// Apply writes rows, then dead letters, then takes away those that are settled and
// records the keys that are let go, then writes watermarks. Until the last of these
// the batch counts as unapplied, and writing it again changes nothing.
func (x *session) Apply(ctx context.Context, b *sink.Batch) (sink.Applied, error) {
	var a sink.Applied
	tables := concerned(b)
	if err := x.look(ctx, b, tables); err != nil {
		return a, err
	}
	if err := x.beginRelease(ctx, b.Released); err != nil {
		return a, err
	}
	parts := make([]sink.Applied, len(b.Tables))
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(applyAtOnce)
	for i := range b.Tables {
		if len(b.Tables[i].Rows) > 0 {
			g.Go(func() error { return x.applyTable(gctx, b, i, &parts[i]) })
		}
	}
	if err := g.Wait(); err != nil {
		return a, err
	}
	a.Tables = make([]int64, len(parts))
	for i, p := range parts {
		a.Tables[i] = p.Bytes
		a.Written, a.Deleted, a.Bytes, a.Dead = a.Written+p.Written, a.Deleted+p.Deleted, a.Bytes+p.Bytes, append(a.Dead, p.Dead...)
	}
	if dead := append(append([]sink.DeadLetter{}, b.Dead...), a.Dead...); len(dead) > 0 {
		n, err := x.setAside(ctx, dead)
		if err != nil {
			return sink.Applied{}, err
		}
		a.Bytes += n
	}
	if err := x.settle(ctx, b.Settled, b.Dead, a.Dead); err != nil {
		return sink.Applied{}, err
	}
	if err := x.endRelease(ctx, b.Released, tables); err != nil {
		return sink.Applied{}, err
	}
	if err := x.mark(ctx, b.Marks, tables); err != nil {
		return sink.Applied{}, err
	}
	return a, nil
}

// trust is how long a look at the ledger is good for, as a lease is: under load
// the watermarks of one batch are the look for the next. Whoever takes something
// from a session (its lane, a table) waits for as long, so that no batch begins on
// an older look.
const trust = 200 * time.Millisecond

// outwait waits until every look at the ledger from before now is void.
func outwait(ctx context.Context) error {
	t := time.NewTimer(trust)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// look checks the lane and the batch's tables, unless that was done within trust
// or nothing but watermarks, whose statement checks the same, is to be written.
func (x *session) look(ctx context.Context, b *sink.Batch, tables []sink.TableBatch) error {
	writes, seen := len(b.Dead)+len(b.Settled)+len(b.Released) > 0, time.Since(x.held) < trust
	for i := range tables {
		writes = writes || len(tables[i].Rows) > 0
		seen = seen && time.Since(x.ready[loadOf(&tables[i])]) < trust
	}
	if !writes || seen {
		return nil
	}
	return x.check(ctx, tables)
}

// concerned returns the tables of a batch, also those that it only settles letters or
// releases keys of.
func concerned(b *sink.Batch) []sink.TableBatch {
	if len(b.Settled)+len(b.Released) == 0 {
		return b.Tables
	}
	out := slices.Clone(b.Tables)
	has := func(id change.TableID) bool {
		return slices.ContainsFunc(out, func(t sink.TableBatch) bool { return t.Schema.Table == id })
	}
	for _, d := range b.Settled {
		if !has(d.Table) {
			out = append(out, sink.TableBatch{Schema: &change.Schema{Table: d.Table}})
		}
	}
	for _, r := range b.Released {
		if !has(r.Table) {
			out = append(out, sink.TableBatch{Schema: &change.Schema{Table: r.Table}})
		}
	}
	return out
}

// agreed notes that the ledger was as a batch needs it, at a time before the answer.
func (x *session) agreed(at time.Time, tables []sink.TableBatch) {
	x.held = at
	for i := range tables {
		x.ready[loadOf(&tables[i])] = at
	}
}

func (x *session) applyTable(ctx context.Context, b *sink.Batch, table int, a *sink.Applied) error {
	t := &b.Tables[table]
	l, err := x.layout(ctx, t)
	if err != nil {
		return err
	}
	rows, err := x.complete(ctx, l, t.Rows)
	if err != nil {
		return err
	}
	over, err := x.conn.compressing(b.Compression)
	if err != nil {
		return err
	}
	out := newBlock(l)
	flush := func() error {
		if out.rows == 0 {
			return nil
		}
		n, err := x.insertOver(ctx, over, l.at, out.rows, out.parts())
		a.Bytes += n
		out.reset()
		if err != nil { // another lane may have altered the table
			x.mu.Lock()
			clear(x.layouts)
			x.mu.Unlock()
		}
		return err
	}
	var baseless []int // updates without a row to take left-out values from
	reject := func(i int, why error) error {
		if t.Partials != nil {
			return sink.PartialsRejected(t.Partials, why)
		}
		d := sink.DeadLetter{Partition: sink.Partition{Table: t.Schema.Table}}
		if b.Encode != nil {
			d = b.Encode(table, i)
		}
		d.Key, d.Pos, d.Code, d.Reason = t.Rows[i].Key, t.Rows[i].Pos, sink.CodeRowRejected, why.Error()
		a.Dead = append(a.Dead, d)
		return nil
	}
	reasons := map[int]error{}
	for i := range t.Rows {
		r := &t.Rows[i]
		err := writeRow(out, r, raise(r.Pos, t.Epoch), rows[i])
		var why *rejection
		switch {
		case errors.As(err, &why):
			if errors.Is(why, errUnchanged) {
				baseless, reasons[i] = append(baseless, i), why
			} else if err := reject(i, why); err != nil {
				return err
			}
			continue
		case err != nil:
			return err
		case r.Op == change.Delete:
			a.Deleted++
		default:
			a.Written++
		}
		if out.rows >= x.opts.BlockRows || i%64 == 63 && out.size() >= x.opts.BlockBytes {
			if err := flush(); err != nil {
				return err
			}
		}
	}
	if err := flush(); err != nil || len(baseless) == 0 {
		return err
	}
	gone, err := x.superseded(ctx, l, t, baseless)
	if err != nil {
		return err
	}
	for _, i := range baseless {
		if !gone[i] {
			if err := reject(i, reasons[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// writeRow appends a row, or a tombstone, or where the sorting key changes both.
func writeRow(out *block, r *sink.Row, pos change.Position, f filled) error {
	l := out.lay
	s := stamp{pos: pos, commit: r.Commit}
	if r.Op == change.Delete {
		if l.appends {
			return nil
		}
		return out.tombstone(r.Key, r.Old, s)
	}
	if err := out.add(f.row, r.Key, s, f.stored); err != nil {
		return err
	}
	if l.wide() && r.Old != nil && moved(l, r.Old, f.row) {
		if err := out.tombstone(r.Key, r.Old, s); err != nil {
			// The view finds the newest row by its primary key, so it stays right without.
			var why *rejection
			if !errors.As(err, &why) {
				return err
			}
		}
	}
	return nil
}

// moved reports whether columns of the sorting key outside of the primary key differ.
func moved(l *layout, old, new change.Row) bool {
	for _, i := range l.extra {
		if i < len(old) && old[i].Kind != change.Unchanged && !old[i].Equal(new[i]) {
			return true
		}
	}
	return false
}

// setAside writes dead letters. Their place in the log is their key, so a
// repetition replaces them.
func (x *session) setAside(ctx context.Context, dead []sink.DeadLetter) (int64, error) {
	n := len(dead)
	var tabs, keys, codes, poss, reasons, payloads []string
	var parts, vers []uint64
	var offsets []int64
	for _, d := range dead {
		tabs, keys, codes = append(tabs, d.Table.String()), append(keys, string(d.Key)), append(codes, string(d.Code))
		poss, reasons, payloads = append(poss, d.Pos.String()), append(reasons, d.Reason), append(payloads, string(d.Payload))
		parts, offsets, vers = append(parts, uint64(d.N)), append(offsets, d.Offset), append(vers, uint64(x.token))
	}
	sent, err := x.insert(ctx, x.ledger("dead_letters"), n, []part{same("pipeline", x.pipeline, n), strs("tab", tabs...), numbers("part", 4, parts...),
		signed("offset", offsets...), strs("pos", poss...), strs("key", keys...), dict("code", codes...), strs("reason", reasons...),
		strs("payload", payloads...), numbers("ver", 8, vers...)})
	if errors.Is(err, context.Canceled) {
		return 0, err
	}
	if err != nil {
		return 0, fault.Transient(fault.CodeOf(err), err, "set %d changes aside", n)
	}
	return sent, nil
}
