package activities

import (
	"context"
	"fmt"
	"slices"
	"sync/atomic"

	"go.temporal.io/sdk/activity"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/shaped"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
	"syncline/tiers/shape"
)

// CodeNoTables: the declaration's globs select nothing.
const CodeNoTables fault.Code = "NoTables"

// selection is what a declaration takes of a source.
type selection struct {
	inspection *source.Inspection
	tables     []pipeline.Selected
	infos      map[change.TableID]source.TableInfo
	unused     []pipeline.UnusedGlob
	collisions []pipeline.Collision
}

// choose resolves the globs, or takes just the named tables.
func choose(ctx context.Context, srv *source.Server, spec *pipeline.Spec, only []change.TableID) (*selection, error) {
	ins, err := srv.Inspect(ctx, spec.SlotName(), spec.PublicationName())
	if err != nil {
		return nil, err
	}
	s := &selection{inspection: ins, infos: map[change.TableID]source.TableInfo{}}
	all := make([]change.TableID, len(ins.Tables))
	for i, t := range ins.Tables {
		all[i], s.infos[t.ID] = t.ID, t
	}
	if len(only) > 0 {
		for _, t := range only {
			if _, ok := s.infos[t]; !ok {
				return nil, fault.Permanent(source.CodeTableMissing, nil, "name a table that exists; names are case-sensitive", "the source has no table %s%s", t, nearest(t, all))
			}
			s.tables = append(s.tables, spec.Options(t))
		}
		return s, nil
	}
	m := spec.Match(all)
	s.tables, s.unused, s.collisions = m.Tables, m.Unused, m.Collisions
	return s, nil
}

func nearest(t change.TableID, all []change.TableID) string {
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].String()
	}
	if n := pipeline.Nearest(t.String(), names); n != "" {
		return " (did you mean " + n + "?)"
	}
	return ""
}

// published says what to publish of the selection.
func (s *selection) published(ctx context.Context, srv *source.Server) ([]source.PublishedTable, error) {
	columns := map[change.TableID][]string{}
	var ask []source.PublishedTable
	for _, t := range s.tables {
		if t.Columns != nil {
			ask = append(ask, source.PublishedTable{ID: t.Table, AppendOnly: t.AppendOnly})
		}
	}
	schemas, err := srv.Describe(ctx, ask)
	if err != nil {
		return nil, err
	}
	for _, d := range schemas {
		for _, c := range d.Columns {
			columns[d.Table] = append(columns[d.Table], c.Name)
		}
	}
	return published(columns, s.tables)
}

// Resolve finds the tables that the declaration selects, and what forbids it.
func (a *Activities) Resolve(ctx context.Context, in contract.SetupInput) (out contract.Resolved, err error) {
	defer func() { err = ended(ctx, err) }()
	srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
	if err != nil {
		return out, err
	}
	defer srv.Close()
	sel, err := choose(ctx, srv, &in.Spec, in.Tables)
	if err != nil {
		return out, err
	}
	if !in.OneOff {
		for _, p := range sel.inspection.Problems {
			return out, p
		}
	}
	if in.Fresh && sel.inspection.Slot != nil {
		return out, slotExists(in.Spec.SlotName())
	}
	if in.Fresh && inUse(sel.inspection.Publication) {
		return out, publicationExists(in.Spec.PublicationName())
	}
	if len(sel.tables) == 0 {
		return out, fault.Permanent(CodeNoTables, nil, "check tables.include; starter plan lists what it selects", "the declaration selects no table of the source")
	}
	for _, c := range sel.collisions {
		return out, fault.Permanent("TargetCollision", nil, "give one of them another target", "tables %v would share table %s of sink %s", c.Tables, c.Target, c.Sink)
	}
	out = contract.Resolved{SystemID: sel.inspection.SystemID, Version: sel.inspection.VersionText}
	for _, t := range sel.tables {
		i := sel.infos[t.Table]
		if len(i.Key) == 0 && !t.AppendOnly {
			return out, fault.Permanent(source.CodeTableWithoutKey, nil, "add a primary key, exclude the table, or set append_only for it", "table %s has no primary key", t.Table)
		}
		out.Tables = append(out.Tables, contract.ResolvedTable{Table: t.Table, AppendOnly: t.AppendOnly, Rows: max(i.Rows, 0), Bytes: i.Bytes})
	}
	if in.Spec.Shaped(false) {
		tables, err := sel.published(ctx, srv)
		if err != nil {
			return out, err
		}
		schemas, err := srv.Describe(ctx, tables)
		if err != nil {
			return out, err
		}
		if err := a.fitting(ctx, &in.Spec, schemas); err != nil {
			return out, err
		}
		if len(in.Tables) == 0 {
			if err := in.Spec.UnmatchedResidency(tablesOf(schemas)); err != nil {
				return out, shaped.Misfit(err)
			}
		}
	}
	if in.Fresh && !in.OneOff {
		admin, err := a.admin(ctx, &in.Spec)
		if err != nil {
			return out, err
		}
		defer admin.Close()
		any, err := admin.Any(ctx)
		if err != nil {
			return out, err
		}
		out.NoTopics = !any
	}
	return out, nil
}

