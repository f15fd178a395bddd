package deliver

import (
	"hash/maphash"

	"syncline/dataplane/change"
)

// keyFilter tells keys that were never added from those that may have been, in bounded
// memory (a Bloom filter). The more keys, the less it tells.
type keyFilter struct {
	all  bool // any may have been
	bits []uint64
}

const (
	filterBits = 1 << 20 // tells well for some 100,000 keys
	filterUses = 4
)

var filterSeed = maphash.MakeSeed()

func (f *keyFilter) add(k change.Key) {
	if f.all || k == "" {
		return
	}
	if f.bits == nil {
		f.bits = make([]uint64, filterBits/64)
	}
	h := maphash.String(filterSeed, string(k))
	for range filterUses {
		f.bits[h%filterBits/64] |= 1 << (h % 64)
		h = h>>16 | h<<48
	}
}

func (f *keyFilter) has(k change.Key) bool {
	if f == nil || f.bits == nil {
		return f != nil && f.all
	}
	h := maphash.String(filterSeed, string(k))
	for range filterUses {
		if f.bits[h%filterBits/64]&(1<<(h%64)) == 0 {
			return false
		}
		h = h>>16 | h<<48
	}
	return true
}
