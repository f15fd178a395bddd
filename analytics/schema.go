package analytics

import (
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"context"
	"fmt"
	"strings"

	"syncline/dataplane/fault"
	"syncline/tiers/cost"
)

// How long rows stay, in days.
const (
	KeepWindows = 14
	KeepHours   = 400
)

// Conditions of the store.
const (
	// CodeNewer: the tables are of a newer release.
	CodeNewer fault.Code = "AnalyticsNewer"
	// CodeStore: ClickHouse refuses or does not answer.
	CodeStore fault.Code = "AnalyticsStore"
	// CodePrivilege: the login of analytics lacks a right there.
	CodePrivilege fault.Code = "AnalyticsPrivilege"
)

// column of a counting table, and how its rollup puts rows of an hour together.
type column struct{ name, kind, merge string }

const (
	word = "LowCardinality(String)"
	sum  = "sum"
)

// counting is a table with one row per window, which is rolled up by hour. The first
// columns, up to the first with a merge, are the key.
type counting struct {
	name    string
	columns []column
}

// counted are those of the first release.
var counted = []counting{
	{"applies", []column{{"pipeline", word, ""}, {"sink", word, ""}, {"tab", word, ""}, {"lane", "UInt32", "-"}, {"worker", word, "-"},
		{"inserts", "UInt64", sum}, {"updates", "UInt64", sum}, {"deletes", "UInt64", sum}, {"truncates", "UInt64", sum}}},
	{"lag", []column{{"pipeline", word, ""}, {"sink", word, ""}, {"tab", word, ""},
		{"changes", "UInt64", sum}, {"micros", "UInt64", sum}, {"max_micros", "UInt64", "max"},
		{"buckets", "Map(UInt16, UInt64)", "sumMap"}, {"skew_micros", "Int64", "-"}, {"skew_error_micros", "Int64", "max"}}},
	{"retries", []column{{"pipeline", word, ""}, {"component", word, ""}, {"code", word, ""}, {"retries", "UInt64", sum}}},
	{"duplicates", []column{{"pipeline", word, ""}, {"sink", word, ""}, {"tab", word, ""}, {"resent", "UInt64", sum}, {"contained", "UInt64", sum}}},
	{"dead_letters", []column{{"pipeline", word, ""}, {"sink", word, ""}, {"tab", word, ""}, {"code", word, ""}, {"letters", "UInt64", sum}}},
	{"backlog", []column{{"pipeline", word, ""}, {"sink", word, ""}, {"lane", "UInt32", ""}, {"records", "UInt64", "max"}, {"bytes", "UInt64", "max"}}},
	{"throughput", []column{{"pipeline", word, ""}, {"stage", word, ""}, {"sink", word, ""}, {"tab", word, ""},
		{"changes", "UInt64", sum}, {"rows", "UInt64", sum}, {"bytes", "UInt64", sum}, {"batches", "UInt64", sum}, {"micros", "UInt64", sum}}},
	{"conflicts", []column{{"pipeline", word, ""}, {"sink", word, ""}, {"tab", word, ""}, {"kind", word, ""}, {"decision", word, ""}, {"conflicts", "UInt64", sum}}},
	{"objectives", []column{{"pipeline", word, ""}, {"objective", word, ""}, {"good", "UInt64", sum}, {"bad", "UInt64", sum}}},
}

// HourlySuffix is that of a rollup's name; its columns are those of its table,
// without the ones that mean nothing over an hour.
const HourlySuffix = "_hourly"

// Names that the database remembers: beyond it a segment would count twice, so it
// is far above what a spill of Options.SpillBytes is cut into.
const remembered = 100_000

const timeColumn = "ts DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1))"

func codec(kind string) string {
	if strings.HasPrefix(kind, "UInt") || strings.HasPrefix(kind, "Int") {
		return " CODEC(T64, ZSTD(1))"
	}
	return " CODEC(ZSTD(1))"
}

