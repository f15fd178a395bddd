package activities

import (
	"context"
	"path/filepath"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.uber.org/zap"

	"syncline/activities/contract"
	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/dataplane/certs"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/sink"
	chsink "syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	source "syncline/dataplane/source/postgres"
	"syncline/dataplane/trace"
	"syncline/dataplane/transport/debezium"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
	"syncline/secrets"
)

// Activities has what the activities of one worker process share.
type Activities struct {
	Client  client.Client // to signal workflows
	Secrets *secrets.Resolver
	Logins  *secrets.Logins
	Metrics *observe.Metrics
	// Analytics takes what is counted; nil: nobody wants it.
	Analytics *analytics.Writer
	// AnalyticsStore opens what was recorded, to report on it, with a login if one is named;
	// nil: nothing is recorded.
	AnalyticsStore func(context.Context, login.Source) (*analytics.Store, error)
	AnalyticsLogin secrets.LoginRef
	Health         *observe.Health
	Log            *zap.Logger
	SpillDir       string
	Worker         string        // identity of the process
	Region         string        // where it runs; "": not said
	Tracer         *trace.Tracer // nil: nothing is traced
	Wires          *Wires        // nil: what connections carry is not counted

	measured sync.Map // when what is stored was, by pipeline and place
}

// ByRole returns the activities that a worker of the role registers, by name.
func (a *Activities) ByRole(r contract.Role) map[string]any {
	switch r {
	case contract.Control:
		return map[string]any{
			contract.InspectActivity:           a.Inspect,
			contract.MeasureActivity:           a.Measure,
			contract.PlanAuditActivity:         a.PlanAudit,
			contract.PlanTierActivity:          a.PlanTier,
			contract.DrainTierActivity:         a.DrainTier,
			contract.ScheduleTiersActivity:     a.ScheduleTiers,
			contract.PriceHoursActivity:        a.PriceHours,
			contract.KeepPricesActivity:        a.KeepPrices,
			contract.ReportCostActivity:        a.ReportCost,
			contract.BudgetsActivity:           a.LookAtBudgets,
			contract.ConcludeAuditActivity:     a.ConcludeAudit,
			contract.LoadRepairActivity:        a.LoadRepair,
			contract.AbandonKeysActivity:       a.AbandonKeys,
			contract.NoteRepairActivity:        a.NoteRepair,
			contract.CheckTrailActivity:        a.CheckTrail,
			contract.PlanReplayActivity:        a.PlanReplay,
			contract.ForgetReplayActivity:      a.ForgetReplay,
			contract.PlanBatchSyncActivity:     a.PlanBatchSync,
			contract.OpenEraseActivity:         a.OpenErase,
			contract.PlanEraseActivity:         a.PlanErase,
			contract.NoteEraseActivity:         a.NoteErase,
			contract.ForgetEraseActivity:       a.ForgetErase,
			contract.OpenRotationActivity:      a.OpenRotation,
			contract.FindConsumersActivity:     a.FindConsumers,
			contract.StageLoginActivity:        a.StageLogin,
			contract.SetLoginActivity:          a.SetLogin,
			contract.PromoteLoginActivity:      a.PromoteLogin,
			contract.LoginSessionsActivity:     a.LoginSessions,
			contract.DisableLoginActivity:      a.DisableLogin,
			contract.CloseRotationActivity:     a.CloseRotation,
			contract.NoteRotationActivity:      a.NoteRotation,
			contract.ResolveActivity:           a.Resolve,
			contract.EnsureTopicsActivity:      a.EnsureTopics,
			contract.EnsurePublicationActivity: a.EnsurePublication,
			contract.CreateSlotActivity:        a.CreateSlot,
			contract.PrepareSinkActivity:       a.PrepareSink,
			contract.DropSlotActivity:          a.DropSlot,
			contract.DropPublicationActivity:   a.DropPublication,
			contract.DeleteTopicsActivity:      a.DeleteTopics,
			contract.ForgetSinkActivity:        a.ForgetSink,
			contract.ResetTableActivity:        a.ResetTable,
			contract.RemoveTableActivity:       a.RemoveTable,
		}
	case contract.Capture:
		return map[string]any{contract.CaptureActivity: a.Capture, contract.HoldSnapshotActivity: a.HoldSnapshot}
	case contract.Snapshot:
		return map[string]any{
			contract.PlanChunksActivity:     a.PlanChunks,
			contract.CopyChunkActivity:      a.CopyChunk,
			contract.FinishLoadActivity:     a.FinishLoad,
			contract.VerifyTableActivity:    a.VerifyTable,
			contract.PlanRepairActivity:     a.PlanRepair,
			contract.QuarantineKeysActivity: a.QuarantineKeys,
			contract.ReplayKeysActivity:     a.ReplayKeys,
			contract.ReverifyKeysActivity:   a.ReverifyKeys,
			contract.ReleaseKeysActivity:    a.ReleaseKeys,
			contract.ReplayTableActivity:    a.ReplayTable,
			contract.AdviseTiersActivity:    a.AdviseTiers,
			contract.EraseAtActivity:        a.EraseAt,
			contract.SearchLogActivity:      a.SearchLog,
		}
	case contract.Deliver:
		return map[string]any{contract.DeliverActivity: a.Deliver}
	}
	return nil
}

