package simulate

import (
	"cmp"
	"math/bits"
	"slices"

	"github.com/cespare/xxhash/v2"

	"syncline/dataplane/change"
)

// profile is what is looked for while a table is recorded.
type profile struct {
	updates, told int64
	masks         map[uint64]int64         // updates by the columns that they changed
	values        map[int]map[uint64]int64 // by column, hashes of its values; nil: too many
	names         map[int]string
	rows          int64
}

const (
	maxMasks  = 4096 // sets of columns that are counted
	maxValues = 16   // values of a column, for it to be told of
	minShare  = 0.3  // of the updates, for their columns to be told of
)

func newProfile() profile {
	return profile{masks: map[uint64]int64{}, values: map[int]map[uint64]int64{}, names: map[int]string{}}
}

func (p *profile) add(e *event, d *def, c *change.Change) {
	if c.Op == change.Update && c.Moved == nil {
		p.updates++
		if e.flags&told != 0 {
			p.told++
			if _, ok := p.masks[e.changed]; ok || len(p.masks) < maxMasks {
				p.masks[e.changed]++
			}
		}
	}
	if c.New == nil {
		return
	}
	p.rows++
	for i, v := range c.New {
		if i >= len(d.bits) || d.schema.IsKey(i) || v.Kind == change.Unchanged {
			continue
		}
		bit := bits.TrailingZeros64(d.bits[i])
		seen, known := p.values[bit]
		switch {
		case bit == otherColumns || known && seen == nil:
			continue
		case !known:
			seen = map[uint64]int64{}
			p.values[bit], p.names[bit] = seen, d.schema.Columns[i].Name
		}
		h := xxhash.Sum64(v.Data)
		if v.Kind == change.Null {
			h = 1
		}
		if seen[h]++; len(seen) > maxValues {
			p.values[bit] = nil
		}
	}
}

// Volatile returns the smallest set of columns that many updates change alone, and their
// part of all updates; none if there is no such set or the log does not tell.
func (t *Table) Volatile() (columns []string, share float64) {
	p := &t.profile
	if p.told == 0 {
		return nil, 0
	}
	type set struct {
		mask uint64
		n    int64
	}
	var sets []set
	for m, n := range p.masks {
		if m != 0 && m&(1<<otherColumns) == 0 {
			sets = append(sets, set{m, n})
		}
	}
	slices.SortFunc(sets, func(a, b set) int { return cmp.Or(cmp.Compare(b.n, a.n), cmp.Compare(a.mask, b.mask)) })
	covers := func(mask uint64) (n int64) {
		for m, k := range p.masks {
			if m&^mask == 0 {
				n += k
			}
		}
		return n
	}
	var mask uint64
	have := int64(0)
	for _, s := range sets {
		// Another set is worth its columns if it brings a tenth of the updates.
		if n := covers(mask | s.mask); have == 0 || n-have >= p.updates/10 {
			mask, have = mask|s.mask, n
		}
	}
	if share = float64(have) / float64(p.updates); share < minShare {
		return nil, 0
	}
	for i, c := range t.columns[:min(len(t.columns), otherColumns)] {
		if mask&(1<<i) != 0 {
			columns = append(columns, c)
		}
	}
	return columns, share
}

// Blind reports whether updates were recorded of which the log does not say what they
// changed.
func (t *Table) Blind() bool { return t.profile.updates > 0 && t.profile.told == 0 }

// Few is a column that has few values: a rule may go by it, if they mean something.
type Few struct {
	Column string    `json:"column"`
	Values int       `json:"values"`
	Shares []float64 `json:"shares"` // of the changes, by value, largest first
}

// Few returns the columns with few values in many changes, those first whose most
// frequent value says least.
func (t *Table) Few() (out []Few) {
	p := &t.profile
	for bit, seen := range p.values {
		n := int64(0)
		for _, k := range seen {
			n += k
		}
		if len(seen) < 2 || n < 20*int64(len(seen)) {
			continue
		}
		f := Few{Column: p.names[bit], Values: len(seen)}
		for _, k := range seen {
			f.Shares = append(f.Shares, float64(k)/float64(n))
		}
		slices.SortFunc(f.Shares, func(a, b float64) int { return cmp.Compare(b, a) })
		out = append(out, f)
	}
	slices.SortFunc(out, func(a, b Few) int {
		return cmp.Or(cmp.Compare(a.Shares[0], b.Shares[0]), cmp.Compare(a.Column, b.Column))
	})
	return out[:min(len(out), 5)]
}

// Point is where a candidate stands.
type Point struct {
	Cost float64 // bytes, or money
	Mean float64 // wait, over all changes
	Max  float64 // wait
}

// Dominated returns for each point another that is nowhere worse and somewhere better;
// -1: there is none. Of points that are alike the first stands.
func Dominated(ps []Point) []int {
	out := make([]int, len(ps))
	for i, p := range ps {
		out[i] = -1
		for j, q := range ps {
			if i == j || q.Cost > p.Cost || q.Mean > p.Mean || q.Max > p.Max || q == p && j > i {
				continue
			}
			if out[i] < 0 || ps[out[i]].Cost > q.Cost {
				out[i] = j
			}
		}
	}
	return out
}