// countedDDL makes counting tables, their rollups, and the views that feed them.
func countedDDL(tables ...counting) []string {
	var out []string
	for _, t := range tables {
		raw, hourly := []string{timeColumn}, []string{"ts DateTime('UTC') CODEC(DoubleDelta, ZSTD(1))"}
		pick := []string{"toStartOfHour(ts) AS ts"}
		var key, group []string
		for _, c := range t.columns {
			raw = append(raw, c.name+" "+c.kind+codec(c.kind))
			switch c.merge {
			case "":
				hourly = append(hourly, c.name+" "+c.kind)
				pick, key, group = append(pick, c.name), append(key, c.name), append(group, c.name)
			case "-":
			default:
				hourly = append(hourly, fmt.Sprintf("%s SimpleAggregateFunction(%s, %s)", c.name, c.merge, c.kind))
				pick = append(pick, fmt.Sprintf("%s(t.%s) AS %s", c.merge, c.name, c.name))
			}
		}
		order := strings.Join(key, ", ") + ", ts"
		out = append(out,
			fmt.Sprintf("CREATE TABLE IF NOT EXISTS {db}.%s (%s) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY (%s) TTL toDateTime(ts) + INTERVAL %d DAY SETTINGS non_replicated_deduplication_window = %d, ttl_only_drop_parts = 1",
				t.name, strings.Join(raw, ", "), order, KeepWindows, remembered),
			fmt.Sprintf("CREATE TABLE IF NOT EXISTS {db}.%s%s (%s) ENGINE = AggregatingMergeTree PARTITION BY toYYYYMM(ts) ORDER BY (%s) TTL ts + INTERVAL %d DAY SETTINGS non_replicated_deduplication_window = %d",
				t.name, HourlySuffix, strings.Join(hourly, ", "), order, KeepHours, remembered),
			fmt.Sprintf("CREATE MATERIALIZED VIEW IF NOT EXISTS {db}.%s_to_hourly TO {db}.%s%s AS SELECT %s FROM {db}.%s AS t GROUP BY ts, %s",
				t.name, t.name, HourlySuffix, strings.Join(pick, ", "), t.name, strings.Join(group, ", ")))
	}
	return out
}

// rare are the tables whose rows are kept as they are.
func rare(name, columns, order string, keep int) string {
	return fmt.Sprintf("CREATE TABLE IF NOT EXISTS {db}.%s (%s, %s) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY (%s) TTL toDateTime(ts) + INTERVAL %d DAY SETTINGS non_replicated_deduplication_window = %d",
		name, timeColumn, columns, order, keep, remembered)
}

const (
	ofPipeline = "pipeline LowCardinality(String)"
	ofTable    = ofPipeline + ", sink LowCardinality(String), tab LowCardinality(String)"
)

