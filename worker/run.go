package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/zap"
	"google.golang.org/grpc/codes"

	"syncline/activities"
	"syncline/activities/contract"
	"syncline/activities/frontend"
	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/dataplane/login"
	"syncline/secrets"
	"syncline/worker/config"
	"syncline/workflows"
)

// run puts a worker together, runs it until ctx ends, and takes it apart again.
func run(ctx context.Context, c config.Config, identity string, log *zap.Logger) (err error) {
	metrics := observe.NewMetrics(c.BuildID)
	health := observe.NewHealth()
	health.Register(metrics)
	sdk, reported, err := metrics.SDK(log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reported.Close()) }()
	server, err := observe.Serve(c.HTTPAddr, observe.Handler(metrics, health, c.Pprof), log)
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		err = errors.Join(err, server.Close(last))
	}()
	traces, err := observe.NewTraces(ctx, c.Traces, identity, c.BuildID, log)
	if err != nil {
		return err
	}
	// A collector that does not answer must not hold up the end, nor make it a failure.
	defer traces.Close(3 * time.Second)
	resolver, err := secrets.New(c.Secrets())
	if err != nil {
		return err
	}
	defer resolver.Close()
	logins := resolver.Logins(secrets.LoginsOptions{
		Moved: func(r secrets.LoginRef, l login.Login) {
			log.Info("another login is in force", zap.Stringer("login", r), zap.String("user", l.User), zap.Int64("generation", l.Generation))
		},
		Failed: func(r secrets.LoginRef, err error) {
			log.Warn("a login cannot be read again; what was in force stays", zap.Stringer("login", r), zap.Error(err))
		},
		Revoked: func(r secrets.LoginRef, user string, err error) {
			if err != nil {
				log.Warn("an account cannot be revoked; it ends with its lease, or with the worker's own token", zap.Stringer("login", r), zap.String("user", user), zap.Error(err))
				return
			}
			log.Info("an account is revoked", zap.Stringer("login", r), zap.String("user", user))
		},
	})
	defer logins.Close() // once nothing connects any more

	options, err := c.Temporal.Options(ctx, resolver, keysAway(log, metrics))
	if err != nil {
		return err
	}
	options.Identity, options.Logger, options.MetricsHandler = identity, observe.TemporalLogger(log), sdk
	tc, err := dial(ctx, c.Temporal, options, health, log)
	if err != nil {
		return err
	}
	defer tc.Close()
	if err := registerAttributes(ctx, tc, c.Temporal.Namespace, log); err != nil {
		return err
	}

	recorder, err := startAnalytics(c, resolver, logins, metrics, log)
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		defer cancel()
		err = errors.Join(err, recorder.Close(last))
	}()

	var wires *activities.Wires
	if c.Usage {
		wires = activities.NewWires(metrics, c.Region)
	}
	acts := &activities.Activities{
		Analytics: recorder,
		Client:    tc, Secrets: resolver, Logins: logins, Metrics: metrics, Health: health, Log: log,
		SpillDir: c.SpillDir, Worker: identity, Region: c.Region, Tracer: traces.Tracer(), Wires: wires,
	}
	counts, countingEnd := context.WithCancel(context.WithoutCancel(ctx))
	var counting sync.WaitGroup
	counting.Go(func() { wires.Run(counts, recorder) })
	// After the activities have ended, and before what was recorded is handed over.
	defer func() {
		countingEnd()
		counting.Wait()
	}()
	if !c.Analytics.IsZero() {
		acts.AnalyticsLogin = c.AnalyticsLogin
		acts.AnalyticsStore = func(ctx context.Context, as login.Source) (*analytics.Store, error) {
			return openAnalytics(ctx, c, resolver, as)
		}
	}
	var running []worker.Worker
	for _, w := range append(newFleet(tc, c, identity, acts), newRoles(tc, c, acts)...) {
		if err := w.Start(); err != nil {
			stopAll(running)
			return fmt.Errorf("start: %w", err)
		}
		running = append(running, w)
	}
	if acts.AnalyticsStore != nil && c.Has(contract.Control) {
		go watchStanding(ctx, analyticsBy(c, resolver, logins), metrics, log)
	}
	if c.Has(contract.Control) {
		go watchRuns(ctx, tc, metrics, log)
	}
	go watchTemporal(ctx, tc, health, 10*time.Second, 45*time.Second)
	health.Ready()
	log.Info("worker runs", zap.Any("roles", c.Roles), zap.String("temporal", c.Temporal.Address), zap.String("metrics", "http://"+server.Addr()+"/metrics"))
	<-ctx.Done()
	health.NotReady("stopping")
	log.Info("worker stops: activities flush and hand over", zap.Duration("within", c.ShutdownTimeout))
	stopAll(running)
	return nil
}

// keysAway tells that the keys for payloads cannot be read again: nothing waits for them
// yet, and something will.
func keysAway(log *zap.Logger, m *observe.Metrics) func(error) {
	return func(err error) {
		m.SecurityFailed(analytics.SecuritySecret)
		log.Warn("the keys for payloads cannot be read again; those that were read last are used", zap.Error(err))
	}
}

