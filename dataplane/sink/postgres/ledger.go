package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/fault"
)

// migrations are applied in order, each once, and never changed after a release.
var migrations = []string{ledgerV1, ledgerV2, ledgerV3, ledgerV4, ledgerV5, ledgerV6, ledgerV7, ledgerV8, ledgerV9, ledgerV10}

// Positions are three columns, so that SQL can read, compare and subtract them.
const ledgerV2 = `
ALTER TABLE syncline.chunks ADD COLUMN cut_by text[];
COMMENT ON COLUMN syncline.chunks.cut_by IS 'columns of the bounds of an append-only table, whose schema has no key';
`

const ledgerV3 = `
ALTER TABLE syncline.tables DROP COLUMN versions,
	ADD COLUMN schema_epoch bigint NOT NULL DEFAULT 0, ADD COLUMN schema_lsn pg_lsn NOT NULL DEFAULT '0/0', ADD COLUMN schema_ordinal bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN syncline.tables.schema_lsn IS 'with schema_epoch and schema_ordinal: the position of the change that brought the schema; zero if it is that of the load';
`

// The key is hashed in the index, where a long one has no room.
const ledgerV4 = `
CREATE TABLE syncline.findings (
	pipeline     text   NOT NULL,
	run          text   NOT NULL,
	source_table text   NOT NULL,
	key          text   NOT NULL,
	kind         text   NOT NULL,
	columns      text[] NOT NULL,
	lsn          pg_lsn NOT NULL,
	found_at     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX findings_once ON syncline.findings (pipeline, run, source_table, md5(key));
COMMENT ON TABLE syncline.findings IS 'rows that a verification (run) confirmed to differ, in which columns, once the sink had passed lsn';
`

