package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/jackc/pgx/v5"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	pgsink "syncline/dataplane/sink/postgres"
	"syncline/dataplane/trail"
	"syncline/dataplane/verify"
	"syncline/starter/view"
)

// incidentPipeline keeps the payments of the order database those of the billing one.
const incidentPipeline = `version: 1
name: payments
source:
  type: postgres
  dsn: env:SYNCLINE_SOURCE_DSN
kafka:
  brokers: ${SYNCLINE_KAFKA_BROKERS}
  partitions: 4
sinks:
  - name: orders
    type: postgres
    dsn: env:SYNCLINE_SINK_DSN
  - name: analytics
    type: clickhouse
    dsn: env:SYNCLINE_CLICKHOUSE_URL
tables:
  include:
    - billing.*
`

const billing = `
CREATE SCHEMA billing;
CREATE TABLE billing.payments (id bigint PRIMARY KEY, order_id bigint NOT NULL, amount numeric(12,2) NOT NULL, state text NOT NULL, note text);
INSERT INTO billing.payments SELECT i, i / 2, (i % 9000) / 100.0 + 1, 'open', NULL FROM generate_series(1, 20000) AS i;
`

// cleanUp is what went wrong: at the order database, beside the pipeline.
var cleanUp = []string{
	"DELETE FROM billing.payments WHERE id IN (SELECT id FROM billing.payments WHERE state = 'paid' ORDER BY id LIMIT 7)",
	"UPDATE billing.payments SET state = 'open' WHERE id IN (SELECT id FROM billing.payments WHERE state = 'paid' ORDER BY id DESC LIMIT 12)",
	"UPDATE billing.payments SET amount = amount - 1 WHERE id IN (1701, 1702, 1703)",
	"INSERT INTO billing.payments VALUES (-1, -1, 99.99, 'paid', 'made up')",
}

// found is what the incident's report tells of.
type found struct {
	pipeline string
	made     time.Time // when rows were made wrong
	equal    *contract.AuditResult
	audit    *contract.AuditResult // that found it
	repair   contract.RepairResult
	keys     map[string]map[change.TableID][]sink.RepairKey // by sink
	trail    []trail.Entry
}

// incident plays a whole one: payments of two databases diverge, a scheduled audit
// finds it, the payments concerned are quarantined, made right from the log, verified and
// released while others go on, and a report is written.
func (d *demo) incident(ctx context.Context) error {
	d.say("starting the servers")
	if err := d.startStack(ctx); err != nil {
		return err
	}
	d.o.pipeline = filepath.Join(d.o.data, "payments.yaml")
	if err := os.WriteFile(d.o.pipeline, []byte(incidentPipeline), 0o644); err != nil {
		return err
	}
	d.say("a billing database with 20,000 payments; they are kept in an order database, too")
	source, err := pgx.Connect(ctx, d.get("SYNCLINE_SOURCE_DSN"))
	if err != nil {
		return err
	}
	defer func() { _ = source.Close(context.WithoutCancel(ctx)) }()
	if _, err := source.Exec(ctx, billing); err != nil {
		return fmt.Errorf("seed: %w", err)
	}
	if err := d.startWorkers(ctx); err != nil {
		return err
	}
	tc, err := client.DialContext(ctx, client.Options{HostPort: d.get("SYNCLINE_TEMPORAL_ADDRESS"), Logger: silent{}})
	if err != nil {
		return fmt.Errorf("connect to Temporal: %w", err)
	}
	defer tc.Close()
	if err := d.command(ctx, "starter", "apply", d.o.pipeline); err != nil {
		return err
	}
	so := &found{pipeline: "payments"}
	if err := d.watchLoad(ctx, tc, so.pipeline); err != nil {
		return err
	}
	paying, endPaying := context.WithCancel(ctx)
	defer endPaying()
	paid := make(chan error, 1)
	go func() { paid <- d.pay(paying) }()
	d.say("customers pay; an audit of both databases is scheduled for every ten seconds")
	schedule, err := tc.ScheduleClient().Create(ctx, client.ScheduleOptions{
		ID:   "audit-payments",
		Spec: client.ScheduleSpec{Intervals: []client.ScheduleIntervalSpec{{Every: 10 * time.Second}}},
		Action: &client.ScheduleWorkflowAction{ID: "audit/payments/scheduled", Workflow: contract.AuditWorkflow,
			TaskQueue: contract.Queue("syncline", contract.Control), Args: []any{contract.AuditInput{Pipeline: so.pipeline}}},
	})
	if err != nil {
		return fmt.Errorf("schedule the audit: %w", err)
	}
	if so.equal, err = d.scheduled(ctx, tc, schedule, verify.Equal, time.Time{}); err != nil {
		return err
	}
	fmt.Printf("    audit %s: all equal\n", so.equal.Run)

	d.say("somebody cleans up at the order database")
	orders, err := pgx.Connect(ctx, d.get("SYNCLINE_SINK_DSN"))
	if err != nil {
		return err
	}
	defer func() { _ = orders.Close(context.WithoutCancel(ctx)) }()
	so.made = time.Now().UTC()
	for _, q := range cleanUp {
		tag, err := orders.Exec(ctx, q)
		if err != nil {
			return err
		}
		fmt.Printf("    %s\n", tag)
	}
	if so.audit, err = d.scheduled(ctx, tc, schedule, verify.Different, so.made); err != nil {
		return err
	}
	fmt.Printf("    audit %s found it %s later:\n", so.audit.Run, time.Since(so.made).Round(time.Second))
	spec, err := d.spec()
	if err != nil {
		return err
	}
	view.DrawAudit(os.Stdout, d.style(), so.audit, spec.Sinks)

	d.say("a plan of the repair")
	var plan contract.RepairResult
	if err := d.asJSON(ctx, &plan, "repair", so.pipeline, "--plan", "--audit", so.audit.Run); err != nil {
		return err
	}
	view.DrawRepair(os.Stdout, d.style(), &plan, spec.Sinks)
	d.say("quarantine, replay, verify, release, while customers go on paying")
	if err := d.asJSON(ctx, &so.repair, "repair", so.pipeline, "--apply", plan.Name, "--hash", plan.Hash, "--why", "payments were cleaned up at the order database"); err != nil {
		return err
	}
	view.DrawRepair(os.Stdout, d.style(), &so.repair, spec.Sinks)
	d.say("both databases agree again, and the record of it is whole")
	if err := d.command(ctx, "starter", "verify", so.pipeline); err != nil {
		return err
	}
	if err := d.command(ctx, "starter", "audit-trail", "verify", so.pipeline); err != nil {
		return err
	}
	endPaying()
	if err := <-paid; err != nil {
		return fmt.Errorf("customers could not pay: %w", err)
	}
	if err := d.check(ctx, spec); err != nil {
		return err
	}
	if err := d.ledger(ctx, so); err != nil {
		return err
	}
	file := filepath.Join(d.o.data, "incident.md")
	text := report(so)
	if err := os.WriteFile(file, text, 0o644); err != nil {
		return err
	}
	d.say("the report of the incident, %s:", file)
	fmt.Println()
	fmt.Print(string(text))
	return nil
}

