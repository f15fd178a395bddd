package change

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Snapshot is what pg_current_snapshot() returns: the transactions whose
// effects a reader sees. Identifiers are the 64-bit ones, with wraparounds.
type Snapshot struct {
	XMin uint64   // every transaction below it is visible or rolled back
	XMax uint64   // no transaction from here on is visible
	XIP  []uint64 // in progress when it was taken, sorted: not visible
}

// ParseSnapshot reads xmin:xmax:xip,xip,….
func ParseSnapshot(s string) (Snapshot, error) {
	bad := func() (Snapshot, error) { return Snapshot{}, fmt.Errorf("snapshot %q: want xmin:xmax:xip,…", s) }
	f := strings.Split(s, ":")
	if len(f) != 3 {
		return bad()
	}
	var out Snapshot
	var err error
	if out.XMin, err = strconv.ParseUint(f[0], 10, 64); err != nil {
		return bad()
	}
	if out.XMax, err = strconv.ParseUint(f[1], 10, 64); err != nil {
		return bad()
	}
	if f[2] != "" {
		for _, x := range strings.Split(f[2], ",") {
			n, err := strconv.ParseUint(x, 10, 64)
			if err != nil {
				return bad()
			}
			if n < out.XMin || n >= out.XMax {
				return bad()
			}
			out.XIP = append(out.XIP, n)
		}
		slices.Sort(out.XIP)
	}
	if out.XMin > out.XMax {
		return bad()
	}
	return out, nil
}

// String returns the form that ParseSnapshot reads.
func (s Snapshot) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:%d:", s.XMin, s.XMax)
	for i, x := range s.XIP {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(strconv.FormatUint(x, 10))
	}
	return b.String()
}

// MarshalText and UnmarshalText make a Snapshot readable in JSON.
func (s Snapshot) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (s *Snapshot) UnmarshalText(b []byte) (err error) {
	*s, err = ParseSnapshot(string(b))
	return err
}

// Sees reports whether the effects of the committed transaction xid are in the
// snapshot. Logical decoding carries 32-bit identifiers: xid is taken as the
// nearest one to XMax, which is right while they are less than 2^31 apart. (In a
// cluster that never wrapped around, the nearest may be below zero; it then is
// far ahead of XMax in truth, and as an unsigned number here: not visible.)
func (s Snapshot) Sees(xid uint32) bool {
	full := s.XMax + uint64(int64(int32(xid-uint32(s.XMax))))
	switch {
	case full < s.XMin:
		return true
	case full >= s.XMax:
		return false
	}
	_, running := slices.BinarySearch(s.XIP, full)
	return !running
}