// EnsureTopics creates the topics that are missing, and gives the others the declared settings.
func (a *Activities) EnsureTopics(ctx context.Context, in contract.SetupInput) (out contract.Made, err error) {
	defer func() { err = ended(ctx, err) }()
	srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
	if err != nil {
		return out, err
	}
	defer srv.Close()
	sel, err := choose(ctx, srv, &in.Spec, in.Tables)
	if err != nil {
		return out, err
	}
	admin, err := a.admin(ctx, &in.Spec)
	if err != nil {
		return out, err
	}
	defer admin.Close()
	before, err := admin.Topics(ctx)
	if err != nil {
		return out, err
	}
	// A retry finds what its first attempt made: nothing else makes topics of this name.
	out.Created = len(before) == 0 || activity.GetInfo(ctx).Attempt > 1
	var ids []change.TableID
	for _, t := range sel.tables {
		ids = append(ids, t.Table)
	}
	if err := admin.EnsureTopics(ctx, topicOptions(&in.Spec), ids, nil); err != nil {
		return out, err
	}
	// Tables that are there already have their place in the log, and keep it.
	log, err := ranges(ctx, admin, &in.Spec, true, ids...)
	if err != nil {
		return out, err
	}
	for _, conf := range in.Spec.Sinks {
		if err := a.withSink(ctx, in.Spec.Name, conf, func(sk sink.Sink) error { return beginLogs(ctx, sk, log, false) }); err != nil {
			return out, err
		}
	}
	return out, nil
}

func topicOptions(spec *pipeline.Spec) kafka.TopicOptions {
	k := spec.Kafka
	return kafka.TopicOptions{
		Partitions: k.Partitions, ReplicationFactor: k.ReplicationFactor, Retention: k.Retention.Std(), MaxMessageBytes: int(k.MaxMessageBytes),
	}
}

func (a *Activities) admin(ctx context.Context, spec *pipeline.Spec) (*kafka.Admin, error) {
	o, err := a.kafkaOptions(ctx, spec)
	if err != nil {
		return nil, err
	}
	return kafka.OpenAdmin(o)
}

// EnsurePublication makes the publication hold the declaration's tables.
func (a *Activities) EnsurePublication(ctx context.Context, in contract.SetupInput) (out contract.Made, err error) {
	defer func() { err = ended(ctx, err) }()
	srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
	if err != nil {
		return out, err
	}
	defer srv.Close()
	sel, err := choose(ctx, srv, &in.Spec, in.Tables)
	if err != nil {
		return out, err
	}
	out.Created = sel.inspection.Publication == nil || activity.GetInfo(ctx).Attempt > 1
	tables, err := sel.published(ctx, srv)
	if err != nil {
		return out, err
	}
	return out, beating(ctx, func(ctx context.Context) error { return srv.EnsurePublication(ctx, in.Spec.PublicationName(), tables) })
}

// CreateSlot creates the slot; it waits for transactions that are running.
func (a *Activities) CreateSlot(ctx context.Context, in contract.SetupInput) (out contract.SlotMade, err error) {
	defer func() { err = ended(ctx, err) }()
	srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
	if err != nil {
		return out, err
	}
	defer srv.Close()
	var waiting atomic.Pointer[contract.SlotProgress]
	waiting.Store(&contract.SlotProgress{})
	err = long(ctx, func() any { return waiting.Load() }, func(ctx context.Context) error {
		slot, err := srv.CreateSlotReporting(ctx, in.Spec.SlotName(), func(bs []source.Blocker) {
			p := &contract.SlotProgress{}
			for _, b := range bs {
				p.WaitingFor = append(p.WaitingFor, b.String())
			}
			waiting.Store(p)
		})
		if err != nil {
			return err
		}
		out = contract.SlotMade{Created: slot.CreatedNow || activity.GetInfo(ctx).Attempt > 1, At: slot.Confirmed}
		if !out.Created {
			return slotExists(in.Spec.SlotName())
		}
		return nil
	})
	return out, err
}

func slotExists(name string) error {
	return fault.Permanent("SlotExists", nil, "starter destroy the pipeline that owns it, drop the slot if nothing uses it, or set source.slot to another name",
		"slot %s exists already", name)
}

// inUse reports whether somebody may read a publication: ours would replace its
// tables now, and drop it in the end. One without tables may have been made for us.
func inUse(p *source.PublicationInfo) bool { return p != nil && (p.AllTables || len(p.Tables) > 0) }

