package check

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cespare/xxhash/v2"

	"syncline/dataplane/change"
)

// Limits of a comparison.
const (
	buckets      = 4096
	rowsAtOnce   = 200_000 // rows that are held to tell what differs
	maxPerTable  = 100     // differences that are told of a table
	lane0, lane1 = 0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F
	keySeed      = 0x165667B19E3779F9
	nullMark     = math.MaxUint32
)

// Report of a comparison.
type Report struct {
	Rows        map[change.TableID]int64 // at the source
	Differences []Difference
	More        int // differences that are not listed
}

// Equal reports whether nothing differs.
func (r *Report) Equal() bool { return len(r.Differences) == 0 && r.More == 0 }

// Compare compares the tables of sides with those of the source.
func Compare(ctx context.Context, source Side, tables []Table, sides ...Side) (*Report, error) {
	r := &Report{Rows: map[change.TableID]int64{}}
	for i := range tables {
		t := &tables[i]
		want, err := digestOf(ctx, source, t)
		if err != nil {
			return nil, err
		}
		r.Rows[t.ID()] = want.rows()
		for _, s := range sides {
			have, err := digestOf(ctx, s, t)
			if err != nil {
				return nil, err
			}
			if err := r.explain(ctx, t, source, s, want, have); err != nil {
				return nil, err
			}
		}
	}
	return r, nil
}

// digest of a table: per bucket of keys the number of rows and the sums of two
// independent hashes of them. Sums, unlike XOR, see a row that is there twice.
type digest [buckets]struct {
	rows   int64
	h0, h1 uint64
}

func (d *digest) rows() (n int64) {
	for i := range d {
		n += d[i].rows
	}
	return n
}

