package repair

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/replay"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// CodeFence: the sink did not come to a position in time. Transient.
const CodeFence fault.Code = "FenceNotPassed"

// tries is how often a row is written again that is found to differ afterwards.
const tries = 5

func keysOf(ks []sink.RepairKey) []change.Key {
	out := make([]change.Key, len(ks))
	for i := range ks {
		out[i] = ks[i].Key
	}
	return out
}

// Quarantine takes the keys of the plan out of delivery, and returns how many are held.
func (t *Table) Quarantine(ctx context.Context) (int, error) {
	// Readers are to see every key, also of a table that has changed since its view was made.
	if err := t.Ledger.ShowHeld(ctx, t.Views); err != nil {
		return 0, err
	}
	if err := t.hold(ctx); err != nil {
		return 0, err
	}
	n, err := t.Ledger.CountRepair(ctx, t.Repair, t.ID)
	return n[sink.Quarantined] + n[sink.Replayed] + n[sink.Verified] + n[sink.Releasing], err
}

// hold takes the keys of the repair, or keeps them for longer.
func (t *Table) hold(ctx context.Context) error {
	if t.Lease <= 0 {
		t.Lease = 10 * time.Minute
	}
	return t.Ledger.Hold(ctx, t.Repair, t.ID, nil, t.Lease)
}

// holding keeps the keys of the repair held while f runs.
func (t *Table) holding(ctx context.Context, f func(context.Context) error) error {
	if err := t.hold(ctx); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(t.Lease / 5)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			// One that may pass is made good by the next round, long before the lease ends.
			if err := t.hold(ctx); err != nil && !fault.Retryable(err) {
				cancel(err)
				return
			}
		}
	}()
	err := f(ctx)
	cause := context.Cause(ctx)
	cancel(nil)
	<-done
	if err != nil && cause != nil && !errors.Is(cause, context.Canceled) {
		return cause
	}
	return err
}

// fence takes a position of the source and waits until the ledger has passed it.
func (t *Table) fence(ctx context.Context) (change.LSN, error) {
	at, err := t.Source.Position(ctx)
	if err != nil {
		return 0, err
	}
	behind, err := verify.Await(ctx, t.Ledger, t.ID, sink.AllTiers, at, t.Fence)
	if err == nil && behind != "" {
		err = fault.Transient(CodeFence, nil, "table %s was not at %s at the sink within %s: %s", t.ID, at, t.Fence, behind)
	}
	return at, err
}

// Replay writes the rows of the keys that are quarantined, and returns how many those
// are and how many rows and records it read for them.
func (t *Table) Replay(ctx context.Context) (keys, read int, err error) {
	n, err := t.Ledger.CountRepair(ctx, t.Repair, t.ID)
	if err != nil || n[sink.Quarantined] == 0 {
		return 0, 0, err
	}
	if err := t.open(ctx); err != nil {
		return 0, 0, err
	}
	done := tally{t: t, of: n[sink.Quarantined]}
	var rows atomic.Int64
	err = t.holding(ctx, func(ctx context.Context) error {
		// The keys are held: whatever the log brings of them from here on is set aside, so
		// one position is good for all of them.
		at, err := t.fence(ctx)
		if err != nil {
			return err
		}
		return t.each(ctx, func(ctx context.Context, ks []sink.RepairKey) error {
			n, err := t.replay(ctx, ks, at)
			rows.Add(int64(n))
			if err == nil {
				done.add(len(ks))
			}
			return err
		}, sink.Quarantined)
	})
	return done.of, int(rows.Load() + t.logRecords.Load()), err
}