// startAnalytics starts the writer of analytics, if they are wanted. It does not
// wait for their database: what is recorded waits on disk.
func startAnalytics(c config.Config, resolver *secrets.Resolver, logins *secrets.Logins, m *observe.Metrics, log *zap.Logger) (*analytics.Writer, error) {
	if c.Analytics.IsZero() {
		return nil, nil
	}
	return analytics.NewWriter(analytics.Options{
		Open: analyticsBy(c, resolver, logins),
		Dir:  filepath.Join(c.SpillDir, "analytics"), SpillBytes: c.AnalyticsSpill, Log: log,
		Observer: analytics.Observer{
			Written: func(n int) { m.AnalyticsRows(observe.AnalyticsWritten, n) },
			Dropped: func(n int) { m.AnalyticsRows(observe.AnalyticsDropped, n) },
			Waiting: func(_ int, bytes int64) { m.AnalyticsSpill(bytes) },
			Up:      m.AnalyticsUp,
		},
	})
}

// analyticsBy opens analytics with the login that is in force.
func analyticsBy(c config.Config, resolver *secrets.Resolver, logins *secrets.Logins) func(context.Context) (*analytics.Store, error) {
	return func(ctx context.Context) (*analytics.Store, error) {
		if c.AnalyticsLogin.IsZero() {
			return openAnalytics(ctx, c, resolver, nil)
		}
		as, err := logins.Of(ctx, c.AnalyticsLogin)
		if err != nil {
			return nil, err
		}
		return openAnalytics(ctx, c, resolver, as)
	}
}

// openAnalytics resolves the connection string each time: it may have been rotated.
func openAnalytics(ctx context.Context, c config.Config, resolver *secrets.Resolver, as login.Source) (*analytics.Store, error) {
	dsn, err := resolver.Resolve(ctx, c.Analytics)
	if err != nil {
		return nil, err
	}
	return analytics.OpenStore(dsn.Reveal(), c.AnalyticsDatabase, as)
}

// watchTemporal makes /healthz red while Temporal does not answer: activities end
// then, and a worker without any would look idle.
func watchTemporal(ctx context.Context, tc interface {
	CheckHealth(context.Context, *client.CheckHealthRequest) (*client.CheckHealthResponse, error)
}, health *observe.Health, every, within time.Duration) {
	var done func(failed bool) // while it does not answer
	for {
		look, cancel := context.WithTimeout(ctx, every)
		_, err := tc.CheckHealth(look, &client.CheckHealthRequest{})
		cancel()
		switch {
		case err != nil && done == nil:
			done = health.Expect("temporal", within)
		case err == nil && done != nil:
			done(false)
			done = nil
		}
		select {
		case <-ctx.Done():
			if done != nil {
				done(false)
			}
			return
		case <-time.After(every):
		}
	}
}

// stopAll stops the roles at the same time: each waits for its own activities.
func stopAll(ws []worker.Worker) {
	done := make(chan struct{})
	for _, w := range ws {
		go func() {
			w.Stop()
			done <- struct{}{}
		}()
	}
	for range ws {
		<-done
	}
}

