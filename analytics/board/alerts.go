package board

// Severities: a page wakes somebody, a ticket waits for the morning.
const (
	Page   = "page"
	Ticket = "ticket"
)

// Causes by which alerts are grouped: what breaks together is told together.
const (
	Worker     = "worker"
	Source     = "source"
	Sink       = "sink"
	Dependency = "dependency"
	Capacity   = "capacity"
	Lag        = "lag"
	Divergence = "divergence"
	Audit      = "audit"
	Repair     = "repair"
	Pause      = "pause"
	Objective  = "objective"
	Rotation   = "rotation"
	Cost       = "cost"
	Security   = "security"
	Analytics  = "analytics"
)

// Alert is one alert. Its runbook is docs/runbooks/<Name>.md.
type Alert struct {
	Name, Cause, Severity string
	Expr                  string
	For                   string // "" is at once
	Summary               string
	Example               Example
}

// Example is series with which an alert fires at one time and not at another.
type Example struct {
	Series        [][2]string // with promtool's notation of values, one each 15 s
	Fires, Clears string      // times since the beginning
	Labels        map[string]string
	Summary       string // as it then reads
}

// Record is a query that Prometheus keeps the results of.
type Record struct{ Name, Expr string }

// Limits are the thresholds that a test, or an installation, sets otherwise.
type Limits struct {
	SlotBytes, CaptureBytes float64 // of log at the source
	LagSeconds              float64
	SpikeSeconds            float64 // what is shorter is no spike, however much it grew
	Backlog                 float64 // records that may grow without a word
	Retries                 float64 // a second
	PricingSeconds          float64 // since usage was last priced, which is each hour
}

// Default limits are those of a small installation.
func Default() Limits {
	return Limits{SlotBytes: 5e9, CaptureBytes: 1e9, LagSeconds: 60, SpikeSeconds: 5, Backlog: 1e6, Retries: 0.1, PricingSeconds: 3 * 3600}
}

const (
	lag5m   = "pipeline_sink:syncline_lag_seconds:p99_5m"
	lag1h   = "pipeline_sink:syncline_lag_seconds:p99_1h"
	backlog = "pipeline_sink:syncline_backlog_records:sum"
	burn    = "pipeline_objective:syncline_slo_burn:ratio_"
)

// grown is the growth of a counter within a time. Not increase(): what comes first
// makes the series, and increase() does not see what a series begins with.
func grown(by, counter, within string) string {
	sum := "sum by (" + by + ") (" + counter
	return sum + ")\n  - (" + sum + " offset {" + within + "})\n     or " + sum + ") * 0)\n> 0"
}

// Records are what alerts and dashboards share.
func Records() []Record {
	quantile := func(within string) string {
		return "histogram_quantile(0.99, sum by (pipeline, sink, le) (rate(syncline_commit_to_visible_seconds_bucket[{" + within + "}])))"
	}
	out := []Record{
		{lag5m, quantile("5m")},
		{lag1h, quantile("1h")},
		{backlog, "sum by (pipeline, sink) (syncline_backlog_records)"},
		{"pipeline:syncline_changes_captured:rate5m", "sum by (pipeline) (rate(syncline_changes_captured_total[{5m}]))"},
		{"pipeline_sink:syncline_changes_applied:rate5m", "sum by (pipeline, sink) (rate(syncline_changes_applied_total[{5m}]))"},
	}
	// How fast an error budget is spent: at 1 it lasts exactly as long as it should.
	for _, w := range []string{"5m", "1h", "6h"} {
		out = append(out, Record{burn + w, `sum by (pipeline, objective) (rate(syncline_slo_events_total{result="bad"}[{` + w + `}]))
  / sum by (pipeline, objective) (rate(syncline_slo_events_total[{` + w + `}]))
  / (1 - max by (pipeline, objective) (syncline_slo_target_ratio))`})
	}
	return out
}

