package e2e

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"syncline/activities/contract"
	"syncline/dataplane/trace"
	"syncline/testsuite/otlp"
)

// TestTraces follows transactions from the source's commit into both sinks by what
// a collector was sent, and from there to the workflow's run.
func TestTraces(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	col := otlp.New(t)
	r.exec("CREATE SCHEMA s", "CREATE TABLE s.a (id integer PRIMARY KEY, v text)", "CREATE TABLE s.b (id integer PRIMARY KEY, v text)",
		"INSERT INTO s.a VALUES (0, 'loaded')")
	for _, s := range []string{"CREATE SCHEMA s", "CREATE TABLE s.a (id integer PRIMARY KEY, v text CHECK (v <> 'refused by one sink'))"} {
		if _, err := scalar(t.Context(), r.sinkDSN, s); err != nil {
			t.Fatal(err)
		}
	}
	base := r.env
	set := func(ratio string) {
		r.env = append(base[:len(base):len(base)], "OTEL_EXPORTER_OTLP_ENDPOINT="+col.GRPC(), "OTEL_EXPORTER_OTLP_PROTOCOL=grpc", "SYNCLINE_TRACE_RATIO="+ratio)
	}
	set("1")
	w := r.start()
	p := r.pipe("  include: [s.*]\n" + fastStream)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	run := func() string {
		t.Helper()
		d, err := r.tc.DescribeWorkflowExecution(t.Context(), contract.StreamID(p.name), "")
		if err != nil {
			t.Fatal(err)
		}
		return d.WorkflowExecutionInfo.Execution.RunId
	}
	runID := run()

	const app = "4bf92f3577b34da6a3ce929d0e0e4736"
	changes := []int{1, 3, 2, 40, 1} // of the transactions below
	r.exec("INSERT INTO s.a VALUES (1, 'x')",
		"BEGIN; INSERT INTO s.a VALUES (2, 'x'); INSERT INTO s.b VALUES (2, 'x'); UPDATE s.a SET v = 'y' WHERE id = 1; COMMIT",
		"DELETE FROM s.a WHERE id IN (1, 2)",
		"INSERT INTO s.b SELECT i, 'x' FROM generate_series(101, 140) i",
		"BEGIN; SELECT pg_logical_emit_message(true, 'traceparent', '00-"+app+"-00f067aa0ba902b7-01'); INSERT INTO s.a VALUES (3, 'x'); COMMIT")
	var captures []otlp.Span
	until(t, bound, "all spans arrive", func(context.Context) error {
		if captures = col.Spans(trace.SpanCapture); len(captures) != len(changes) {
			return fmt.Errorf("%d capture spans of %d transactions", len(captures), len(changes))
		}
		for _, c := range captures {
			applied := map[string]int{} // changes by sink
			for _, a := range col.Spans(trace.SpanApply) {
				if a.Trace == c.Trace {
					n, err := strconv.Atoi(a.Attrs["syncline.changes"])
					if err != nil {
						return err
					}
					applied[a.Attrs["syncline.sink"]] += n
				}
			}
			if all := c.Attrs["syncline.changes"]; len(applied) != 2 || fmt.Sprint(applied["pg"]) != all || fmt.Sprint(applied["ch"]) != all {
				return fmt.Errorf("transaction at %s: %s changes, applied are %v", c.Attrs["syncline.position"], all, applied)
			}
		}
		return nil
	})
	traces := map[string]bool{}
	for i, c := range captures {
		traces[c.Trace] = true
		if c.Attrs["syncline.changes"] != fmt.Sprint(changes[i]) || (c.Parent != "") != (c.Trace == app) || (c.Trace == app) != (i == len(changes)-1) {
			t.Errorf("capture %d: %+v", i, c)
		}
	}
	if len(traces) != len(changes) {
		t.Errorf("%d traces of %d transactions", len(traces), len(changes))
	}
	if tables := captures[1].Attrs["syncline.tables"]; tables != "s.a,s.b" {
		t.Errorf("tables %s", tables)
	}
	applied := map[string]bool{}
	for _, s := range append(col.Spans(trace.SpanApply), captures...) {
		if s.Attrs["temporalWorkflowID"] != contract.StreamID(p.name) || s.Attrs["temporalRunID"] != runID || s.Attrs["temporalActivityID"] == "" || s.Attrs["temporalAttempt"] == "" ||
			s.Attrs["syncline.pipeline"] != p.name || s.Failed || s.End.Before(s.Start) {
			t.Errorf("%s of run %s: %+v", s.Name, runID, s)
		}
		if s.Name == trace.SpanCapture {
			continue
		}
		applied[s.ID] = true
		for _, c := range captures {
			if c.Trace == s.Trace && s.Parent != c.ID {
				t.Errorf("an apply span is below %s, want %s", s.Parent, c.ID)
			}
		}
		for _, a := range []string{"lane", "tables", "partition", "offset", "position"} {
			if s.Attrs["syncline."+a] == "" {
				t.Errorf("an apply span lacks %s: %v", a, s.Attrs)
			}
		}
	}
	for _, b := range col.Spans(trace.SpanBatch) {
		if len(b.Links) == 0 || traces[b.Trace] {
			t.Errorf("a batch links to nothing, or is in a transaction's trace: %+v", b)
		}
	}
	w.stop()

	// Without sampling a dead letter and a fault of capture still leave spans, without the row.
	set("0")
	before := len(col.Spans(""))
	w = r.start()
	r.exec("INSERT INTO s.a VALUES (10, 'fine')", "INSERT INTO s.a VALUES (11, 'refused by one sink')", "INSERT INTO s.a VALUES (12, 'fine')")
	until(t, bound, "the dead letter's span arrives", func(context.Context) error {
		if len(col.Spans(trace.SpanDeadLetter)) == 0 {
			return errors.New("it does not")
		}
		return nil
	})
	until(t, bound, "what came after is applied", func(ctx context.Context) error {
		n, err := scalar(ctx, r.sinkDSN, "SELECT count(*)::text FROM s.a WHERE id IN (10, 11, 12)")
		if err == nil && n != "2" {
			err = fmt.Errorf("%s rows", n)
		}
		return err
	})
	r.exec("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '" + p.spec.SlotName() + "'")
	until(t, bound, "the span of capture's fault arrives", func(context.Context) error {
		for _, s := range col.Spans(trace.SpanAttempt) {
			if s.Attrs["syncline.step"] == "capture" && s.Attrs["syncline.code"] != "" && s.Attrs["temporalRunID"] == run() {
				return nil
			}
		}
		return errors.New("it does not")
	})
	w.stop() // with all spans
	if s := col.Spans(trace.SpanDeadLetter); len(s) != 1 || !s[0].Failed || s[0].Attrs["syncline.code"] != "RowRejected" || s[0].Attrs["syncline.sink"] != "pg" ||
		s[0].Attrs["syncline.tables"] != "s.a" || s[0].Attrs["temporalRunID"] != run() || traces[s[0].Trace] {
		t.Errorf("run %s: %+v", run(), s)
	}
	for _, s := range col.Spans("")[before:] {
		if !s.Failed || strings.Contains(fmt.Sprint(s), "refused by one") {
			t.Errorf("at ratio 0: %+v", s)
		}
	}
}