// migrations in order; never changed once released. Every statement can be
// repeated, so two workers may do it at once.
var migrations = [][]string{
	append(countedDDL(counted...),
		rare("errors", ofPipeline+", component LowCardinality(String), code LowCardinality(String), retryable Bool, message String CODEC(ZSTD(3)), worker LowCardinality(String), workflow String, run String, attempt UInt32", "pipeline, component, ts", 90),
		rare("progress", ofTable+", part UInt32, from_offset Int64 CODEC(Delta, ZSTD(1)), to_offset Int64 CODEC(Delta, ZSTD(1)), pos String CODEC(ZSTD(1)), token Int64", "pipeline, sink, tab, part, ts", KeepWindows),
		rare("schema_versions", ofPipeline+", tab LowCardinality(String), version String, columns UInt32, definition String CODEC(ZSTD(3))", "pipeline, tab, ts", KeepHours),
		rare("verifications", ofTable+", run String, kind LowCardinality(String), verdict LowCardinality(String), rows UInt64, differing UInt64, pos String, micros UInt64, reason String", "pipeline, sink, tab, ts", KeepHours),
		rare("repairs", ofTable+", run String, state LowCardinality(String), keys UInt64, rows_read UInt64, reason String", "pipeline, sink, tab, ts", KeepHours),
		rare("rotations", "secret String, run String, generation UInt64, step LowCardinality(String), result LowCardinality(String), consumer String, micros UInt64, reason String", "secret, ts", KeepHours),
		rare("audit_trail", ofPipeline+", actor String, action LowCardinality(String), object String, detail String CODEC(ZSTD(3)), workflow String, run String", "pipeline, ts", KeepHours),
		rare("security_events", ofPipeline+", component LowCardinality(String), kind LowCardinality(String), code LowCardinality(String), message String, worker LowCardinality(String)", "pipeline, ts", KeepHours),
		fmt.Sprintf(`CREATE TABLE IF NOT EXISTS {db}.cost_ledger (ChargePeriodStart DateTime64(3, 'UTC'), ChargePeriodEnd DateTime64(3, 'UTC'),
			x_pipeline LowCardinality(String), x_tier LowCardinality(String), x_sink LowCardinality(String), x_table LowCardinality(String),
			RegionId LowCardinality(String), SkuId LowCardinality(String), ConsumedQuantity Float64, ConsumedUnit LowCardinality(String),
			ListUnitPrice Float64, EffectiveCost Float64, BillingCurrency LowCardinality(String), Tags Map(LowCardinality(String), String))
			ENGINE = MergeTree PARTITION BY toYYYYMM(ChargePeriodStart) ORDER BY (x_pipeline, x_tier, x_sink, x_table, ChargePeriodStart)
			TTL toDateTime(ChargePeriodStart) + INTERVAL %d DAY SETTINGS non_replicated_deduplication_window = %d`, KeepHours, remembered),
	),
	countedDDL(counting{"wire", []column{{"pipeline", word, ""}, {"component", word, ""}, {"peer", word, ""},
		{"sent", "UInt64", sum}, {"received", "UInt64", sum}, {"connections", "UInt64", sum}}}),
	countedDDL(counting{"freshness", []column{{"pipeline", word, ""}, {"sink", word, ""}, {"tab", word, ""}, {"tier", word, ""},
		{"changes", "UInt64", sum}, {"late", "UInt64", sum}, {"micros", "UInt64", sum}, {"max_micros", "UInt64", "max"}, {"promised_micros", "UInt64", "max"}}}),
	append(countedDDL(counting{"usage", []column{{"pipeline", word, ""}, {"sink", word, ""}, {"tab", word, ""}, {"tier", word, ""},
		{"component", word, ""}, {"origin", word, ""}, {"destination", word, ""},
		{"changes", "UInt64", sum}, {"logical", "UInt64", sum}, {"encoded", "UInt64", sum}, {"wire", "UInt64", sum}}}),
		rare("storage", ofPipeline+", place LowCardinality(String), tab LowCardinality(String), region LowCardinality(String), bytes UInt64 CODEC(T64, ZSTD(1))", "pipeline, place, tab, ts", KeepHours)),
	{
		fmt.Sprintf(`ALTER TABLE {db}.cost_ledger
			ADD COLUMN IF NOT EXISTS x_component LowCardinality(String), ADD COLUMN IF NOT EXISTS ServiceCategory LowCardinality(String),
			ADD COLUMN IF NOT EXISTS x_destination LowCardinality(String), ADD COLUMN IF NOT EXISTS x_bytes UInt64, ADD COLUMN IF NOT EXISTS x_pricing LowCardinality(String),
			MODIFY COLUMN ConsumedQuantity Decimal(76, %d), MODIFY COLUMN ListUnitPrice Nullable(Decimal(76, %d)), MODIFY COLUMN EffectiveCost Decimal(76, %d)`,
			cost.UnitDigits, cost.HourDigits, cost.CostDigits),
		rare("pricings", "hour DateTime('UTC'), pricing String, prices LowCardinality(String), digest String, charges UInt64, actor LowCardinality(String)", "hour, ts", KeepHours),
		// Without an end: the newest counts, however old it is.
		"CREATE TABLE IF NOT EXISTS {db}.prices (" + timeColumn + ", version String, actor String, reason String, currency LowCardinality(String), definition String CODEC(ZSTD(3))) ENGINE = MergeTree ORDER BY ts",
		`CREATE VIEW IF NOT EXISTS {db}.cost AS SELECT * FROM {db}.cost_ledger
			WHERE (toStartOfHour(ChargePeriodStart), x_pricing) IN (SELECT toStartOfHour(hour) AS h, argMax(pricing, ts) FROM {db}.pricings GROUP BY h)`,
	},
	{rare("budgets", ofPipeline+", standing LowCardinality(String), per LowCardinality(String), period_start DateTime('UTC'), period_end DateTime('UTC'), amount Float64, spent Float64, expected Float64, currency LowCardinality(String), slow UInt32, reason String", "pipeline, ts", KeepHours)},
}

// Migrate makes the tables, or brings them up to this release.
func (s *Store) Migrate(ctx context.Context) error {
	db := quoted(s.database)
	for _, q := range []string{
		"CREATE DATABASE IF NOT EXISTS " + db,
		"CREATE TABLE IF NOT EXISTS " + db + ".migrations (version UInt32, at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC')) ENGINE = MergeTree ORDER BY version",
	} {
		if err := s.exec(ctx, q); err != nil {
			return err
		}
	}
	var have uint32
	if err := s.conn.With(ctx, func(c driver.Conn) error {
		return c.QueryRow(ctx, "SELECT max(version) FROM "+db+".migrations").Scan(&have)
	}); err != nil {
		return s.failed(err, "read the version of the analytics tables")
	}
	if int(have) > len(migrations) {
		return fault.Permanent(CodeNewer, nil, "run a release at least as new as the one that migrated them",
			"the analytics tables in %s have version %d, this release knows %d", s.database, have, len(migrations))
	}
	for v := int(have); v < len(migrations); v++ {
		for _, q := range migrations[v] {
			if err := s.exec(ctx, strings.ReplaceAll(q, "{db}", db)); err != nil {
				return err
			}
		}
		if err := s.exec(ctx, fmt.Sprintf("INSERT INTO %s.migrations (version) VALUES (%d)", db, v+1)); err != nil {
			return err
		}
	}
	return nil
}
