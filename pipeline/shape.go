package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/tiers/predicate"
	"syncline/tiers/shape"
)

// Shape returns the rules by which a sink, or the log (""), holds a table; nil if it holds
// all of it.
func (s *Spec) Shape(t change.TableID, sink string) []shape.Rule {
	if sink == "" {
		return s.LogShape(t)
	}
	region := "" // of a sink that is not declared any more nothing is said
	if k := s.Sink(sink); k != nil {
		region = k.Region
	}
	out := s.residencyRules(t, func(r *Residency) (restricted, inLog bool) {
		inLog = !r.Allows(s.Kafka.Region)
		return inLog || !r.Allows(region), inLog
	})
	for i := range s.Thin {
		h := &s.Thin[i]
		if g, err := parseGlob(h.Match); err != nil || !g.match(t) || len(h.Sinks) > 0 && !slices.Contains(h.Sinks, sink) {
			continue
		}
		of := fmt.Sprintf("thin[%d]", i)
		if len(h.Omit) > 0 {
			out = append(out, shape.Rule{Of: of, Do: shape.Omit, Columns: h.Omit})
		}
		if h.Sample != nil {
			out = append(out, shape.Rule{Of: of, Do: shape.Sample, Columns: h.Sample.By, Rate: int64(h.Sample.Rate), Salt: h.Sample.Salt})
		}
	}
	for i := range s.Tiers {
		h := &s.Tiers[i]
		cases := s.cases(t, h)
		if len(cases) == 0 {
			continue
		}
		of := fmt.Sprintf("tiers[%d]", i)
		if len(h.Omit) > 0 {
			out = append(out, shape.Rule{Of: of, Do: shape.Omit, Columns: h.Omit, Tier: h.Name, Cases: cases})
		}
		if h.Sample != nil {
			out = append(out, shape.Rule{Of: of, Do: shape.Sample, Columns: h.Sample.By, Rate: int64(h.Sample.Rate), Salt: h.Sample.Salt, Tier: h.Name, Cases: cases})
		}
	}
	return out
}

// cases tell which rows of a table are of a tier that does not keep them whole; nil if none
// can be. What a row is of its values alone decide, so entries by the columns of updates,
// which no insertion is of, are not asked.
func (s *Spec) cases(t change.TableID, tier *Tier) (out []shape.Case) {
	if !tier.Shapes() {
		return nil
	}
	last := 0 // up to the last that is for the tier
	for i, c := range s.Classify {
		if g, err := parseGlob(c.Match); err != nil || !g.match(t) || len(c.Columns) > 0 {
			continue
		}
		out = append(out, shape.Case{N: i, Where: c.Where, Is: c.Tier == tier.Name})
		if c.Tier == tier.Name {
			last = len(out)
		}
		if c.Where == "" {
			break
		}
	}
	return out[:last]
}

// Shaped reports whether something does not hold all of the tables: a sink, or the log.
func (s *Spec) Shaped(log bool) bool {
	return len(s.Residency) > 0 || !log && (len(s.Thin) > 0 || slices.ContainsFunc(s.Tiers, func(t Tier) bool { return t.Shapes() }))
}

// LogShape returns the rules by which the log holds a table.
func (s *Spec) LogShape(t change.TableID) []shape.Rule {
	return s.residencyRules(t, func(r *Residency) (restricted, inLog bool) {
		inLog = !r.Allows(s.Kafka.Region)
		return inLog, inLog
	})
}

var otherwise = map[string]shape.Do{OtherwiseDrop: shape.Omit, OtherwiseMask: shape.Mask, OtherwiseWithhold: shape.Withhold}

func (s *Spec) residencyRules(t change.TableID, restricts func(*Residency) (restricted, inLog bool)) (out []shape.Rule) {
	for i := range s.Residency {
		r := &s.Residency[i]
		restricted, inLog := restricts(r)
		if g, err := parseGlob(r.Match); err != nil || !g.match(t) || !restricted {
			continue
		}
		out = append(out, shape.Rule{Of: fmt.Sprintf("residency[%d]", i), Do: otherwise[r.Otherwise], Columns: r.Columns, Present: r.IfPresent, Where: r.Where, Key: r.Key.String(), InLog: inLog})
	}
	return out
}

// inRegion says in which region something is.
func inRegion(region string) string {
	if region == "" {
		return "in no region that is said"
	}
	return "in " + region
}

// elsewhere are the places of the pipeline where a class of data may not be.
func (s *Spec) elsewhere(r *Residency) (out []string) {
	if !r.Allows(s.Kafka.Region) {
		out = append(out, "kafka ("+inRegion(s.Kafka.Region)+")")
	}
	for i := range s.Sinks {
		if k := &s.Sinks[i]; !r.Allows(k.Region) {
			out = append(out, fmt.Sprintf("sinks[%s] (%s)", k.Name, inRegion(k.Region)))
		}
	}
	return out
}