// Workers of an older release, which do not know of holds, go on with the old hold_lane
// while no key of their tables is held; then they count as fenced, until newer ones
// have taken their lanes.
const ledgerV6 = `
ALTER TABLE syncline.tables ADD COLUMN holds bigint NOT NULL DEFAULT 0;
COMMENT ON COLUMN syncline.tables.holds IS 'rises whenever keys of the table are held by a repair or are to be let go';

CREATE TABLE syncline.repairs (
	pipeline      text   NOT NULL,
	repair        text   NOT NULL,
	source_table  text   NOT NULL,
	key           text   NOT NULL,
	state         text   NOT NULL CHECK (state IN ('suspected', 'quarantined', 'replayed', 'verified', 'releasing', 'released', 'failed')),
	held          boolean NOT NULL GENERATED ALWAYS AS (state IN ('quarantined', 'replayed', 'verified', 'releasing')) STORED,
	kind          text   NOT NULL,
	columns       text[] NOT NULL,
	made_from     text   NOT NULL,
	why           text   NOT NULL,
	before        json,
	after         json,
	epoch         bigint NOT NULL,
	lsn           pg_lsn NOT NULL,
	ordinal       bigint NOT NULL,
	snapshot      text   NOT NULL,
	reason        text   NOT NULL,
	lease_until   timestamptz,
	planned_at    timestamptz NOT NULL DEFAULT now(),
	updated_at    timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX repairs_once ON syncline.repairs (pipeline, repair, source_table, md5(key));
CREATE UNIQUE INDEX repairs_held ON syncline.repairs (pipeline, source_table, md5(key)) WHERE held;
COMMENT ON TABLE syncline.repairs IS 'keys under repair; while a key is held, its changes are set aside as dead letters with code Quarantined';
COMMENT ON COLUMN syncline.repairs.lsn IS 'with epoch and ordinal: changes at or before it are in the row that was written, as are those that snapshot sees';

CREATE TABLE syncline.audit_trail (
	pipeline     text   NOT NULL,
	n            bigint NOT NULL,
	id           text   NOT NULL,
	at           timestamptz NOT NULL,
	repair       text   NOT NULL,
	actor        text   NOT NULL,
	action       text   NOT NULL,
	source_table text   NOT NULL,
	detail       json,
	prev         text   NOT NULL,
	hash         text   NOT NULL,
	PRIMARY KEY (pipeline, n),
	UNIQUE (pipeline, id)
);
COMMENT ON TABLE syncline.audit_trail IS 'what repairs did, each entry with the hash of the one before; it outlives the pipeline';

CREATE FUNCTION syncline.hold_lane(p_pipeline text, p_lane int, p_token bigint, p_seq bigint, p_async boolean, p_tables text[], p_epochs bigint[], p_holds bigint[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t text;
BEGIN
	IF p_async THEN
		PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
	END IF;
	UPDATE syncline.lanes SET seq = p_seq + 1
	WHERE pipeline = p_pipeline AND lane = p_lane AND token = p_token AND seq = p_seq;
	IF NOT FOUND THEN
		PERFORM 1 FROM syncline.lanes WHERE pipeline = p_pipeline AND lane = p_lane AND token = p_token;
		IF FOUND THEN
			RAISE EXCEPTION 'lane is not where the session left it' USING ERRCODE = 'SYN02';
		END IF;
		RAISE EXCEPTION 'lane has a newer token' USING ERRCODE = 'SYN01';
	END IF;
	FOREACH t IN ARRAY p_tables LOOP
		PERFORM pg_catalog.pg_advisory_xact_lock_shared(syncline.table_lock(p_pipeline, t));
	END LOOP;
	PERFORM 1 FROM unnest(p_tables, p_epochs, p_holds) AS u (name, epoch, holds)
	LEFT JOIN syncline.tables s ON s.pipeline = p_pipeline AND s.source_table = u.name
	WHERE s.state IS DISTINCT FROM 'streaming' OR (u.epoch >= 0 AND u.epoch <> s.epoch) OR (u.holds >= 0 AND u.holds <> s.holds);
	IF FOUND THEN
		RAISE EXCEPTION 'table is not streaming, or keys of it are held' USING ERRCODE = 'SYN03';
	END IF;
END $$;

CREATE OR REPLACE FUNCTION syncline.hold_lane(p_pipeline text, p_lane int, p_token bigint, p_seq bigint, p_async boolean, p_tables text[], p_epochs bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM syncline.hold_lane(p_pipeline, p_lane, p_token, p_seq, p_async, p_tables, p_epochs, array_fill(-1::bigint, ARRAY[cardinality(p_tables)]));
	PERFORM 1 FROM syncline.repairs r WHERE r.pipeline = p_pipeline AND r.source_table = ANY (p_tables) AND r.held;
	IF FOUND THEN
		RAISE EXCEPTION 'keys are held, of which this release does not know' USING ERRCODE = 'SYN01';
	END IF;
END $$;

CREATE FUNCTION syncline.release_keys(p_pipeline text, p_tables text[], p_repairs text[], p_keys text[], p_reasons text[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM 1 FROM unnest(p_tables, p_repairs, p_keys) AS u (name, repair, key)
	JOIN syncline.repairs r ON r.pipeline = p_pipeline AND r.repair = u.repair AND r.source_table = u.name AND md5(r.key) = md5(u.key)
	WHERE r.held AND r.state <> 'releasing' AND r.lease_until > now();
	IF FOUND THEN
		RAISE EXCEPTION 'keys are still under repair' USING ERRCODE = 'SYN03';
	END IF;
	UPDATE syncline.repairs r SET state = CASE WHEN u.reason = '' THEN 'released' ELSE 'failed' END, reason = u.reason, updated_at = now()
	FROM unnest(p_tables, p_repairs, p_keys, p_reasons) AS u (name, repair, key, reason)
	WHERE r.pipeline = p_pipeline AND r.repair = u.repair AND r.source_table = u.name AND md5(r.key) = md5(u.key) AND r.key = u.key
		AND (r.state = 'releasing' OR r.held AND r.lease_until <= now());
END $$;
`

