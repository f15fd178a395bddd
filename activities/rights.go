package activities

import (
	"context"
	"strings"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/transport/kafka"
)

// entitled is a sink that can tell whether its login suffices.
type entitled interface{ Rights(context.Context) error }

// rights does what a pipeline needs a login for at one of its ends, from where this
// worker runs.
func (a *Activities) rights(ctx context.Context, st *contract.PipelineStatus, end string) error {
	spec := &st.Spec
	if name, is := strings.CutPrefix(end, sinkEnd("")); is {
		conf, err := findSink(spec, name)
		if err != nil {
			return err
		}
		sk, err := a.sink(ctx, spec.Name, conf)
		if err != nil {
			return err
		}
		defer sk.Close()
		if e, ok := sk.(entitled); ok {
			return e.Rights(ctx)
		}
		return nil
	}
	if end == kafkaEnd {
		o, err := a.kafkaOptions(ctx, spec)
		if err != nil {
			return err
		}
		admin, err := kafka.OpenAdmin(o)
		if err != nil {
			return err
		}
		defer admin.Close()
		_, err = admin.Check(ctx)
		return err
	}
	srv, err := a.source(ctx, spec.Name, spec.Source)
	if err != nil {
		return err
	}
	defer srv.Close()
	var tables []change.TableID
	for _, t := range st.Tables {
		tables = append(tables, t.Table)
	}
	return srv.Rights(ctx, spec.PublicationName(), tables)
}