// residency checks what classes of data say of themselves and of where things are.
func (d *decoder) residency(s *Spec) {
	first := map[string]string{}
	for i := range s.Residency {
		r := &s.Residency[i]
		p := d.item("residency", i)
		problem := func(field, message, expected string) {
			at, ok := d.at[p+field]
			if !ok {
				at = d.at[p]
			}
			d.problem(at, p+field, message, expected, "")
		}
		if other, dup := first[r.Name]; dup && r.Name != "" {
			problem(".name", fmt.Sprintf("is %q as that of %s", r.Name, other), "a name for each class")
		}
		first[r.Name] = p
		if r.Where != "" {
			if _, err := predicate.Parse(r.Where); err != nil {
				var e *predicate.Error
				errors.As(err, &e)
				problem(".where", e.Error(), "")
			}
		}
		switch r.Otherwise {
		case OtherwiseRefuse:
			if places := s.elsewhere(r); len(places) > 0 && len(r.Regions) > 0 {
				problem(".otherwise", fmt.Sprintf("is refuse, and class %s, which may be in %s only, would be shipped to %s", r.Name, strings.Join(r.Regions, ", "), strings.Join(places, ", ")),
					"drop, mask or withhold, or another region there")
			}
		case OtherwiseDrop, OtherwiseMask:
			if len(r.Columns)+len(r.IfPresent) == 0 && !d.given(p+".columns") && !d.given(p+".columns_if_present") {
				problem(".otherwise", "is "+r.Otherwise+", which is of columns, and columns are not given", "columns, or withhold")
			}
		case OtherwiseWithhold:
			for _, f := range []string{".columns", ".columns_if_present"} {
				if d.given(p + f) {
					problem(f, "is given, and otherwise is withhold, which is of whole rows", "no columns, or drop or mask")
				}
			}
		}
		switch mask := r.Otherwise == OtherwiseMask; {
		case mask && r.Key.IsZero() && !d.given(p+".key"):
			problem(".otherwise", "is mask, and there is no key", "key: a reference to a secret: env:NAME, file:<path> or vault:<path>#<field>")
		case !mask && d.given(p+".key") && r.Otherwise != "":
			problem(".key", "is given, and otherwise is "+r.Otherwise, "key with otherwise: mask only")
		}
	}
}

// thin checks what entries of thin say.
func (d *decoder) thin(s *Spec) {
	var names []string
	for i := range s.Sinks {
		names = append(names, s.Sinks[i].Name)
	}
	for i := range s.Thin {
		h := &s.Thin[i]
		p := d.item("thin", i)
		for j, name := range h.Sinks {
			if !slices.Contains(names, name) {
				q := d.item(p+".sinks", j)
				d.problem(d.at[q], q, fmt.Sprintf("is %q, which is no sink", name), oneOf(names), Nearest(name, names))
			}
		}
		if !d.given(p+".omit") && !d.given(p+".sample") {
			d.problem(d.at[p], p, "says nothing of its tables", "omit or sample", "")
		}
	}
}

// CompileShape makes the shape of a table at a sink in a stage; sink is "" for the log.
func (s *Spec) CompileShape(d *change.Schema, sink string, keys shape.Keys, stage shape.Stage) (*shape.Shape, error) {
	rules := s.Shape(d.Table, sink)
	if err := s.toldBy(d, rules); err != nil {
		return nil, err
	}
	return shape.Compile(d, rules, keys, stage)
}

// toldBy reports whether the table's tiers can be told of what the rules leave of its rows.
func (s *Spec) toldBy(d *change.Schema, rules []shape.Rule) error {
	for _, c := range s.Rules(d.Table) {
		if c.Where == "" {
			continue
		}
		p, err := predicate.Parse(c.Where)
		if err != nil { // a declaration that was taken has none
			return err
		}
		for _, r := range rules {
			for _, name := range p.Columns() {
				if r.Changes(name) {
					return &shape.Error{Of: r.Of, Field: r.Field("columns"), Table: d.Table, Reason: fmt.Errorf("column %q is asked for by classify[%d].where, which could not be decided any more; let one of them do without it", name, c.N)}
				}
			}
		}
	}
	return nil
}

// ResidencyClass is the name of the class that a rule is of; "" if it is of none.
func (s *Spec) ResidencyClass(of string) string {
	var i int
	if _, err := fmt.Sscanf(of, "residency[%d]", &i); err != nil || i < 0 || i >= len(s.Residency) {
		return ""
	}
	return s.Residency[i].Name
}

// UnmatchedResidency returns an error for the first class of data that none of the tables is
// of: a misspelt pattern would let its data go anywhere.
func (s *Spec) UnmatchedResidency(tables []change.TableID) error {
	for i := range s.Residency {
		g, err := parseGlob(s.Residency[i].Match)
		if err != nil || !slices.ContainsFunc(tables, g.match) {
			return fmt.Errorf("residency[%d].match: class %s is of %s, which matches no table of the pipeline", i, s.Residency[i].Name, s.Residency[i].Match)
		}
	}
	return nil
}