// Workers of an older release, which read a partition from its watermark on, would apply
// again what was streamed ahead of it. They call hold_lane, and count as fenced while
// anything waits in their tables; this release calls take_lane.
const ledgerV8 = `
ALTER TABLE syncline.tables ADD COLUMN due_epoch bigint NOT NULL DEFAULT 0, ADD COLUMN due_lsn pg_lsn NOT NULL DEFAULT '0/0';
COMMENT ON COLUMN syncline.tables.due_lsn IS 'with due_epoch: commits below it are to be applied, though they wait for their tier';

ALTER TABLE syncline.watermarks ADD COLUMN ahead_epoch bigint, ADD COLUMN ahead_lsn pg_lsn, ADD COLUMN ahead_ordinal bigint, ADD COLUMN ahead_offset bigint,
	ADD COLUMN waits bigint, ADD COLUMN oldest timestamptz, ADD COLUMN rules text;
COMMENT ON COLUMN syncline.watermarks.ahead_lsn IS 'with ahead_epoch, ahead_ordinal and ahead_offset: how far streaming is ahead of the watermark; NULL if it is not';
COMMENT ON COLUMN syncline.watermarks.waits IS 'changes between the watermark and ahead that wait for their tier by rules, the first since oldest; the others have taken effect';

ALTER FUNCTION syncline.hold_lane(text, int, bigint, bigint, boolean, text[], bigint[], bigint[]) RENAME TO take_lane;

CREATE FUNCTION syncline.hold_lane(p_pipeline text, p_lane int, p_token bigint, p_seq bigint, p_async boolean, p_tables text[], p_epochs bigint[], p_holds bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM syncline.take_lane(p_pipeline, p_lane, p_token, p_seq, p_async, p_tables, p_epochs, p_holds);
	PERFORM 1 FROM syncline.watermarks w WHERE w.pipeline = p_pipeline AND w.source_table = ANY (p_tables) AND w.rules IS NOT NULL;
	IF FOUND THEN
		RAISE EXCEPTION 'changes wait for their tier, of which this release does not know' USING ERRCODE = 'SYN01';
	END IF;
END $$;
`

// Workers of an older release, which apply all that waits together, would do so again with
// what one tier's run has applied. They call take_lane, and count as fenced while the
// ledger tells tiers apart; this release calls enter_lane.
const ledgerV10 = `
ALTER TABLE syncline.tables ADD COLUMN due_tiers jsonb NOT NULL DEFAULT '{}';
COMMENT ON COLUMN syncline.tables.due_tiers IS 'as due_lsn, of single tiers: {TIER: {"epoch": N, "lsn": LSN}}';

ALTER TABLE syncline.watermarks ADD COLUMN backlogs jsonb;
COMMENT ON COLUMN syncline.watermarks.backlogs IS 'of what waits, what waits in each tier, and before which place the tier''s changes have taken effect; NULL if an older release did not tell them apart';

ALTER FUNCTION syncline.take_lane(text, int, bigint, bigint, boolean, text[], bigint[], bigint[]) RENAME TO enter_lane;

CREATE FUNCTION syncline.take_lane(p_pipeline text, p_lane int, p_token bigint, p_seq bigint, p_async boolean, p_tables text[], p_epochs bigint[], p_holds bigint[])
RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM syncline.enter_lane(p_pipeline, p_lane, p_token, p_seq, p_async, p_tables, p_epochs, p_holds);
	PERFORM 1 FROM syncline.watermarks w WHERE w.pipeline = p_pipeline AND w.source_table = ANY (p_tables) AND w.backlogs IS NOT NULL;
	IF FOUND THEN
		RAISE EXCEPTION 'tiers are told apart, of which this release does not know' USING ERRCODE = 'SYN01';
	END IF;
END $$;
`

const ledgerV5 = `
CREATE TABLE syncline.verifications (
	pipeline     text   NOT NULL,
	source_table text   NOT NULL,
	run          text   NOT NULL,
	epoch        bigint NOT NULL,
	state        json   NOT NULL,
	offsets      bigint[],
	saved_at     timestamptz NOT NULL,
	PRIMARY KEY (pipeline, source_table, run)
) WITH (fillfactor = 50);
COMMENT ON TABLE syncline.verifications IS 'how far a verification (run) has come; offsets, by partition, are set when it has ended: what the log had before them is verified';
`

