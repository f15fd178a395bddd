package aggregate

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"syncline/dataplane/change"
)

// Spec is what a declaration says of a tier's aggregates.
type Spec struct {
	Group  []string `json:"group,omitempty"`  // columns
	Time   *Time    `json:"time,omitempty"`   // nil: not by time
	Values []Value  `json:"values,omitempty"` // none: rows are counted
}

// String says what is kept: by host and ts per 1h: sum, p99 of v.
func (s *Spec) String() string {
	by := slices.Clone(s.Group)
	if s.Time != nil {
		every := s.Time.Bucket.String() // 1h0m0s
		for _, none := range []string{"0s", "0m"} {
			if t := strings.TrimSuffix(every, none); t != "" && !strings.ContainsAny(t[len(t)-1:], "0123456789") {
				every = t
			}
		}
		by = append(by, s.Time.Column+" per "+every)
	}
	out := "by " + strings.Join(by, ", ") + ": number of rows"
	for _, v := range s.Values {
		out += "; " + strings.Join(v.Functions, ", ") + " of " + v.Column
	}
	return out
}

// Time puts rows into buckets of time.
type Time struct {
	Column string        `json:"column"`
	Bucket time.Duration `json:"bucket"` // from 1970 on, in UTC
}

// Value is what is kept of a column.
type Value struct {
	Column    string   `json:"column"`
	Functions []string `json:"functions"`
}

// Functions that need no number; there are also p50, p99, p999 and so on.
const (
	Sum   = "sum"
	Count = "count" // of values that are not NULL
	Avg   = "avg"
	Min   = "min"
	Max   = "max"
)

// Quantile returns what a function like p99 asks for.
func Quantile(f string) (q float64, ok bool) {
	digits, is := strings.CutPrefix(f, "p")
	if !is || len(digits) < 2 || len(digits) > 6 {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 32)
	if err != nil {
		return 0, false
	}
	for q = float64(n); len(digits) > 0; digits = digits[1:] {
		q /= 10
	}
	return q, true
}

// Error is what is wrong with a Spec for a table.
type Error struct {
	Field  string // under aggregate: group[0], time.column, values[1].functions
	Reason error
}

func (e *Error) Error() string { return "aggregate." + e.Field + ": " + e.Reason.Error() }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Reason }

// ErrKeyed: aggregates are of tables that are only added to.
var ErrKeyed = errors.New("the table is not append_only: its rows may be changed and deleted after they were aggregated; declare tables.options append_only: true for it, or give the rule a tier without aggregate")

// Bind makes a plan of a Spec for a table's definition. The error is an *Error.
func (s *Spec) Bind(src *change.Schema, tier string) (*Plan, error) {
	if len(src.Key) > 0 {
		return nil, &Error{"group", fmt.Errorf("table %s: %w", src.Table, ErrKeyed)}
	}
	p := &Plan{Table: src.Table, Tier: tier, bucketAt: -1}
	find := func(field, name string) (*change.Column, int, error) {
		i := src.Column(name)
		if i < 0 {
			return nil, -1, &Error{field, fmt.Errorf("table %s has no column %q", src.Table, name)}
		}
		return &src.Columns[i], i, nil
	}
	for n, name := range s.Group {
		field := fmt.Sprintf("group[%d]", n)
		c, i, err := find(field, name)
		if err != nil {
			return nil, err
		}
		if why := Ungroupable(&c.Type); why != "" {
			return nil, &Error{field, fmt.Errorf("column %q of table %s is %s: %s", name, src.Table, c.Type.Name, why)}
		}
		p.Group = append(p.Group, change.Column{Name: name, Type: c.Type})
		p.groupAt = append(p.groupAt, i)
	}
	if s.Time != nil {
		c, i, err := find("time.column", s.Time.Column)
		if err != nil {
			return nil, err
		}
		t := *c.Type.Root()
		if t.Kind != change.Base || t.Base != "timestamp" && t.Base != "timestamptz" {
			return nil, &Error{"time.column", fmt.Errorf("column %q of table %s is %s, not timestamp or timestamptz", c.Name, src.Table, c.Type.Name)}
		}
		p.Time, p.Bucket, p.bucketAt = change.Column{Name: BucketColumn, Type: t}, s.Time.Bucket, i
	}
	for n, v := range s.Values {
		c, i, err := find(fmt.Sprintf("values[%d].column", n), v.Column)
		if err != nil {
			return nil, err
		}
		k := Kept{Column: v.Column, Functions: v.Functions}
		for _, f := range v.Functions {
			_, quantile := Quantile(f)
			k.Sum = k.Sum || f == Sum || f == Avg
			k.Min = k.Min || f == Min
			k.Max = k.Max || f == Max
			k.Sketch = k.Sketch || quantile
		}
		if k.Sum || k.Min || k.Max || k.Sketch {
			if err := k.of(&c.Type); err != nil {
				return nil, &Error{fmt.Sprintf("values[%d].column", n), fmt.Errorf("column %q of table %s is %s: %w", v.Column, src.Table, c.Type.Name, err)}
			}
		}
		p.Values = append(p.Values, k)
		p.valueAt = append(p.valueAt, i)
	}
	p.build()
	for _, names := range [][]string{columnNames(p.schema.Columns), p.Shown()} {
		for i, name := range names {
			if slices.Contains(names[:i], name) {
				return nil, &Error{"group", fmt.Errorf("table %s: two columns of the aggregates would be called %q", src.Table, name)}
			}
		}
	}
	return p, nil
}

// Ungroupable says why values of a type cannot be put together by their text.
func Ungroupable(t *change.Type) string {
	root := t.Root()
	switch root.Kind {
	case change.Enum:
		return ""
	case change.Base:
		switch root.Base {
		case "bool", "int2", "int4", "int8", "text", "varchar", "bpchar", "name", "uuid", "date", "timestamp", "timestamptz", "oid":
			return ""
		case "numeric":
			if _, _, ok := root.NumericPrecision(); ok {
				return ""
			}
		}
	}
	return "equal values of it may have different texts; group by columns of bool, integers, numeric with a scale, text, uuid, date, timestamps or an enum"
}

// of sets what depends on the column's type.
func (k *Kept) of(t *change.Type) error {
	root := t.Root()
	if root.Kind == change.Base {
		switch root.Base {
		case "int2", "int4", "int8":
			return nil
		case "float4", "float8":
			k.Float, k.Special, k.Scale = true, true, Scale
			return nil
		case "numeric":
			k.Special = true // NaN
			precision, scale, ok := root.NumericPrecision()
			if !ok {
				k.Scale, k.Open = Scale, true
				return nil
			}
			whole := precision - scale
			k.Scale = max(scale, 0)
			if whole+k.Scale > maxPrecision || k.Scale > maxPrecision {
				return fmt.Errorf("a sum of many may have more than %d digits", digits)
			}
			return nil
		}
	}
	return errors.New("it is not a number: only count can be told of it")
}
