package activities

import (
	"context"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/shaped"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/tiers/shape"
)

// maskKeys resolves the secrets of masks.
func (a *Activities) maskKeys(ctx context.Context, refs []string) (shape.Keys, error) {
	out := shape.Keys{}
	for _, text := range refs {
		if _, have := out[text]; have || text == "" {
			continue
		}
		ref, err := secrets.ParseRef(text)
		if err != nil {
			return nil, err
		}
		v, err := a.Secrets.Resolve(ctx, ref)
		if err != nil {
			return nil, err
		}
		out[text] = []byte(v.Reveal())
	}
	return out, nil
}

// shapes tells what becomes of tables in a stage of a pipeline; nil if everything is left
// as it is. sink is "" for the log.
func (a *Activities) shapes(ctx context.Context, spec *pipeline.Spec, sink string, stage shape.Stage) (shaped.Of, error) {
	if !spec.Shaped(stage == shape.ToLog) {
		return nil, nil
	}
	var refs []string
	for i := range spec.Residency {
		refs = append(refs, spec.Residency[i].Key.String())
	}
	keys, err := a.maskKeys(ctx, refs)
	if err != nil {
		return nil, err
	}
	return func(s *change.Schema) (*shape.Shape, error) {
		sh, err := spec.CompileShape(s, sink, keys, stage)
		if err != nil {
			return nil, shaped.Misfit(err)
		}
		return sh, nil
	}, nil
}

// shapeOf is what becomes of a table by the rules of a task; nil if it is left as it is.
func (a *Activities) shapeOf(ctx context.Context, s *change.Schema, rules []shape.Rule, stage shape.Stage) (*shape.Shape, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	refs := make([]string, len(rules))
	for i := range rules {
		refs[i] = rules[i].Key
	}
	keys, err := a.maskKeys(ctx, refs)
	if err != nil {
		return nil, err
	}
	sh, err := shape.Compile(s, rules, keys, stage)
	if err != nil {
		return nil, shaped.Misfit(err)
	}
	return sh, nil
}

// shapedAs is a definition as a sink has it.
func shapedAs(of shaped.Of, s *change.Schema) (*change.Schema, error) {
	if of == nil {
		return s, nil
	}
	sh, err := of(s)
	if err != nil || sh == nil {
		return s, err
	}
	return sh.Schema(), nil
}

// fitting reports whether the declaration's residency, thin and tiers fit the tables, at every
// sink and for the log, before anything is made.
func (a *Activities) fitting(ctx context.Context, spec *pipeline.Spec, schemas []*change.Schema) error {
	sinks := []string{""}
	for i := range spec.Sinks {
		sinks = append(sinks, spec.Sinks[i].Name)
	}
	for _, name := range sinks {
		stage := shape.All
		if name == "" {
			stage = shape.ToLog
		}
		of, err := a.shapes(ctx, spec, name, stage)
		if err != nil {
			return err
		}
		if of == nil {
			continue
		}
		for _, s := range schemas {
			if _, err := of(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// viewOf is the log as a sink is to see it.
func viewOf(log shaped.Under, of shaped.Of) shaped.Under {
	if of == nil {
		return log
	}
	return shaped.NewLog(log, of)
}

// sourceOf is what delivery asks of the source.
func sourceOf(srv deliver.Source, of shaped.Of) deliver.Source {
	if of == nil {
		return srv
	}
	return shaped.Source{Source: srv, Of: of}
}

func tablesOf(schemas []*change.Schema) []change.TableID {
	out := make([]change.TableID, len(schemas))
	for i, s := range schemas {
		out[i] = s.Table
	}
	return out
}
