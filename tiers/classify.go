package tiers

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/tiers/aggregate"
	"syncline/tiers/predicate"
)

// Stream is the tier of changes that do not wait.
const Stream = "stream"

// Rule gives changes of one table to a tier.
type Rule struct {
	N       int      `json:"-"`                 // its place among all rules of the declaration, from 0
	Where   string   `json:"where,omitempty"`   // a condition on the row; "": any
	Columns []string `json:"columns,omitempty"` // only changes that touch none but these; nil: any
	Tier    string   `json:"tier"`
	// Aggregate: the tier keeps this of the rows, and not the rows.
	Aggregate *aggregate.Spec `json:"aggregate,omitempty"`
}

// String says what the rule says: classify[2]: updates of only seen, hits where ok: hourly.
func (r Rule) String() string {
	what := "all changes"
	if len(r.Columns) > 0 {
		what = "updates of only " + strings.Join(r.Columns, ", ")
	}
	if r.Where != "" {
		what += " where " + r.Where
	}
	tier := r.Tier
	if r.Aggregate != nil {
		tier += ", as aggregates " + r.Aggregate.String()
	}
	return fmt.Sprintf("classify[%d]: %s: %s", r.N, what, tier)
}

// Error is what is wrong with a rule for a table.
type Error struct {
	N      int // of the rule
	Field  string
	Reason error // a *predicate.Error if the condition is wrong
}

func (e *Error) Error() string { return fmt.Sprintf("classify[%d].%s: %v", e.N, e.Field, e.Reason) }

// Unwrap returns the reason.
func (e *Error) Unwrap() error { return e.Reason }

// Classifier gives the changes of one definition of a table their tiers.
type Classifier struct {
	schema     *change.Schema
	rules      []compiled
	aggregates map[string]*aggregate.Plan
}

// Aggregates returns what is kept of rows, by tier, instead of the rows.
func (c *Classifier) Aggregates() map[string]*aggregate.Plan { return c.aggregates }

type compiled struct {
	Rule
	where   *predicate.Matcher // nil: any row
	columns []bool             // by column, whether it may change; nil: any
}

// Compile binds the rules of a table to its definition. The error is an *Error.
func Compile(s *change.Schema, rules []Rule) (*Classifier, error) {
	c := &Classifier{schema: s, aggregates: map[string]*aggregate.Plan{}}
	for _, r := range rules {
		k := compiled{Rule: r}
		if r.Aggregate != nil && c.aggregates[r.Tier] == nil {
			if len(r.Columns) > 0 {
				return nil, &Error{r.N, "columns", fmt.Errorf("tier %s keeps aggregates, to which updates add nothing; leave columns out, or name another tier", r.Tier)}
			}
			p, err := r.Aggregate.Bind(s, r.Tier)
			if err != nil {
				return nil, &Error{r.N, "tier", fmt.Errorf("tier %s: %w", r.Tier, err)}
			}
			c.aggregates[r.Tier] = p
		}
		if r.Where != "" {
			p, err := predicate.Parse(r.Where)
			if err == nil {
				k.where, err = p.Compile(s)
			}
			if err != nil {
				return nil, &Error{r.N, "where", err}
			}
		}
		if len(r.Columns) > 0 {
			k.columns = make([]bool, len(s.Columns))
			for _, name := range r.Columns {
				i := s.Column(name)
				switch {
				case i < 0:
					return nil, &Error{r.N, "columns", fmt.Errorf("table %s has no column %q", s.Table, name)}
				case s.IsKey(i):
					return nil, &Error{r.N, "columns", fmt.Errorf("column %q is of the primary key of table %s, whose changes do not wait", name, s.Table)}
				}
				k.columns[i] = true
			}
		}
		c.rules = append(c.rules, k)
	}
	return c, nil
}

// Blind returns the numbers of the rules that cannot be decided for any update, so that
// all that come to them stream: those by columns of a table whose REPLICA IDENTITY is not
// FULL.
func (c *Classifier) Blind() (out []int) {
	for i := range c.rules {
		if c.rules[i].columns != nil && !c.schema.Full {
			out = append(out, c.rules[i].N)
		}
	}
	return out
}

// Classify returns the tier of a change.
func (c *Classifier) Classify(ch *change.Change) (tier string, err error) {
	for i := range c.rules {
		a, err := c.rules[i].match(c.schema, ch)
		switch {
		case err != nil:
			return Stream, err
		case a == predicate.True:
			return c.rules[i].Tier, nil
		case a == predicate.Open:
			return Stream, nil
		}
	}
	return Stream, nil
}

// match tells whether the rule is for the change.
func (r *compiled) match(s *change.Schema, c *change.Change) (predicate.Answer, error) {
	out := predicate.True
	if r.columns != nil {
		if out = r.touches(s, c); out == predicate.False {
			return out, nil
		}
	}
	if r.where == nil {
		return out, nil
	}
	a, err := r.where.Match(c)
	switch {
	case err != nil || a == predicate.Null:
		return predicate.False, err
	case a == predicate.True:
		return out, nil
	}
	return a, nil
}

// touches tells whether the change touches none but the rule's columns.
func (r *compiled) touches(s *change.Schema, c *change.Change) predicate.Answer {
	switch {
	case c.Op != change.Update || c.Moved != nil: // a row that comes, goes or moves
		return predicate.False
	case c.Old == nil || !s.Full:
		return predicate.Open
	}
	for i := range c.New {
		if i >= len(c.Old) {
			return predicate.Open
		}
		if !r.columns[i] && c.New[i].Kind != change.Unchanged && !c.New[i].Equal(c.Old[i]) {
			return predicate.False
		}
	}
	return predicate.True
}

// Step is what one rule said of a change.
type Step struct {
	Rule
	Answer predicate.Answer // of the rule; Null counts as False
}

// Explain returns the tier of a change and what each rule said, up to the one that
// decided.
func (c *Classifier) Explain(ch *change.Change) (tier string, steps []Step, err error) {
	for i := range c.rules {
		a, err := c.rules[i].match(c.schema, ch)
		if err != nil {
			return Stream, steps, err
		}
		steps = append(steps, Step{c.rules[i].Rule, a})
		switch a {
		case predicate.True:
			return c.rules[i].Tier, steps, nil
		case predicate.Open:
			return Stream, steps, nil
		}
	}
	return Stream, steps, nil
}

// Wait reports whether any change waits by the rules.
func Wait(rules []Rule) bool {
	return slices.ContainsFunc(rules, func(r Rule) bool { return r.Tier != Stream })
}

// Encode returns the rules in a form that Decode reads, and that is equal for rules which
// give each change of a table the same tier for the same reason. It is "" for rules by
// which everything streams.
func Encode(rules []Rule) (string, error) {
	if !Wait(rules) {
		return "", nil
	}
	b, err := json.Marshal(rules)
	return string(b), err
}

// Decode reads what Encode returned, of this release or an older one.
func Decode(text string) (rules []Rule, err error) {
	err = json.Unmarshal([]byte(text), &rules)
	return rules, err
}