// logger has the fields by which log lines of one activity are found.
func (a *Activities) logger(ctx context.Context, pipeline string) *zap.Logger {
	info := activity.GetInfo(ctx)
	return a.Log.With(zap.String("pipeline", pipeline), zap.String("activity", info.ActivityType.Name),
		zap.String("workflow", info.WorkflowExecution.ID), zap.String("run", info.WorkflowExecution.RunID), zap.Int32("attempt", info.Attempt))
}

// tracer makes spans that lead to the run of the workflow. The names are those
// that Temporal's own OpenTelemetry interceptors use, as far as they have one.
func (a *Activities) tracer(ctx context.Context, pipeline string, attrs ...attribute.KeyValue) *trace.Pipeline {
	if a.Tracer == nil {
		return nil
	}
	info := activity.GetInfo(ctx)
	return a.Tracer.Pipeline(pipeline, append([]attribute.KeyValue{
		attribute.String("temporalWorkflowID", info.WorkflowExecution.ID),
		attribute.String("temporalRunID", info.WorkflowExecution.RunID),
		attribute.String("temporalActivityID", info.ActivityID),
		attribute.Int("temporalAttempt", int(info.Attempt)),
	}, attrs...)...)
}

// attemptFailed traces an attempt that ended by a fault, not by its cancellation;
// one that was overtaken may have been told so by both.
func attemptFailed(ctx context.Context, p *trace.Pipeline, loop string, began time.Time, err error) {
	if ctx.Err() == nil || fault.Is(err, sink.CodeFenced) {
		p.AttemptFailed(loop, began, err)
	}
}

func (a *Activities) source(ctx context.Context, name string, s pipeline.Source) (*source.Server, error) {
	dsn, err := a.sourceDSN(ctx, s)
	if err != nil {
		return nil, err
	}
	as, err := a.login(ctx, s.Login)
	if err != nil {
		return nil, err
	}
	return source.NewServer(source.ServerOptions{DSN: dsn, Pipeline: name, Login: as, Dial: a.Wires.account(ctx, name, sourceEnd, s.Region).dial()})
}

func (a *Activities) sink(ctx context.Context, name string, s pipeline.Sink) (sink.Sink, error) {
	dsn, err := a.sinkDSN(ctx, s)
	if err != nil {
		return nil, err
	}
	as, err := a.login(ctx, s.Login)
	if err != nil {
		return nil, err
	}
	dial := a.Wires.account(ctx, name, sinkEnd(s.Name), s.Region).dial()
	switch s.Type {
	case pipeline.SinkPostgres:
		return pgsink.Open(pgsink.Config{DSN: dsn, Pipeline: name, Login: as, Dial: dial})
	case pipeline.SinkClickHouse:
		c := chsink.Config{DSN: dsn, Pipeline: name, Login: as, Dial: dial, Options: chsink.Options{Database: s.Schema, Compression: s.Compression}}
		if s.TLS != nil {
			if c.TLS, err = a.tls(ctx, s.TLS); err != nil {
				return nil, err
			}
		}
		return chsink.Open(c)
	}
	return nil, fault.Permanent("SinkType", nil, "use postgres or clickhouse", "sink %s is of type %q", s.Name, s.Type)
}

