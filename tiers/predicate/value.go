package predicate

import (
	"bytes"
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/pgtext"
)

// value of a column or constant; which fields count depends on the family.
type value struct {
	num  pgtext.Numeric
	f    float64
	text string
	at   pgtext.Timestamp
	n    int64
}

// family of types whose values are compared in one way.
type family struct {
	name    string
	ordered bool // < and > mean the same everywhere
	texts   bool // LIKE
	bool    bool
	read    func([]byte) (value, error)      // what the log carries
	given   func(c constant) (value, *Error) // a constant; never NULL
	compare func(a, b value) int             // 0: equal
}

// familyOf returns nil for types of which only IS NULL can be asked.
func familyOf(t *change.Type) *family {
	t = t.Root()
	if t.Kind == change.Enum {
		return enum(t.Labels)
	}
	if t.Kind != change.Base {
		return nil
	}
	switch t.Base {
	case "int2", "int4", "int8":
		bits := map[string]int{"int2": 16, "int4": 32, "int8": 64}[t.Base]
		return numbers("an integer", func(s string) bool { _, err := strconv.ParseInt(s, 10, bits); return err == nil })
	case "numeric":
		return numbers("a number", func(s string) bool { _, err := pgtext.ParseNumeric([]byte(s)); return err == nil })
	case "float4":
		return floats(32)
	case "float8":
		return floats(64)
	case "bool":
		return booleans
	case "text", "varchar":
		return texts("a text", func(s string) string { return s })
	case "bpchar":
		return texts("a text", func(s string) string { return strings.TrimRight(s, " ") })
	case "uuid":
		return uuids
	case "date":
		return dates
	case "timestamp":
		return timestamps(false)
	case "timestamptz":
		return timestamps(true)
	case "time":
		return times
	}
	return nil
}

func wants(c constant, form, hint string) *Error {
	return mistake(c.at, hint, "this is not %s, as which Postgres would read it", form)
}

// numbers are compared digit by digit, so that none is rounded.
func numbers(form string, valid func(string) bool) *family {
	read := func(b []byte) (value, error) {
		n, err := pgtext.ParseNumeric(b)
		return value{num: n}, err
	}
	return &family{
		name: form, ordered: true, read: read, compare: func(a, b value) int { return compareNumeric(&a.num, &b.num) },
		given: func(c constant) (value, *Error) {
			// A number without quotes has a type of its own, wide enough for it.
			if c.kind != 'n' && (c.kind != 's' || !valid(c.text)) {
				return value{}, wants(c, form, "")
			}
			v, err := read([]byte(c.text))
			if err != nil {
				return v, wants(c, form, "")
			}
			return v, nil
		},
	}
}

// compareNumeric orders as Postgres does: NaN is equal to itself and above all.
func compareNumeric(a, b *pgtext.Numeric) int {
	rank := func(n *pgtext.Numeric) int {
		switch n.Class {
		case pgtext.NegInfinity:
			return -1
		case pgtext.Infinity:
			return 1
		case pgtext.NaN:
			return 2
		}
		return 0
	}
	if ra, rb := rank(a), rank(b); ra != 0 || rb != 0 {
		return cmp.Compare(ra, rb)
	}
	fa, fb := bytes.TrimRight(a.Frac, "0"), bytes.TrimRight(b.Frac, "0")
	negA, negB := a.Neg && len(a.Whole)+len(fa) > 0, b.Neg && len(b.Whole)+len(fb) > 0
	if negA != negB {
		if negA {
			return -1
		}
		return 1
	}
	c := cmp.Or(cmp.Compare(len(a.Whole), len(b.Whole)), bytes.Compare(a.Whole, b.Whole), bytes.Compare(fa, fb))
	if negA {
		return -c
	}
	return c
}

func floats(bits int) *family {
	read := func(b []byte) (value, error) {
		f, err := strconv.ParseFloat(string(b), bits)
		return value{f: f}, err
	}
	return &family{
		name: "a number", ordered: true, read: read,
		compare: func(a, b value) int {
			if math.IsNaN(a.f) || math.IsNaN(b.f) { // NaN is above all here, below all in package cmp
				return -cmp.Compare(a.f, b.f)
			}
			return cmp.Compare(a.f, b.f)
		},
		given: func(c constant) (value, *Error) {
			if c.kind != 'n' && c.kind != 's' {
				return value{}, wants(c, "a number", "")
			}
			v, err := read([]byte(c.text))
			if err != nil || strings.ContainsAny(c.text, "_xXpP") {
				return value{}, wants(c, "a number", "")
			}
			// Which of the two precisions Postgres compares in depends on the operator and
			// on how many constants there are.
			if wide, err := strconv.ParseFloat(c.text, 64); bits == 32 && c.kind == 'n' && (err != nil || wide != v.f) {
				return value{}, mistake(c.at, "write it in quotes, so that it is read as real", "no real is exactly this number")
			}
			return v, nil
		},
	}
}

