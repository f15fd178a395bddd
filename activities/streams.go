package activities

import (
	"context"
	"sync"
	"time"

	"go.uber.org/zap"

	source "syncline/dataplane/source/postgres"
)

// streams are those of one slot, one after the other, each with the login in force. The
// next one logs in before the one that reads is asked to end, so that a login which does
// not work stops nothing.
type streams struct {
	srv *source.Server
	o   source.StreamOptions
	log *zap.Logger

	mu      sync.Mutex
	current *source.Stream
	opened  *source.Stream // that comes next
	watch   context.CancelFunc
	done    chan struct{}
}

// next ends the stream that has read so far, and gives the one that goes on. move is
// closed when that one is to end.
func (s *streams) next(ctx context.Context) (stream *source.Stream, move <-chan struct{}, err error) {
	s.settle()
	s.mu.Lock()
	old := s.current
	s.current, s.opened = s.opened, nil
	s.mu.Unlock()
	if old != nil {
		_ = old.Close() // what it spilled is of transactions that are read again
	}
	if s.current == nil {
		if stream, err = s.srv.NewStream(s.o); err != nil {
			return nil, nil, err
		}
		if err := stream.Open(ctx); err != nil {
			_ = stream.Close()
			return nil, nil, err
		}
		s.mu.Lock()
		s.current = stream
		s.mu.Unlock()
	}
	moved := make(chan struct{})
	watch, cancel := context.WithCancel(ctx)
	s.watch, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		s.prepare(watch, s.current, moved)
	}()
	return s.current, moved, nil
}

// prepare waits for another login, opens the next stream with it, and says so.
func (s *streams) prepare(ctx context.Context, current *source.Stream, moved chan<- struct{}) {
	select {
	case <-current.Moved():
	case <-ctx.Done():
		return
	}
	for wait := 200 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		stream, err := s.srv.NewStream(s.o)
		if err == nil {
			if err = stream.Open(ctx); err == nil {
				s.mu.Lock()
				s.opened = stream
				s.mu.Unlock()
				close(moved)
				return
			}
			_ = stream.Close()
		}
		if ctx.Err() != nil {
			return
		}
		s.log.Warn("the stream goes on with the login of before: no other one can be opened with that in force", zap.Error(err), zap.Duration("again_in", wait))
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return
		}
	}
}

// settle ends prepare.
func (s *streams) settle() {
	if s.watch != nil {
		s.watch()
		<-s.done
		s.watch = nil
	}
}

func (s *streams) close() {
	s.settle()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range []*source.Stream{s.current, s.opened} {
		if x != nil {
			_ = x.Close()
		}
	}
}

func (s *streams) spilled() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.current == nil {
		return 0
	}
	return s.current.Spilled()
}