func (a *Activities) kafkaOptions(ctx context.Context, spec *pipeline.Spec) (kafka.Options, error) {
	k := spec.Kafka
	o := kafka.Options{Brokers: k.Brokers, Prefix: k.TopicPrefix, Pipeline: spec.Name, Dial: a.Wires.account(ctx, spec.Name, kafkaEnd, k.Region).dial()}
	if k.Format != pipeline.FormatSyncline {
		o.Debezium = &debezium.Options{WithSchema: k.Format == pipeline.FormatDebeziumSchema}
	}
	switch {
	case k.SASL == nil:
	case !k.SASL.Login.IsZero():
		as, err := a.login(ctx, k.SASL.Login)
		if err != nil {
			return o, err
		}
		o.SASL.Mechanism, o.Login = k.SASL.Mechanism, as
	default:
		pw, err := a.Secrets.Resolve(ctx, k.SASL.Password)
		if err != nil {
			return o, err
		}
		o.SASL = kafka.SASL{Mechanism: k.SASL.Mechanism, User: k.SASL.Username, Password: pw.Reveal()}
	}
	if k.TLS != nil {
		cfg, err := a.tls(ctx, k.TLS)
		if err != nil {
			return o, err
		}
		o.TLS = cfg
	}
	return o, nil
}

// tls follows the files: certificates may be exchanged while connections are opened.
func (a *Activities) tls(ctx context.Context, t *pipeline.TLS) (*certs.Certs, error) {
	return certs.New(ctx, certs.Options{CAFile: t.CAFile, CertFile: t.CertFile, ServerName: t.ServerName, Key: func(ctx context.Context) (string, error) {
		key, err := a.Secrets.Resolve(ctx, t.Key)
		return key.Reveal(), err
	}})
}

// spill is where one pipeline's large transactions go.
func (a *Activities) spill(spec *pipeline.Spec) string {
	dir := spec.Stream.SpillDir
	if dir == "" {
		dir = a.SpillDir
	}
	return filepath.Join(dir, spec.Name)
}

// published is what the source publishes of the selected tables.
func published(schemas map[change.TableID][]string, sel []pipeline.Selected) ([]source.PublishedTable, error) {
	out := make([]source.PublishedTable, 0, len(sel))
	for _, t := range sel {
		p := source.PublishedTable{ID: t.Table, Where: t.Where, AppendOnly: t.AppendOnly}
		if t.Columns != nil {
			kept, unknown := t.Columns.Pick(schemas[t.Table])
			if len(unknown) > 0 {
				return nil, fault.Permanent("ColumnMissing", nil, "name columns that the table has", "table %s has no column %q", t.Table, unknown[0])
			}
			p.Columns = kept
		}
		out = append(out, p)
	}
	return out, nil
}

// target says where a table goes in a sink.
func target(spec *pipeline.Spec, t *pipeline.Selected, s *pipeline.Sink) sink.TableOptions {
	at := t.At(s)
	existing := sink.Existing(s.OnExisting)
	if spec.Snapshot.Mode == pipeline.SnapshotNever {
		existing = sink.KeepRows // whoever wants no load has brought the rows
	}
	return sink.TableOptions{Schema: at.Schema, Name: at.Name, OrderBy: t.OrderBy, AppendOnly: t.AppendOnly, Existing: existing}
}

func findSink(spec *pipeline.Spec, name string) (pipeline.Sink, error) {
	if s := spec.Sink(name); s != nil {
		return *s, nil
	}
	return pipeline.Sink{}, fault.Permanent("SinkMissing", nil, "name a sink of the declaration", "no sink is called %q", name)
}
