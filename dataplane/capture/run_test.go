package capture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// history is what a source will say: one transaction per entry, with so many
// changes. The commit record of entry i starts at (i+1)*100 and ends 10 later.
type history []int

// fakeSource serves a history from a slot's confirmed position, as Postgres does.
type fakeSource struct {
	h    history
	slot *change.LSN
	log  *fakeLog // to see that progress is written before it is confirmed
	fail error    // at the end of the history, instead of blocking

	idle chan struct{} // closed when there is no more to say

	events []Event
	mu     sync.Mutex
	wrong  []string
}

func (f *fakeSource) Start(context.Context) (change.LSN, error) {
	for i, n := range f.h {
		commit := change.LSN(i+1) * 100
		if commit < *f.slot {
			continue
		}
		if i == 0 {
			f.events = append(f.events, Event{Schema: &change.Schema{Table: change.TableID{Schema: "public", Name: "t"}}})
		}
		for k := range n {
			c := &change.Change{Op: change.Insert, Pos: change.Position{Epoch: 1, Commit: commit, Ordinal: uint32(k + 1)}, Last: k == n-1}
			ev := Event{Change: c}
			if c.Last {
				ev.Through = commit + 10
			}
			f.events = append(f.events, ev)
		}
		if n == 0 {
			f.events = append(f.events, Event{Through: commit + 10})
		}
	}
	return *f.slot, nil
}

func (f *fakeSource) Next(ctx context.Context) (Event, error) {
	if len(f.events) > 0 {
		ev := f.events[0]
		f.events = f.events[1:]
		return ev, nil
	}
	if f.fail != nil {
		return Event{}, f.fail
	}
	if f.idle != nil {
		close(f.idle)
	}
	<-ctx.Done()
	return Event{}, ctx.Err()
}

func (f *fakeSource) Confirm(_ context.Context, lsn change.LSN) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log.mu.Lock()
	defer f.log.mu.Unlock()
	if n := len(f.log.progress); n == 0 || lsn > f.log.progress[n-1].Through {
		f.wrong = append(f.wrong, fmt.Sprintf("%s confirmed before its progress record", lsn))
	}
	if lsn < *f.slot {
		f.wrong = append(f.wrong, "confirmed backwards")
	}
	*f.slot = lsn
	return nil
}

func (f *fakeSource) Close() error { return nil }

// fakeLog acknowledges as far as it is told to.
type fakeLog struct {
	mu       sync.Mutex
	seq      uint64 // of this run
	acked    uint64
	auto     bool
	records  []change.Position
	schemas  int
	progress []Progress
	err      error
	wrong    []string
	want     []change.Position // all positions of the history, in order
}

func (l *fakeLog) PutSchema(context.Context, *change.Schema) error { l.schemas++; return nil }

func (l *fakeLog) Append(_ context.Context, c *change.Change) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.seq++
	l.records = append(l.records, c.Pos)
	if l.auto {
		l.acked = l.seq
	}
	return l.seq, l.err
}

func (l *fakeLog) Acked() (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.acked, l.err
}

func (l *fakeLog) PutProgress(_ context.Context, p Progress) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	have := map[change.Position]bool{}
	for _, r := range l.records[:len(l.records)-int(l.seq-l.acked)] {
		have[r] = true
	}
	for _, w := range l.want {
		if w.Commit < p.Through && !have[w] {
			l.wrong = append(l.wrong, fmt.Sprintf("progress through %s without %s", p.Through, w))
		}
	}
	l.progress = append(l.progress, p)
	return nil
}

func (l *fakeLog) LastProgress(context.Context) (Progress, bool, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.progress) == 0 {
		return Progress{}, false, nil
	}
	return l.progress[len(l.progress)-1], true, nil
}

func (l *fakeLog) Close() error { return nil }

func positions(h history) (out []change.Position) {
	for i, n := range h {
		for k := range n {
			out = append(out, change.Position{Epoch: 1, Commit: change.LSN(i+1) * 100, Ordinal: uint32(k + 1)})
		}
	}
	return out
}

var fast = Options{Epoch: 1, CreatedAt: 50, StatusInterval: time.Millisecond, DrainTimeout: 50 * time.Millisecond}

