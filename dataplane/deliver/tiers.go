package deliver

import (
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/tiers/aggregate"
)

// CodeTiersUnknown: changes wait by rules of tiers, and this lane was given none. It ends
// the lane.
const CodeTiersUnknown fault.Code = "TiersUnknown"

// Tiers tells which changes wait for their tier's time. Its methods may be called
// concurrently.
type Tiers interface {
	// Rules returns what Classify goes by for a table, as it is declared now; "" if none
	// of its changes waits. It stays in the ledger for as long as changes wait by it, and
	// Classify has to understand it for as long.
	Rules(t change.TableID) string
	// Classify returns what tells the tier of a change with the definition; "" if the
	// change does not wait. What it answers depends on the rules, the definition and the
	// change alone, since it is asked again when what waits is applied. One goroutine
	// uses what is returned.
	Classify(rules string, s *change.Schema) (func(*change.Change) (tier string, err error), error)
	// Aggregates returns what is kept of a definition's rows, by tier, instead of the rows.
	// Only of tables that rows are only added to.
	Aggregates(rules string, s *change.Schema) (map[string]*aggregate.Plan, error)
}

// classifier tells the tiers of a partition's changes, for one goroutine.
type classifier struct {
	tiers Tiers
	rules string
	by    map[change.Version]*classes
}

// classes are those of one definition.
type classes struct {
	tier       func(*change.Change) (string, error)
	aggregates map[string]*aggregate.Plan
}

// classifier returns nil if none of the changes waits.
func (l *lane) classifier(rules string) *classifier {
	if rules == "" {
		return nil
	}
	return &classifier{l.o.Tiers, rules, map[change.Version]*classes{}}
}

func (k *classifier) of(s *change.Schema, v change.Version) (*classes, error) {
	c := k.by[v]
	if c == nil {
		c = &classes{}
		var err error
		if c.tier, err = k.tiers.Classify(k.rules, s); err != nil {
			return nil, err
		}
		if c.aggregates, err = k.tiers.Aggregates(k.rules, s); err != nil {
			return nil, err
		}
		k.by[v] = c
	}
	return c, nil
}

func (k *classifier) tier(s *change.Schema, c *change.Change) (string, error) {
	of, err := k.of(s, c.Schema)
	if err != nil {
		return "", err
	}
	return of.tier(c)
}

// aggregate returns what is kept of a tier's rows; nil if they are kept themselves.
func (k *classifier) aggregate(s *change.Schema, v change.Version, tier string) (*aggregate.Plan, error) {
	of, err := k.of(s, v)
	if err != nil {
		return nil, err
	}
	return of.aggregates[tier], nil
}

// rules returns those of a table as it is declared now.
func (l *lane) rules(id change.TableID) string {
	if l.o.Tiers == nil {
		return ""
	}
	return l.o.Tiers.Rules(id)
}
