package activities

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// walkEvery is how often the progress of a verification is recorded.
const walkEvery = time.Second

// walks is what a keeper needs of a ledger.
type walks interface {
	sink.Findings
	sink.Walks
	Watermarks(ctx context.Context) ([]sink.Watermark, error)
}

// keeper keeps the progress of a verification in the sink's ledger. Its place is row
// data: neither heartbeats nor history may hold it.
type keeper struct {
	ledger walks
	run    string
	table  *sink.Table
	state  walkState
	so     *verify.Result // that another attempt has come to; nil: none
	begun  time.Time      // of this attempt

	saved    time.Time
	recorded int // findings of this attempt; those of others may be recorded again
}

// walkState is how far an attempt has come. Findings are beside it in the ledger.
type walkState struct {
	Place verify.Place  `json:"place"`
	So    verify.Result `json:"so"`
	// Begin is where delivery was, by partition, when the first attempt began: whatever
	// is at the sink by then, the run has verified when it ends.
	Begin []int64       `json:"begin"`
	Took  time.Duration `json:"took"` // of the attempts so far
}

// load finds out where to go on.
func (k *keeper) load(ctx context.Context) error {
	k.begun = time.Now()
	w, err := k.ledger.LoadWalk(ctx, k.run, k.table.ID)
	if err != nil {
		return err
	}
	// What was loaded anew is verified anew, and what cannot be read is not worth an error.
	if w.Run != "" && w.Epoch == k.table.Epoch && json.Unmarshal(w.State, &k.state) == nil {
		k.so = &k.state.So
		k.so.Findings, err = k.ledger.Findings(ctx, k.run, k.table.ID)
		return err
	}
	marks, err := k.ledger.Watermarks(ctx)
	k.state = walkState{Begin: offsets(marks, k.table)}
	return err
}

// offsets are those of a table's watermarks; nil if not all are known.
func offsets(marks []sink.Watermark, t *sink.Table) []int64 {
	out := slices.Repeat([]int64{-1}, t.Partitions)
	for _, m := range marks {
		if m.Table == t.ID && m.N < len(out) {
			out[m.N] = m.Offset
		}
	}
	if len(out) == 0 || slices.Min(out) < 0 {
		return nil
	}
	return out
}

// done is told of the parts that ended.
func (k *keeper) done(ctx context.Context, at verify.Place, so *verify.Result) error {
	if time.Since(k.saved) < walkEvery || at.End { // its end is recorded with the verdict
		return nil
	}
	k.saved = time.Now()
	return k.save(ctx, at, so, nil)
}

// end records what a run has come to. One that came to the end of the table, and could
// tell all, says from where on the next may look at changes alone.
func (k *keeper) end(ctx context.Context, so *verify.Result) error {
	if so.Verdict == verify.Inconclusive || so.Reason != "" || so.More {
		return k.record(ctx, so.Findings)
	}
	return k.save(ctx, verify.Place{End: true}, so, k.state.Begin)
}

func (k *keeper) save(ctx context.Context, at verify.Place, so *verify.Result, verified []int64) error {
	if err := k.record(ctx, so.Findings); err != nil {
		return err
	}
	b, err := json.Marshal(walkState{Place: at, So: *so, Begin: k.state.Begin, Took: k.took()})
	if err != nil {
		return err
	}
	return k.ledger.SaveWalk(ctx, k.table.ID, sink.Walk{Run: k.run, Epoch: k.table.Epoch, State: b, Offsets: verified})
}

// recordAtOnce is how many findings one statement records.
const recordAtOnce = 20_000

// record adds the findings that are not in the ledger yet. They come before the walk
// that has passed them.
func (k *keeper) record(ctx context.Context, fs []sink.Finding) error {
	for some := range slices.Chunk(fs[min(k.recorded, len(fs)):], recordAtOnce) {
		if err := k.ledger.RecordFindings(ctx, k.run, k.table.ID, some); err != nil {
			return err
		}
		k.recorded += len(some)
	}
	return nil
}

func (k *keeper) took() time.Duration { return k.state.Took + time.Since(k.begun) }
