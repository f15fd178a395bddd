package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.uber.org/zap"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/tiers/shape"
)

// Conditions that an audit cannot begin in.
const (
	CodePipelineMissing    fault.Code = "PipelineMissing"
	CodeTableNotInPipeline fault.Code = "TableNotInPipeline"
	CodeNothingToVerify    fault.Code = "NothingToVerify"
	CodeAuditInput         fault.Code = "AuditInput"
)

// PlanAudit asks a pipeline's workflow what there is to verify.
func (a *Activities) PlanAudit(ctx context.Context, in contract.AuditInput) (out contract.AuditPlan, err error) {
	defer func() { err = ended(ctx, err) }()
	if err := checkAudit(in); err != nil {
		return out, err
	}
	st, err := a.statusOf(ctx, in.Pipeline)
	if err != nil {
		return out, err
	}
	return planAudit(&st, in)
}

// checkAudit finds mistakes that no pipeline has to be asked about.
func checkAudit(in contract.AuditInput) error {
	switch {
	case in.Pipeline == "":
		return fault.Permanent(CodeAuditInput, nil, `give {"pipeline": NAME}`, "the audit names no pipeline")
	case in.Parallel < 0 || in.Parallel > contract.MaxAuditParallel:
		return fault.Permanent(CodeAuditInput, nil, fmt.Sprintf("name a number from 1 to %d", contract.MaxAuditParallel), "parallel is %d", in.Parallel)
	case in.RowsPerSecond < 0:
		return fault.Permanent(CodeAuditInput, nil, "leave it out to read as fast as it goes", "rows_per_second is %g", in.RowsPerSecond)
	case in.MaxSessions < 0:
		return fault.Permanent(CodeAuditInput, nil, "leave it out to verify however many there are", "max_sessions is %d", in.MaxSessions)
	}
	return nil
}

func (a *Activities) statusOf(ctx context.Context, name string) (st contract.PipelineStatus, err error) {
	v, err := a.Client.QueryWorkflow(ctx, contract.PipelineID(name), "", contract.StatusQuery)
	var missing *serviceerror.NotFound
	switch {
	case errors.As(err, &missing):
		return st, fault.Permanent(CodePipelineMissing, nil, "name a pipeline that runs, as its declaration does", "no pipeline is called %q", name)
	case err != nil:
		if gone := fault.Ended(ctx, "TemporalUnreachable", "ask pipeline "+name+" for its status"); gone != nil {
			return st, gone
		}
		return st, fault.Transient("TemporalUnreachable", err, "ask pipeline %s for its status", name)
	}
	return st, v.Get(&st)
}

