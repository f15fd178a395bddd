package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"syncline/dataplane/change"
	"syncline/tiers"
	"syncline/tiers/aggregate"
	"syncline/tiers/predicate"
)

// TierNames returns the names of all tiers: stream, and those that are declared.
func (s *Spec) TierNames() []string {
	names := []string{tiers.Stream}
	for _, t := range s.Tiers {
		names = append(names, t.Name)
	}
	return names
}

// Tier returns a declared tier by name.
func (s *Spec) Tier(name string) (Tier, bool) {
	i := slices.IndexFunc(s.Tiers, func(t Tier) bool { return t.Name == name })
	if i < 0 {
		return Tier{}, false
	}
	return s.Tiers[i], true
}

// Rules returns what classify says of a table, in order; nil if all of it streams.
func (s *Spec) Rules(t change.TableID) (out []tiers.Rule) {
	for i, c := range s.Classify {
		if g, err := parseGlob(c.Match); err == nil && g.match(t) {
			t, _ := s.Tier(c.Tier)
			out = append(out, tiers.Rule{N: i, Where: c.Where, Columns: c.Columns, Tier: c.Tier, Aggregate: t.Aggregate.spec()})
		}
	}
	if !tiers.Wait(out) {
		return nil
	}
	return out
}

// LoadRules returns what a table's load goes by, in the form that ledgers keep; "" if the
// table holds all rows that it brings.
func (s *Spec) LoadRules(t change.TableID) string {
	rules := s.Rules(t)
	if !slices.ContainsFunc(rules, func(r tiers.Rule) bool { return r.Aggregate != nil }) {
		return ""
	}
	text, err := tiers.Encode(rules)
	if err != nil { // texts always have a form
		return ""
	}
	return text
}

// spec is a in the terms of those who aggregate; nil for nil.
func (a *Aggregate) spec() *aggregate.Spec {
	if a == nil {
		return nil
	}
	out := &aggregate.Spec{Group: a.Group}
	if a.Time != nil {
		out.Time = &aggregate.Time{Column: a.Time.Column, Bucket: a.Time.Bucket.Std()}
	}
	for _, v := range a.Values {
		out.Values = append(out.Values, aggregate.Value{Column: v.Column, Functions: v.Functions})
	}
	return out
}

// aggregate checks what a tier keeps, as far as no table is needed for it.
func (d *decoder) aggregate(p string, a *Aggregate) {
	if len(a.Group) == 0 && a.Time == nil {
		d.problem(d.at[p], p, "has neither group nor time: all rows of the tier would be one group", "group: [COLUMN, …], or time: {column: COLUMN, bucket: 1h}, or both", "")
	}
	if a.Time != nil && a.Time.Bucket%Duration(time.Second) != 0 {
		d.problem(d.at[p+".time.bucket"], p+".time.bucket", fmt.Sprintf("is %s", a.Time.Bucket), "whole seconds", "")
	}
}

// tiers checks what tiers and classify say of each other and of the rest.
func (d *decoder) tiers(s *Spec) {
	names := s.TierNames()
	for i, t := range s.Tiers {
		p := d.item("tiers", i)
		if t.Name == tiers.Stream {
			d.problem(d.at[p+".name"], p+".name", `is "stream", the tier that needs no declaration`, "another name", "")
		}
		if t.Aggregate != nil {
			d.aggregate(p+".aggregate", t.Aggregate)
		}
		for _, f := range []string{"omit", "sample"} {
			if t.Aggregate != nil && d.given(p+"."+f) {
				d.problem(d.at[p+"."+f], p+"."+f, "is given, but the tier keeps aggregates, and not the rows", "one of them; of aggregates, leave the column out of group and values", "")
			}
		}
		if s.Kafka.Retention > 0 && t.Every > s.Kafka.Retention/2 {
			d.problem(d.at[p+".every"], p+".every", fmt.Sprintf("is %s, and the log keeps its changes for %s (kafka.retention): a run that fails could not be made up for", t.Every, s.Kafka.Retention),
				"at most half of the retention", "")
		}
		if t.Jitter > t.Every/2 {
			d.problem(d.at[p+".jitter"], p+".jitter", fmt.Sprintf("is %s, and the tier runs every %s", t.Jitter, t.Every), "at most half of the period", "")
		}
		if !slices.ContainsFunc(s.Classify, func(c Class) bool { return c.Tier == t.Name }) && t.Name != "" && t.Name != tiers.Stream {
			d.problem(d.at[p+".name"], p+".name", fmt.Sprintf("is %q, to which classify gives nothing", t.Name), "an entry of classify with tier: "+t.Name, "")
		}
	}
	if s.Stream.Order == OrderTransaction && len(s.Classify) > 0 {
		d.problem(d.at["classify"], "classify", "is given, but stream.order is transaction: whole transactions cannot wait in part", "stream.order: key", "")
	}
	all := map[string]int{} // patterns of which an earlier entry takes everything
	for i, c := range s.Classify {
		p := d.item("classify", i)
		if !slices.Contains(names, c.Tier) && c.Tier != "" {
			d.problem(d.at[p+".tier"], p+".tier", fmt.Sprintf("is %q, which tiers does not declare", c.Tier), oneOf(names), Nearest(c.Tier, names))
		}
		if t, _ := s.Tier(c.Tier); t.Aggregate != nil && len(c.Columns) > 0 {
			d.problem(d.at[p+".columns"], p+".columns", fmt.Sprintf("is given, but tier %s keeps aggregates of rows that are added, to which updates add nothing", c.Tier), "no columns, or another tier", "")
		}
		if t, _ := s.Tier(c.Tier); t.Shapes() && len(c.Columns) > 0 {
			d.problem(d.at[p+".columns"], p+".columns", fmt.Sprintf("is given, but tier %s does not keep its rows whole (omit or sample), and what a row is its values decide, not how it was changed", c.Tier),
				"no columns (where is of the row's values), or another tier", "")
		}
		if c.Where != "" {
			if _, err := predicate.Parse(c.Where); err != nil {
				var e *predicate.Error
				errors.As(err, &e)
				d.problem(d.at[p+".where"], p+".where", e.Error(), "", "")
			}
		}
		if first, taken := all[c.Match]; taken {
			d.problem(d.at[p+".match"], p+".match", fmt.Sprintf("is never asked: classify[%d] takes all changes of %s", first, c.Match), "the entry with conditions first", "")
		} else if c.Where == "" && len(c.Columns) == 0 && c.Match != "" {
			all[c.Match] = i
		}
	}
}
