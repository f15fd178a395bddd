package activities

import (
	"context"
	"maps"
	"slices"
	"strings"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	chsink "syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	"syncline/dataplane/transport/kafka"
)

// rights does what a pipeline needs a login for at one of its ends, from where this
// worker runs, and leaves no trace.
func (a *Activities) rights(ctx context.Context, st *contract.PipelineStatus, end string) error {
	spec := &st.Spec
	var tables []change.TableID
	for _, t := range st.Tables {
		tables = append(tables, t.Table)
	}
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
		at, err := sk.Tables(ctx)
		if err != nil {
			return err
		}
		var there []change.TableID // by their names at the sink
		databases := map[string]bool{}
		for _, t := range at {
			there = append(there, change.TableID{Schema: t.Options.Schema, Name: t.Options.Name})
			databases[t.Options.Schema] = true
		}
		switch k := sk.(type) {
		case *pgsink.Sink:
			return k.Rights(ctx, there...)
		case *chsink.Sink:
			return k.Rights(ctx, slices.Sorted(maps.Keys(databases))...)
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
		return admin.Rights(ctx, tables...)
	}
	srv, err := a.source(ctx, spec.Name, spec.Source)
	if err != nil {
		return err
	}
	defer srv.Close()
	return srv.Rights(ctx, spec.PublicationName(), spec.SlotName(), tables)
}