func (t *Table) replay(ctx context.Context, ks []sink.RepairKey, at change.LSN) (int, error) {
	marks, err := t.Ledger.Watermarks(ctx)
	if err != nil {
		return 0, err
	}
	logged := map[change.Key]replay.State{}
	var fold []change.Key
	for i := range ks {
		if ks[i].From == FromLog {
			fold = append(fold, ks[i].Key)
		}
	}
	if len(fold) > 0 {
		have, err := t.Rows.Read(ctx, &t.subject, fold)
		if err != nil {
			return 0, err
		}
		if logged, err = t.logged(ctx, fold, have, marks); err != nil {
			return 0, err
		}
	}
	// Every commit below at, which the log has brought, is seen by the snapshot that
	// follows, and no change that the row lacks is at or before it.
	pos := change.Position{Commit: at - 1, Ordinal: math.MaxUint32}
	for _, m := range marks {
		if m.Table == t.ID {
			pos.Epoch = max(pos.Epoch, m.Pos.Epoch)
		}
	}
	rows, seen, err := t.Source.ReadAt(ctx, &t.subject, keysOf(ks))
	if err != nil {
		return 0, err
	}
	right := first(rows)
	b := sink.TableBatch{Schema: t.subject.Schema, Options: t.subject.Options, Epoch: t.info.Epoch, Holds: t.info.Holds}
	for i := range ks {
		k := &ks[i]
		row := right[k.Key]
		r := sink.Row{Op: change.Delete, Pos: pos, Commit: time.Now().UTC(), Key: k.Key}
		k.At, k.Snapshot = pos, seen
		if k.From == FromLog {
			st := logged[k.Key]
			if k.From, k.Why = t.from(st, row); k.From == FromLog {
				row, r.Pos, r.Commit = st.Row, st.Pos, st.Commit
				k.At, k.Snapshot = st.Pos, change.Snapshot{}
			}
		}
		if row != nil {
			r.Op, r.New = change.Insert, row
		}
		b.Rows = append(b.Rows, r)
		k.State = sink.Replayed
		if k.After, err = t.image(row); err != nil {
			return 0, err
		}
	}
	// Should this be the end before it is recorded, what was set aside is applied over the
	// row once more, all of it and in order, which comes to the same row.
	applied, err := t.Ledger.Mend(ctx, t.Repair, b)
	if err != nil {
		return len(rows), err
	}
	failed := map[change.Key]string{}
	for _, d := range applied.Dead {
		failed[d.Key] = "the sink does not take the row: " + d.Reason
	}
	mended := slices.DeleteFunc(slices.Clone(ks), func(k sink.RepairKey) bool { return failed[k.Key] != "" })
	if err := t.Ledger.PutRepair(ctx, t.Repair, t.ID, mended); err != nil {
		return len(rows), err
	}
	if len(failed) > 0 {
		return len(rows), t.Ledger.LetGo(ctx, t.Repair, t.ID, failed, nil)
	}
	return len(rows), nil
}

// Reverify compares the rows that were written with the source's, and writes those
// anew that differ. What differs to the end is let go as failed.
func (t *Table) Reverify(ctx context.Context) (verified int, err error) {
	var all atomic.Int64
	for try := 0; ; try++ {
		// Those that were found to differ, also by an attempt that came no farther.
		if _, _, err := t.Replay(ctx); err != nil {
			return int(all.Load()), err
		}
		n, err := t.Ledger.CountRepair(ctx, t.Repair, t.ID)
		if err != nil || n[sink.Replayed] == 0 {
			return int(all.Load()), err
		}
		if try == 0 {
			if err := t.open(ctx); err != nil {
				return 0, err
			}
		}
		done := tally{t: t, of: n[sink.Replayed]}
		err = t.holding(ctx, func(ctx context.Context) error {
			return t.each(ctx, func(ctx context.Context, ks []sink.RepairKey) error {
				n, err := t.reverify(ctx, ks, try+1 == tries)
				all.Add(int64(n))
				done.add(n)
				return err
			}, sink.Replayed)
		})
		if err != nil {
			return int(all.Load()), err
		}
	}
}

