package sink

import (
	"encoding/json"
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/tiers/aggregate"
)

// PartialsOptions are the options of the table at a sink that holds the partial
// aggregates of a table with options o.
func PartialsOptions(p *aggregate.Plan, o TableOptions) TableOptions {
	return TableOptions{Schema: o.Schema, Name: p.Partials(nameOf(p.Table, o)), OrderBy: p.By(), AppendOnly: true}
}

// ViewName is the view that shows them merged.
func ViewName(p *aggregate.Plan, o TableOptions) string { return p.View(nameOf(p.Table, o)) }

func nameOf(id change.TableID, o TableOptions) string {
	if o.Name != "" {
		return o.Name
	}
	return id.Name
}

// PartialsMark begins the comment of every table of partial aggregates that a pipeline made
// for a table, and of no other; the plan follows. So they are known by what is there.
func PartialsMark(pipeline string, id change.TableID) string {
	return fmt.Sprintf("Syncline: partial aggregates of table %q of pipeline %q: ", id, pipeline)
}

// PartialsComment is the whole comment.
func PartialsComment(pipeline string, p *aggregate.Plan) (string, error) {
	b, err := json.Marshal(p)
	return PartialsMark(pipeline, p.Table) + string(b), err
}

// ParsePartials reads the plan in a comment.
func ParsePartials(pipeline string, id change.TableID, comment string) (*aggregate.Plan, error) {
	p := new(aggregate.Plan)
	text, ok := strings.CutPrefix(comment, PartialsMark(pipeline, id))
	if !ok {
		return nil, fmt.Errorf("not a table of partial aggregates of %s", id)
	}
	err := json.Unmarshal([]byte(text), p)
	return p, err
}

// PartialsTaken is what a sink reports if a table of that name cannot take the partials:
// ours says whether this pipeline made it, with another declaration.
func PartialsTaken(p *aggregate.Plan, name string, ours bool) error {
	if ours {
		return fault.Permanent(CodeTableMismatch, nil, "take the declaration back, or give the tier another name; a resync of the table begins its aggregates anew",
			"table %s holds aggregates of %s by another declaration of tier %s", name, p.Table, p.Tier)
	}
	return fault.Permanent(CodeTableMismatch, nil, "rename it, or give the tier another name", "table %s exists, and the aggregates of %s by tier %s need that name", name, p.Table, p.Tier)
}

// PartialsLeft is what a sink reports of partials that are there before a table's load.
func PartialsLeft(id change.TableID, name string) error {
	return fault.Permanent(CodeTableNotEmpty, nil, "drop it with its view, or set on_existing to truncate",
		"table %s holds aggregates of an earlier life of table %s in this pipeline, whose rows its load brings again", name, id)
}

// PartialsRejected is what a sink reports of partials that their table does not take.
func PartialsRejected(p *aggregate.Plan, why error) error {
	return fault.Permanent(CodeTableMismatch, why, "resync the table, whose aggregates begin anew then", "aggregates of table %s by tier %s cannot be written", p.Table, p.Tier)
}
