package aggregate

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/shopspring/decimal"

	"syncline/dataplane/change"
	"syncline/dataplane/pgtext"
)

// ValueError says why a row cannot be aggregated. It holds no value.
type ValueError struct {
	Column string
	Reason string
}

func (e *ValueError) Error() string { return fmt.Sprintf("column %q: %s", e.Column, e.Reason) }

// Partials are those of one run.
type Partials struct {
	p      *Plan
	groups map[string]*group
	size   int
	key    []byte   // scratch
	values []number // scratch
}

type group struct {
	by     []change.Value // group columns, then the bucket
	rows   int64
	values []kept
}

type kept struct {
	count, nan, high, low int64
	sum, min, max         *big.Int // scaled; nil: of no value
	minFloat, maxFloat    float64
	sketch                map[int32]int64
}

// Roughly what a group, a value and a bucket take.
const (
	groupBytes  = 200
	valueBytes  = 250
	bucketBytes = 30
)

// New returns partials of no row.
func (p *Plan) New() *Partials { return &Partials{p: p, groups: map[string]*group{}} }

// Plan is what the partials are of.
func (x *Partials) Plan() *Plan { return x.p }

// Size is about how many bytes they take.
func (x *Partials) Size() int { return x.size }

// Groups is how many there are.
func (x *Partials) Groups() int { return len(x.groups) }

// Add takes in a row of the source.
func (x *Partials) Add(row change.Row) error {
	p := x.p
	bucket := change.Value{}
	if p.bucketAt >= 0 {
		var err error
		if bucket, err = p.bucketOf(row[p.bucketAt]); err != nil {
			return err
		}
	}
	x.values = x.values[:0]
	for i, at := range p.valueAt {
		n, err := p.Values[i].read(row[at])
		if err != nil {
			return err
		}
		x.values = append(x.values, n)
	}
	x.key = x.key[:0]
	for i, at := range p.groupAt {
		if row[at].Kind == change.Unchanged {
			return &ValueError{p.Group[i].Name, "the change does not carry it"}
		}
		x.key = appendKey(x.key, row[at])
	}
	x.key = appendKey(x.key, bucket)
	g := x.groups[string(x.key)]
	if g == nil {
		g = &group{values: make([]kept, len(p.Values))}
		for _, at := range p.groupAt {
			v := row[at]
			v.Data = slices.Clone(v.Data)
			g.by = append(g.by, v)
		}
		if p.bucketAt >= 0 {
			g.by = append(g.by, bucket)
		}
		x.groups[string(x.key)] = g
		x.size += groupBytes + 2*len(x.key) + valueBytes*len(p.Values)
	}
	g.rows++
	for i := range x.values {
		x.size += g.values[i].add(&p.Values[i], &x.values[i])
	}
	return nil
}

func appendKey(b []byte, v change.Value) []byte {
	if v.Kind == change.Null {
		return append(b, 0)
	}
	b = binary.AppendUvarint(append(b, 1), uint64(len(v.Data)))
	return append(b, v.Data...)
}

// bucketOf returns the beginning of the bucket of a time, as its type is written.
func (p *Plan) bucketOf(v change.Value) (change.Value, error) {
	zoned := p.Time.Type.Base == "timestamptz"
	switch v.Kind {
	case change.Null:
		return v, nil
	case change.Unchanged:
		return v, &ValueError{BucketColumn, "the change does not carry the time"}
	}
	t, err := pgtext.ParseTimestamp(v.Data, zoned)
	if err != nil {
		return v, &ValueError{BucketColumn, "the time cannot be read"}
	}
	if t.Class != pgtext.Finite {
		return change.Value{Kind: v.Kind, Data: slices.Clone(v.Data)}, nil
	}
	size := int64(p.Bucket / time.Second)
	at := t.Seconds - (t.Seconds%size+size)%size
	out := time.Unix(at, 0).UTC()
	if out.Year() < 1 || out.Year() > 9999 {
		return v, &ValueError{BucketColumn, "the year of the time is not from 1 to 9999"}
	}
	text := out.Format("2006-01-02 15:04:05")
	if zoned {
		text += "+00"
	}
	return change.TextValue(text), nil
}

// number is a value.
type number struct {
	null           bool
	nan, high, low bool
	scaled         *big.Int // of finite values that are summed or compared
	float          float64
}

// read reads a value. Of a column that is only counted it reads nothing.
func (k *Kept) read(v change.Value) (n number, err error) {
	switch {
	case v.Kind == change.Null:
		return number{null: true}, nil
	case v.Kind == change.Unchanged:
		return n, &ValueError{k.Column, "the change does not carry it"}
	case !k.Sum && !k.Min && !k.Max && !k.Sketch:
		return n, nil
	}
	text := string(v.Data)
	switch text {
	case "NaN":
		return number{nan: true}, nil
	case "Infinity":
		return number{high: true}, nil
	case "-Infinity":
		return number{low: true}, nil
	}
	d, err := decimal.NewFromString(text)
	if err != nil {
		return n, &ValueError{k.Column, "it is not a number"}
	}
	if k.Open || k.Float {
		// Where the first digit stands, before anything is scaled by it.
		if d.Sign() != 0 && d.NumDigits()+int(d.Exponent()) > maxPrecision-Scale {
			return n, &ValueError{k.Column, fmt.Sprintf("it has more than %d digits before the point, so that sums would not be exact", maxPrecision-Scale)}
		}
		if d.NumDigits()+int(d.Exponent()) < -Scale {
			if k.Open {
				return n, tooFine(k)
			}
			d = decimal.Zero
		}
	}
	if int(d.Exponent()) < -k.Scale {
		r := d.Round(int32(k.Scale))
		if !k.Float && !r.Equal(d) {
			return n, tooFine(k)
		}
		d = r
	}
	n.scaled = scale(d, k.Scale)
	if k.Sketch || k.Float {
		if n.float, err = strconv.ParseFloat(text, 64); err != nil || math.IsInf(n.float, 0) {
			return n, &ValueError{k.Column, "it is not a number"}
		}
	}
	return n, nil
}