var booleans = &family{
	name: "a boolean", ordered: true, bool: true, compare: byNumber,
	read: func(b []byte) (v value, err error) {
		is, err := pgtext.ParseBool(b)
		if is {
			v.n = 1
		}
		return v, err
	},
	given: func(c constant) (v value, _ *Error) {
		is, err := pgtext.ParseBool([]byte(c.text))
		if err != nil || c.kind != 'b' && c.kind != 's' {
			return v, wants(c, "a boolean", "")
		}
		if is {
			v.n = 1
		}
		return v, nil
	},
}

func byNumber(a, b value) int { return cmp.Compare(a.n, b.n) }
func byText(a, b value) int   { return strings.Compare(a.text, b.text) }

// texts are compared by their bytes: collations that are not deterministic, which
// would take others for equal, are not known to the log.
func texts(form string, significant func(string) string) *family {
	return &family{
		name: form, texts: true, compare: byText,
		read: func(b []byte) (value, error) { return value{text: significant(string(b))}, nil },
		given: func(c constant) (value, *Error) {
			if c.kind != 's' {
				return value{}, wants(c, form, "write it in single quotes")
			}
			return value{text: significant(c.text)}, nil
		},
	}
}

func enum(labels []string) *family {
	at := func(s string) int64 { return int64(slices.Index(labels, s)) }
	return &family{
		name: "a label", ordered: true, compare: byNumber,
		read: func(b []byte) (value, error) {
			if n := at(string(b)); n >= 0 {
				return value{n: n}, nil
			}
			return value{}, &pgtext.Error{Form: "enum", Why: "not one of the type's labels"}
		},
		given: func(c constant) (value, *Error) {
			if c.kind != 's' || at(c.text) < 0 {
				return value{}, wants(c, "one of its labels", "they are '"+strings.Join(labels, "', '")+"'")
			}
			return value{n: at(c.text)}, nil
		},
	}
}

// strings of one form, read alike from the log and from a predicate.
func strict(form, hint string, read func([]byte) (value, error), compare func(a, b value) int) *family {
	return &family{
		name: form, ordered: true, read: read, compare: compare,
		given: func(c constant) (value, *Error) {
			if c.kind != 's' {
				return value{}, wants(c, form, hint)
			}
			v, err := read([]byte(c.text))
			if err != nil {
				return v, wants(c, form, hint)
			}
			return v, nil
		},
	}
}

var uuids = strict("a uuid", "write it as 36 characters", func(b []byte) (value, error) {
	u, err := pgtext.ParseUUID(b)
	return value{text: string(u[:])}, err
}, byText)

var dates = strict("a date", "write it as '2024-12-31'", func(b []byte) (value, error) {
	d, err := pgtext.ParseDate(b)
	return value{at: pgtext.Timestamp{Class: d.Class, Seconds: d.Days}}, err
}, byTime)

var times = strict("a time", "write it as '23:59:59'", func(b []byte) (value, error) {
	t, err := pgtext.ParseTime(b, false)
	return value{n: t.Micros}, err
}, byNumber)

func timestamps(zoned bool) *family {
	form, hint := "a timestamp", "write it as '2024-12-31 23:59:59'"
	if zoned {
		form, hint = "a timestamp with its offset from UTC", "write it as '2024-12-31 23:59:59+00'"
	}
	f := strict(form, hint, func(b []byte) (value, error) {
		at, err := pgtext.ParseTimestamp(b, zoned)
		if err != nil && !zoned { // a date is its midnight
			if d, e := pgtext.ParseDate(b); e == nil {
				return value{at: pgtext.Timestamp{Class: d.Class, Seconds: d.Days * 86400}}, nil
			}
		}
		return value{at: at}, err
	}, byTime)
	return f
}

func byTime(a, b value) int {
	rank := map[pgtext.Class]int{pgtext.NegInfinity: -1, pgtext.Infinity: 1}
	return cmp.Or(cmp.Compare(rank[a.at.Class], rank[b.at.Class]), cmp.Compare(a.at.Seconds, b.at.Seconds), cmp.Compare(a.at.Micros, b.at.Micros))
}
