package clickhouse

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"time"

	"syncline/dataplane/fault"
)

// migrations of the ledger, in order; never changed once released. Each table
// is partitioned by pipeline so that a pipeline is forgotten by dropping its
// partition. %s is the ledger's database.
var migrations = []string{
	// Each aspect of a table (its definition, its state, its evolved schema) is a row
	// of its own, so that writers of different aspects cannot undo each other.
	`CREATE TABLE IF NOT EXISTS %s.tables (pipeline String, tab String, aspect LowCardinality(String), ver UInt64, body String,
		at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC'))
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY (pipeline, tab, aspect)`,
	// The plan of a load: of several, the one that the server took first counts.
	`CREATE TABLE IF NOT EXISTS %s.chunks (pipeline String, tab String, epoch UInt32, plan String, n UInt32, total UInt32, body String,
		at DateTime64(9, 'UTC') MATERIALIZED now64(9, 'UTC'))
		ENGINE = MergeTree PARTITION BY pipeline ORDER BY (pipeline, tab, epoch, plan, n)`,
	// Every attempt to load a chunk, before its first row.
	`CREATE TABLE IF NOT EXISTS %s.attempts (pipeline String, tab String, epoch UInt32, n UInt32, attempt UInt32, nonce String,
		at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC'))
		ENGINE = MergeTree PARTITION BY pipeline ORDER BY (pipeline, tab, epoch, n, attempt)`,
	// Finished chunks. ver is the attempt, or above all attempts once the load is finished.
	`CREATE TABLE IF NOT EXISTS %s.loaded (pipeline String, tab String, epoch UInt32, plan String, n UInt32, attempt UInt32, ver UInt64, body String,
		at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC'))
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY (pipeline, tab, epoch, plan, n)`,
	// ver is token, then the number of the session's write: what a superseded attempt writes loses.
	`CREATE TABLE IF NOT EXISTS %s.watermarks (pipeline String, tab String, part UInt32, pos String, offset Int64, token Int64, ver UInt128,
		at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC'))
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY (pipeline, tab, part)`,
	`CREATE TABLE IF NOT EXISTS %s.lanes (pipeline String, token Int64, nonce String, lane UInt32, lanes UInt32,
		at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC'))
		ENGINE = MergeTree PARTITION BY pipeline ORDER BY (pipeline, token)`,
	// Rows of a table below its highest floor are gone: truncated, or of an abandoned load.
	`CREATE TABLE IF NOT EXISTS %s.floors (pipeline String, tab String, pos String, floor UInt128,
		at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC'))
		ENGINE = MergeTree PARTITION BY pipeline ORDER BY (pipeline, tab, floor)`,
	`CREATE TABLE IF NOT EXISTS %s.dead_letters (pipeline String, tab String, part UInt32, offset Int64, pos String, key String,
		code LowCardinality(String), reason String, payload String, ver UInt64,
		at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC'))
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY (pipeline, tab, part, offset, pos)`,
	// What verifications confirmed. Of several the oldest counts: ver falls with time.
	// columns is a JSON array.
	`CREATE TABLE IF NOT EXISTS %s.findings (pipeline String, run String, tab String, key String, kind LowCardinality(String), columns String, lsn UInt64,
		at DateTime64(9, 'UTC') MATERIALIZED now64(9, 'UTC'), ver UInt64 MATERIALIZED bitNot(toUInt64(toUnixTimestamp64Nano(at))))
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY (pipeline, run, tab, key)`,
	// How far a verification has come. offsets is a JSON array, or empty before it has ended.
	`CREATE TABLE IF NOT EXISTS %s.verifications (pipeline String, tab String, run String, epoch UInt32, state String, offsets String,
		at DateTime64(9, 'UTC') MATERIALIZED now64(9, 'UTC'), ver UInt64 MATERIALIZED toUInt64(toUnixTimestamp64Nano(at)))
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY (pipeline, tab, run)`,
	// Keys under repair. ver is a number that every write raises, then the rank of the
	// state: of two writers that went on from the same record the later state counts.
	// columns is a JSON array, before and after are JSON, or empty.
	`CREATE TABLE IF NOT EXISTS %s.repairs (pipeline String, repair String, tab String, key String, state LowCardinality(String), kind LowCardinality(String),
		columns String, made_of LowCardinality(String), why String, before String, after String, pos String, snapshot String, reason String, ver UInt64,
		at DateTime64(6, 'UTC') MATERIALIZED now64(6, 'UTC'))
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY (pipeline, repair, tab, key)`,
	// Until when a repair may hold keys, by the server's clock. Apart from their states,
	// so that whoever extends a lease never undoes what another writes of the key. A key
	// that is only suspected has one while its repair is about to hold it.
	`CREATE TABLE IF NOT EXISTS %s.repair_leases (pipeline String, repair String, tab String, key String, until DateTime64(6, 'UTC'), ver UInt64)
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY (pipeline, repair, tab, key)`,
	// Every entry as it was written: nothing is ever merged away, so that two of one
	// number are seen. us is the entry's time in microseconds.
	`CREATE TABLE IF NOT EXISTS %s.audit_trail (pipeline String, n Int64, id String, us Int64, repair String, actor String, action LowCardinality(String),
		tab String, detail String, prev String, hash String, at DateTime64(6, 'UTC') ALIAS fromUnixTimestamp64Micro(us, 'UTC'),
		written_at DateTime64(9, 'UTC') MATERIALIZED now64(9, 'UTC'))
		ENGINE = MergeTree PARTITION BY pipeline ORDER BY (pipeline, n)`,
	// Who may write the trail: of several the one that came last.
	`CREATE TABLE IF NOT EXISTS %s.trail_turns (pipeline String, nonce String, ver UInt64)
		ENGINE = ReplacingMergeTree(ver) PARTITION BY pipeline ORDER BY pipeline`,
	// When the key was quarantined; 1970 if an older release wrote the record.
	`ALTER TABLE %s.repairs ADD COLUMN IF NOT EXISTS held_at DateTime64(6, 'UTC')`,
	// How far streaming is ahead of the watermark, as JSON; empty if it is not. An older
	// release writes none: what it applies again replaces itself, by version.
	`ALTER TABLE %s.watermarks ADD COLUMN IF NOT EXISTS ahead String`,
	erasuresTable,
	// An older release would apply again what one tier's run has applied: it refuses this ledger.
	`ALTER TABLE %s.watermarks MODIFY COLUMN ahead COMMENT 'how far streaming is ahead, and what waits in each tier'`,
}

