package aggregate

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"syncline/dataplane/change"
)

// Columns of partials beside groups and values.
const (
	BucketColumn  = "bucket"
	RowsColumn    = "rows"
	PartColumn    = "_part"    // partition of the log; below 0 what a load brought
	FromColumn    = "_from"    // offset of the first change of the run that was aggregated
	TokenColumn   = "_token"   // fencing token of whoever wrote it; of a load the attempt
	AttemptColumn = "_attempt" // its number among those of the token
)

// Digits of sums, and of what may be summed: 10^19 rows have room.
const (
	Scale        = 30 // after the point, of floats and of numeric without a scale
	digits       = 76
	maxPrecision = digits - 19
)

// Plan is a Spec for one definition of a table.
type Plan struct {
	Table  change.TableID  `json:"table"`
	Tier   string          `json:"tier"`
	Group  []change.Column `json:"group,omitempty"`
	Time   change.Column   `json:"time,omitzero"` // of the bucket; without a name if there is none
	Bucket time.Duration   `json:"bucket,omitempty"`
	Values []Kept          `json:"values,omitempty"`

	groupAt, valueAt []int // columns of the source
	bucketAt         int
	schema           *change.Schema
}

// Kept is what is kept of a value column, beside the number of values.
type Kept struct {
	Column    string   `json:"column"`
	Functions []string `json:"functions"`
	Scale     int      `json:"scale,omitempty"` // of sums, and of the extremes unless they are floats
	Float     bool     `json:"float,omitempty"`
	Open      bool     `json:"open,omitempty"`    // numeric without a scale
	Special   bool     `json:"special,omitempty"` // NaN and infinities are counted
	Sum       bool     `json:"sum,omitempty"`
	Min       bool     `json:"min,omitempty"`
	Max       bool     `json:"max,omitempty"`
	Sketch    bool     `json:"sketch,omitempty"`
}

// Names of what is kept, as columns of partials; those of functions are columns of the view.
const (
	NaNs   = "nan"
	Highs  = "pinf"
	Lows   = "ninf"
	Keys   = "keys" // of the sketch, with Counts beside them
	Counts = "counts"
)

// Name is the column of what is kept, or shown, of a value.
func (k *Kept) Name(what string) string { return k.Column + "_" + what }

// View and Partials are the names of a table's aggregates beside its own.
func (p *Plan) View(table string) string {
	return table + "_" + strings.ReplaceAll(p.Tier, "-", "_")
}

// Partials is the table under the view.
func (p *Plan) Partials(table string) string { return p.View(table) + "_partials" }

func builtin(name string, oid uint32, mod int32) change.Type {
	base, _, _ := strings.Cut(name, "(")
	return change.Type{Name: name, Kind: change.Base, Base: base, OID: oid, Mod: mod}
}

var (
	int4    = change.Type{Name: "integer", Kind: change.Base, Base: "int4", OID: 23, Mod: -1}
	int8    = change.Type{Name: "bigint", Kind: change.Base, Base: "int8", OID: 20, Mod: -1}
	float8  = change.Type{Name: "double precision", Kind: change.Base, Base: "float8", OID: 701, Mod: -1}
	int4s   = change.Type{Name: "integer[]", Kind: change.Array, Base: "_int4", OID: 1007, Mod: -1, Elem: &int4}
	int8s   = change.Type{Name: "bigint[]", Kind: change.Array, Base: "_int8", OID: 1016, Mod: -1, Elem: &int8}
	numeric = func(scale int) change.Type {
		return builtin(fmt.Sprintf("numeric(%d,%d)", digits, scale), 1700, int32(digits<<16|scale)+4)
	}
)

// Schema is how partials lie in a table. It bears the source's name: where they go is an
// option of the batch.
func (p *Plan) Schema() *change.Schema {
	if p.schema == nil {
		p.build()
	}
	return p.schema
}

func (p *Plan) build() {
	s := &change.Schema{Table: p.Table}
	add := func(name string, t change.Type, notNull bool) {
		s.Columns = append(s.Columns, change.Column{Name: name, Type: t, NotNull: notNull})
	}
	add(PartColumn, int4, true)
	add(FromColumn, int8, true)
	add(TokenColumn, int8, true)
	add(AttemptColumn, int8, true)
	s.Columns = append(s.Columns, p.Group...)
	if p.Time.Name != "" {
		s.Columns = append(s.Columns, p.Time)
	}
	add(RowsColumn, int8, true)
	for i := range p.Values {
		k := &p.Values[i]
		add(k.Name(Count), int8, true)
		if k.Special {
			add(k.Name(NaNs), int8, true)
			add(k.Name(Highs), int8, true)
			add(k.Name(Lows), int8, true)
		}
		extreme := numeric(k.Scale)
		if k.Float {
			extreme = float8
		}
		if k.Sum {
			add(k.Name(Sum), numeric(k.Scale), false)
		}
		if k.Min {
			add(k.Name(Min), extreme, false)
		}
		if k.Max {
			add(k.Name(Max), extreme, false)
		}
		if k.Sketch {
			add(k.Name(Keys), int4s, true)
			add(k.Name(Counts), int8s, true)
		}
	}
	p.schema = s
}

// Merges reports whether partials of both plans are the same, so that only what is shown
// of them differs.
func (p *Plan) Merges(o *Plan) bool {
	a, b := *p, *o
	a.Values, b.Values = slices.Clone(a.Values), slices.Clone(b.Values)
	for _, v := range [][]Kept{a.Values, b.Values} {
		for i := range v {
			v[i].Functions = nil
		}
	}
	return reflect.DeepEqual(a.kept(), b.kept())
}

// kept is the plan without what it was made from.
func (p Plan) kept() Plan {
	p.groupAt, p.valueAt, p.bucketAt, p.schema = nil, nil, 0, nil
	return p
}

func columnNames(cs []change.Column) (out []string) {
	for i := range cs {
		out = append(out, cs[i].Name)
	}
	return out
}

// Shown are the columns of the view.
func (p *Plan) Shown() []string {
	out := columnNames(p.Group)
	if p.Time.Name != "" {
		out = append(out, BucketColumn)
	}
	out = append(out, RowsColumn)
	for i := range p.Values {
		for _, f := range p.Values[i].Functions {
			out = append(out, p.Values[i].Name(f))
		}
	}
	return out
}

// By are the columns that tell partials of a run apart, with the run's own before them.
func (p *Plan) By() []string {
	out := []string{PartColumn, FromColumn, TokenColumn, AttemptColumn}
	if p.Time.Name != "" {
		out = append(out, BucketColumn)
	}
	for _, c := range p.Group {
		out = append(out, c.Name)
	}
	return out
}