// planAudit chooses what to verify of a pipeline that is in a status.
func planAudit(st *contract.PipelineStatus, in contract.AuditInput) (out contract.AuditPlan, err error) {
	switch st.Phase {
	case contract.Bootstrapping, contract.Streaming, contract.Degraded:
	case contract.Paused:
		return out, fault.Permanent(CodeNothingToVerify, nil, "starter resume "+st.Name, "pipeline %s is paused: its sinks get to no position of the source", st.Name)
	default:
		return out, fault.Permanent(CodeNothingToVerify, nil, "starter status "+st.Name+" tells more; an audit needs tables that stream", "pipeline %s is %s", st.Name, st.Phase)
	}
	out.Source = st.Spec.Source
	if in.Changed {
		out.Kafka = &st.Spec.Kafka
	}
	var sinks []string
	for _, s := range st.Spec.Sinks {
		sinks = append(sinks, s.Name)
	}
	for _, name := range in.Sinks {
		if !slices.Contains(sinks, name) {
			return out, fault.Permanent("SinkMissing", nil, "name one of "+strings.Join(sinks, ", "), "pipeline %s has no sink %q%s", st.Name, name, didYouMean(name, sinks))
		}
	}
	var all []change.TableID
	for _, t := range st.Tables {
		all = append(all, t.Table)
	}
	for _, id := range in.Tables {
		if !slices.Contains(all, id) {
			return out, fault.Permanent(CodeTableNotInPipeline, nil, "name a table of the pipeline: starter status "+st.Name+" --json lists them", "table %s is not in pipeline %s%s", id, st.Name, nearest(id, all))
		}
	}
	used := map[string]bool{}
	for i := range st.Tables {
		t := &st.Tables[i]
		if len(in.Tables) > 0 && !slices.Contains(in.Tables, t.Table) {
			continue
		}
		for _, s := range sinks {
			if len(in.Sinks) > 0 && !slices.Contains(in.Sinks, s) {
				continue
			}
			// Who names a table gets a verdict on it, even if that is inconclusive.
			if why := contract.Verifiable(t, s); why != "" && len(in.Tables) == 0 {
				out.Skipped = append(out.Skipped, contract.AuditSkipped{Sink: s, Table: t.Table, Reason: why})
				continue
			}
			used[s] = true
			out.Tasks = append(out.Tasks, contract.AuditTask{Sink: s, Table: t.Table, Where: st.Spec.Options(t.Table).Where, Shape: st.Spec.Shape(t.Table, s)})
		}
	}
	for _, s := range st.Spec.Sinks {
		if used[s.Name] {
			out.Sinks = append(out.Sinks, s)
		}
	}
	switch n := len(out.Tasks); {
	case n == 0:
		return out, fault.Permanent(CodeNothingToVerify, nil, "starter status "+st.Name+" tells when tables stream", "no table of pipeline %s streams and has a key", st.Name)
	case n > contract.MaxAuditTasks:
		return out, fault.Permanent(CodeAuditInput, nil, "name some of the tables, or one sink, and audit the others separately",
			"%d tables at sinks are too many for one audit, which takes %d", n, contract.MaxAuditTasks)
	}
	return out, nil
}

func didYouMean(name string, names []string) string {
	if n := pipeline.Nearest(name, names); n != "" {
		return " (did you mean " + n + "?)"
	}
	return ""
}

