package shape

import (
	"fmt"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// Conditions of shapes.
const (
	// CodeMisfit: a rule does not fit the table, so nothing of it is shipped.
	CodeMisfit fault.Code = "ShapeMisfit"
	// CodeUndecided: the log does not tell whether a sink holds the row before a change.
	CodeUndecided fault.Code = "ShapeUndecided"
)

// RateColumn is what a sampled table has at the sink beside its own columns: the rate at
// which its entities were sampled, by which a reader divides.
const RateColumn = "_syncline_sample_rate"

// Do is what a rule does.
type Do string

// What rules do.
const (
	Withhold Do = "withhold" // rows are not there
	Omit     Do = "omit"     // columns are NULL
	Mask     Do = "mask"     // values are replaced by a keyed hash
	Sample   Do = "sample"   // rows of entities that are out of the sample are not there
)

// Rule is one for a table at a sink.
type Rule struct {
	Of      string   `json:"of"` // what declares it, such as residency[0]
	Do      Do       `json:"do"`
	Columns []string `json:"columns,omitempty"` // that Omit and Mask change; of Sample the entity's
	Present []string `json:"present,omitempty"` // more that Omit and Mask change, of tables that have them
	Where   string   `json:"where,omitempty"`   // only rows for which it holds; "": all
	Key     string   `json:"key,omitempty"`     // of Mask: the secret's reference
	Rate    int64    `json:"rate,omitempty"`    // of Sample: millionths
	Salt    string   `json:"salt,omitempty"`    // of Sample
	InLog   bool     `json:"in_log,omitempty"`  // the log has it so already
	// Tier: only rows that are of this tier, as Cases tell.
	Tier  string `json:"tier,omitempty"`
	Cases []Case `json:"cases,omitempty"`
}

// Case is what an entry of classify says of a row: the first that holds decides of which
// tier it is. A row for which none holds is not of the rule's.
type Case struct {
	N     int    `json:"n"`               // its place in classify
	Where string `json:"where,omitempty"` // "": it holds for every row
	Is    bool   `json:"is,omitempty"`    // the tier is the rule's
}

// whole is a rate of 100%.
const whole = 1_000_000

func (r *Rule) all() []string { return slices.Concat(r.Columns, r.Present) }

// Changes reports whether the rule changes values of a column.
func (r *Rule) Changes(column string) bool {
	return (r.Do == Omit || r.Do == Mask) && slices.Contains(r.all(), column)
}

// asked are the cases up to one that holds for every row.
func (r *Rule) asked() []Case {
	if i := slices.IndexFunc(r.Cases, func(c Case) bool { return c.Where == "" }); i >= 0 {
		return r.Cases[:i+1]
	}
	return r.Cases
}

// Field is the name in the declaration of what the rule has in a field.
func (r *Rule) Field(name string) string {
	if strings.HasPrefix(r.Of, "thin[") || strings.HasPrefix(r.Of, "tiers[") {
		switch name {
		case "columns":
			return "omit"
		case "by", "rate":
			return "sample." + name
		}
	}
	return name
}

// String says what the rule does.
func (r Rule) String() string {
	out := r.Of + ": "
	list := strings.Join(r.all(), ", ")
	switch r.Do {
	case Withhold:
		out += "rows are withheld"
	case Omit:
		out += list + " left out"
	case Mask:
		out += list + " masked"
	case Sample:
		out += fmt.Sprintf("a sample of %g%% of (%s)", float64(r.Rate)*100/whole, list)
	}
	if r.Tier != "" {
		out += " of rows of tier " + r.Tier
	}
	if r.Where != "" {
		out += " where " + r.Where
	}
	if r.InLog {
		out += ", before Kafka"
	}
	return out
}

// Stage says between which places a shape lies.
type Stage byte

// The stages.
const (
	All     Stage = iota // from the source to the sink
	ToLog                // from the source to the log
	FromLog              // from the log to the sink
)

// has reports whether a rule is carried out in the stage. What is done before the log is
// done behind it once more, where it changes nothing: the log may hold changes of before
// the rule was declared.
func (s Stage) has(r *Rule) bool { return s != ToLog || r.InLog }

// Error is what is wrong with a rule for a table.
type Error struct {
	Of     string // the rule's
	Field  string
	Table  change.TableID
	Reason error
}

func (e *Error) Error() string {
	return fmt.Sprintf("%s.%s: table %s: %v", e.Of, e.Field, e.Table, e.Reason)
}

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Reason }

// Keys are the secrets of masks by their references.
type Keys map[string][]byte

// leastKey is how short a secret may be: shorter ones can be guessed.
const leastKey = 16