func tooFine(k *Kept) error {
	return &ValueError{k.Column, fmt.Sprintf("it has more than %d digits after the point, so that sums would not be exact", k.Scale)}
}

// scale returns d times 10^s, which is an integer.
func scale(d decimal.Decimal, s int) *big.Int {
	n := d.Coefficient()
	by := int64(d.Exponent()) + int64(s)
	switch {
	case by < 0: // only zeros are cut off
		return n.Quo(n, powerOfTen(-by))
	case by > 0:
		n.Mul(n, powerOfTen(by))
	}
	return n
}

var powersOfTen = func() (out [2 * digits]*big.Int) {
	for i := range out {
		out[i] = new(big.Int).Exp(big.NewInt(10), big.NewInt(int64(i)), nil)
	}
	return out
}()

func powerOfTen(n int64) *big.Int {
	if n < int64(len(powersOfTen)) {
		return powersOfTen[n]
	}
	return new(big.Int).Exp(big.NewInt(10), big.NewInt(n), nil)
}

func (g *kept) add(k *Kept, n *number) (size int) {
	if n.null {
		return 0
	}
	g.count++
	switch {
	case n.nan:
		g.nan++
		return 0
	case n.high:
		g.high++
		return 0
	case n.low:
		g.low++
		return 0
	case n.scaled == nil:
		return 0
	}
	if k.Sum {
		if g.sum == nil {
			g.sum = new(big.Int)
		}
		g.sum.Add(g.sum, n.scaled)
	}
	first := g.min == nil && g.max == nil
	if k.Min && (first || n.scaled.Cmp(g.min) < 0) {
		g.min = n.scaled
	}
	if k.Max && (first || n.scaled.Cmp(g.max) > 0) {
		g.max = n.scaled
	}
	if k.Float {
		if first || n.float < g.minFloat {
			g.minFloat = n.float
		}
		if first || n.float > g.maxFloat {
			g.maxFloat = n.float
		}
	}
	if k.Sketch {
		key := int32(0)
		if n.scaled.Sign() != 0 {
			key = sketchKey(n.float)
		}
		if g.sketch == nil {
			g.sketch = map[int32]int64{}
		}
		if _, ok := g.sketch[key]; !ok {
			size = bucketBytes
		}
		g.sketch[key]++
	}
	return size
}

// Run says which run of a tier partials are of.
type Run struct {
	Partition      int
	From           int64 // offset of the first change that was aggregated
	Token, Attempt int64
}

// LoadRun is a run over rows that a table's load brings, in the place of its chunk: the
// nth of an attempt, from 0.
func LoadRun(chunk, attempt, nth int) Run {
	return Run{Partition: -1 - chunk, From: int64(nth), Token: int64(attempt), Attempt: int64(nth)}
}

// Rows returns the partials as rows of Plan.Schema, in the order of their groups.
func (x *Partials) Rows(r Run) []change.Row {
	out := make([]change.Row, 0, len(x.groups))
	for _, key := range slices.Sorted(maps.Keys(x.groups)) {
		g := x.groups[key]
		row := make(change.Row, 0, len(x.p.Schema().Columns))
		row = append(row, integer(int64(r.Partition)), integer(r.From), integer(r.Token), integer(r.Attempt))
		row = append(row, g.by...)
		row = append(row, integer(g.rows))
		for i := range g.values {
			row = g.values[i].append(row, &x.p.Values[i])
		}
		out = append(out, row)
	}
	return out
}

func integer(n int64) change.Value { return change.TextValue(strconv.FormatInt(n, 10)) }

func (g *kept) append(row change.Row, k *Kept) change.Row {
	row = append(row, integer(g.count))
	if k.Special {
		row = append(row, integer(g.nan), integer(g.high), integer(g.low))
	}
	exact := func(n *big.Int) change.Value {
		if n == nil {
			return change.Value{}
		}
		return change.TextValue(decimal.NewFromBigInt(n, int32(-k.Scale)).String())
	}
	extreme := func(n *big.Int, f float64) change.Value {
		if n == nil || !k.Float {
			return exact(n)
		}
		return change.TextValue(strconv.FormatFloat(f, 'g', -1, 64))
	}
	if k.Sum {
		row = append(row, exact(g.sum))
	}
	if k.Min {
		row = append(row, extreme(g.min, g.minFloat))
	}
	if k.Max {
		row = append(row, extreme(g.max, g.maxFloat))
	}
	if k.Sketch {
		var keys, counts []string
		for _, key := range slices.SortedFunc(maps.Keys(g.sketch), cmp.Compare[int32]) {
			keys = append(keys, strconv.Itoa(int(key)))
			counts = append(counts, strconv.FormatInt(g.sketch[key], 10))
		}
		row = append(row, list(keys), list(counts))
	}
	return row
}

func list(items []string) change.Value {
	return change.TextValue("{" + strings.Join(items, ",") + "}")
}