func publicationExists(name string) error {
	return fault.Permanent("PublicationExists", nil, "starter destroy the pipeline that owns it, drop the publication if nothing uses it, or set source.publication to another name",
		"publication %s exists already, with tables", name)
}

// withSource opens the source for one step.
func (a *Activities) withSource(ctx context.Context, spec *pipeline.Spec, f func(*source.Server) error) error {
	srv, err := a.source(ctx, spec.Name, spec.Source)
	if err != nil {
		return err
	}
	defer srv.Close()
	return f(srv)
}

// withSink opens a sink for one step.
func (a *Activities) withSink(ctx context.Context, name string, conf pipeline.Sink, f func(sink.Sink) error) error {
	sk, err := a.sink(ctx, name, conf)
	if err != nil {
		return err
	}
	defer sk.Close()
	return f(sk)
}

// beating heartbeats while f runs.
func beating(ctx context.Context, f func(context.Context) error) error {
	return long(ctx, func() any { return nil }, f)
}

// PrepareSink creates the ledger, and the sink's tables where they do not exist.
func (a *Activities) PrepareSink(ctx context.Context, in contract.SinkInput) (err error) {
	defer func() { err = ended(ctx, err) }()
	defer keepBeating(ctx, func() any { return nil })()
	conf, err := findSink(&in.Spec, in.Sink)
	if err != nil {
		return err
	}
	srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
	if err != nil {
		return err
	}
	defer srv.Close()
	sel, err := choose(ctx, srv, &in.Spec, in.Tables)
	if err != nil {
		return err
	}
	tables, err := sel.published(ctx, srv)
	if err != nil {
		return err
	}
	schemas, err := srv.Describe(ctx, tables)
	if err != nil {
		return err
	}
	sk, err := a.sink(ctx, in.Spec.Name, conf)
	if err != nil {
		return err
	}
	defer sk.Close()
	if err := sk.Init(ctx); err != nil {
		return err
	}
	of, err := a.shapes(ctx, &in.Spec, in.Sink, shape.All)
	if err != nil {
		return err
	}
	var want []sink.Table
	for _, s := range schemas {
		if s, err = shapedAs(of, s); err != nil {
			return err
		}
		i := slices.IndexFunc(sel.tables, func(t pipeline.Selected) bool { return t.Table == s.Table })
		want = append(want, sink.Table{
			ID: s.Table, State: sink.Loading, Partitions: in.Spec.Kafka.Partitions, Epoch: in.Epoch, Schema: s, Options: target(&in.Spec, &sel.tables[i], &conf),
		})
	}
	if in.Fresh {
		// What an earlier one-off load left behind is not this one's progress.
		old, err := true, error(nil)
		if activity.GetInfo(ctx).Attempt > 1 {
			old, err = leftBehind(ctx, sk, want)
		}
		if err == nil && old {
			err = sk.Forget(ctx)
		}
		if err != nil {
			return err
		}
	}
	var ids []change.TableID
	for _, t := range want {
		if err := sk.AddTable(ctx, t); err != nil {
			return err
		}
		ids = append(ids, t.ID)
	}
	if !in.Topics {
		return nil
	}
	if err := sk.ShowHeld(ctx, conf.QuarantineViews); err != nil {
		return err
	}
	admin, err := a.admin(ctx, &in.Spec)
	if err != nil {
		return err
	}
	defer admin.Close()
	log, err := ranges(ctx, admin, &in.Spec, true, ids...)
	if err != nil {
		return err
	}
	return beginLogs(ctx, sk, log, true)
}

// leftBehind reports whether a ledger holds anything but what an earlier attempt
// at just these tables may have put there, which is to be kept: it tells the
// tables that it made from those that a user had. That an attempt is not the first
// does not tell: the one before may have failed before it came to look.
func leftBehind(ctx context.Context, sk sink.Sink, want []sink.Table) (bool, error) {
	marks, err := sk.Watermarks(ctx)
	if err != nil {
		return true, err
	}
	for _, w := range marks {
		if !w.Pos.IsZero() { // something was delivered
			return true, nil
		}
	}
	have, err := sk.Tables(ctx)
	if err != nil {
		return true, err
	}
	for _, h := range have {
		i := slices.IndexFunc(want, func(t sink.Table) bool { return t.ID == h.ID })
		if i < 0 || h.State != sink.Loading || h.Chunks > 0 || h.Done > 0 || h.Partitions != want[i].Partitions || h.Epoch != want[i].Epoch ||
			h.Schema == nil || h.Schema.Version() != want[i].Schema.Version() || boundTo(h.Options) != boundTo(want[i].Options) {
			return true, nil
		}
	}
	return false, nil
}

// boundTo makes options comparable: one list among them may be nil or empty.
func boundTo(o sink.TableOptions) string { return fmt.Sprintf("%+v", o) }
