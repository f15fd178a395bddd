package capture

import (
	"sync"
	"time"

	"syncline/dataplane/change"
)

// commit is a point of the stream and the last change before it.
type commit struct {
	seq     uint64
	through change.LSN
	at      time.Time
}

// collapseAt bounds the list of commits while nobody writes progress.
const collapseAt = 4096

// state maps acknowledged sequence numbers to points of the source's stream. It
// is shared by the pump and the checkpoints.
type state struct {
	mu      sync.Mutex
	fifo    []commit // not yet acknowledged, in order
	seq     uint64   // last appended
	read    change.Position
	through change.LSN
	acked   change.LSN
	at      time.Time
	changes uint64
	bytes   uint64
}

func (s *state) appended(c *change.Change, seq uint64) {
	var n uint64
	for i := range c.New {
		n += uint64(len(c.New[i].Data))
	}
	for i := range c.Old {
		n += uint64(len(c.Old[i].Data))
	}
	for i := range c.Moved {
		n += uint64(len(c.Moved[i].Data))
	}
	s.mu.Lock()
	s.seq, s.read = seq, c.Pos
	s.changes++
	s.bytes += n
	s.mu.Unlock()
}

// mark notes that everything up to through was appended. It reports whether the
// list has become long, so that ack should be called.
func (s *state) mark(through change.LSN, at time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if through <= s.through {
		return false
	}
	s.through = through
	if n := len(s.fifo); n > 0 && s.fifo[n-1].seq == s.seq {
		s.fifo[n-1].through, s.fifo[n-1].at = through, at // nothing was appended in between
	} else {
		s.fifo = append(s.fifo, commit{s.seq, through, at})
	}
	return len(s.fifo)%collapseAt == 0
}

// ack takes the changes up to n as acknowledged and returns the point up to
// which that is everything.
func (s *state) ack(n uint64) (change.LSN, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := 0
	for ; i < len(s.fifo) && s.fifo[i].seq <= n; i++ {
		s.acked, s.at = s.fifo[i].through, s.fifo[i].at
	}
	s.fifo = append(s.fifo[:0], s.fifo[i:]...)
	return s.acked, s.at
}

func (s *state) done(n uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.seq <= n
}

func (s *state) status(n uint64) Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Read: s.read, Through: s.through, Acked: s.acked, At: s.at, Changes: s.changes, Bytes: s.bytes}
	if s.seq > n {
		st.InFlight = s.seq - n
	}
	return st
}