func (t *Table) reverify(ctx context.Context, ks []sink.RepairKey, last bool) (verified int, err error) {
	keys := keysOf(ks)
	before, err := t.Source.Read(ctx, &t.subject, keys)
	if err != nil {
		return 0, err
	}
	if _, err := t.fence(ctx); err != nil {
		return 0, err
	}
	have, err := t.Rows.Read(ctx, &t.subject, keys)
	if err != nil {
		return 0, err
	}
	letters, err := t.Ledger.Letters(ctx, t.ID, keys)
	if err != nil {
		return 0, err
	}
	after, err := t.Source.Read(ctx, &t.subject, keys)
	if err != nil {
		return 0, err
	}
	pending := map[change.Key]bool{}
	mended := map[change.Key]*sink.RepairKey{}
	for i := range ks {
		mended[ks[i].Key] = &ks[i]
	}
	for _, d := range letters {
		c, err := d.Change()
		if err != nil {
			return 0, err
		}
		k := mended[d.Key]
		if h := (sink.Hold{At: k.At, Snapshot: k.Snapshot}); !h.Contains(c) {
			pending[d.Key] = true
		}
	}
	count := map[change.Key]int{}
	for _, r := range have {
		count[r.Key]++
	}
	b, a, h := first(before), first(after), first(have)
	failed := map[change.Key]string{}
	var put []sink.RepairKey
	for i := range ks {
		k := ks[i]
		still := verify.Same(nil, b[k.Key], a[k.Key])
		ok := count[k.Key] <= 1
		switch {
		case !ok:
		case pending[k.Key] || !still:
			// Later changes are set aside: the row is to be what was written.
			image, err := t.image(h[k.Key])
			if err != nil {
				return verified, err
			}
			if ok, err = t.alike(image, k.After); err != nil {
				return verified, err
			}
		default:
			ok = verify.Same(t.subject.Forms, a[k.Key], h[k.Key])
		}
		switch {
		case ok:
			k.State = sink.Verified
			verified++
		case last:
			failed[k.Key] = fmt.Sprintf("it still differs after %d times", tries)
			continue
		default:
			k.State = sink.Quarantined
			if k.From == FromLog {
				k.From, k.Why = FromSource, "what the log says was found to differ"
			}
		}
		put = append(put, k)
	}
	if err := t.Ledger.PutRepair(ctx, t.Repair, t.ID, put); err != nil {
		return verified, err
	}
	if len(failed) > 0 {
		return verified, t.Ledger.LetGo(ctx, t.Repair, t.ID, failed, nil)
	}
	return verified, nil
}

// Outcome of a repair of a table.
type Outcome struct {
	Released int `json:"released"`
	Failed   int `json:"failed"`
}

// Release lets the keys go, waits until their lanes have done so, and verifies each
// once more. A key that differs then is recorded as failed.
func (t *Table) Release(ctx context.Context) (out Outcome, err error) {
	if err := t.Ledger.LetGoAll(ctx, t.Repair, t.ID, "it was not verified", sink.Quarantined, sink.Replayed); err != nil {
		return out, err
	}
	if err := t.Ledger.LetGoAll(ctx, t.Repair, t.ID, "", sink.Verified); err != nil {
		return out, err
	}
	if err := t.gone(ctx); err != nil {
		return out, err
	}
	n, err := t.Ledger.CountRepair(ctx, t.Repair, t.ID)
	if err != nil {
		return out, err
	}
	if out.Failed = n[sink.Failed]; n[sink.Released] == 0 {
		return out, nil
	}
	if err := t.open(ctx); err != nil {
		return out, err
	}
	released := []sink.RepairState{sink.Released}
	var keys []change.Key
	err = t.pages(ctx, released, func(ks []sink.RepairKey) error {
		keys = append(keys, keysOf(ks)...)
		return nil
	})
	if err != nil {
		return out, err
	}
	res, err := verify.Keys(ctx, t.Source, t.Rows, t.Ledger, verify.Subject{Schema: t.subject.Schema, Options: t.subject.Options, Where: t.Where, Shape: t.subject.Shape}, keys, verify.Options{Fence: t.Fence})
	if err != nil {
		return out, err
	}
	again := make(map[change.Key]bool, len(res.Findings))
	for i := range res.Findings {
		again[res.Findings[i].Key] = true
	}
	out.Released, out.Failed = len(keys)-len(again), out.Failed+len(again)
	if len(again) == 0 {
		return out, nil
	}
	return out, t.pages(ctx, released, func(ks []sink.RepairKey) error {
		ks = slices.DeleteFunc(ks, func(k sink.RepairKey) bool { return !again[k.Key] })
		for i := range ks {
			ks[i].State, ks[i].Reason = sink.Failed, "it differs again since it was released"
		}
		return t.Ledger.PutRepair(ctx, t.Repair, t.ID, ks)
	})
}

// Abandon lets go whatever the repair holds, with a reason, and does not wait.
func (t *Table) Abandon(ctx context.Context, reason string) error {
	return t.Ledger.LetGoAll(ctx, t.Repair, t.ID, reason, sink.Quarantined, sink.Replayed, sink.Verified)
}

// gone waits until no key of the repair is held.
func (t *Table) gone(ctx context.Context) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		n, err := t.Ledger.CountRepair(ctx, t.Repair, t.ID)
		left := n[sink.Quarantined] + n[sink.Replayed] + n[sink.Verified] + n[sink.Releasing]
		if err != nil || left == 0 {
			return err
		}
		t.told(-left, 0)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