const ledgerV1 = `
CREATE SEQUENCE syncline.tokens;
CREATE TABLE syncline.lanes (
	pipeline   text   NOT NULL,
	lane       int    NOT NULL,
	lanes      int    NOT NULL,
	token      bigint NOT NULL,
	seq        bigint NOT NULL DEFAULT 0,
	claimed_at timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (pipeline, lane)
) WITH (fillfactor = 50);
COMMENT ON TABLE syncline.lanes IS 'who delivers: fencing token of each lane, and its commits since the claim (seq)';

CREATE TABLE syncline.tables (
	pipeline     text    NOT NULL,
	source_table text    NOT NULL,
	state        text    NOT NULL CHECK (state IN ('loading', 'streaming', 'gated', 'removed')),
	reason       text    NOT NULL DEFAULT '',
	partitions   int     NOT NULL,
	epoch        bigint  NOT NULL,
	schema       jsonb   NOT NULL,
	options      jsonb   NOT NULL,
	versions     text[]  NOT NULL,
	created      boolean NOT NULL,
	planned      boolean NOT NULL DEFAULT false,
	chunks       int     NOT NULL DEFAULT 0,
	rows         bigint  NOT NULL DEFAULT 0,
	bytes        bigint  NOT NULL DEFAULT 0,
	loaded_to    pg_lsn  NOT NULL DEFAULT '0/0',
	updated_at   timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (pipeline, source_table)
);
COMMENT ON COLUMN syncline.tables.created IS 'whether Syncline created the table, and so may build and drop its key';
COMMENT ON COLUMN syncline.tables.versions IS 'fingerprints of the schemas whose rows the table can hold';

CREATE TABLE syncline.chunks (
	pipeline      text    NOT NULL,
	source_table  text    NOT NULL,
	n             int     NOT NULL,
	after         text[],
	up_to         text[],
	done          boolean NOT NULL DEFAULT false,
	snapshot      text    NOT NULL DEFAULT '',
	lsn           pg_lsn  NOT NULL DEFAULT '0/0',
	rows          bigint  NOT NULL DEFAULT 0,
	bytes         bigint  NOT NULL DEFAULT 0,
	attempt       int     NOT NULL DEFAULT 0,
	backend       int,
	backend_start timestamptz,
	finished_at   timestamptz,
	PRIMARY KEY (pipeline, source_table, n)
) WITH (fillfactor = 70);
COMMENT ON COLUMN syncline.chunks.backend IS 'the backend that loads the chunk: a newer attempt ends it';

CREATE TABLE syncline.watermarks (
	pipeline     text   NOT NULL,
	source_table text   NOT NULL,
	partition    int    NOT NULL,
	epoch        bigint NOT NULL,
	lsn          pg_lsn NOT NULL,
	ordinal      bigint NOT NULL,
	"offset"     bigint NOT NULL,
	moved_at     timestamptz NOT NULL DEFAULT now(),
	PRIMARY KEY (pipeline, source_table, partition)
) WITH (fillfactor = 50);
COMMENT ON TABLE syncline.watermarks IS 'every change of the partition at or before (epoch, lsn, ordinal) has taken effect; offset is the next record to read';

CREATE TABLE syncline.barriers (
	pipeline     text   NOT NULL,
	source_table text   NOT NULL,
	epoch        bigint NOT NULL,
	lsn          pg_lsn NOT NULL,
	ordinal      bigint NOT NULL,
	partition    int    NOT NULL,
	PRIMARY KEY (pipeline, source_table, epoch, lsn, ordinal, partition)
);
COMMENT ON TABLE syncline.barriers IS 'partitions that have come to a TRUNCATE; partition -1: it has been carried out';

CREATE TABLE syncline.dead_letters (
	id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	pipeline     text   NOT NULL,
	source_table text   NOT NULL,
	partition    int    NOT NULL,
	"offset"     bigint NOT NULL,
	key          text   NOT NULL,
	epoch        bigint NOT NULL,
	lsn          pg_lsn NOT NULL,
	ordinal      bigint NOT NULL,
	code         text   NOT NULL,
	reason       text   NOT NULL,
	payload      bytea  NOT NULL,
	created_at   timestamptz NOT NULL DEFAULT now(),
	resolved_at  timestamptz,
	resolution   text,
	UNIQUE (pipeline, source_table, partition, epoch, lsn, ordinal)
);
COMMENT ON TABLE syncline.dead_letters IS 'changes that were set aside; later changes of the same key park behind them until they are resolved';

CREATE FUNCTION syncline.table_lock(p_pipeline text, p_table text) RETURNS bigint
LANGUAGE sql IMMUTABLE AS $$ SELECT pg_catalog.hashtextextended(p_pipeline || '/' || p_table, 5971) $$;

CREATE FUNCTION syncline.hold_lane(p_pipeline text, p_lane int, p_token bigint, p_seq bigint, p_async boolean, p_tables text[], p_epochs bigint[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	t text;
BEGIN
	IF p_async THEN
		PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
	END IF;
	UPDATE syncline.lanes SET seq = p_seq + 1
	WHERE pipeline = p_pipeline AND lane = p_lane AND token = p_token AND seq = p_seq;
	IF NOT FOUND THEN
		PERFORM 1 FROM syncline.lanes WHERE pipeline = p_pipeline AND lane = p_lane AND token = p_token;
		IF FOUND THEN
			RAISE EXCEPTION 'lane is not where the session left it' USING ERRCODE = 'SYN02';
		END IF;
		RAISE EXCEPTION 'lane has a newer token' USING ERRCODE = 'SYN01';
	END IF;
	FOREACH t IN ARRAY p_tables LOOP
		PERFORM pg_catalog.pg_advisory_xact_lock_shared(syncline.table_lock(p_pipeline, t));
	END LOOP;
	PERFORM 1 FROM unnest(p_tables, p_epochs) AS u (name, epoch)
	LEFT JOIN syncline.tables s ON s.pipeline = p_pipeline AND s.source_table = u.name
	WHERE s.state IS DISTINCT FROM 'streaming' OR (u.epoch >= 0 AND u.epoch <> s.epoch);
	IF FOUND THEN
		RAISE EXCEPTION 'table is not streaming' USING ERRCODE = 'SYN03';
	END IF;
END $$;

CREATE FUNCTION syncline.expect_rows(have bigint, want bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF have < want THEN
		RAISE EXCEPTION 'row is missing' USING ERRCODE = 'SYN04';
	END IF;
END $$;
`