// Over crashes at any point, with any part of the log acknowledged, every change
// is in the log, first copies are in order, and the source is never told of a
// position whose progress record or changes are not there.
func TestNothingIsConfirmedBeforeItIsSafe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := history(rapid.SliceOfN(rapid.IntRange(0, 4), 1, 8).Draw(t, "history"))
		slot := change.LSN(50)
		l := &fakeLog{want: positions(h)}
		for run := 0; ; run++ {
			last := run == 5
			l.seq, l.acked, l.auto = 0, 0, last || rapid.Bool().Draw(t, "auto")
			src := &fakeSource{h: h, slot: &slot, log: l, idle: make(chan struct{})}
			ctx, cancel := context.WithCancel(context.Background())
			stopAt := rapid.IntRange(0, len(l.want)).Draw(t, "stop")
			ackAt := rapid.IntRange(0, len(l.want)).Draw(t, "ack")
			done := make(chan error, 1)
			o := fast
			o.DrainTimeout = 2 * time.Millisecond
			go func() { done <- Run(ctx, src, l, o, Observer{}) }()
			for stop := false; !stop; {
				l.mu.Lock()
				if !l.auto && l.seq >= uint64(ackAt) && l.acked < uint64(ackAt) {
					l.acked = uint64(ackAt)
				}
				stop = !last && l.seq >= uint64(stopAt)
				if last && len(l.progress) > 0 {
					stop = l.progress[len(l.progress)-1].Through >= change.LSN(len(h))*100
				}
				l.mu.Unlock()
				if !last {
					select {
					case <-src.idle: // less is left than that
						stop = true
					default:
					}
				}
				time.Sleep(20 * time.Microsecond)
			}
			cancel()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			for _, w := range append(src.wrong, l.wrong...) {
				t.Fatal(w)
			}
			// What was not acknowledged may be lost in a crash.
			l.records = l.records[:len(l.records)-int(l.seq-l.acked)]
			if last {
				break
			}
		}
		seen := map[change.Position]bool{}
		var first []change.Position
		for _, p := range l.records {
			if !seen[p] {
				seen[p] = true
				first = append(first, p)
			}
		}
		if fmt.Sprint(first) != fmt.Sprint(l.want) {
			t.Fatalf("log has %v, want %v", first, l.want)
		}
	})
}

func TestSlotAheadIsReported(t *testing.T) {
	for name, tc := range map[string]struct {
		slot     change.LSN
		progress []Progress
		epoch    uint32
		want     fault.Code
	}{
		"first start, where the slot began": {slot: 50, epoch: 1},
		"first start, slot was moved":       {slot: 60, epoch: 1, want: CodeSlotAhead},
		"at the last record":                {slot: 210, progress: []Progress{{Epoch: 1, Through: 210}}, epoch: 1},
		"behind the last record":            {slot: 110, progress: []Progress{{Epoch: 1, Through: 210}}, epoch: 1},
		"past the last record":              {slot: 211, progress: []Progress{{Epoch: 1, Through: 210}}, epoch: 1, want: CodeSlotAhead},
		"same slot in a higher epoch":       {slot: 210, progress: []Progress{{Epoch: 1, Through: 210}}, epoch: 2},
		"an attempt of an earlier epoch":    {slot: 50, progress: []Progress{{Epoch: 2, Through: 210}}, epoch: 1, want: CodeEpochBehind},
	} {
		t.Run(name, func(t *testing.T) {
			l := &fakeLog{progress: tc.progress, auto: true}
			src := &fakeSource{h: history{1, 1, 1}, slot: &tc.slot, log: l, fail: errors.New("end")}
			o := fast
			o.Epoch = tc.epoch
			err := Run(context.Background(), src, l, o, Observer{})
			if got := fault.CodeOf(err); got != tc.want {
				t.Errorf("%v, want %q", err, tc.want)
			}
			if tc.want != "" && fault.Retryable(err) {
				t.Error("it would be tried again")
			}
			if tc.want != "" && len(l.records) > 0 {
				t.Error("changes were appended")
			}
		})
	}
}

// namedSource can tell which server it reads, and obeys when it is told which.
type namedSource struct {
	fakeSource
	is, want       string
	timeline, only int32
}