// pay settles one payment after the other at the billing database.
func (d *demo) pay(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.get("SYNCLINE_SOURCE_DSN"))
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	for n := 1; ctx.Err() == nil; n++ {
		id := 1 + n*7919%20000
		if _, err := conn.Exec(context.WithoutCancel(ctx), "UPDATE billing.payments SET state = 'paid', note = $2 WHERE id = $1", id, fmt.Sprintf("receipt %d", n)); err != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	return nil
}

// scheduled waits for an audit of the schedule that began after a time and has a
// verdict; an audit that could not tell is passed over.
func (d *demo) scheduled(ctx context.Context, tc client.Client, s client.ScheduleHandle, want verify.Verdict, after time.Time) (*contract.AuditResult, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	for {
		desc, err := s.Describe(ctx)
		if err != nil {
			return nil, err
		}
		for _, a := range desc.Info.RecentActions {
			if a.StartWorkflowResult == nil || a.ActualTime.Before(after) {
				continue
			}
			var res contract.AuditResult
			if err := tc.GetWorkflow(ctx, a.StartWorkflowResult.WorkflowID, a.StartWorkflowResult.FirstExecutionRunID).Get(ctx, &res); err != nil {
				return nil, fmt.Errorf("a scheduled audit: %w", err)
			}
			if res.Count(want) > 0 && (want != verify.Equal || res.Convergence == 1) {
				return &res, nil
			}
		}
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil, fmt.Errorf("no scheduled audit says %s: %w", want, ctx.Err())
		}
	}
}

// asJSON runs a command of the tool and takes its result.
func (d *demo) asJSON(ctx context.Context, into any, args ...string) error {
	cmd := exec.CommandContext(ctx, d.program("starter"), append(args, "--json")...)
	cmd.Env = d.env
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return fmt.Errorf("starter %v: %w: %s%s", args, err, out, exit.Stderr)
		}
		return err
	}
	return json.Unmarshal(out, into)
}

// ledger reads what the order database keeps of the repair.
func (d *demo) ledger(ctx context.Context, so *found) error {
	sk, err := pgsink.Open(pgsink.Config{DSN: d.get("SYNCLINE_SINK_DSN"), Pipeline: so.pipeline})
	if err != nil {
		return err
	}
	defer func() { _ = sk.Close() }()
	so.keys = map[string]map[change.TableID][]sink.RepairKey{"orders": {}}
	for i := range so.repair.Tables {
		t := &so.repair.Tables[i]
		if t.Sink != "orders" {
			continue
		}
		if so.keys["orders"][t.Table], err = sk.Repair(ctx, so.repair.Name, t.Table, sink.RepairPart{}); err != nil {
			return err
		}
	}
	return sk.Trail(ctx, func(e trail.Entry) error {
		if e.Repair == so.repair.Name {
			so.trail = append(so.trail, e)
		}
		return nil
	})
}
