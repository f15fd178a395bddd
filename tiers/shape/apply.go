package shape

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"math/bits"
	"slices"
	"strconv"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// Schema is the definition at the end of the stage.
func (s *Shape) Schema() *change.Schema { return s.out }

// Omitted reports whether a column is left out of every row.
func (s *Shape) Omitted(column string) bool {
	i := s.raw.Column(column)
	return i >= 0 && s.cols[i].omit.always
}

// Masked are the columns that have masks in some rows or in all.
func (s *Shape) Masked() []int { return s.masked }

// selects reports whether some rows are not there.
func (s *Shape) selects() bool { return !s.rows.none() || len(s.samples) > 0 }

// Apply returns the change as it is at the end of the stage; withheld if nothing is to be
// known of it there but its place. The change itself stays as it is; values are shared.
func (s *Shape) Apply(c *change.Change) (out *change.Change, withheld bool, err error) {
	shaped := *c
	if c.Op == change.Truncate {
		return &shaped, false, nil
	}
	had, has := c.Op != change.Insert, c.Op != change.Delete
	before, after := s.before(c), image(c.New, c.Old)
	if s.selects() {
		shaped.Moved = nil // the other half may be one that is not there
		if has {
			if has, err = s.keeps(after); err != nil {
				return nil, true, err
			}
		}
		switch {
		case !had:
		case before != nil:
			if had, err = s.keeps(before); err != nil {
				return nil, true, err
			}
		case s.byKey || len(s.raw.Key) == 0: // both images have the same key, or rows are only added
			had = has
		default:
			return nil, true, fault.Permanent(CodeUndecided, nil, "ALTER TABLE "+s.raw.Table.String()+" REPLICA IDENTITY FULL, and resync the table",
				"table %s: an update at %s lacks the row before it, so it cannot be told whether the sink holds that", s.raw.Table, c.Pos)
		}
	}
	switch {
	case !had && !has:
		return &change.Change{Table: c.Table, Schema: c.Schema, Op: c.Op, Pos: c.Pos, XID: c.XID, CommitTime: c.CommitTime, Last: c.Last}, true, nil
	case !had:
		shaped.Op, shaped.Old = change.Insert, nil
		if slices.ContainsFunc(c.New, func(v change.Value) bool { return v.Kind == change.Unchanged }) {
			return nil, true, fault.Permanent(CodeUndecided, nil, "ALTER TABLE "+s.raw.Table.String()+" REPLICA IDENTITY FULL, and resync the table",
				"table %s: an update at %s, by which the sink comes to hold the row, lacks a large value of it", s.raw.Table, c.Pos)
		}
	case !has:
		shaped.Op, shaped.New = change.Delete, nil
	}
	if shaped.New != nil {
		if shaped.New, err = s.row(after, c.New); err != nil {
			return nil, true, err
		}
	}
	if shaped.Op == change.Delete && c.Old == nil { // an update without an old image, of a key that is the same
		shaped.Old = make(change.Row, len(c.New))
		for _, k := range s.raw.Key {
			shaped.Old[k] = c.New[k]
		}
		if shaped.Old, err = s.widen(shaped.Old, after); err != nil {
			return nil, true, err
		}
	} else if shaped.Old != nil {
		if before == nil { // the key alone, which no rule changes
			if shaped.Old, err = s.widen(slices.Clone(c.Old), &change.Change{Op: change.Delete, Old: c.Old}); err != nil {
				return nil, true, err
			}
		} else if shaped.Old, err = s.row(before, c.Old); err != nil {
			return nil, true, err
		}
	}
	return &shaped, false, nil
}

// image is a row as conditions are asked of it.
func image(row, old change.Row) *change.Change {
	return &change.Change{Op: change.Insert, New: row, Old: old}
}

// before is the row before a change, as far as the log has it.
func (s *Shape) before(c *change.Change) *change.Change {
	switch {
	case c.Op == change.Delete && !s.raw.Full:
		return &change.Change{Op: change.Delete, Old: c.Old} // its key
	case c.Old != nil && s.raw.Full:
		return image(c.Old, nil)
	}
	return nil
}