// Init creates the ledger or brings it to this release's version.
func (s *Sink) Init(ctx context.Context) error {
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('syncline ledger', 5971))"); err != nil {
			return err
		}
		var exists bool
		if err := tx.QueryRow(ctx, "SELECT to_regclass('syncline.migrations') IS NOT NULL").Scan(&exists); err != nil {
			return err
		}
		have := 0
		if exists {
			if err := tx.QueryRow(ctx, "SELECT coalesce(max(version), 0) FROM syncline.migrations").Scan(&have); err != nil {
				return err
			}
		} else if _, err := tx.Exec(ctx, `CREATE SCHEMA IF NOT EXISTS syncline;
			CREATE TABLE syncline.migrations (version int PRIMARY KEY, applied_at timestamptz NOT NULL DEFAULT now())`); err != nil {
			return err
		}
		if have > len(migrations) {
			return fault.Permanent(CodeLedgerNewer, nil, "run a release at least as new as the one that migrated the ledger",
				"ledger of the Postgres sink has version %d, this release knows %d", have, len(migrations))
		}
		for v := have; v < len(migrations); v++ {
			if _, err := tx.Exec(ctx, migrations[v]); err != nil {
				return fmt.Errorf("migration %d: %w", v+1, err)
			}
			if _, err := tx.Exec(ctx, "INSERT INTO syncline.migrations (version) VALUES ($1)", v+1); err != nil {
				return err
			}
		}
		return nil
	})
	return s.wrap(ctx, err, "create or migrate the ledger")
}