// newFleet makes what every worker polls, whatever its roles and its version: the queue
// by which others see that it is there, and one of its own for what has to be done from
// where it runs.
func newFleet(tc client.Client, c config.Config, identity string, acts *activities.Activities) []worker.Worker {
	o := worker.Options{
		WorkerStopTimeout: c.ShutdownTimeout, DisableWorkflowWorker: true, Interceptors: []interceptor.WorkerInterceptor{acts.Recording()},
		MaxConcurrentActivityTaskPollers: 1, Identity: identity,
	}
	presence := worker.New(tc, contract.FleetQueue(c.TaskQueuePrefix), o)
	// A queue without an activity is not polled.
	presence.RegisterActivityWithOptions(acts.LoginState, activity.RegisterOptions{Name: contract.LoginStateActivity})
	own := worker.New(tc, contract.OwnQueue(c.TaskQueuePrefix, identity), o)
	for name, fn := range acts.OnFleet() {
		own.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return []worker.Worker{own, presence}
}

func newRoles(tc client.Client, c config.Config, acts *activities.Activities) (ws []worker.Worker) {
	for _, role := range c.Roles {
		ws = append(ws, newWorker(tc, c, role, acts))
	}
	return ws
}

func newWorker(tc client.Client, c config.Config, role contract.Role, acts *activities.Activities) worker.Worker {
	o := worker.Options{
		// Zero would abandon what is in flight: no flush, no hand-over.
		WorkerStopTimeout:     c.ShutdownTimeout,
		DisableWorkflowWorker: role != contract.Control,
		Interceptors:          []interceptor.WorkerInterceptor{acts.Recording()},
	}
	if role == contract.Snapshot {
		o.MaxConcurrentActivityExecutionSize = c.MaxConcurrentChunks
	}
	if c.Deployment != "" {
		o.DeploymentOptions = worker.DeploymentOptions{
			UseVersioning:             true,
			Version:                   worker.WorkerDeploymentVersion{DeploymentName: c.Deployment, BuildID: c.BuildID},
			DefaultVersioningBehavior: workflow.VersioningBehaviorAutoUpgrade,
		}
	}
	w := worker.New(tc, contract.Queue(c.TaskQueuePrefix, role), o)
	if role == contract.Control {
		w.RegisterWorkflowWithOptions(workflows.Pipeline, workflow.RegisterOptions{Name: contract.PipelineWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Stream, workflow.RegisterOptions{Name: contract.StreamWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Bootstrap, workflow.RegisterOptions{Name: contract.BootstrapWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Snapshot, workflow.RegisterOptions{Name: contract.SnapshotWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Plan, workflow.RegisterOptions{Name: contract.PlanWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Report, workflow.RegisterOptions{Name: contract.ReportWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Audit, workflow.RegisterOptions{Name: contract.AuditWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Repair, workflow.RegisterOptions{Name: contract.RepairWorkflow})
		w.RegisterWorkflowWithOptions(workflows.CheckTrail, workflow.RegisterOptions{Name: contract.CheckTrailWorkflow})
		w.RegisterWorkflowWithOptions(workflows.BatchSync, workflow.RegisterOptions{Name: contract.BatchSyncWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Erase, workflow.RegisterOptions{Name: contract.EraseWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Replay, workflow.RegisterOptions{Name: contract.ReplayWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Price, workflow.RegisterOptions{Name: contract.PriceWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Prices, workflow.RegisterOptions{Name: contract.PricesWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Cost, workflow.RegisterOptions{Name: contract.CostWorkflow})
		w.RegisterWorkflowWithOptions(workflows.BatchTier, workflow.RegisterOptions{Name: contract.BatchTierWorkflow})
		w.RegisterWorkflowWithOptions(workflows.RotateSecret, workflow.RegisterOptions{Name: contract.RotateWorkflow})
		w.RegisterWorkflowWithOptions(workflows.Advise, workflow.RegisterOptions{Name: contract.AdviseWorkflow})
	}
	for name, fn := range acts.ByRole(role) {
		w.RegisterActivityWithOptions(fn, activity.RegisterOptions{Name: name})
	}
	return w
}

// dial waits for Temporal: in a fleet that starts together it may come up last.
// /readyz says what is waited for. A server that is there and refuses is not waited for.
func dial(ctx context.Context, at frontend.Config, o client.Options, health *observe.Health, log *zap.Logger) (client.Client, error) {
	for wait := time.Second; ; wait = min(2*wait, 15*time.Second) {
		tc, err := client.DialContext(ctx, o)
		if err == nil {
			return tc, nil
		}
		if text := at.Refusal(ctx, err); text != "" {
			return nil, &refused{text, err}
		}
		health.NotReady("no connection to Temporal at " + o.HostPort)
		log.Warn("no connection to Temporal; trying again", zap.String("address", o.HostPort), zap.Duration("in", wait), zap.Error(err))
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("temporal at %s (SYNCLINE_TEMPORAL_ADDRESS): %w", o.HostPort, err)
		case <-time.After(wait):
		}
	}
}

// refused is Temporal's refusal in words of our own.
type refused struct {
	text string
	err  error
}

func (r *refused) Error() string { return r.text }
func (r *refused) Unwrap() error { return r.err }

// registerAttributes adds the search attributes that the namespace lacks:
// without them a workflow that sets one cannot proceed.
func registerAttributes(ctx context.Context, tc client.Client, namespace string, log *zap.Logger) error {
	want := map[string]enumspb.IndexedValueType{
		contract.PipelineAttribute: enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		contract.PhaseAttribute:    enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		contract.SourceAttribute:   enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		contract.RegionAttribute:   enumspb.INDEXED_VALUE_TYPE_KEYWORD,
		contract.SinkAttribute:     enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
		contract.TierAttribute:     enumspb.INDEXED_VALUE_TYPE_KEYWORD_LIST,
	}
	have, err := tc.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: namespace})
	switch serviceerror.ToStatus(err).Code() {
	case codes.Unimplemented, codes.PermissionDenied: // Temporal Cloud keeps this to other tools
		log.Warn("search attributes cannot be looked at; if the namespace lacks one, workflows wait until it is made", zap.String("namespace", namespace), zap.Error(err))
		return nil
	}
	if err != nil {
		return fmt.Errorf("list search attributes of namespace %s: %w", namespace, err)
	}
	for name, is := range have.CustomAttributes {
		if t, ok := want[name]; ok && t != is {
			return fmt.Errorf("search attribute %s of namespace %s is of type %s, want %s: remove it, or use another namespace", name, namespace, is, t)
		}
		delete(want, name)
	}
	if len(want) == 0 {
		return nil
	}
	_, err = tc.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: namespace, SearchAttributes: want})
	var exists *serviceerror.AlreadyExists // another worker was first
	if err != nil && !errors.As(err, &exists) {
		return fmt.Errorf("add search attributes to namespace %s (an operator can do it with temporal operator search-attribute create): %w", namespace, err)
	}
	return nil
}
