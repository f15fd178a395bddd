package apply

import (
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Verdict is what becomes of a change.
type Verdict uint8

// The verdicts; see the package comment.
const (
	Write Verdict = iota
	Duplicate
	Contained
	Ambiguous
	Barrier
	Park
)

var verdictNames = [...]string{"write", "duplicate", "contained", "ambiguous", "barrier", "park"}

// String returns the verdict's word.
func (v Verdict) String() string { return verdictNames[v] }

// Load is what the finished chunks of a table saw. A nil *Load saw nothing.
type Load struct {
	epoch  uint32
	to     change.LSN
	chunks []sink.Chunk
	snaps  []change.Snapshot // distinct ones: one per generation of the holder
	byN    map[int]int       // chunk number → index in snaps
}

// NewLoad returns the load that the chunks make up; nil if there are none. epoch
// is that of the changes that are captured now, not that of the load: a table
// that is loaded again keeps its stream.
func NewLoad(epoch uint32, chunks []sink.Chunk) *Load {
	if len(chunks) == 0 {
		return nil
	}
	l := &Load{epoch: epoch, chunks: chunks, byN: make(map[int]int, len(chunks))}
	for _, c := range chunks {
		l.to = max(l.to, c.LSN)
		i := slices.IndexFunc(l.snaps, func(s change.Snapshot) bool {
			return s.XMin == c.Snapshot.XMin && s.XMax == c.Snapshot.XMax && slices.Equal(s.XIP, c.Snapshot.XIP)
		})
		if i < 0 {
			i = len(l.snaps)
			l.snaps = append(l.snaps, c.Snapshot)
		}
		l.byN[c.N] = i
	}
	return l
}

// Chunks returns the chunks of the load.
func (l *Load) Chunks() []sink.Chunk { return l.chunks }

// Over reports whether no change after mark can have been seen by the load, so
// that it need not be consulted any more.
func (l *Load) Over(mark change.Position) bool {
	return l == nil || mark.Epoch >= l.epoch && mark.Commit > l.to
}

// saw reports how many of the load's snapshots see the change.
func (l *Load) saw(c *change.Change) (all, some bool) {
	// A snapshot sees no commit beyond its LSN. Asking that first also keeps the
	// 32-bit transaction id from being compared after it wrapped around.
	if c.Pos.Commit > l.to {
		return false, false
	}
	all = true
	for _, s := range l.snaps {
		if s.Sees(c.XID) {
			some = true
		} else {
			all = false
		}
	}
	return all, some
}

// Decide returns what becomes of a change, given the position its partition has
// come to, its table's load, and the keys of the table whose changes are set aside:
// they have dead letters, or a repair holds them.
func Decide(c *change.Change, mark change.Position, l *Load, parked ...map[change.Key]struct{}) Verdict {
	if !mark.Before(c.Pos) {
		return Duplicate
	}
	if l != nil {
		if c.Pos.Epoch < l.epoch {
			// Capture raises its epoch with a new slot, and every table is loaded after
			// that: older LSNs mean nothing any more, and the load holds what they said.
			return Contained
		}
		all, some := l.saw(c)
		if all {
			return Contained
		}
		// A TRUNCATE that only some chunks saw is carried out; it ends the load.
		if some && c.Op != change.Truncate {
			return Ambiguous
		}
	}
	return beyondLoad(c, parked)
}

// DecidePlaced decides an Ambiguous change whose key is in chunk n. ok is false
// if the load has no such chunk.
func DecidePlaced(c *change.Change, l *Load, n int, parked ...map[change.Key]struct{}) (v Verdict, ok bool) {
	i, ok := l.byN[n]
	if !ok {
		return Ambiguous, false
	}
	if l.snaps[i].Sees(c.XID) {
		return Contained, true
	}
	return beyondLoad(c, parked), true
}

func beyondLoad(c *change.Change, parked []map[change.Key]struct{}) Verdict {
	if c.Op == change.Truncate {
		return Barrier
	}
	if c.Key != "" { // rows without a key never wait for one another
		for _, keys := range parked {
			if _, ok := keys[c.Key]; ok {
				return Park
			}
		}
	}
	return Write
}
