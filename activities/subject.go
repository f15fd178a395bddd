package activities

import (
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/pipeline"
	"syncline/tiers"
	"syncline/tiers/aggregate"
	"syncline/tiers/shape"
)

// maxErased is how many rows one erasure names at most.
const maxErased = 1000

// subjects are what an erasure is of: rows by their tables, and the source, which tells how
// their keys are written and whether it has them.
type subjects struct {
	salt string
	rows map[change.TableID][]map[string]string
	spec *pipeline.Spec
	srv  *source.Server
}

// withSubject reads the keys of an erasure and connects to the source.
func (a *Activities) withSubject(ctx context.Context, in *contract.EraseTask, f func(*subjects) error) error {
	salt, rows, err := a.keysOf(ctx, in)
	if err != nil {
		return err
	}
	srv, err := a.source(ctx, in.Pipeline, in.Spec.Source)
	if err != nil {
		return err
	}
	defer srv.Close()
	return f(&subjects{salt, rows, &in.Spec, srv})
}

// keysOf reads the keys of an erasure. What is wrong with them is said without them.
func (a *Activities) keysOf(ctx context.Context, in *contract.EraseTask) (salt string, rows map[change.TableID][]map[string]string, err error) {
	var text []byte
	if !in.Keys.IsZero() {
		s, err := a.Secrets.Resolve(ctx, in.Keys)
		if err != nil {
			return "", nil, err
		}
		text = []byte(s.Reveal())
	} else {
		err := a.withSink(ctx, in.Pipeline, in.Spec.Sinks[0], func(sk sink.Sink) error {
			secret, err := sk.Erasure(ctx, in.Name)
			if err != nil {
				return err
			}
			if text, err = contract.OpenKeys(secret, in.Sealed); err != nil {
				return fault.Permanent(CodeEraseKeys, nil, "begin the erasure again", "the keys were not encrypted for this erasure")
			}
			return nil
		})
		if err != nil {
			return "", nil, err
		}
	}
	const fix = `give {"salt": RANDOM TEXT, "rows": [{"table": "schema.name", "key": {"column": "value"}}]}`
	var keys contract.EraseKeys
	if err := yaml.UnmarshalWithOptions(text, &keys, yaml.Strict()); err != nil {
		return "", nil, fault.Permanent(CodeEraseKeys, nil, fix, "the keys are not in the form of an erasure's")
	}
	switch {
	case len(keys.Salt) < 16:
		return "", nil, fault.Permanent(CodeEraseKeys, nil, fix, "the salt is shorter than 16 characters")
	case len(keys.Rows) == 0 || len(keys.Rows) > maxErased:
		return "", nil, fault.Permanent(CodeEraseKeys, nil, fix, "there are %d rows; an erasure takes 1 to %d", len(keys.Rows), maxErased)
	}
	rows = map[change.TableID][]map[string]string{}
	for _, r := range keys.Rows {
		rows[r.Table] = append(rows[r.Table], r.Key)
	}
	return keys.Salt, rows, nil
}

// tables are those that have rows of the subject, in order.
func (s *subjects) tables() []change.TableID {
	return slices.SortedFunc(maps.Keys(s.rows), func(a, b change.TableID) int { return strings.Compare(a.String(), b.String()) })
}

// of returns a table of a sink with the columns that name the subject's rows as its key, and
// the keys as its log and ledgers have them. An append-only table has no key: its rows are
// named by any columns of theirs.
func (s *subjects) of(ctx context.Context, t sink.Table) (sink.Table, []change.Key, error) {
	rows, names := s.rows[t.ID], []string(nil)
	schema := *t.Schema
	appended := len(schema.Key) == 0
	if appended {
		names = slices.Sorted(maps.Keys(rows[0]))
		for _, name := range names {
			i := schema.Column(name)
			if i < 0 || name == shape.RateColumn {
				return t, nil, fault.Permanent(CodeEraseKeys, nil, "name columns that it has", "table %s has no column of a name that is given", t.ID)
			}
			c := &schema.Columns[i]
			if c.Masked {
				return t, nil, fault.Permanent(sink.CodeEraseKey, nil, "name other columns", "column %q of table %s is masked at a sink, so its values are not known there", name, t.ID)
			}
			if aggregate.Ungroupable(&c.Type) != "" {
				return t, nil, fault.Permanent(sink.CodeEraseKey, nil, "name columns of integers, text or uuid", "column %q of table %s is %s, which does not tell its values apart", name, t.ID, c.Type.Name)
			}
			schema.Key = append(schema.Key, i)
		}
		t.Options.AppendOnly = true // whatever the key is
	} else {
		names = schema.KeyNames()
	}
	if len(names) == 0 {
		return t, nil, fault.Permanent(CodeEraseKeys, nil, "name a value for at least one", "a row of table %s names no column", t.ID)
	}
	var texts [][]string
	for n, row := range rows {
		vs := make([]string, len(names))
		for i, name := range names {
			v, ok := row[name]
			if !ok || len(row) != len(names) {
				if appended {
					return t, nil, fault.Permanent(CodeEraseKeys, nil, "name rows by the same columns in one erasure", "row %d of table %s, which has no key, names other columns than the first", n+1, t.ID)
				}
				return t, nil, fault.Permanent(CodeEraseKeys, nil, "name a value for each of them, and nothing else", "row %d of table %s does not name the columns of its primary key (%s)", n+1, t.ID, strings.Join(names, ", "))
			}
			vs[i] = v
		}
		texts = append(texts, vs)
	}
	t.Schema = &schema
	keys, err := s.srv.CanonicalKeys(ctx, t.Schema, texts)
	if err != nil {
		return t, nil, err
	}
	slices.Sort(keys)
	return t, slices.Compact(keys), nil
}

// atSource counts the rows that the source has still, of those that the pipeline takes.
func (s *subjects) atSource(ctx context.Context, schema *change.Schema, keys []change.Key) (int64, error) {
	return s.srv.CountKeys(ctx, schema, s.spec.Options(schema.Table).Where, keys)
}

// anySink returns a table as the first sink that has it knows it, and the subject's keys.
func (a *Activities) anySink(ctx context.Context, s *subjects, id change.TableID) (t sink.Table, keys []change.Key, err error) {
	for _, at := range s.spec.Sinks {
		err = a.withSink(ctx, s.spec.Name, at, func(sk sink.Sink) (err error) {
			t, err = sk.Table(ctx, id)
			return err
		})
		if err == nil {
			return s.of(ctx, t)
		}
	}
	return t, nil, err
}

// aggregatesOf says of the tiers that keep aggregates of a table whether these are by the
// columns that name the subject.
func aggregatesOf(spec *pipeline.Spec, s *change.Schema) (out []contract.EraseAggregates) {
	rules := spec.Rules(s.Table)
	for i, r := range rules {
		if r.Aggregate == nil || slices.ContainsFunc(rules[:i], func(o tiers.Rule) bool { return o.Tier == r.Tier }) {
			continue
		}
		by := true
		for _, k := range s.Key {
			by = by && slices.Contains(r.Aggregate.Group, s.Columns[k].Name)
		}
		out = append(out, contract.EraseAggregates{Tier: r.Tier, ByKey: by})
	}
	return out
}
