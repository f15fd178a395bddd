// Package trail is the audit trail: who did what to rows outside of the stream, why,
// and what the rows were before and after, as digests. Each entry has the hash of the
// one before, so that an edit, a gap or an entry put in later is seen by whoever reads
// the trail again; what was cut off its end is seen by whoever knows a later hash, which
// the histories of repairs do.
//
// It is pure: sinks keep the entries, in their ledgers.
package trail

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"
)

// Entry of a trail. Detail has no row values and no keys but by digest.
type Entry struct {
	N      int64           `json:"n"`      // from 1, without gaps
	ID     string          `json:"id"`     // of what is told of; an entry is added once
	At     time.Time       `json:"at"`     // for people, not for order
	Repair string          `json:"repair"` //
	Actor  string          `json:"actor"`  // who asked for it
	Action string          `json:"action"` // planned, approved, quarantined, replayed, verified, released, failed, …
	Table  string          `json:"table,omitempty"`
	Detail json.RawMessage `json:"detail,omitempty"`
	Prev   string          `json:"prev"` // hash of entry N-1; "" for the first
	Hash   string          `json:"hash"`
}

// Seal gives an entry its place behind another, whose number and hash are given; 0 and
// "" for the first.
func (e *Entry) Seal(n int64, prev string) error {
	// So that the text comes back as it is from every database. An empty detail is none.
	e.At = e.At.UTC().Truncate(time.Microsecond)
	if len(e.Detail) > 0 {
		var v any
		if err := json.Unmarshal(e.Detail, &v); err != nil {
			return fmt.Errorf("detail of trail entry %q: %w", e.ID, err)
		}
		canonical, err := json.Marshal(v)
		if err != nil {
			return fmt.Errorf("detail of trail entry %q: %w", e.ID, err)
		}
		e.Detail = canonical
	}
	e.N, e.Prev = n+1, prev
	var err error
	e.Hash, err = e.hash()
	return err
}

func (e *Entry) hash() (string, error) {
	bare := *e
	bare.Hash, bare.At = "", bare.At.UTC()
	text, err := json.Marshal(&bare)
	if err != nil {
		return "", fmt.Errorf("encode trail entry %q: %w", e.ID, err)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:]), nil
}

// Broken says where a trail is not as it was written.
type Broken struct {
	N    int64 // the first entry that is wrong, or missing
	What string
}

// Error names the entry.
func (b *Broken) Error() string {
	return fmt.Sprintf("audit trail is broken at entry %d: %s", b.N, b.What)
}

// Checker reads a trail from its first entry on.
type Checker struct {
	// Known are hashes that entries had, by number, as told by others.
	Known map[int64]string
	n     int64
	hash  string
}

// Next checks the next entry; a *Broken if it does not follow.
func (c *Checker) Next(e *Entry) error {
	want := c.n + 1
	switch {
	case e.N > want:
		return &Broken{want, fmt.Sprintf("it is missing; the next one is %d", e.N)}
	case e.N < want:
		return &Broken{e.N, "it is there more than once"}
	case e.Prev != c.hash:
		return &Broken{want, "it does not follow the entry before it"}
	}
	hash, err := e.hash()
	if err != nil {
		return err
	}
	if hash != e.Hash {
		return &Broken{want, "it was edited"}
	}
	if known, ok := c.Known[e.N]; ok && known != e.Hash {
		return &Broken{want, "it is not the one that was written: the trail was written anew from here or earlier"}
	}
	c.n, c.hash = e.N, e.Hash
	return nil
}

// End checks that nothing is cut off, and returns the last entry's number and hash.
func (c *Checker) End() (n int64, hash string, err error) {
	for k := range c.Known {
		if k > c.n {
			return c.n, c.hash, &Broken{c.n + 1, fmt.Sprintf("it is missing: the trail had %d entries", k)}
		}
	}
	return c.n, c.hash, nil
}