// VerifyTable compares a table at a sink with the source. It reads both, and writes to
// the sink's ledger alone: an attempt goes on from where the one before it was then.
func (a *Activities) VerifyTable(ctx context.Context, in contract.VerifyTask) (out contract.TableVerdict, err error) {
	var so atomic.Pointer[contract.VerifyProgress]
	so.Store(&contract.VerifyProgress{Sink: in.Sink.Name, Table: in.Table, Since: cameOn(ctx)})
	defer func() { err = stuck(err, so.Load().Since) }()
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		srv, sk, err := a.ends(ctx, in.TableTask)
		if err != nil {
			return err
		}
		defer srv.Close()
		defer sk.Close()
		side, ok := sk.(verify.Sink)
		if !ok {
			return fault.Permanent("SinkType", nil, "use postgres or clickhouse", "sink %s cannot be verified", in.Sink.Name)
		}
		// The ledger of a pipeline that an older release has set up has no room for it yet.
		if err := sk.Init(ctx); err != nil {
			return err
		}
		t, err := sk.Table(ctx, in.Table)
		if err != nil {
			return err
		}
		k := &keeper{ledger: sk, run: in.Run, table: &t}
		if err := k.load(ctx); err != nil {
			return err
		}
		tell := func(r *verify.Result) {
			next := contract.VerifyProgress{Sink: in.Sink.Name, Table: in.Table, Rows: r.Rows, Parts: r.Parts, Suspects: r.Suspects, Findings: len(r.Findings)}
			swap(&so, func(old contract.VerifyProgress) contract.VerifyProgress {
				next.Paused, next.Since = old.Paused, old.Since
				if next.Rows > old.Rows || next.Parts > old.Parts {
					next.Since = time.Now()
				}
				return next
			})
		}
		gate := verify.Gate{Why: why(srv, sk, in), Waits: func(why string) {
			swap(&so, func(p contract.VerifyProgress) contract.VerifyProgress {
				p.Paused, p.Since = why, time.Now() // to wait is not to fail
				return p
			})
		}}
		log := a.logger(ctx, in.Pipeline)
		o := verify.Options{From: k.state.Place, So: k.so, RowsPerSecond: in.RowsPerSecond, Admit: gate.Admit, MaxFindings: maxFindings}
		if k.so != nil {
			tell(k.so)
			log.Info("verification goes on", zap.String("sink", in.Sink.Name), zap.Stringer("table", in.Table), zap.Int64("rows", k.so.Rows), zap.Int("parts", k.so.Parts))
		}
		o.Done = func(at verify.Place, r *verify.Result) error {
			tell(r)
			if err := k.done(ctx, at, r); err != nil { // the next one may be recorded, and then holds this one
				log.Warn("progress of a verification is not recorded", zap.Stringer("table", in.Table), zap.Error(err))
			}
			return ctx.Err()
		}
		subject := verify.Subject{Schema: t.Schema, Options: t.Options, Where: in.Where}
		if subject.Shape, err = a.shapeOf(ctx, t.Schema, in.Shape, shape.All); err != nil {
			return err
		}
		var res verify.Result
		if in.Kafka == nil {
			res, err = verify.Table(ctx, srv, side, sk, subject, o)
		} else {
			o.Done = func(_ verify.Place, r *verify.Result) error { // an attempt begins anew: it has little to do
				tell(r)
				return nil
			}
			res, err = a.changed(ctx, in, k, srv, side, sk, subject, o)
		}
		if err != nil {
			if ctx.Err() != nil || fault.Retryable(err) || len(res.Findings) == 0 {
				return err
			}
			// What is confirmed stays true, although the rest cannot be read.
			res.Reason = secrets.Redact(err.Error())
		}
		if err := k.end(ctx, &res); err != nil {
			return err
		}
		out = verdictOf(in, &res, k.took())
		a.verified(in.Pipeline, in.Run, &out)
		return nil
	})
	return out, err
}

// maxStuck is for how long the verification of a table may fail without coming on: the
// others wait for their turn.
const maxStuck = 6 * time.Minute

// CodeVerificationStuck: a verification failed for too long. The cause is in the text.
const CodeVerificationStuck fault.Code = "VerificationStuck"

// cameOn is when the attempts before this one last came on.
func cameOn(ctx context.Context) time.Time {
	var p contract.VerifyProgress
	if activity.HasHeartbeatDetails(ctx) && activity.GetHeartbeatDetails(ctx, &p) == nil && !p.Since.IsZero() {
		return p.Since
	}
	return time.Now()
}

// stuck makes an error the last one if nothing has come on for too long.
func stuck(err error, since time.Time) error {
	var app *temporal.ApplicationError
	if !errors.As(err, &app) || app.NonRetryable() || app.Type() == contract.WorkerStoppedError || time.Since(since) < maxStuck {
		return err
	}
	return named(fault.Permanent(CodeVerificationStuck, nil, "verify it again", "%s for %s: %s", app.Type(), time.Since(since).Round(time.Second), app.Message()))
}

// swap changes what a heartbeat tells, from whatever goroutine.
func swap(p *atomic.Pointer[contract.VerifyProgress], f func(contract.VerifyProgress) contract.VerifyProgress) {
	for {
		old := p.Load()
		if next := f(*old); p.CompareAndSwap(old, &next) {
			return
		}
	}
}

// load is what the source tells of the load on it.
type load interface {
	verify.Source
	ActiveSessions(ctx context.Context) (int, error)
}

// defaultMaxLag is how far a sink may be behind before its verification pauses.
const defaultMaxLag = time.Minute

