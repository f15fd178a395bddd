package board

// Datasources, by the uid under which Grafana knows them.
const (
	Prometheus = "prometheus"
	ClickHouse = "clickhouse"
)

// Types of panels.
const (
	Graph = "timeseries"
	Stat  = "stat"
	Table = "table"
)

// Database is where the analytics tables are unless a worker is told otherwise.
const Database = "syncline_analytics"

// Panel is one question and how it is answered. A query for a graph from ClickHouse
// returns time, a name and a value.
type Panel struct {
	Title, Unit, Source, Type string
	Query                     string
	Legend                    string // of Prometheus' series
	Description               string
}

// Dashboard is a page of panels.
type Dashboard struct {
	UID, Title, Description string
	Panels                  []Panel
}

// Both pick the pipelines that are chosen above the panels.
const (
	chosen   = `pipeline=~"$pipeline"`
	chosenCH = "match(pipeline, '^(${pipeline:regex})$')"
)

// series is a query for a graph: values of a table by time and name.
func series(table, name, value, where string) string {
	if where != "" {
		where = " AND " + where
	}
	return "SELECT $__timeInterval(ts) AS time, " + name + " AS name, " + value + " AS value FROM " + Database + "." + table +
		" WHERE $__timeFilter(ts)" + where + " GROUP BY time, name ORDER BY time"
}

func rows(columns, table, where, rest string) string {
	if where != "" {
		where = " AND " + where
	}
	return "SELECT " + columns + " FROM " + Database + "." + table + " WHERE $__timeFilter(ts)" + where + " " + rest
}

const both = "concat(pipeline, ' → ', sink)"

// lastVerdict is the verdict of each table as of its last verification; what is equal of
// changed keys alone says nothing of the table.
const lastVerdict = "(SELECT pipeline, sink, tab, argMax(verdict, ts) AS verdict FROM " + Database + ".verifications AS v WHERE $__timeFilter(ts) AND " + chosenCH + " AND (v.kind != 'changed' OR v.verdict = 'different') GROUP BY pipeline, sink, tab)"