// Row returns a row as it is at the end of the stage; ok is false if it is not there.
func (s *Shape) Row(row change.Row) (out change.Row, ok bool, err error) {
	img := image(row, nil)
	if ok, err = s.keeps(img); err != nil || !ok {
		return nil, false, err
	}
	out, err = s.row(img, row)
	return out, err == nil, err
}

// keeps reports whether the row is there.
func (s *Shape) keeps(img *change.Change) (bool, error) {
	if !s.rows.none() {
		if withheld, err := s.rows.holds(img); err != nil || withheld {
			return false, err
		}
	}
	of, err := s.sampled(img)
	if of == nil || err != nil {
		return err == nil, err
	}
	row := img.New
	if img.Op == change.Delete {
		row = img.Old
	}
	return of.has(row), nil
}

// sampled is the sample of which the row is; nil if it is of none.
func (s *Shape) sampled(img *change.Change) (*sample, error) {
	for i := range s.samples {
		if is, err := s.samples[i].of.holds(img); is || err != nil {
			return &s.samples[i], err
		}
	}
	return nil, nil
}

// row is what becomes of the columns of a row. What is not there of a key image is not
// changed.
func (s *Shape) row(img *change.Change, row change.Row) (change.Row, error) {
	out := make(change.Row, len(row), len(row)+1)
	copy(out, row)
	for i := range s.cols {
		c := &s.cols[i]
		if i >= len(out) {
			break
		}
		if !c.omit.none() {
			omit, err := c.omit.holds(img)
			if err != nil {
				return nil, err
			}
			if omit {
				out[i] = change.Value{}
				continue
			}
		}
		if c.mask.none() || out[i].Kind != change.Text {
			continue
		}
		mask, err := c.mask.holds(img)
		if err != nil {
			return nil, err
		}
		if mask {
			out[i].Data = c.hash(out[i].Data)
		}
	}
	return s.widen(out, img)
}

// everyRow is the rate of rows that are of no sample.
var everyRow = change.TextValue("1")

// widen adds the value of the column that samples add.
func (s *Shape) widen(row change.Row, img *change.Change) (change.Row, error) {
	if len(s.samples) == 0 {
		return row, nil
	}
	of, err := s.sampled(img)
	if err != nil {
		return nil, err
	}
	rate := everyRow
	if of != nil {
		rate = of.rate
	}
	return append(row, rate), nil
}

const maskLength = 2 * sha256.Size

func (c *column) hash(text []byte) []byte {
	h := hmac.New(sha256.New, c.key)
	h.Write(text)
	return hex.AppendEncode(make([]byte, 0, maskLength), h.Sum(nil))
}

// sample of entities.
type sample struct {
	of    condition // rows for which it holds
	tier  string    // whose rows these are; "": all of the table
	rate  change.Value
	cols  []int
	names []string
	salt  string
	below uint64 // of 60 bits of the hash
}

// threshold is the rate's part of 2^60.
func threshold(rate int64) uint64 {
	high, low := bits.Mul64(uint64(rate), 1<<60)
	q, _ := bits.Div64(high, low, whole)
	return q
}

// has reports whether a row's entity is in the sample. One that the row does not tell is
// not.
func (s *sample) has(row change.Row) bool {
	b := append(strconv.AppendInt(nil, int64(len(s.salt)), 10), ':')
	b = append(b, s.salt...)
	for _, i := range s.cols {
		switch {
		case i >= len(row) || row[i].Kind == change.Unchanged:
			return false
		case row[i].Kind == change.Null:
			b = append(b, '~')
		default:
			b = append(strconv.AppendInt(b, int64(len(row[i].Data)), 10), ':')
			b = append(b, row[i].Data...)
		}
	}
	h := sha256.Sum256(b)
	return binary.BigEndian.Uint64(h[:])>>4 < s.below
}