func (s *namedSource) Expect(system string, timeline int32) { s.want, s.only = system, timeline }
func (s *namedSource) System() (string, int32)              { return s.is, s.timeline }
func (s *namedSource) Start(ctx context.Context) (change.LSN, error) {
	if s.want != "" && (s.want != s.is || s.only != s.timeline) {
		return 0, fault.Permanent("Another", nil, "", "another server")
	}
	return s.fakeSource.Start(ctx)
}

// The log remembers whose positions it holds: a promoted standby, or another
// cluster behind the same address, is not gone on from.
func TestAnotherServerIsNotGoneOnFrom(t *testing.T) {
	l := &fakeLog{auto: true}
	run := func(is string, timeline int32, epoch uint32) error {
		slot := change.LSN(50)
		l.seq, l.acked = 0, 0
		src := &namedSource{fakeSource: fakeSource{h: history{1}, slot: &slot, log: l, fail: errors.New("end")}, is: is, timeline: timeline}
		o := fast
		o.Epoch = epoch
		return Run(context.Background(), src, l, o, Observer{})
	}
	if err := run("7", 1, 1); err == nil || err.Error() != "end" {
		t.Fatal(err)
	}
	for _, p := range l.progress {
		if p.System != "7" || p.Timeline != 1 {
			t.Errorf("recorded %+v", p)
		}
	}
	n := len(l.records)
	for _, c := range []struct {
		is       string
		timeline int32
	}{{"7", 2}, {"8", 1}} {
		if err := run(c.is, c.timeline, 1); !fault.Is(err, "Another") {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if len(l.records) != n {
		t.Error("changes of another server were appended")
	}
	if err := run("7", 1, 1); err == nil || err.Error() != "end" {
		t.Errorf("the same server: %v", err)
	}
	if err := run("7", 2, 2); err == nil || err.Error() != "end" {
		t.Errorf("a new epoch, after a failover that was approved: %v", err)
	}
}

func TestResentChangesAreNotAppendedTwice(t *testing.T) {
	slot := change.LSN(50)
	l := &fakeLog{auto: true, progress: []Progress{{Epoch: 1, Through: 210}}}
	src := &fakeSource{h: history{2, 1, 1}, slot: &slot, log: l, fail: errors.New("end")}
	_ = Run(context.Background(), src, l, fast, Observer{})
	if len(l.records) != 1 || l.records[0].Commit != 300 {
		t.Errorf("appended %v", l.records)
	}
	if slot != 310 {
		t.Errorf("confirmed %s", slot)
	}
}

func TestErrorsStopTheRun(t *testing.T) {
	boom := fault.Transient("Boom", nil, "gone")
	t.Run("of the source", func(t *testing.T) {
		slot := change.LSN(50)
		l := &fakeLog{auto: true}
		err := Run(context.Background(), &fakeSource{h: history{2}, slot: &slot, log: l, fail: boom}, l, fast, Observer{})
		if !fault.Is(err, "Boom") || !fault.Retryable(err) {
			t.Errorf("%v", err)
		}
		if slot != 110 {
			t.Errorf("what was acknowledged was not confirmed: %s", slot)
		}
	})
	t.Run("of the log", func(t *testing.T) {
		slot := change.LSN(50)
		l := &fakeLog{err: boom}
		err := Run(context.Background(), &fakeSource{h: history{2}, slot: &slot, log: l}, l, fast, Observer{})
		if !fault.Is(err, "Boom") || slot != 50 {
			t.Errorf("%v, slot %s", err, slot)
		}
	})
}

func TestObserverSeesProgress(t *testing.T) {
	slot := change.LSN(50)
	l := &fakeLog{auto: true}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var started, schema bool
	var last Status
	err := Run(ctx, &fakeSource{h: history{2, 0, 3}, slot: &slot, log: l}, l, fast, Observer{
		Started: func(c change.LSN, _ Progress, resumed bool) { started = c == 50 && !resumed },
		Schema:  func(*change.Schema) { schema = true },
		Status: func(s Status) {
			last = s
			if s.Acked == 310 {
				cancel()
			}
		},
	})
	if err != nil || !started || !schema {
		t.Errorf("err %v, started %v, schema %v", err, started, schema)
	}
	if last.Changes != 5 || last.Through != 310 || last.InFlight != 0 || last.Read.Commit != 300 || l.schemas != 1 {
		t.Errorf("status %+v, schemas %d", last, l.schemas)
	}
}

// While nobody checkpoints, the list of commits stays short.
func TestCommitsAreCollapsed(t *testing.T) {
	var s state
	longest := 0
	for i := range uint64(100_000) {
		s.appended(&change.Change{}, i+1)
		if s.mark(change.LSN(i+1), time.Time{}) {
			s.ack(i - 10)
		}
		longest = max(longest, len(s.fifo))
	}
	if longest > collapseAt {
		t.Errorf("%d entries", longest)
	}
	if lsn, _ := s.ack(99_000); lsn != 99_000 {
		t.Errorf("acknowledged through %s", lsn)
	}
}

// What a source said last, before it fell silent, is confirmed without the wait
// for the next tick: here there is none.
func TestQuietSourceIsConfirmedAtOnce(t *testing.T) {
	slot := change.LSN(50)
	log := &fakeLog{}
	src := &fakeSource{h: history{2, 1}, slot: &slot, log: log}
	confirmed := make(chan change.LSN, 1)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Run(ctx, src, log, Options{Epoch: 1, CreatedAt: 50, StatusInterval: time.Hour, Quiet: time.Millisecond},
			Observer{Status: func(s Status) {
				if s.InFlight == 0 && s.Changes == 3 {
					select {
					case confirmed <- s.Acked:
					default:
					}
				}
			}})
	}()
	for { // Kafka answers late
		log.mu.Lock()
		all := log.seq == 3
		log.acked = log.seq
		log.mu.Unlock()
		if all {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if got := <-confirmed; got != 210 {
		t.Errorf("confirmed up to %s, want 0/D2", got)
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	src.mu.Lock()
	defer src.mu.Unlock()
	if len(src.wrong) > 0 || slot != 210 {
		t.Errorf("slot at %s; %v", slot, src.wrong)
	}
}

// slowSource waits before each event, so that a move comes anywhere in a transaction.
type slowSource struct {
	*fakeSource
	at   int           // move before this event
	move chan struct{} // closed then
	n    int
}

func (s *slowSource) Next(ctx context.Context) (Event, error) {
	if s.n++; s.n == s.at {
		close(s.move)
		time.Sleep(5 * time.Millisecond) // until the loop has seen it
	}
	return s.fakeSource.Next(ctx)
}

// A run that is asked to move ends between two transactions with everything confirmed: the
// next one is sent nothing again.
func TestMovesBetweenTransactions(t *testing.T) {
	h := history{2, 1, 5, 3, 1, 4}
	for at := 1; at <= 16; at++ {
		slot := change.LSN(50)
		log := &fakeLog{auto: true, want: positions(h)}
		first := &slowSource{fakeSource: &fakeSource{h: h, slot: &slot, log: log}, at: at, move: make(chan struct{})}
		o := fast
		o.Move, o.DrainTimeout = first.move, 5*time.Second
		if err := Run(t.Context(), first, log, o, Observer{}); !errors.Is(err, ErrMoved) {
			t.Fatalf("moved before event %d: %v", at, err)
		}
		sent := len(log.records)
		if sent > 0 {
			if last := log.records[sent-1]; slot <= last.Commit {
				t.Errorf("moved before event %d: the slot is at %s, and %s was captured", at, slot, last)
			}
		}
		second := &fakeSource{h: h, slot: &slot, log: log, idle: make(chan struct{})}
		ctx, cancel := context.WithCancel(t.Context())
		log.seq, log.acked = 0, 0 // of this run
		done := make(chan error, 1)
		go func() { done <- Run(ctx, second, log, fast, Observer{}) }()
		<-second.idle
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(log.records, positions(h)) {
			t.Errorf("moved before event %d: captured %v, want each once: %v", at, log.records, positions(h))
		}
		for _, w := range slices.Concat(first.wrong, second.wrong, log.wrong) {
			t.Error(w)
		}
	}
}