// Dashboards are all of them: what it is worth, what is wrong, and why.
func Dashboards() []Dashboard {
	prom := func(title, unit, kind, query, legend, about string) Panel {
		return Panel{Title: title, Unit: unit, Source: Prometheus, Type: kind, Query: query, Legend: legend, Description: about}
	}
	click := func(title, unit, kind, query, about string) Panel {
		return Panel{Title: title, Unit: unit, Source: ClickHouse, Type: kind, Query: query, Description: about}
	}
	quantile := func(metric, by string) string {
		return "histogram_quantile(0.99, sum by (" + by + ", le) (rate(" + metric + "_bucket{" + chosen + "}[$__rate_interval])))"
	}
	rate := func(metric, by string) string {
		return "sum by (" + by + ") (rate(" + metric + "{" + chosen + "}[$__rate_interval]))"
	}
	charged := func(columns, rest string) string {
		return "SELECT " + columns + " FROM " + Database + ".cost WHERE $__timeFilter(ChargePeriodStart) AND match(x_pipeline, '^(${pipeline:regex})$') " + rest
	}
	return []Dashboard{
		{
			UID: "syncline-executive", Title: "Syncline: overview", Description: "Whether data arrive in time and unharmed, and what that costs.",
			Panels: []Panel{
				prom("Pipelines that capture", "short", Stat, "count(count by (pipeline) (syncline_changes_captured_total{"+chosen+"}))", "", "Pipelines of which a worker has read changes."),
				prom("Changes delivered", "ops", Stat, "sum(pipeline_sink:syncline_changes_applied:rate5m{"+chosen+"})", "", "Changes a second that took effect at all sinks together."),
				prom("Alerts that page", "short", Stat, `count(ALERTS{alertstate="firing", severity="page"}) or vector(0)`, "", "Alerts that somebody should be looking at now."),
				prom("Tables not delivered", "short", Stat, "sum(max by (pipeline, sink) (syncline_tables_gated{"+chosen+"}))", "", "Tables that wait for somebody's decision."),
				prom("Freshness", "s", Graph, lag5m+"{"+chosen+"}", "{{pipeline}} → {{sink}}", "99 of 100 changes are at the sink within this time after their commit."),
				prom("Error budgets", "short", Graph, burn+"6h{"+chosen+"}", "{{pipeline}} {{objective}}", "How fast objectives use up what they allow: above 1, it does not last."),
				click("Promises kept", "percentunit", Graph, series("objectives_hourly", "concat(pipeline, ' ', objective)", "sum(good) / (sum(good) + sum(bad))", chosenCH), "Part of the events that met each objective."),
				click("Changes by hour", "short", Graph, series("applies_hourly", both, "sum(inserts) + sum(updates) + sum(deletes)", chosenCH), "Changes that took effect."),
				click("Tables by their last verdict", "short", Table, "SELECT pipeline, sink, countIf(verdict = 'equal') AS equal, countIf(verdict = 'different') AS different, countIf(verdict = 'inconclusive') AS inconclusive FROM "+lastVerdict+" GROUP BY pipeline, sink ORDER BY pipeline, sink", "What the last verification of each table said."),
				prom("Budgets", "percentunit", Graph, "max by (pipeline) (syncline_budget_used_ratio{"+chosen+"})", "{{pipeline}}", "Part of each pipeline's budget that is spent in the period that is under way."),
				prom("Since the last pricing", "s", Graph, "time() - max(syncline_pricing_completed_timestamp_seconds)", "usage", "Usage is priced each hour; costs and budgets are as of then."),
				click("Budgets looked at", "short", Table, rows("ts, pipeline, standing, round(spent, 2) AS spent_sum, round(expected, 2) AS at_the_end, amount, currency, per, slow, reason", "budgets", chosenCH, "ORDER BY ts DESC LIMIT 50"), "What was spent of each budget, what is foreseen, and how many times as rarely batch tiers run once it is spent."),
				click("Cost by day", "short", Graph, charged("toStartOfDay(ChargePeriodStart) AS time, concat(x_pipeline, ' ', if(x_tier = '', lower(ServiceCategory), x_tier), ' in ', BillingCurrency) AS name, toFloat64(sum(EffectiveCost)) AS value", "GROUP BY time, name ORDER BY time"), "What was charged."),
				click("Cost by table", "short", Table, charged("x_pipeline AS pipeline, x_sink AS sink, x_table AS tab, x_tier AS tier, RegionId AS origin, x_destination AS destination, SkuId AS sku, round(toFloat64(sum(ConsumedQuantity)), 3) AS quantity, any(ConsumedUnit) AS unit, round(toFloat64(sum(EffectiveCost)), 4) AS cost, any(BillingCurrency) AS currency", "GROUP BY pipeline, sink, tab, tier, origin, destination, sku ORDER BY cost DESC LIMIT 50"), "Where the money goes."),
				click("Without a price", "short", Table, charged("x_pipeline AS pipeline, ServiceCategory AS category, RegionId AS origin, x_destination AS destination, Tags['place'] AS place, round(toFloat64(sum(ConsumedQuantity)), 3) AS quantity, any(ConsumedUnit) AS unit", "AND ListUnitPrice IS NULL GROUP BY pipeline, category, origin, destination, place ORDER BY quantity DESC LIMIT 50"), "What no entry of the price table is for: it is in no cost."),
				click("Repairs", "short", Table, rows("ts, pipeline, sink, tab, state, keys, rows_read, reason", "repairs", chosenCH, "ORDER BY ts DESC LIMIT 50"), "What was found wrong and put right."),
			},
		},
		{
			UID: "syncline-oncall", Title: "Syncline: on call", Description: "What is wrong now, and where. Each alert has a runbook.",
			Panels: []Panel{
				prom("Workers that answer", "short", Stat, `sum(up{job="syncline"})`, "", "Each takes over the work of one that does not."),
				prom("Loops that stall", "short", Stat, "sum(syncline_loops_stalled)", "", "Loops that should progress and do not; /healthz of the worker names them."),
				prom("Alerts", "short", Stat, `count(ALERTS{alertstate="firing"}) or vector(0)`, "", "Of any severity."),
				prom("Analytics on the disks", "bytes", Stat, "sum(syncline_analytics_spill_bytes)", "", "What waits for ClickHouse."),
				prom("Workers whose analytics are taken", "short", Graph, "sum by (instance) (syncline_analytics_up)", "{{instance}}", "0: ClickHouse does not answer, and rows wait on the disk."),
				prom("Lag", "s", Graph, quantile("syncline_commit_to_visible_seconds", "pipeline, sink"), "{{pipeline}} → {{sink}}", "From the commit at the source to the commit at the sink, 99 of 100."),
				prom("Backlog", "short", Graph, "sum by (pipeline, sink) (syncline_backlog_records{"+chosen+"})", "{{pipeline}} → {{sink}}", "Changes in Kafka that the sink does not have."),
				prom("Backlog of what is declared", "percentunit", Graph, "sum by (pipeline, sink) (syncline_backlog_records{"+chosen+"}) / max by (pipeline, sink) (syncline_backlog_capacity_records{"+chosen+"})", "{{pipeline}} → {{sink}}", "At 1 somebody is paged."),
				prom("Log that the source keeps", "bytes", Graph, "max by (pipeline) (syncline_slot_retained_bytes{"+chosen+"})", "{{pipeline}}", "It grows while capture does not confirm; the disk must hold it."),
				prom("Capture behind the source", "bytes", Graph, "max by (pipeline) (syncline_capture_lag_bytes{"+chosen+"})", "{{pipeline}}", "Log between the source's end and what Kafka has acknowledged."),
				prom("Failures that are tried again", "ops", Graph, rate("syncline_retries_total", "pipeline, code"), "{{pipeline}} {{code}}", "By the code of the fault; docs/errors.md says what to do."),
				prom("Dead letters", "short", Graph, "sum by (pipeline, sink, table) (syncline_dead_letters_total{"+chosen+"})", "{{sink}} {{table}}", "Changes set aside since the workers started."),
				prom("Gated tables", "short", Graph, "max by (pipeline, sink) (syncline_tables_gated{"+chosen+"})", "{{pipeline}} → {{sink}}", "Tables that are not delivered until somebody decides."),
				prom("Tables that differ", "short", Graph, "max by (pipeline, sink, verdict) (syncline_verification_tables{"+chosen+"})", "{{sink}} {{verdict}}", "By their verdict in the last verification."),
				prom("Error budgets", "short", Graph, burn+"1h{"+chosen+"}", "{{pipeline}} {{objective}}", "Above 4, somebody is paged."),
				prom("Rotations that failed", "short", Graph, "max(syncline_rotations_failed)", "secrets", "Secrets whose newest rotation failed."),
				prom("Security failures", "short", Graph, "sum by (kind) (syncline_security_failures_total)", "{{kind}}", "Refused credentials, missing rights, secrets and certificates that fail."),
				click("Last errors", "short", Table, rows("ts, pipeline, component, code, retryable, message, worker, attempt", "errors", chosenCH, "ORDER BY ts DESC LIMIT 100"), "Failures that ended an attempt."),
				click("Security events", "short", Table, rows("ts, pipeline, component, kind, code, message, worker", "security_events", chosenCH, "ORDER BY ts DESC LIMIT 100"), "Refusals on the way to a server or a secret."),
				click("Steps of rotations", "short", Table, rows("ts, secret, generation, step, result, consumer, reason", "rotations", "", "ORDER BY ts DESC LIMIT 100"), "How far each rotation came."),
				click("Last verifications", "short", Table, rows("ts, pipeline, sink, tab, kind, verdict, rows, differing, pos, reason", "verifications", chosenCH, "ORDER BY ts DESC LIMIT 100"), "Verdicts, with the position that they hold for."),
				click("Who did what", "short", Table, rows("ts, pipeline, actor, action, object, detail", "audit_trail", chosenCH, "ORDER BY ts DESC LIMIT 100"), "Look here first: somebody may be at it."),
			},
		},
		{
			UID: "syncline-debug", Title: "Syncline: details", Description: "Each stage by table, lane and worker.",
			Panels: []Panel{
				prom("Captured by table", "ops", Graph, rate("syncline_changes_captured_total", "table, op"), "{{table}} {{op}}", "Changes read from the source's log."),
				prom("Applied by table", "ops", Graph, rate("syncline_changes_applied_total", "sink, table, op"), "{{sink}} {{table}} {{op}}", "Changes committed to the sinks."),
				prom("Records to Kafka", "ops", Graph, rate("syncline_kafka_records_written_total", "pipeline"), "{{pipeline}}", "Acknowledged by all in-sync replicas."),
				prom("Bytes to Kafka", "Bps", Graph, rate("syncline_kafka_bytes_written_total", "pipeline"), "{{pipeline}}", "Before compression."),
				prom("Bytes on the wire", "Bps", Graph, rate("syncline_wire_bytes_total", "activity, peer, direction"), "{{activity}} {{direction}} {{peer}}", "What connections carry, with TLS and after compression."),
				prom("Changes that wait for their tier", "short", Graph, "sum by (pipeline, sink) (syncline_tier_waiting_changes{"+chosen+"})", "{{pipeline}} → {{sink}}", "They take effect with the tier's next run."),
				prom("Oldest change that waits for its tier", "s", Graph, "max by (pipeline, sink) (syncline_tier_waiting_seconds{"+chosen+"})", "{{pipeline}} → {{sink}}", "It should stay below the tier's period."),
				prom("Tiers that are late", "s", Graph, "max by (pipeline, sink, tier) (syncline_tier_overdue_seconds{"+chosen+"})", "{{pipeline}} → {{sink}} {{tier}}", "By how much what waits is older than the tier promises; 0 is in time."),
				prom("Wait by tier", "s", Graph, quantile("syncline_tier_wait_seconds", "pipeline, sink, tier"), "{{sink}} {{tier}}", "From the commit at the source to the commit at the sink, 99 of 100."),
				prom("Backlog by lane", "short", Graph, "syncline_backlog_records{"+chosen+"}", "{{sink}} {{lane}}", "A lane that stands out holds a hot key or has lost its worker."),
				prom("Commit of a batch", "s", Graph, quantile("syncline_apply_batch_seconds", "pipeline, sink"), "{{sink}}", "99 of 100 batches."),
				prom("Copy of a chunk", "s", Graph, quantile("syncline_snapshot_chunk_seconds", "pipeline, sink"), "{{sink}}", "99 of 100 chunks."),
				prom("Rows loaded", "ops", Graph, rate("syncline_snapshot_rows_total", "sink, table"), "{{sink}} {{table}}", "By snapshots."),
				prom("Bytes loaded", "Bps", Graph, rate("syncline_snapshot_bytes_total", "sink, table"), "{{sink}} {{table}}", "Read from the source by chunks."),
				prom("Duplicates dropped", "ops", Graph, rate("syncline_duplicates_dropped_total", "sink, table"), "{{sink}} {{table}}", "Resent after a crash."),
				prom("Contained in a snapshot", "ops", Graph, rate("syncline_snapshot_skipped_total", "sink, table"), "{{sink}} {{table}}", "Changes that the load had brought already."),
				prom("Fenced attempts", "short", Graph, "sum by (pipeline, sink) (syncline_fenced_attempts_total{"+chosen+"})", "{{sink}}", "Attempts that a later one had replaced."),
				prom("Expected loops", "short", Graph, "syncline_loops_expected", "{{instance}}", "How the work is spread."),
				prom("Rows for analytics", "ops", Graph, "sum by (outcome) (rate(syncline_analytics_rows_total[$__rate_interval]))", "{{outcome}}", "Written or lost."),
				prom("Memory", "bytes", Graph, `process_resident_memory_bytes{job="syncline"}`, "{{instance}}", "Bounded by the declarations' memory limits."),
				prom("Goroutines", "short", Graph, `go_goroutines{job="syncline"}`, "{{instance}}", "It returns to where it was when work ends."),
				prom("Requests to Temporal", "ops", Graph, "sum by (operation) (rate(temporal_request_total[$__rate_interval]))", "{{operation}}", "By operation."),
				prom("Builds", "short", Graph, "count by (build_id) (syncline_build_info)", "{{build_id}}", "What runs while a new release rolls out."),
				click("Lag by table", "s", Graph, series("lag", "concat(sink, ' ', tab)", "sum(micros) / sum(changes) / 1e6", chosenCH), "Mean time from commit to commit, on the source's clock."),
				click("Applied by lane", "short", Graph, series("applies", "concat(sink, ' ', toString(lane))", "sum(inserts) + sum(updates) + sum(deletes)", chosenCH), "Changes that took effect."),
				click("Throughput by stage", "short", Graph, series("throughput", "concat(stage, ' ', sink)", "sum(bytes)", chosenCH), "Bytes that passed each stage."),
				click("Freshness by tier", "short", Table, rows("pipeline, sink, tab, tier, sum(changes) AS waited, sum(late) AS were_late, round(sum(micros) / waited / 1e6, 1) AS mean_s, round(max(max_micros) / 1e6, 1) AS max_s, round(max(promised_micros) / 1e6) AS promised_s", "freshness", chosenCH, "GROUP BY pipeline, sink, tab, tier ORDER BY were_late DESC, waited DESC LIMIT 50"), "How long changes waited, against what their tier promises."),
				click("Bytes on the wire by end", "bytes", Graph, series("wire", "concat(component, ' ', peer)", "sum(sent + received)", chosenCH), "What connections carried in each window, in both directions."),
				click("Bytes by route and tier", "bytes", Graph, series("usage", "concat(component, ' ', tier, ' ', origin, ' → ', destination)", "sum(wire)", chosenCH), "On the wire, from region to region."),
				click("Bytes by table and tier", "short", Table, rows("pipeline, sink, tab, tier, sum(changes) AS changed, sum(logical) AS logical_bytes, sum(encoded) AS encoded_bytes, sum(wire) AS wire_bytes, round(logical_bytes / wire_bytes, 2) AS logical_per_wire", "usage", chosenCH, "GROUP BY pipeline, sink, tab, tier ORDER BY wire_bytes DESC LIMIT 50"), "Values as text, encoded on each leg, and on the wire."),
				click("Pricings", "short", Table, "SELECT ts, hour, pricing, prices, charges, actor FROM "+Database+".pricings WHERE $__timeFilter(ts) ORDER BY ts DESC, hour DESC LIMIT 50", "Hours whose charges became others, or that were the last when all was priced, and by whom."),
				click("Price tables", "short", Table, "SELECT ts, version, currency, actor, reason FROM "+Database+".prices ORDER BY ts DESC LIMIT 20", "Which were applied; the newest counts."),
				click("Stored", "bytes", Graph, series("storage", "concat(place, ' ', tab)", "max(bytes)", chosenCH), "What tables occupy at sinks and in Kafka."),
				click("Backlog in bytes", "bytes", Graph, series("backlog", "concat(sink, ' ', toString(lane))", "max(bytes)", chosenCH), "What each lane has before it."),
				click("Retries by component", "short", Graph, series("retries", "concat(component, ' ', code)", "sum(retries)", chosenCH), "Failures that were tried again."),
				click("Duplicates by cause", "short", Table, rows("pipeline, sink, tab, sum(resent) AS resent, sum(contained) AS contained", "duplicates", chosenCH, "GROUP BY pipeline, sink, tab ORDER BY resent + contained DESC LIMIT 50"), "Resent by capture, or contained in a snapshot."),
				click("Dead letters by code", "short", Table, rows("pipeline, sink, tab, code, sum(letters) AS letters, max(ts) AS last", "dead_letters", chosenCH, "GROUP BY pipeline, sink, tab, code ORDER BY last DESC LIMIT 50"), "Why sinks refuse changes."),
				click("Conflicts", "short", Table, rows("pipeline, sink, tab, kind, decision, sum(conflicts) AS conflicts", "conflicts", chosenCH, "GROUP BY pipeline, sink, tab, kind, decision ORDER BY conflicts DESC LIMIT 50"), "Rows that two sides changed at once, and who won."),
				click("How far partitions came", "short", Table, rows("pipeline, sink, tab, part, max(to_offset) AS through, argMax(pos, ts) AS pos, max(token) AS token", "progress", chosenCH, "GROUP BY pipeline, sink, tab, part ORDER BY pipeline, sink, tab, part LIMIT 200"), "The last offset and position of each."),
				click("Schema versions", "short", Table, rows("ts, pipeline, tab, version, columns", "schema_versions", chosenCH, "ORDER BY ts DESC LIMIT 50"), "Definitions as they were met."),
			},
		},
	}
}