// Alerts are all of them.
func Alerts(l Limits) []Alert {
	const at = `{job="syncline", instance="worker-1:9464"`
	shop := map[string]string{"pipeline": "shop"}
	warehouse := map[string]string{"pipeline": "shop", "sink": "warehouse"}
	return []Alert{
		{
			Name: "SynclineWorkerDown", Cause: Worker, Severity: Ticket, For: "1m",
			Expr:    `up{job="syncline"} == 0`,
			Summary: "Worker {{ $labels.instance }} does not answer. Others take over its work; look at its log.",
			Example: Example{
				Series: [][2]string{{"up" + at + "}", "1+0x8 0+0x20 1+0x20"}}, Fires: "5m", Clears: "9m",
				Labels:  map[string]string{"job": "syncline", "instance": "worker-1:9464"},
				Summary: "Worker worker-1:9464 does not answer. Others take over its work; look at its log.",
			},
		},
		{
			Name: "SynclineNoWorker", Cause: Worker, Severity: Page, For: "1m",
			Expr:    `absent(up{job="syncline"} == 1)`,
			Summary: "No worker runs: nothing is captured, and the source keeps its log.",
			Example: Example{
				Series: [][2]string{{"up" + at + "}", "1+0x8 0+0x20 1+0x20"}}, Fires: "5m", Clears: "9m",
				Summary: "No worker runs: nothing is captured, and the source keeps its log.",
			},
		},
		{
			Name: "SynclineLoopStalled", Cause: Worker, Severity: Page, For: "1m",
			Expr:    `syncline_loops_stalled > 0`,
			Summary: "{{ $value }} loops of worker {{ $labels.instance }} should progress and do not. Its /healthz names them.",
			Example: Example{
				Series: [][2]string{{"syncline_loops_stalled" + at + "}", "0+0x8 2+0x20 0+0x20"}}, Fires: "5m", Clears: "9m",
				Labels:  map[string]string{"job": "syncline", "instance": "worker-1:9464"},
				Summary: "2 loops of worker worker-1:9464 should progress and do not. Its /healthz names them.",
			},
		},
		{
			Name: "SynclineSlotRetainsLog", Cause: Source, Severity: Page, For: "5m",
			Expr:    "max by (pipeline) (syncline_slot_retained_bytes) > " + number(l.SlotBytes),
			Summary: "The source of {{ $labels.pipeline }} keeps {{ $value | humanize1024 }}B of log for its slot. If it grows on, the disk fills or the slot is lost.",
			Example: Example{
				Series: [][2]string{{"syncline_slot_retained_bytes" + at + `, pipeline="shop"}`, "1000+0x8 6000000000+0x40 1000+0x20"}}, Fires: "9m", Clears: "14m",
				Labels:  shop,
				Summary: "The source of shop keeps 5.588GiB of log for its slot. If it grows on, the disk fills or the slot is lost.",
			},
		},
		{
			Name: "SynclineCaptureLag", Cause: Source, Severity: Ticket, For: "10m",
			Expr:    "max by (pipeline) (syncline_capture_lag_bytes) > " + number(l.CaptureBytes),
			Summary: "Capture of {{ $labels.pipeline }} is {{ $value | humanize1024 }}B of log behind its source.",
			Example: Example{
				Series: [][2]string{{"syncline_capture_lag_bytes" + at + `, pipeline="shop"}`, "1000+0x8 2147483648+0x60 1000+0x20"}}, Fires: "14m", Clears: "19m",
				Labels:  shop,
				Summary: "Capture of shop is 2GiB of log behind its source.",
			},
		},
		{
			Name: "SynclineBacklogOverCapacity", Cause: Capacity, Severity: Page, For: "5m",
			Expr:    backlog + "\n> max by (pipeline, sink) (syncline_backlog_capacity_records)",
			Summary: "{{ $labels.sink }} of {{ $labels.pipeline }} is {{ $value | humanize }} changes behind, more than the pipeline declares it can stand.",
			Example: Example{
				Series: [][2]string{
					{"syncline_backlog_records" + at + `, pipeline="shop", sink="warehouse", lane="0"}`, "5+0x8 7000000+0x40 5+0x20"},
					{"syncline_backlog_records" + at + `, pipeline="shop", sink="warehouse", lane="1"}`, "5+0x8 5000000+0x40 5+0x20"},
					{"syncline_backlog_capacity_records" + at + `, pipeline="shop", sink="warehouse"}`, "10000000+0x80"},
				}, Fires: "9m", Clears: "14m",
				Labels:  warehouse,
				Summary: "warehouse of shop is 12M changes behind, more than the pipeline declares it can stand.",
			},
		},
		{
			Name: "SynclineBacklogGrows", Cause: Capacity, Severity: Ticket, For: "15m",
			Expr:    "sum by (pipeline, sink) (deriv(syncline_backlog_records[{15m}])) > 0\nand " + backlog + " > " + number(l.Backlog),
			Summary: "{{ $labels.sink }} of {{ $labels.pipeline }} falls behind; beyond the topics' retention changes are lost to it.",
			Example: Example{
				Series: [][2]string{{"syncline_backlog_records" + at + `, pipeline="shop", sink="warehouse", lane="0"}`, "2000000+1000x120 0+0x80"}}, Fires: "25m", Clears: "48m",
				Labels:  warehouse,
				Summary: "warehouse of shop falls behind; beyond the topics' retention changes are lost to it.",
			},
		},
		{
			Name: "SynclineDeliveryLag", Cause: Lag, Severity: Ticket, For: "5m",
			Expr:    lag5m + " > " + number(l.LagSeconds),
			Summary: "Changes of {{ $labels.pipeline }} take {{ $value | humanizeDuration }} to reach {{ $labels.sink }}.",
			Example: Example{
				Series: [][2]string{
					{"syncline_commit_to_visible_seconds_bucket" + at + `, pipeline="shop", sink="warehouse", le="60"}`, "0+0x40 0+10x80"},
					{"syncline_commit_to_visible_seconds_bucket" + at + `, pipeline="shop", sink="warehouse", le="300"}`, "0+10x120"},
					{"syncline_commit_to_visible_seconds_bucket" + at + `, pipeline="shop", sink="warehouse", le="+Inf"}`, "0+10x120"},
				}, Fires: "9m", Clears: "25m",
				Labels:  warehouse,
				Summary: "Changes of shop take 4m 57s to reach warehouse.",
			},
		},
		{
			Name: "SynclineLagSpike", Cause: Lag, Severity: Ticket, For: "2m",
			Expr:    lag5m + " > " + number(l.SpikeSeconds) + "\nand " + lag5m + " > 4 * (" + lag1h + " offset {10m})",
			Summary: "Changes of {{ $labels.pipeline }} take {{ $value | humanizeDuration }} to reach {{ $labels.sink }}, four times as long as before.",
			Example: Example{
				Series: [][2]string{ // slow for longer than the window, since groups are evaluated in any order
					{"syncline_commit_to_visible_seconds_bucket" + at + `, pipeline="shop", sink="warehouse", le="1"}`, "0+10x80 800+0x28 800+10x80"},
					{"syncline_commit_to_visible_seconds_bucket" + at + `, pipeline="shop", sink="warehouse", le="10"}`, "0+10x80 800+0x28 800+10x80"},
					{"syncline_commit_to_visible_seconds_bucket" + at + `, pipeline="shop", sink="warehouse", le="30"}`, "0+10x200"},
					{"syncline_commit_to_visible_seconds_bucket" + at + `, pipeline="shop", sink="warehouse", le="+Inf"}`, "0+10x200"},
				}, Fires: "26m", Clears: "40m",
				Labels:  warehouse,
				Summary: "Changes of shop take 29.8s to reach warehouse, four times as long as before.",
			},
		},
		{
			// A run itself may take a while. What is late for longer than that has none.
			Name: "SynclineTierBehind", Cause: Lag, Severity: Ticket, For: "10m",
			Expr:    "max by (pipeline, sink, tier) (syncline_tier_overdue_seconds) > 0",
			Summary: "Changes of {{ $labels.pipeline }} wait for tier {{ $labels.tier }} at {{ $labels.sink }}, {{ $value | humanizeDuration }} longer than it promises.",
			Example: Example{
				Series: [][2]string{
					{"syncline_tier_overdue_seconds" + at + `, pipeline="shop", sink="warehouse", lane="0", tier="hourly"}`, "0+0x8 15+15x80 0+0x20"},
					{"syncline_tier_overdue_seconds" + at + `, pipeline="shop", sink="warehouse", lane="1", tier="hourly"}`, "0+0x120"},
				}, Fires: "14m", Clears: "24m",
				Labels:  map[string]string{"pipeline": "shop", "sink": "warehouse", "tier": "hourly"},
				Summary: "Changes of shop wait for tier hourly at warehouse, 12m 0s longer than it promises.",
			},
		},
		{
			Name: "SynclineSinkStuck", Cause: Sink, Severity: Page, For: "5m",
			Expr:    backlog + " > 0\nunless sum by (pipeline, sink) (rate(syncline_changes_applied_total[{5m}])) > 0\nunless sum by (pipeline, sink) (rate(syncline_duplicates_dropped_total[{5m}])) > 0\nunless sum by (pipeline, sink) (rate(syncline_snapshot_rows_total[{5m}])) > 0",
			Summary: "{{ $labels.sink }} of {{ $labels.pipeline }} has {{ $value | humanize }} changes before it and takes none.",
			Example: Example{
				Series: [][2]string{
					{"syncline_backlog_records" + at + `, pipeline="shop", sink="warehouse", lane="0"}`, "7+0x120"},
					{"syncline_changes_applied_total" + at + `, pipeline="shop", sink="warehouse", table="shop.orders", op="insert"}`, "0+5x20 100+0x60 100+5x40"},
				}, Fires: "17m", Clears: "25m",
				Labels:  warehouse,
				Summary: "warehouse of shop has 7 changes before it and takes none.",
			},
		},
		{
			Name: "SynclineDeadLetters", Cause: Sink, Severity: Ticket,
			Expr:    grown("pipeline, sink, table", "syncline_dead_letters_total", "15m"),
			Summary: "{{ $labels.sink }} cannot take changes of {{ $labels.table }} in {{ $labels.pipeline }}. Later changes of these keys wait behind them.",
			Example: Example{
				Series: [][2]string{{"syncline_dead_letters_total" + at + `, pipeline="shop", sink="warehouse", table="shop.orders"}`, "_x10 3+0x100"}}, Fires: "4m", Clears: "20m",
				Labels:  map[string]string{"pipeline": "shop", "sink": "warehouse", "table": "shop.orders"},
				Summary: "warehouse cannot take changes of shop.orders in shop. Later changes of these keys wait behind them.",
			},
		},
		{
			Name: "SynclineTablesGated", Cause: Sink, Severity: Ticket,
			Expr:    "max by (pipeline, sink) (syncline_tables_gated) > 0",
			Summary: "{{ $value }} tables of {{ $labels.pipeline }} are not delivered to {{ $labels.sink }} until somebody decides.",
			Example: Example{
				Series: [][2]string{{"syncline_tables_gated" + at + `, pipeline="shop", sink="warehouse"}`, "0+0x8 1+0x20 0+0x20"}}, Fires: "3m", Clears: "8m",
				Labels:  warehouse,
				Summary: "1 tables of shop are not delivered to warehouse until somebody decides.",
			},
		},
		{
			Name: "SynclineRetrying", Cause: Dependency, Severity: Ticket, For: "10m",
			Expr:    "sum by (pipeline, code) (rate(syncline_retries_total[{5m}])) > " + number(l.Retries),
			Summary: "{{ $labels.pipeline }} keeps failing with {{ $labels.code }}.",
			Example: Example{
				Series: [][2]string{{"syncline_retries_total" + at + `, pipeline="shop", code="SinkUnreachable"}`, "0+3x80 240+0x60"}}, Fires: "15m", Clears: "30m",
				Labels:  map[string]string{"pipeline": "shop", "code": "SinkUnreachable"},
				Summary: "shop keeps failing with SinkUnreachable.",
			},
		},
		{
			Name: "SynclineDivergence", Cause: Divergence, Severity: Page,
			Expr:    `max by (pipeline, sink) (syncline_verification_tables{verdict="different"}) > 0`,
			Summary: "{{ $value }} tables of {{ $labels.pipeline }} differ between the source and {{ $labels.sink }}.",
			Example: Example{
				Series: [][2]string{{"syncline_verification_tables" + at + `, pipeline="shop", sink="warehouse", verdict="different"}`, "0+0x8 2+0x20 0+0x20"}}, Fires: "3m", Clears: "8m",
				Labels:  warehouse,
				Summary: "2 tables of shop differ between the source and warehouse.",
			},
		},
		{
			Name: "SynclineVerificationFailed", Cause: Audit, Severity: Ticket,
			Expr:    `max by (pipeline, sink) (syncline_verification_tables{verdict="inconclusive"}) > 0`,
			Summary: "{{ $value }} tables of {{ $labels.pipeline }} at {{ $labels.sink }} could not be verified.",
			Example: Example{
				Series: [][2]string{{"syncline_verification_tables" + at + `, pipeline="shop", sink="warehouse", verdict="inconclusive"}`, "0+0x8 3+0x20 0+0x20"}}, Fires: "4m", Clears: "10m",
				Labels:  warehouse,
				Summary: "3 tables of shop at warehouse could not be verified.",
			},
		},
		{
			Name: "SynclineRepairWaits", Cause: Repair, Severity: Ticket, For: "1h",
			Expr:    "max by (pipeline) (syncline_repair_awaits_approval) > 0",
			Summary: "A repair of {{ $labels.pipeline }} waits for an approval. Without one it ends after a day, and the rows stay wrong.",
			Example: Example{
				Series: [][2]string{{"syncline_repair_awaits_approval" + at + `, pipeline="shop"}`, "_x8 1+0x300 _x60"}}, Fires: "70m", Clears: "85m",
				Labels:  shop,
				Summary: "A repair of shop waits for an approval. Without one it ends after a day, and the rows stay wrong.",
			},
		},
		{
			Name: "SynclineRepairFailed", Cause: Repair, Severity: Ticket,
			Expr:    "max by (pipeline) (syncline_repair_failed) > 0",
			Summary: "The newest repair of {{ $labels.pipeline }} failed, or left keys that it could not repair.",
			Example: Example{
				Series: [][2]string{{"syncline_repair_failed" + at + `, pipeline="shop"}`, "_x8 1+0x20 _x60"}}, Fires: "4m", Clears: "14m",
				Labels:  shop,
				Summary: "The newest repair of shop failed, or left keys that it could not repair.",
			},
		},
		{
			Name: "SynclinePipelinePaused", Cause: Pause, Severity: Ticket, For: "1h",
			Expr:    "max by (pipeline) (syncline_pipeline_paused) > 0",
			Summary: "{{ $labels.pipeline }} is paused: its sinks stand still, and its source keeps the log of all that changes.",
			Example: Example{
				Series: [][2]string{{"syncline_pipeline_paused" + at + `, pipeline="shop"}`, "_x8 1+0x300 _x60"}}, Fires: "70m", Clears: "85m",
				Labels:  shop,
				Summary: "shop is paused: its sinks stand still, and its source keeps the log of all that changes.",
			},
		},
		{
			Name: "SynclineErrorBudgetBurns", Cause: Objective, Severity: Page,
			// The long window says that it matters, the short one that it goes on.
			Expr:    burn + "1h > 4\nand " + burn + "5m > 4",
			Summary: "{{ $labels.pipeline }} spends the error budget of {{ $labels.objective }} {{ $value | humanize }} times as fast as it may.",
			Example: Example{
				Series: [][2]string{
					{"syncline_slo_events_total" + at + `, pipeline="shop", objective="freshness", result="good"}`, "0+9x400 3600+10x100"},
					{"syncline_slo_events_total" + at + `, pipeline="shop", objective="freshness", result="bad"}`, "0+1x400 400+0x100"},
					{"syncline_slo_target_ratio" + at + `, pipeline="shop", objective="freshness"}`, "0.99+0x500"},
				}, Fires: "65m", Clears: "106m",
				Labels:  map[string]string{"pipeline": "shop", "objective": "freshness"},
				Summary: "shop spends the error budget of freshness 10 times as fast as it may.",
			},
		},
		{
			Name: "SynclineErrorBudgetDrains", Cause: Objective, Severity: Ticket, For: "1h",
			Expr:    burn + "6h > 1\nand " + burn + "1h > 1",
			Summary: "{{ $labels.pipeline }} spends the error budget of {{ $labels.objective }} {{ $value | humanize }} times as fast as it may.",
			Example: Example{
				Series: [][2]string{
					{"syncline_slo_events_total" + at + `, pipeline="shop", objective="freshness", result="good"}`, "0+98x1600 156800+100x300"},
					{"syncline_slo_events_total" + at + `, pipeline="shop", objective="freshness", result="bad"}`, "0+2x1600 3200+0x300"},
					{"syncline_slo_target_ratio" + at + `, pipeline="shop", objective="freshness"}`, "0.99+0x1900"},
				}, Fires: "390m", Clears: "465m",
				Labels:  map[string]string{"pipeline": "shop", "objective": "freshness"},
				Summary: "shop spends the error budget of freshness 2 times as fast as it may.",
			},
		},
		{
			Name: "SynclineBudget", Cause: Cost, Severity: Ticket,
			Expr:    "max by (pipeline) (syncline_budget_used_ratio)\n  and on (pipeline) max by (pipeline) (syncline_budget_standing) > 0",
			Summary: "The budget of {{ $labels.pipeline }} is spent, nearly spent, or cannot be told: {{ $value | humanizePercentage }} of it are spent.",
			Example: Example{
				Series: [][2]string{
					{"syncline_budget_used_ratio" + at + `, pipeline="shop"}`, "0.5+0x8 0.9+0x20 0.1+0x20"},
					{"syncline_budget_standing" + at + `, pipeline="shop"}`, "0+0x8 1+0x20 0+0x20"},
				}, Fires: "4m", Clears: "10m",
				Labels:  shop,
				Summary: "The budget of shop is spent, nearly spent, or cannot be told: 90% of it are spent.",
			},
		},
		{
			Name: "SynclinePricingBehind", Cause: Cost, Severity: Ticket,
			Expr:    "time() - max(syncline_pricing_completed_timestamp_seconds) > " + number(l.PricingSeconds),
			Summary: "Usage was last priced {{ $value | humanizeDuration }} ago. Costs and budgets are as of then.",
			Example: Example{
				// Of an example time() begins with 0.
				Series: [][2]string{{"syncline_pricing_completed_timestamp_seconds" + at + "}", "0+0x800 12000+0x200"}}, Fires: "190m", Clears: "210m",
				Labels:  map[string]string{},
				Summary: "Usage was last priced 3h 10m 0s ago. Costs and budgets are as of then.",
			},
		},
		{
			Name: "SynclineRotationFailed", Cause: Rotation, Severity: Page,
			Expr:    "max(syncline_rotations_failed) > 0",
			Summary: "The last rotation of {{ $value }} secrets failed. What they were before still works; its time runs out.",
			Example: Example{
				Series: [][2]string{{"syncline_rotations_failed" + at + "}", "0+0x8 1+0x20 0+0x20"}}, Fires: "4m", Clears: "10m",
				Labels:  map[string]string{},
				Summary: "The last rotation of 1 secrets failed. What they were before still works; its time runs out.",
			},
		},
		{
			Name: "SynclineSecurityFailures", Cause: Security, Severity: Ticket,
			Expr:    grown("kind", "syncline_security_failures_total", "15m"),
			Summary: "Failures of kind {{ $labels.kind }}: credentials, rights, secrets or certificates are refused.",
			Example: Example{
				Series: [][2]string{{"syncline_security_failures_total" + at + `, kind="auth"}`, "0+0x8 2+0x100"}}, Fires: "4m", Clears: "20m",
				Labels:  map[string]string{"kind": "auth"},
				Summary: "Failures of kind auth: credentials, rights, secrets or certificates are refused.",
			},
		},
		{
			Name: "SynclineAnalyticsDrops", Cause: Analytics, Severity: Ticket,
			Expr:    grown("outcome", `syncline_analytics_rows_total{outcome="dropped"}`, "15m"),
			Summary: "Rows for analytics are lost. The pipelines are not touched by it; reports have a gap.",
			Example: Example{
				Series: [][2]string{{"syncline_analytics_rows_total" + at + `, outcome="dropped"}`, "0+0x8 50+0x100"}}, Fires: "4m", Clears: "20m",
				Labels:  map[string]string{"outcome": "dropped"},
				Summary: "Rows for analytics are lost. The pipelines are not touched by it; reports have a gap.",
			},
		},
		{
			Name: "SynclineAnalyticsSpills", Cause: Analytics, Severity: Ticket, For: "15m",
			Expr:    "syncline_analytics_spill_bytes and on (job, instance) syncline_analytics_up == 0",
			Summary: "Worker {{ $labels.instance }} keeps {{ $value | humanize1024 }}B for analytics on its disk: ClickHouse does not take them.",
			Example: Example{
				Series: [][2]string{{"syncline_analytics_spill_bytes" + at + "}", "0+0x8 1048576+0x80 0+0x20"}, {"syncline_analytics_up" + at + "}", "1+0x8 0+0x80 1+0x20"}}, Fires: "18m", Clears: "24m",
				Labels:  map[string]string{"job": "syncline", "instance": "worker-1:9464"},
				Summary: "Worker worker-1:9464 keeps 1MiB for analytics on its disk: ClickHouse does not take them.",
			},
		},
	}
}
