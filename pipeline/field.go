package pipeline

import (
	"cmp"
	"fmt"
	"regexp"
	"strconv"
	"strings"

	"syncline/tiers/cost"
)

// kind is what a field accepts.
type kind string

const (
	kindObject   kind = "mapping"
	kindList     kind = "list"
	kindText     kind = "text"
	kindInteger  kind = "integer"
	kindBoolean  kind = "boolean"
	kindDuration kind = "duration"
	kindSize     kind = "size"
	kindRatio    kind = "percentage"
	kindRef      kind = "secret reference"
	kindLogin    kind = "login reference"
	kindGlob     kind = "glob"
	kindMoment   kind = "date"
	kindDecimal  kind = "decimal number"
)

// Effect says what a changed field does to a running pipeline.
type Effect string

// The effects, from mild to strong.
const (
	Live          Effect = "live"           // taken up without interruption
	RestartStream Effect = "restart-stream" // capture and delivery start anew where they were
	NeedsResync   Effect = "needs-resync"   // what it concerns has to be loaded again
	Refused       Effect = "refused"        // not possible for this pipeline: declare another one
)

// field is one row of the field table.
type field struct {
	name string
	kind kind
	doc  string

	required   bool
	def        any    // in the user's form; nil: none. An object's def of true: filled in from its own fields
	derived    string // a default that depends on other fields, in words
	min, max   int64  // integers; sizes in bytes; durations in nanoseconds; ratios in millionths; max 0: unbounded
	enum       []string
	pattern    string                                    // of texts
	want       string                                    // what pattern or check stands for, in words
	check      func(string) (message, suggestion string) // of a text that pattern refuses
	emptyOK    bool                                      // texts
	also       []string
	effect     Effect
	effectNote string

	fields   []*field      // of an object
	choice   []alternative // of an object: exactly one of these
	elem     *field        // of a list
	set      bool          // of a list: no element twice
	uniqueBy string        // of a list of objects: the field that identifies one
	atOnce   bool          // of such a list: an added element is one change, not one per field
	short    string        // of an object: a bare list stands for this field
	commas   bool          // of a list: one text with commas stands for it
	when     string        // of an object's field: only if the object's selector is this
	selector string        // of an object: the field that when is about; default "type"

	re *regexp.Regexp
}

// alternative is one of several ways to fill an object: at least the fields of
// needs, perhaps more of owns, and none that only other alternatives have.
type alternative struct{ needs, owns []string }

func (f *field) child(name string) *field {
	for _, c := range f.fields {
		if c.name == name {
			return c
		}
	}
	return nil
}

// selects is the field that decides which others an object has.
func (f *field) selects() string { return cmp.Or(f.selector, "type") }

// anyText keeps NUL out, which no database and no file name can hold.
const anyText = `^[^\x00]+$`

// compile prepares patterns once.
func (f *field) compile() *field {
	if f.kind == kindText && f.pattern == "" && len(f.enum) == 0 {
		f.pattern = anyText
	}
	if f.pattern != "" {
		f.re = regexp.MustCompile(f.pattern)
	}
	for _, c := range f.fields {
		c.compile()
	}
	if f.elem != nil {
		f.elem.compile()
	}
	return f
}

// expected says in words what the field accepts.
func (f *field) expected() string {
	if f.want != "" {
		return f.want
	}
	if len(f.enum) > 0 {
		return oneOf(f.enum)
	}
	switch f.kind {
	case kindObject:
		names := make([]string, len(f.fields))
		for i, c := range f.fields {
			names[i] = c.name
		}
		return "a mapping with fields among " + strings.Join(names, ", ")
	case kindList:
		s := "a list, each element " + f.elem.expected()
		if f.elem.kind == kindObject {
			s = "a list of mappings"
		}
		return s
	case kindInteger:
		if f.min == f.max {
			return strconv.FormatInt(f.min, 10)
		}
		return "a whole number" + f.rangeText(func(n int64) string { return strconv.FormatInt(n, 10) })
	case kindBoolean:
		return "true or false"
	case kindDuration:
		return "a duration such as 10s, 1h30m or 7d" + f.rangeText(func(n int64) string { return Duration(n).String() })
	case kindSize:
		return "a size such as 64MiB" + f.rangeText(func(n int64) string { return Size(n).String() })
	case kindRatio:
		return "a percentage such as 99.9%" + f.rangeText(func(n int64) string { return Ratio(n).String() })
	case kindMoment:
		return "a date such as 2026-01-31, which begins in UTC, or a time such as 2026-01-31T08:00:00Z"
	case kindDecimal:
		return fmt.Sprintf("a decimal number such as 0.02, of at most %d decimals", cost.PriceDigits)
	case kindRef:
		return "a reference to a secret: env:NAME, file:<path> or vault:<path>#<field>"
	case kindLogin:
		return "a reference to a login, which is user and password: vault:<path>"
	case kindGlob:
		return "a pattern schema.table, such as shop.* or *.orders"
	}
	return "text"
}

func (f *field) rangeText(show func(int64) string) string {
	switch {
	case f.max == 0 && f.min == 0:
		return ""
	case f.max == 0:
		return ", at least " + show(f.min)
	}
	return fmt.Sprintf(" from %s to %s", show(f.min), show(f.max))
}

func (f *field) inRange(n int64) bool { return n >= f.min && (f.max == 0 || n <= f.max) }

func oneOf(names []string) string {
	if len(names) == 1 {
		return names[0]
	}
	return "one of " + strings.Join(names, ", ")
}