// why says why a verification should pause.
func why(src load, led verify.Ledger, in contract.VerifyTask) func(context.Context) (string, error) {
	limit := defaultMaxLag
	if in.MaxLag != 0 {
		limit = time.Duration(in.MaxLag * float64(time.Second))
	}
	lag := verify.Lag{Source: src, Ledger: led, Table: in.Table}
	return func(ctx context.Context) (string, error) {
		if in.MaxSessions > 0 {
			n, err := src.ActiveSessions(ctx)
			if err != nil {
				return "", err
			}
			if n > in.MaxSessions {
				return fmt.Sprintf("the source has %d active sessions, limit %d", n, in.MaxSessions), nil
			}
		}
		if limit < 0 {
			return "", nil
		}
		age, behind, err := lag.Look(ctx)
		if err != nil || age <= limit {
			return "", err
		}
		return fmt.Sprintf("the sink is %s behind (%d kB of log), limit %s", age.Round(time.Second), behind/1000, limit), nil
	}
}

// verdictOf counts what a walk found; its keys are left behind.
func verdictOf(in contract.VerifyTask, r *verify.Result, took time.Duration) contract.TableVerdict {
	v := contract.TableVerdict{
		Sink: in.Sink.Name, Table: in.Table, Verdict: r.Verdict, Scope: in.Scope(), Reason: r.Reason, From: r.From, To: r.To,
		Rows: r.Rows, Parts: r.Parts, Differing: r.Differing, Suspects: r.Suspects, Unsettled: r.Unsettled,
		More: r.More, Took: took.Seconds(),
	}
	for _, f := range r.Findings {
		switch f.Kind {
		case verify.Missing:
			v.Missing++
		case verify.Extra:
			v.Extra++
		case verify.Twice:
			v.Twice++
		default:
			v.Changed++
		}
		for _, c := range f.Columns {
			if v.Columns == nil {
				v.Columns = map[string]int{}
			}
			v.Columns[c]++
		}
	}
	return v
}

// verified records a verdict for who asks later.
func (a *Activities) verified(pipeline, run string, v *contract.TableVerdict) {
	reason := v.Reason
	if reason == "" && len(v.Columns) > 0 {
		reason = "columns " + strings.Join(slices.Sorted(maps.Keys(v.Columns)), ", ")
	}
	a.Analytics.Put(&analytics.Verifications{
		Time: time.Now().UTC(), Pipeline: pipeline, Sink: v.Sink, Tab: v.Table.String(), Run: run, Kind: cmp.Or(v.Scope, contract.ScopeFull), Verdict: string(v.Verdict),
		Rows: uint64(v.Rows), Differing: uint64(v.Findings()), Pos: v.To.String(), Micros: uint64(v.Took * 1e6), Reason: reason,
	})
}

// maxFindings ends the verification of a table: their keys are in memory, a few hundred
// bytes of each, a repair of so many takes minutes, and loading the table anew is the
// better answer to more.
const maxFindings = 200_000

// keptRuns is of how many audits, those that found something, a ledger keeps the findings.
const keptRuns = 20

// ConcludeAudit removes the findings of old audits, and records the verdicts that no
// VerifyTable came to. A ledger that cannot be tidied now is tidied by the next audit.
func (a *Activities) ConcludeAudit(ctx context.Context, in contract.AuditConclusion) error {
	log := a.logger(ctx, in.Pipeline)
	return beating(ctx, func(ctx context.Context) error {
		for _, s := range in.Sinks {
			if err := a.forgetFindings(ctx, in.Pipeline, s); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				log.Warn("findings of old audits are still there", zap.String("sink", s.Name), zap.Error(err))
			}
		}
		for i := range in.Failed {
			a.verified(in.Pipeline, in.Run, &in.Failed[i])
		}
		return nil
	})
}

func (a *Activities) forgetFindings(ctx context.Context, name string, s pipeline.Sink) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	sk, err := a.sink(ctx, name, s)
	if err != nil {
		return err
	}
	defer sk.Close()
	if err := sk.Init(ctx); err != nil { // it may be that of an older release
		return err
	}
	return sk.ForgetFindings(ctx, keptRuns)
}