func digestOf(ctx context.Context, s Side, t *Table) (*digest, error) {
	d := new(digest)
	var b, kb []byte
	var d0, d1 xxhash.Digest
	err := s.Rows(ctx, t, func(row []Value) error {
		b = rowText(b[:0], row)
		kb = keyText(kb[:0], t.Schema, row)
		x := &d[bucketOf(kb)]
		d0.ResetWithSeed(lane0)
		d1.ResetWithSeed(lane1)
		_, _ = d0.Write(b) // cannot fail
		_, _ = d1.Write(b)
		x.rows++
		x.h0 += d0.Sum64()
		x.h1 += d1.Sum64()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return d, nil
}

// rowText appends the values, each behind its length, so that no two rows have
// the same text and NULL is not the empty text.
func rowText(b []byte, row []Value) []byte {
	for _, v := range row {
		if v.Null {
			b = binary.BigEndian.AppendUint32(b, nullMark)
			continue
		}
		b = binary.BigEndian.AppendUint32(b, uint32(len(v.Text)))
		b = append(b, v.Text...)
	}
	return b
}

func keyText(b []byte, s *change.Schema, row []Value) []byte {
	return rowText(b, keyOf(s, row))
}

// keyOf returns the key's values; those of the whole row if there is no key.
func keyOf(s *change.Schema, row []Value) []Value {
	if len(s.Key) == 0 {
		return row
	}
	out := make([]Value, len(s.Key))
	for i, k := range s.Key {
		out[i] = row[k]
	}
	return out
}

func bucketOf(key []byte) int {
	var d xxhash.Digest
	d.ResetWithSeed(keySeed)
	_, _ = d.Write(key)
	return int(d.Sum64() % buckets)
}

// explain finds the rows behind buckets that differ, some buckets at a time.
func (r *Report) explain(ctx context.Context, t *Table, source, s Side, want, have *digest) error {
	told := 0
	var group map[int]bool
	var size int64
	run := func() error {
		if len(group) == 0 {
			return nil
		}
		n, err := r.explainBuckets(ctx, t, source, s, group, maxPerTable-told)
		told += n
		group, size = nil, 0
		return err
	}
	for i := range want {
		if want[i] == have[i] {
			continue
		}
		if told >= maxPerTable {
			r.More++ // at least one
			continue
		}
		if group == nil {
			group = map[int]bool{}
		}
		group[i] = true
		if size += max(want[i].rows, have[i].rows); size >= rowsAtOnce {
			if err := run(); err != nil {
				return err
			}
		}
	}
	return run()
}

type heldRow struct {
	values []Value
	seen   int // times at the other side
	times  int // times at the source
}

func (r *Report) explainBuckets(ctx context.Context, t *Table, source, s Side, group map[int]bool, room int) (told int, err error) {
	var kb []byte
	keyless := len(t.Schema.Key) == 0
	add := func(d Difference) {
		if told >= room {
			r.More++
			return
		}
		d.Side, d.Table = s.Name(), t.ID()
		r.Differences = append(r.Differences, d)
		told++
	}
	held := map[string]*heldRow{}
	err = source.Rows(ctx, t, func(row []Value) error {
		if kb = keyText(kb[:0], t.Schema, row); !group[bucketOf(kb)] {
			return nil
		}
		if h := held[string(kb)]; h != nil {
			h.times++
			return nil
		}
		held[string(kb)] = &heldRow{values: append([]Value(nil), row...), times: 1}
		return nil
	})
	if err != nil {
		return told, err
	}
	found := 0
	err = s.Rows(ctx, t, func(row []Value) error {
		if kb = keyText(kb[:0], t.Schema, row); !group[bucketOf(kb)] {
			return nil
		}
		key := func() []Value { return append([]Value(nil), keyOf(t.Schema, row)...) }
		h := held[string(kb)]
		if h == nil {
			found++
			add(Difference{Kind: Extra, Key: key()})
			return nil
		}
		if h.seen++; h.seen > h.times {
			found++
			add(Difference{Kind: Duplicate, Key: key()})
		}
		if keyless {
			return nil
		}
		for i := range row {
			if row[i] != h.values[i] {
				found++
				add(Difference{Kind: Changed, Key: key(), Column: t.Schema.Columns[i].Name, Want: h.values[i], Have: row[i]})
			}
		}
		return nil
	})
	if err != nil {
		return told, err
	}
	for _, h := range held {
		for ; h.seen < h.times; h.seen++ {
			found++
			add(Difference{Kind: Missing, Key: append([]Value(nil), keyOf(t.Schema, h.values)...)})
		}
	}
	if found == 0 { // the digests differed, and now nothing does
		return told, fmt.Errorf("%s: table %s changed while it was compared", s.Name(), t.ID())
	}
	return told, nil
}

// CompareTotals compares the sum of a column, of which the source may say what
// it must be: "" for whatever it is there.
func CompareTotals(ctx context.Context, source Side, t *Table, column, must string, sides ...Side) ([]Difference, error) {
	at := t.Schema.Column(column)
	if at < 0 {
		return nil, fmt.Errorf("table %s has no column %q", t.ID(), column)
	}
	numeric := change.Type{Kind: change.Base, Base: "numeric", Mod: 4 + 1<<16} // equal sums may have different scales
	norm := func(s Side) (string, error) {
		sum, err := s.Sum(ctx, t, column)
		if err != nil {
			return "", fmt.Errorf("%s: total of table %s: %w", s.Name(), t.ID(), err)
		}
		return canonical(&numeric, sum)
	}
	want, err := norm(source)
	if err != nil {
		return nil, err
	}
	var out []Difference
	if must != "" {
		if must, err = canonical(&numeric, must); err != nil {
			return nil, err
		}
		if want != must {
			out = append(out, Difference{Side: source.Name(), Table: t.ID(), Kind: Total, Column: column, Want: Value{Text: must}, Have: Value{Text: want}})
			want = must
		}
	}
	for _, s := range sides {
		have, err := norm(s)
		if err != nil {
			return nil, err
		}
		if have != want {
			out = append(out, Difference{Side: s.Name(), Table: t.ID(), Kind: Total, Column: column, Want: Value{Text: want}, Have: Value{Text: have}})
		}
	}
	return out, nil
}