// ledgerTables are those that forget a pipeline. The audit trail is not one of them.
var ledgerTables = []string{"tables", "chunks", "attempts", "loaded", "watermarks", "lanes", "floors", "dead_letters", "findings", "verifications", "repairs", "repair_leases", "erasures"}

func (s *Sink) ledger(table string) target { return target{s.opts.Ledger, table} }

// Init creates or migrates the ledger. Every statement can be repeated, so two
// workers may do it at once.
func (s *Sink) Init(ctx context.Context) error {
	const what = "create the ledger"
	db := ident(s.opts.Ledger)
	for _, q := range []string{
		"CREATE DATABASE IF NOT EXISTS " + db,
		"CREATE TABLE IF NOT EXISTS " + db + ".migrations (version UInt32, at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC')) ENGINE = MergeTree ORDER BY version",
	} {
		if _, err := s.conn.exec(ctx, what, q); err != nil {
			return err
		}
	}
	have := uint32(0)
	if err := s.conn.query(ctx, what, "SELECT max(version) FROM "+db+".migrations", func(scan func(...any) error) error { return scan(&have) }); err != nil {
		return err
	}
	if int(have) > len(migrations) {
		return fault.Permanent(CodeConfig, nil, "use the newer release", "the ledger %s is of a newer release (version %d, this one knows %d)", s.opts.Ledger, have, len(migrations))
	}
	for v := int(have); v < len(migrations); v++ {
		if _, err := s.conn.exec(ctx, what, fmt.Sprintf(migrations[v], db)); err != nil {
			return err
		}
		if _, err := s.insert(ctx, s.ledger("migrations"), 1, []part{numbers("version", 4, uint64(v+1))}); err != nil {
			return err
		}
	}
	return nil
}

