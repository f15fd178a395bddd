package advise

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/tiers"
	"syncline/tiers/simulate"
)

// candidates are those that nobody asked for, of tables with changes, those with the most
// bytes first.
func (p *Plan) candidates(busy []*table) (out []candidate) {
	for _, every := range periods {
		if keep := p.spec.Kafka.Retention.Std(); keep > 0 && every > keep/2 {
			continue // the declaration would be refused
		}
		tier := p.tier(every)
		sim := tierOf(tier)
		all := candidate{kind: contract.CandidateAll, by: map[*table]named{}}
		var classes []pipeline.Class
		for i, t := range busy {
			class := pipeline.Class{Match: pipeline.Literal(t.id), Tier: tier.Name}
			classes = append(classes, class)
			if i >= ownTables {
				continue
			}
			if len(busy) > 1 {
				d := p.declared(fmt.Sprintf("%s: all, every %s", t.id, tier.Every), tier, class)
				out = append(out, candidate{kind: contract.CandidateTable, decl: d, by: map[*table]named{t: {"whole " + tier.Name, simulate.Whole(sim)}}})
			}
			columns, _ := t.x.Volatile()
			if len(columns) == 0 {
				continue
			}
			class.Columns = columns
			out = append(out, candidate{kind: contract.CandidateColumns,
				by:   map[*table]named{t: {"columns " + tier.Name, t.x.Columns(sim, columns, t.given[0])}},
				decl: p.declared(fmt.Sprintf("%s: only %s, every %s", t.id, strings.Join(columns, ", "), tier.Every), tier, class)})
		}
		if len(busy) > 0 && len(busy) <= maxTables {
			name := fmt.Sprintf("all tables, every %s", tier.Every)
			if len(busy) == 1 {
				name = fmt.Sprintf("%s: all, every %s", busy[0].id, tier.Every)
			}
			all.decl = p.declared(name, tier, classes...)
			for _, t := range busy {
				all.by[t] = named{"whole " + tier.Name, simulate.Whole(sim)}
			}
			out = append(out, all)
		}
		out = append(out, p.otherPeriods(every)...)
	}
	return out
}

// otherPeriods gives each tier of the declaration another period.
func (p *Plan) otherPeriods(every time.Duration) (out []candidate) {
	for n, had := range p.spec.Tiers {
		if had.Every.Std() == every || had.Jitter.Std() > every/2 {
			continue
		}
		d := contract.Declared{Name: fmt.Sprintf("tier %s every %s", had.Name, pipeline.Duration(every)), Tiers: slices.Clone(p.spec.Tiers), Classify: p.spec.Classify}
		d.Tiers[n].Every = pipeline.Duration(every)
		c := candidate{kind: contract.CandidatePeriod, decl: d, by: map[*table]named{}}
		for _, t := range p.tables {
			ts := slices.Clone(t.given[0].Tiers)
			for i := range ts {
				if ts[i].Name == had.Name {
					ts[i].Every = every
					c.by[t] = named{d.Name, simulate.Given(0, ts)}
				}
			}
		}
		out = append(out, c)
	}
	return out
}

// tier is one of a period, which the declaration has or may have.
func (p *Plan) tier(every time.Duration) pipeline.Tier {
	t := pipeline.Tier{Name: "every-" + pipeline.Duration(every).String(), Every: pipeline.Duration(every)}
	for n := 2; ; n++ {
		had, ok := p.spec.Tier(t.Name)
		if !ok || reflect.DeepEqual(had, t) {
			return t
		}
		t.Name = fmt.Sprintf("every-%s-%d", t.Every, n)
	}
}

// declared puts entries before those of the declaration.
func (p *Plan) declared(name string, tier pipeline.Tier, first ...pipeline.Class) contract.Declared {
	d := contract.Declared{Name: name, Classify: slices.Clone(first)}
	for _, c := range p.spec.Classify {
		taken := func(f pipeline.Class) bool { return f.Match == c.Match && f.Where == "" && len(f.Columns) == 0 }
		if !slices.ContainsFunc(first, taken) { // else it would never be asked
			d.Classify = append(d.Classify, c)
		}
	}
	for _, t := range append(slices.Clone(p.spec.Tiers), tier) {
		used := slices.ContainsFunc(d.Classify, func(c pipeline.Class) bool { return c.Tier == t.Name && t.Name != tiers.Stream })
		if used && !slices.ContainsFunc(d.Tiers, func(had pipeline.Tier) bool { return had.Name == t.Name }) {
			d.Tiers = append(d.Tiers, t)
		}
	}
	return d
}
