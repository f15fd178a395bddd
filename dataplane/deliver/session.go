package deliver

import (
	"context"
	"sync"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// session lets one goroutine at a time use a sink's session: the planner and the
// committer share it, and a session may be a single connection. Only the poll of
// table states goes beside them, so that it never holds up a batch.
type session struct {
	mu sync.Mutex
	s  sink.Session
}

func (s *session) token() int64 { return s.s.Token() }

func (s *session) tables(ctx context.Context) ([]sink.Table, error) { return s.s.Tables(ctx) }

func (s *session) chunks(ctx context.Context, t change.TableID) ([]sink.Chunk, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Chunks(ctx, t)
}

func (s *session) watermarks(ctx context.Context, ps []sink.Partition) ([]sink.Watermark, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Watermarks(ctx, ps)
}

func (s *session) parked(ctx context.Context, t change.TableID) ([]change.Key, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Parked(ctx, t)
}

func (s *session) apply(ctx context.Context, b *sink.Batch) (sink.Applied, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Apply(ctx, b)
}

func (s *session) truncate(ctx context.Context, m sink.Watermark, partitions int) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Truncate(ctx, m, partitions)
}

func (s *session) evolve(ctx context.Context, t sink.Table, sc *change.Schema, at change.Position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Evolve(ctx, t, sc, at)
}

func (s *session) gate(ctx context.Context, t change.TableID, reason string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.s.Gate(ctx, t, reason)
}

func (s *session) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	_ = s.s.Close() // what it held is in the ledger or void by its token
}