// Forget drops the views of held keys, and the pipeline's partition of each table of the
// ledger, but for the audit trail: that rows were changed by hand is to be known for
// longer than the pipeline is.
func (s *Sink) Forget(ctx context.Context) error {
	if err := s.ShowHeld(ctx, false); err != nil {
		return err
	}
	for _, t := range ledgerTables {
		q := fmt.Sprintf("ALTER TABLE %s DROP PARTITION %s", s.ledger(t), lit(s.pipeline))
		if _, err := s.conn.exec(ctx, "forget the pipeline", q); err != nil && !fault.Is(err, CodeTableMissing) {
			return err
		}
	}
	return nil
}

// deleteRows removes rows for good, if there are any. A mutation that the server broke off,
// as it does for each DROP PARTITION on the table, it goes on with by itself: to ask again
// is to see whether that is done.
func (s *Sink) deleteRows(ctx context.Context, t target, where string) error {
	part := ""
	if t.db == s.opts.Ledger && slices.Contains(ledgerTables, t.table) {
		part = " IN PARTITION " + lit(s.pipeline) // else it goes over the parts of all pipelines
	}
	for try := 0; ; try++ {
		found := false
		q := fmt.Sprintf("SELECT 1 FROM %s WHERE %s LIMIT 1", t, where)
		if err := s.conn.query(ctx, "SELECT from "+t.String(), q, func(func(...any) error) error { found = true; return nil }); err != nil || !found {
			return err
		}
		_, err := s.conn.exec(ctx, "delete from "+t.String(), fmt.Sprintf("ALTER TABLE %s DELETE%s WHERE %s", t, part, where))
		if try == deleteTries || !fault.Is(err, CodeBusy) {
			return err
		}
		select {
		case <-time.After(50 * time.Millisecond << try):
		case <-ctx.Done():
			return err
		}
	}
}

// deleteTries is how often deleteRows asks again, for six seconds in all.
const deleteTries = 7

// mine is the condition that selects the pipeline's rows.
func (s *Sink) mine() string { return "pipeline = " + lit(s.pipeline) }

func (s *Sink) where(tab string) string { return s.mine() + " AND tab = " + lit(tab) }

// strs is a String column of a ledger's INSERT; same repeats one value.
func strs(name string, values ...string) part {
	e := newStrings()
	for _, v := range values {
		_, _ = e.text([]byte(v))
	}
	return part{name, "String", e, false}
}

func same(name, value string, rows int) part {
	e := newStrings()
	for range rows {
		_, _ = e.text([]byte(value))
	}
	return part{name, "String", e, false}
}

// dict is a LowCardinality(String) column.
func dict(name string, values ...string) part {
	e := newLowcard(false)
	for _, v := range values {
		_, _ = e.text([]byte(v))
	}
	return part{name, "LowCardinality(String)", e, false}
}

// numbers is an unsigned column of 4 or 8 bytes.
func numbers(name string, size int, values ...uint64) part {
	e := &plain{}
	for _, v := range values {
		e.data = appendWord(e.data, v, size)
	}
	return part{name, "UInt" + strconv.Itoa(size*8), e, false}
}

func signed(name string, values ...int64) part {
	e := &plain{}
	for _, v := range values {
		e.data = binary.LittleEndian.AppendUint64(e.data, uint64(v))
	}
	return part{name, "Int64", e, false}
}

// setAspect writes an aspect of a table over what is there.
func (s *Sink) setAspect(ctx context.Context, tab, aspect string, body any) error {
	text, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("encode %s of table %s: %w", aspect, tab, err)
	}
	var ver uint64
	q := fmt.Sprintf("SELECT max(ver) FROM %s WHERE %s AND aspect = %s", s.ledger("tables"), s.where(tab), lit(aspect))
	if err := s.conn.query(ctx, "SELECT the record of table "+tab, q, func(scan func(...any) error) error { return scan(&ver) }); err != nil {
		return err
	}
	_, err = s.insert(ctx, s.ledger("tables"), 1, []part{
		strs("pipeline", s.pipeline), strs("tab", tab), dict("aspect", aspect), numbers("ver", 8, ver+1), strs("body", string(text))})
	return err
}
