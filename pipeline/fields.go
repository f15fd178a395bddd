package pipeline

import (
	"math"
	"time"
)

const (
	kib = 1 << 10
	mib = 1 << 20
	gib = 1 << 30
	day = int64(24 * time.Hour)
)

// MaxName is the longest name of a pipeline: slot, publication and topics are
// made from it and have limits of their own.
const MaxName = 40

const (
	namePattern   = `^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$`
	nameWant      = "at most 40 lower-case letters, digits and hyphens, beginning with a letter, such as shop or orders-eu"
	identPattern  = `^[^\x00]{1,63}$`
	hostPattern   = `^[^\s@?#\x00-\x1f\x7f]+$`
	brokerPattern = `([^\s@/:,\[\]\x00-\x1f\x7f]+|\[[0-9A-Fa-f:]+\]):[0-9]{1,5}`
	regionPattern = `^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$`
	regionWant    = "a region's name of at most 64 lower-case letters, digits and hyphens, such as eu-west-1"
	hostWant      = "a host name, an address, or the folder of a Unix socket"
)

// root is the field table.
var root = (&field{
	kind: kindObject,
	doc:  "One Syncline pipeline: a Postgres source, a Kafka log, one or more sinks.",
	fields: []*field{
		{name: "version", kind: kindInteger, required: true, min: 1, max: 1, effect: Refused, doc: "Version of this format."},
		{name: "name", kind: kindText, required: true, pattern: namePattern, want: nameWant, check: checkName, effect: Refused,
			doc: "Name of the pipeline; workflow, slot, publication and topics are named after it."},
		sourceField, kafkaField, sinksField, tablesField, snapshotField, streamField, tiersField, classifyField, residencyField, thinField, objectivesField, budgetField,
	},
}).compile()

func connection(extra ...string) []alternative {
	at := append([]string{"host", "port", "database", "sslmode", "sslrootcert", "sslcert", "sslkey"}, extra...)
	return []alternative{
		{[]string{"dsn"}, []string{"dsn"}},
		{[]string{"host", "database", "user"}, append([]string{"user", "password"}, at...)},
		{[]string{"host", "database", "login"}, append([]string{"login"}, at...)},
	}
}

var sslModes = []string{"disable", "allow", "prefer", "require", "verify-ca", "verify-full"}

var loginField = &field{
	name: "login", kind: kindLogin, also: []string{"credentials", "creds"}, effect: RestartStream,
	doc: "Where user and password are kept together, in Vault: one of two logins that `starter rotate` exchanges, a secret with `username` and `password`, or a role of Vault's database engine. Connections move to another login while they run.",
}

var sourceField = &field{
	name: "source", kind: kindObject, required: true, doc: "The database that changes come from.",
	choice: connection(),
	fields: []*field{
		{name: "type", kind: kindText, required: true, enum: []string{"postgres"}, effect: Refused, doc: "Kind of database."},
		{name: "dsn", kind: kindRef, also: []string{"url", "uri", "connection_string"}, effect: RestartStream,
			effectNote: "must lead to the same database: its identity is compared on start",
			doc:        "Where the connection string is kept, instead of the fields from `host` to `sslrootcert`."},
		{name: "host", kind: kindText, pattern: hostPattern, want: hostWant, also: []string{"hostname", "address", "server"}, effect: RestartStream,
			effectNote: "must lead to the same database: its identity is compared on start", doc: "Host name, address, or folder of a Unix socket."},
		{name: "port", kind: kindInteger, def: 5432, min: 1, max: 65535, effect: RestartStream, doc: "Port."},
		{name: "database", kind: kindText, also: []string{"dbname", "db"}, effect: Refused, doc: "Database."},
		{name: "user", kind: kindText, also: []string{"username", "role"}, effect: RestartStream, doc: "Role with REPLICATION and SELECT on the tables."},
		{name: "password", kind: kindRef, also: []string{"pass", "secret"}, effect: RestartStream, doc: "Where the password is kept."},
		loginField,
		{name: "sslmode", kind: kindText, enum: sslModes, def: "prefer", effect: RestartStream, doc: "As in libpq."},
		{name: "sslrootcert", kind: kindText, also: []string{"ca_file"}, effect: RestartStream, doc: "File of the authorities' certificates, on the worker; read again for each connection."},
		{name: "sslcert", kind: kindText, also: []string{"cert_file"}, effect: RestartStream, doc: "File of the client certificate, on the worker; read again for each connection."},
		{name: "sslkey", kind: kindText, also: []string{"key_file"}, effect: RestartStream, doc: "File of its private key, on the worker."},
		{name: "region", kind: kindText, pattern: regionPattern, want: regionWant, also: []string{"location"}, effect: RestartStream, doc: "Region where it is, in the words of your provider; what goes from region to region has a price, and may be restricted."},
		{name: "slot", kind: kindText, derived: "`syncline_<name>`", pattern: `^[a-z0-9_]{1,63}$`, want: "at most 63 lower-case letters, digits and underscores",
			also: []string{"slot_name"}, effect: Refused, doc: "Name of the replication slot, which Syncline creates and drops."},
		{name: "publication", kind: kindText, derived: "`syncline_<name>`", pattern: identPattern, want: "a name of at most 63 characters",
			also: []string{"publication_name"}, effect: Refused, doc: "Name of the publication, which Syncline creates, alters and drops."},
	},
}

var tlsFields = []*field{
	{name: "ca_file", kind: kindText, also: []string{"ca", "cafile"}, effect: RestartStream, doc: "File of the authorities' certificates, on the worker; default: the system's."},
	{name: "cert_file", kind: kindText, also: []string{"cert", "certificate"}, effect: RestartStream, doc: "File of the client certificate, on the worker."},
	{name: "key", kind: kindRef, also: []string{"key_file"}, effect: RestartStream, doc: "Where the client certificate's private key is kept."},
	{name: "server_name", kind: kindText, effect: RestartStream, doc: "Name in the server's certificate; default: the host connected to."},
}

var kafkaField = &field{
	name: "kafka", kind: kindObject, required: true, doc: "The log between source and sinks: one topic per table.",
	fields: []*field{
		{name: "brokers", kind: kindList, required: true, commas: true, set: true, min: 1, want: "a list of host:port, or one text with commas",
			also: []string{"bootstrap_servers", "servers", "hosts"}, effect: RestartStream, effectNote: "must lead to the same cluster", doc: "Brokers to begin with.",
			elem: &field{kind: kindText, pattern: "^" + brokerPattern + "$", want: "host:port, such as kafka:9092"}},
		{name: "topic_prefix", kind: kindText, def: "syncline.", emptyOK: true, pattern: `^[A-Za-z0-9._-]{0,80}$`, want: "at most 80 letters, digits, dots, underscores and hyphens",
			also: []string{"prefix"}, effect: Refused, doc: "Topics are named `<topic_prefix><name>.<schema>.<table>`."},
		{name: "partitions", kind: kindInteger, def: 4, min: 1, max: 1024, effect: Refused, effectNote: "the partition of a key would change, and with it the order of its changes",
			doc: "Partitions of each table's topic; 1 with `stream.order: transaction`."},
		{name: "replication_factor", kind: kindInteger, def: 0, min: 0, max: 32, also: []string{"replicas"}, effect: Live, effectNote: "for topics made from now on",
			doc: "Replicas of each topic; 0: the broker's default."},
		{name: "retention", kind: kindDuration, def: "7d", min: int64(time.Hour), max: 3650 * day, effect: Live,
			effectNote: "topics that exist are changed; the brokers delete at once what a shorter one lets go",
			doc:        "How long the log is kept, and so how long a sink may be away and how far back a replay reaches."},
		{name: "max_message_bytes", kind: kindSize, def: "8MiB", min: 64 * kib, max: gib, effect: RestartStream,
			effectNote: "topics that exist are changed first", doc: "Largest message of the topics."},
		{name: "compression", kind: kindText, enum: []string{"zstd", "lz4", "none"}, def: "zstd", effect: RestartStream, doc: "Compression of batches."},
		{name: "format", kind: kindText, enum: []string{FormatSyncline, FormatDebezium, FormatDebeziumSchema}, def: FormatSyncline, effect: RestartStream,
			effectNote: "extra topics begin with the changes from now on",
			doc:        "`debezium` and `debezium-schema` write a second topic per table with Debezium-compatible JSON, without and with its schema, for other consumers."},
		{name: "region", kind: kindText, pattern: regionPattern, want: regionWant, also: []string{"location"}, effect: RestartStream, doc: "Region where the brokers are."},
		{name: "sasl", kind: kindObject, effect: RestartStream, doc: "Login.", choice: []alternative{
			{[]string{"username", "password"}, []string{"username", "password"}}, {[]string{"login"}, []string{"login"}},
		}, fields: []*field{
			{name: "mechanism", kind: kindText, required: true, enum: []string{"plain", "scram-sha-256", "scram-sha-512"}, effect: RestartStream, doc: "Mechanism."},
			{name: "username", kind: kindText, also: []string{"user"}, effect: RestartStream, doc: "User."},
			{name: "password", kind: kindRef, also: []string{"pass"}, effect: RestartStream, doc: "Where the password is kept."},
			loginField,
		}},
		{name: "tls", kind: kindObject, also: []string{"ssl"}, effect: RestartStream, doc: "Encryption; `tls: {}` turns it on with the system's authorities.", fields: tlsFields},
	},
}

var sinksField = &field{
	name: "sinks", kind: kindList, required: true, min: 1, uniqueBy: "name", atOnce: true, effect: NeedsResync,
	effectNote: "an added sink is loaded while the others go on; a removed one keeps its rows", doc: "Where changes go; each sink has its own pace.",
	elem: &field{
		kind: kindObject, choice: connection("protocol", "tls"),
		fields: []*field{
			{name: "name", kind: kindText, required: true, pattern: namePattern, want: nameWant, check: checkName, effect: Refused, doc: "Name of the sink, unique in the pipeline."},
			{name: "type", kind: kindText, required: true, enum: []string{SinkPostgres, SinkClickHouse}, effect: Refused, effectNote: "declare a sink of another name", doc: "Kind of database."},
			{name: "dsn", kind: kindRef, also: []string{"url", "uri", "connection_string"}, effect: RestartStream, effectNote: "must lead to the same database: its ledger is read on start",
				doc: "Where the connection string or URL is kept, instead of the fields from `host` to `tls`. For ClickHouse its scheme selects the protocol: `http` or `https`, `clickhouse` for the native one (with `?secure=true` for TLS)."},
			{name: "host", kind: kindText, pattern: hostPattern, want: hostWant, also: []string{"hostname", "address", "server"}, effect: RestartStream,
				effectNote: "must lead to the same database: its ledger is read on start", doc: "Host name, address, or folder of a Unix socket."},
			{name: "port", kind: kindInteger, derived: "5432; ClickHouse: 8123 (http) or 9000 (native), with TLS 8443 or 9440", min: 1, max: 65535, effect: RestartStream, doc: "Port."},
			{name: "database", kind: kindText, also: []string{"dbname", "db"}, effect: NeedsResync, doc: "Database to connect to."},
			{name: "user", kind: kindText, also: []string{"username", "role"}, effect: RestartStream, doc: "User."},
			{name: "password", kind: kindRef, also: []string{"pass", "secret"}, effect: RestartStream, doc: "Where the password is kept."},
			loginField,
			{name: "sslmode", kind: kindText, when: SinkPostgres, enum: sslModes, def: "prefer", effect: RestartStream, doc: "As in libpq."},
			{name: "sslrootcert", kind: kindText, when: SinkPostgres, also: []string{"ca_file"}, effect: RestartStream, doc: "File of the authorities' certificates, on the worker; read again for each connection."},
			{name: "sslcert", kind: kindText, when: SinkPostgres, also: []string{"cert_file"}, effect: RestartStream, doc: "File of the client certificate, on the worker; read again for each connection."},
			{name: "sslkey", kind: kindText, when: SinkPostgres, also: []string{"key_file"}, effect: RestartStream, doc: "File of its private key, on the worker."},
			{name: "protocol", kind: kindText, when: SinkClickHouse, enum: []string{"http", "native"}, def: "http", effect: RestartStream, doc: "ClickHouse interface, HTTP or the native TCP protocol."},
			{name: "compression", kind: kindText, when: SinkClickHouse, enum: []string{"none", "lz4", "zstd"}, derived: "as the DSN's `compress` says, else `none`", effect: RestartStream,
				doc: "Compression of what is sent. `lz4` costs little; between regions, where bytes are paid for, `zstd` sends least."},
			{name: "tls", kind: kindObject, when: SinkClickHouse, also: []string{"ssl"}, effect: RestartStream, doc: "Encryption; `tls: {}` turns it on with the system's authorities.", fields: tlsFields},
			{name: "region", kind: kindText, pattern: regionPattern, want: regionWant, also: []string{"location"}, effect: RestartStream, doc: "Region where it is."},
			{name: "schema", kind: kindText, derived: "the source's schema names", pattern: identPattern, want: "a name of at most 63 characters", also: []string{"target_schema"}, effect: NeedsResync,
				doc: "Schema (ClickHouse: database) that takes all tables."},
			{name: "lanes", kind: kindInteger, derived: "2, but at most `kafka.partitions`", min: 1, max: 64, also: []string{"workers", "parallelism"}, effect: RestartStream, doc: "Parallel writers; each takes its share of partitions."},
			{name: "on_existing", kind: kindText, enum: []string{"refuse", "truncate", "append"}, def: "refuse", effect: Live, effectNote: "for tables loaded from now on",
				doc: "What to do with rows that a target table holds before its load."},
			{name: "max_batch_rows", kind: kindInteger, derived: "`stream.max_batch_rows`", min: 1, max: 1e6, effect: RestartStream, doc: "Largest batch in changes."},
			{name: "max_batch_bytes", kind: kindSize, derived: "`stream.max_batch_bytes`", min: kib, max: gib, effect: RestartStream, doc: "Largest batch in bytes."},
			{name: "quarantine_views", kind: kindBoolean, derived: "false", also: []string{"mark_quarantined", "quarantined_views"}, effect: RestartStream, effectNote: "the views are made, or dropped, when delivery begins",
				doc: "Beside each table, a view `<table>_quarantined` of the keys that a repair holds, for readers that are to leave them out."},
		},
	},
}

var columnName = &field{kind: kindText, pattern: identPattern, want: "a column's name"}

var tablesField = &field{
	name: "tables", kind: kindObject, required: true, short: "include", doc: "Which tables; a bare list is short for `include`.",
	fields: []*field{
		{name: "include", kind: kindList, required: true, min: 1, set: true, elem: &field{kind: kindGlob}, effect: Live,
			effectNote: "tables that appear are loaded, tables that disappear stop and keep their rows",
			doc:        "Patterns `schema.table` with `*`, `?`, `[a-z]` and `{a,b}`; a part in double quotes is taken literally."},
		{name: "exclude", kind: kindList, set: true, elem: &field{kind: kindGlob}, effect: Live,
			effectNote: "tables that appear are loaded, tables that disappear stop and keep their rows", doc: "Patterns of tables to leave out; they win over `include`."},
		{name: "options", kind: kindList, uniqueBy: "match", effect: NeedsResync, doc: "Options per table; every entry that matches applies, later ones win.",
			elem: &field{kind: kindObject, fields: []*field{
				{name: "match", kind: kindGlob, required: true, also: []string{"table", "name"}, doc: "Pattern of the tables."},
				{name: "columns", kind: kindObject, effect: NeedsResync, doc: "Which columns; all if absent.",
					choice: []alternative{{[]string{"include"}, []string{"include"}}, {[]string{"exclude"}, []string{"exclude"}}},
					fields: []*field{
						{name: "include", kind: kindList, min: 1, set: true, elem: columnName, effect: NeedsResync, doc: "Only these; key columns must be among them."},
						{name: "exclude", kind: kindList, min: 1, set: true, elem: columnName, effect: NeedsResync, doc: "All but these."},
					}},
				{name: "where", kind: kindText, also: []string{"filter"}, effect: NeedsResync, doc: "SQL predicate over the row; only rows for which it holds are copied."},
				{name: "append_only", kind: kindBoolean, derived: "false", effect: NeedsResync, doc: "Append every change as a row; for tables without a key."},
				{name: "order_by", kind: kindList, derived: "the primary key", min: 1, set: true, elem: columnName, effect: NeedsResync, doc: "ClickHouse sorting key."},
				{name: "target", kind: kindText, derived: "the source's name", pattern: identPattern, want: "a table name of at most 63 characters", effect: NeedsResync, doc: "Name of the table at the sinks."},
				{name: "chunk_bytes", kind: kindSize, derived: "`snapshot.chunk_bytes`", min: 64 * kib, max: 64 * gib, effect: Live, effectNote: "for loads planned from now on", doc: "Size of one chunk of the load."},
			}}},
	},
}

var snapshotField = &field{
	name: "snapshot", kind: kindObject, def: true, doc: "How existing rows are loaded.",
	fields: []*field{
		{name: "mode", kind: kindText, enum: []string{SnapshotInitial, SnapshotNever}, def: SnapshotInitial, effect: Live, effectNote: "for tables added from now on",
			doc: "`never` delivers changes only."},
		{name: "parallelism", kind: kindInteger, def: 4, min: 1, max: 64, also: []string{"workers", "threads"}, effect: Live, doc: "Chunks copied at the same time, over all workers."},
		{name: "chunk_bytes", kind: kindSize, def: "64MiB", min: 64 * kib, max: 64 * gib, effect: Live, effectNote: "for loads planned from now on", doc: "Size of one chunk; a lost worker costs at most its chunks in flight."},
		{name: "max_hold", kind: kindDuration, def: "1h", min: int64(time.Second), max: 30 * day, effect: Live,
			doc: "How long one exported snapshot is held open before the remaining chunks are read in a new one; it holds back VACUUM."},
	},
}

var streamField = &field{
	name: "stream", kind: kindObject, def: true, doc: "How changes are moved.",
	fields: []*field{
		{name: "max_batch_rows", kind: kindInteger, def: 10000, min: 1, max: 1e6, effect: RestartStream, doc: "Largest batch in changes, unless a sink says otherwise."},
		{name: "max_batch_bytes", kind: kindSize, def: "4MiB", min: kib, max: gib, effect: RestartStream, doc: "Largest batch in bytes, unless a sink says otherwise."},
		{name: "status_interval", kind: kindDuration, def: "500ms", min: int64(100 * time.Millisecond), max: int64(time.Minute), effect: RestartStream, doc: "How often the source is told what is safe."},
		{name: "memory_limit", kind: kindSize, def: "64MiB", min: 16 * mib, max: math.MaxInt64, effect: RestartStream, doc: "Memory for changes in flight, per activity; larger transactions spill to disk."},
		{name: "spill_dir", kind: kindText, derived: "the worker's temporary folder", effect: RestartStream, doc: "Folder for what spills."},
		{name: "heartbeat_interval", kind: kindDuration, def: "10s", min: int64(time.Second), max: day, effect: RestartStream, doc: "How often an idle source writes a message so that its slot advances."},
		{name: "order", kind: kindText, enum: []string{OrderKey, OrderTransaction}, def: OrderKey, effect: Refused, effectNote: "it decides on the number of partitions",
			doc: "`key`: changes of a key in commit order. `transaction`: whole transactions, one partition, applied atomically."},
	},
}

var tiersField = &field{
	name: "tiers", kind: kindList, uniqueBy: "name", atOnce: true, also: []string{"tier"}, effect: RestartStream,
	effectNote: "what waits goes with the new rules", doc: "Batch tiers, whose changes wait for the tier's next run. The tier `stream`, whose changes do not, is there without being declared.",
	elem: &field{
		kind: kindObject,
		fields: []*field{
			{name: "name", kind: kindText, required: true, pattern: namePattern, want: nameWant, check: checkName, effect: RestartStream, doc: "Name of the tier, unique in the pipeline."},
			{name: "every", kind: kindDuration, required: true, min: int64(10 * time.Second), max: 30 * day, also: []string{"period", "interval"}, effect: RestartStream,
				doc: "Time from run to run, and so how long a change waits at most. `kafka.retention` must be at least twice as long."},
			{name: "jitter", kind: kindDuration, def: "0s", min: 0, max: day, effect: Live, doc: "By which a run begins later, at most, so that many pipelines do not all begin at once."},
			{name: "aggregate", kind: kindObject, effect: RestartStream, doc: "Keep aggregates of the tier's rows, and not the rows, in a view `<table>_<tier>` at each sink. For tables that are `append_only`.",
				fields: []*field{
					{name: "group", kind: kindList, min: 1, set: true, elem: columnName, also: []string{"group_by", "by"}, effect: RestartStream, doc: "Columns whose values put rows together. `group`, `time` or both are needed."},
					{name: "time", kind: kindObject, effect: RestartStream, doc: "Puts rows together by time.",
						fields: []*field{
							{name: "column", kind: kindText, required: true, pattern: identPattern, want: "a column's name", effect: RestartStream, doc: "A timestamp, with or without time zone."},
							{name: "bucket", kind: kindDuration, required: true, min: int64(time.Second), max: 366 * day, effect: RestartStream, doc: "Length of a bucket, in whole seconds; buckets are counted from 1970 on in UTC."},
						}},
					{name: "values", kind: kindList, min: 1, uniqueBy: "column", effect: RestartStream, doc: "Columns to aggregate; the number of rows is always there.",
						elem: &field{kind: kindObject, fields: []*field{
							{name: "column", kind: kindText, required: true, pattern: identPattern, want: "a column's name", effect: RestartStream, doc: "An integer, numeric or float; of any type for `count` alone."},
							{name: "functions", kind: kindList, required: true, min: 1, set: true, also: []string{"function"}, effect: RestartStream,
								elem: &field{kind: kindText, pattern: `^(sum|count|avg|min|max|p[0-9]{2,6})$`, want: "sum, count, avg, min, max, or a quantile such as p50, p99, p999"},
								doc:  "`sum`, `count` (of values that are not NULL), `avg`, `min`, `max`, and quantiles: `p50`, `p99`, `p999`. Each is a column `<column>_<function>`. Sums are exact; quantiles are within 1 %."},
						}}},
				}},
			{name: "omit", kind: kindList, min: 1, set: true, elem: columnName, also: []string{"drop", "columns"}, effect: NeedsResync, effectNote: shapeNote,
				doc: "Columns that are left out of the tier's rows, at all sinks: they are there, and NULL. They cannot be of the primary key. A row is of the tier that its insertion would be of."},
			sampleField("Of the tier's rows, only those of a share of entities, at all sinks. A column `_syncline_sample_rate` has the share beside each row, and 1 beside rows of other tiers: divide by it."),
			{name: "compression", kind: kindText, enum: []string{"none", "lz4", "zstd"}, derived: "the sink's `compression`", effect: RestartStream,
				doc: "Compression of batches of what waited, to ClickHouse sinks; a batch of several tiers has the strongest of theirs. It has no effect on others."},
		},
	},
}

var classifyField = &field{
	name: "classify", kind: kindList, also: []string{"classes", "classification", "rules"}, effect: RestartStream,
	effectNote: "what waits goes with the new rules", doc: "Which changes belong to which tier: the first entry that matches a change decides. What none matches streams.",
	elem: &field{
		kind: kindObject,
		fields: []*field{
			{name: "match", kind: kindGlob, required: true, also: []string{"table", "tables"}, effect: RestartStream, doc: "Pattern of the tables, as in `tables.include`."},
			{name: "where", kind: kindText, also: []string{"when", "filter"}, effect: RestartStream,
				doc: "Condition on the row, in a subset of SQL that needs nothing but the log: columns compared with constants by `=`, `<>`, `<`, `IN`, `BETWEEN`, `LIKE`, `IS NULL`, and `AND`, `OR`, `NOT`. A change for which it cannot be told streams."},
			{name: "columns", kind: kindList, min: 1, set: true, elem: columnName, effect: RestartStream,
				doc: "Only updates that change none but these columns. The log tells that of tables with `REPLICA IDENTITY FULL`."},
			{name: "tier", kind: kindText, required: true, pattern: namePattern, want: "`stream` or the name of a tier", effect: RestartStream, doc: "`stream`, or a tier of `tiers`."},
		},
	},
}

const residencyNote = "takes effect for changes at once; load the tables concerned again for rows that are there: starter resync-table; what the log holds already stays there until kafka.retention"

var residencyField = &field{
	name: "residency", kind: kindList, also: []string{"data_classes", "restrictions"}, effect: NeedsResync, effectNote: residencyNote,
	doc: "Classes of data, and the regions where they may be. `kafka.region` and the sinks' `region` count; one that is not said is not allowed. A sink gets nothing that Kafka may not hold.",
	elem: &field{
		kind: kindObject,
		fields: []*field{
			{name: "name", kind: kindText, required: true, pattern: namePattern, want: nameWant, check: checkName, also: []string{"class"}, effect: NeedsResync, doc: "Name of the class, unique in the pipeline."},
			{name: "match", kind: kindGlob, required: true, also: []string{"table", "tables"}, effect: NeedsResync, doc: "Pattern of the tables, as in `tables.include`."},
			{name: "columns", kind: kindList, min: 1, set: true, elem: columnName, also: []string{"column"}, effect: NeedsResync, doc: "Columns that are restricted, for `drop` and `mask`; every table has to have them, and they cannot be of the primary key. Whole rows if no columns are named."},
			{name: "columns_if_present", kind: kindList, min: 1, set: true, elem: columnName, effect: NeedsResync, doc: "More such columns, which a table may lack; before a column of `columns` is renamed or dropped, name it and its new name here instead."},
			{name: "where", kind: kindText, also: []string{"when", "filter"}, effect: NeedsResync,
				doc: "Only rows for which this holds, in the subset of SQL of `classify.where`. It takes `REPLICA IDENTITY FULL`, or asks for columns of the primary key alone."},
			{name: "regions", kind: kindList, required: true, min: 1, set: true, also: []string{"region", "allow", "allowed"}, effect: NeedsResync, doc: "Regions where the data may be.",
				elem: &field{kind: kindText, pattern: regionPattern, want: regionWant}},
			{name: "otherwise", kind: kindText, enum: []string{OtherwiseRefuse, OtherwiseDrop, OtherwiseMask, OtherwiseWithhold}, def: OtherwiseRefuse, also: []string{"else", "action"}, effect: NeedsResync,
				doc: "What becomes of the data elsewhere: `refuse`: the declaration is not taken; `drop`: the columns are NULL; `mask`: their values are replaced by a keyed hash, HMAC-SHA-256 in hexadecimal; `withhold`: the rows are not there."},
			{name: "key", kind: kindRef, also: []string{"secret", "salt"}, effect: NeedsResync, doc: "Where the secret of `mask` is kept, 16 bytes at least."},
		},
	},
}

// sampleField is a sample of entities; doc says of which rows.
func sampleField(doc string) *field {
	return &field{name: "sample", kind: kindObject, effect: NeedsResync, effectNote: shapeNote, doc: doc,
		fields: []*field{
			{name: "by", kind: kindList, required: true, min: 1, commas: true, elem: columnName, also: []string{"entity", "columns", "key"}, effect: NeedsResync,
				doc: "Columns of the entity, of integers, texts or uuids. They take `REPLICA IDENTITY FULL`, or are of the primary key."},
			{name: "rate", kind: kindRatio, required: true, min: 1, max: unit, also: []string{"share", "percent"}, effect: NeedsResync, doc: "Share of entities."},
			{name: "salt", kind: kindText, def: "syncline", pattern: `^[A-Za-z0-9._-]{1,64}$`, want: "at most 64 letters, digits, dots, underscores and hyphens", also: []string{"seed"}, effect: NeedsResync,
				doc: "Another salt chooses other entities; tables with the same salt and rate have the same."},
		}}
}

const shapeNote = "takes effect for changes at once; load the tables concerned again for rows that are there: starter resync-table"

var thinField = &field{
	name: "thin", kind: kindList, also: []string{"thinning", "shape"}, effect: NeedsResync, effectNote: shapeNote,
	doc: "What sinks hold of tables: columns that are left out, and samples of entities.",
	elem: &field{
		kind: kindObject,
		fields: []*field{
			{name: "match", kind: kindGlob, required: true, also: []string{"table", "tables"}, effect: NeedsResync, doc: "Pattern of the tables, as in `tables.include`."},
			{name: "sinks", kind: kindList, min: 1, set: true, commas: true, also: []string{"sink"}, effect: NeedsResync, doc: "Names of sinks; all if absent.",
				elem: &field{kind: kindText, pattern: namePattern, want: "the name of a sink"}},
			{name: "omit", kind: kindList, min: 1, set: true, elem: columnName, also: []string{"drop", "columns"}, effect: NeedsResync, doc: "Columns that are left out: they are there, and NULL. They cannot be of the primary key."},
			sampleField("Only the rows of a share of entities, chosen by a hash that stays the same. A column `_syncline_sample_rate` has the share beside each row: divide by it."),
		},
	},
}

var objectivesField = &field{
	name: "objectives", kind: kindList, uniqueBy: "name", atOnce: true, also: []string{"slo", "slos", "objective"}, effect: RestartStream,
	effectNote: "events are counted from then on", doc: "What the pipeline promises; `starter report` tells how well it keeps it.",
	elem: &field{
		kind: kindObject, selector: "indicator",
		fields: []*field{
			{name: "name", kind: kindText, derived: "the indicator", pattern: namePattern, want: nameWant, check: checkName, effect: RestartStream, doc: "Name of the objective, unique in the pipeline; its events are counted under it."},
			{name: "indicator", kind: kindText, required: true, enum: []string{ObjectiveLag, ObjectiveApplyErrors, ObjectiveConvergence, ObjectiveBacklog}, effect: RestartStream,
				effectNote: "give the objective another name too, so that its earlier events do not count",
				doc:        "What is good: `lag`: a change that arrives `within`; `apply-errors`: one that a sink takes; `convergence`: a verdict of a verification that is equal; `backlog`: a moment at which no more than `at_most` records wait."},
			{name: "within", kind: kindDuration, required: true, when: ObjectiveLag, min: int64(time.Millisecond), max: 30 * day, also: []string{"below", "under", "threshold"}, effect: RestartStream,
				effectNote: "events before count as they were measured", doc: "Time from the commit at the source to the commit at the sink."},
			{name: "at_most", kind: kindInteger, required: true, when: ObjectiveBacklog, min: 1, max: 1e15, also: []string{"records", "max", "limit"}, effect: Live, doc: "Records that may wait in Kafka, over all partitions, at the sink that has most before it."},
			{name: "target", kind: kindRatio, def: "99.9%", min: 1, max: unit - 1, also: []string{"goal", "objective"}, effect: Live, doc: "Share of events that are good; what is left to 100% is the error budget."},
			{name: "period", kind: kindDuration, def: "30d", min: int64(time.Hour), max: 365 * day, also: []string{"window", "over"}, effect: Live, doc: "Time over which the target counts, up to now."},
		},
	},
}

var budgetField = &field{
	name: "budget", kind: kindObject, also: []string{"budgets"}, effect: Live, doc: "What the pipeline may cost, by the price table; `starter status` and the alert `SynclineBudget` tell when it costs more.",
	fields: []*field{
		{name: "amount", kind: kindText, required: true, pattern: moneyPattern, want: "a sum and a currency, such as 100 USD", also: []string{"limit", "max"}, effect: Live, doc: "Sum in the price table's currency, such as `100 USD`."},
		{name: "per", kind: kindText, def: PerMonth, enum: []string{PerDay, PerWeek, PerMonth}, also: []string{"period", "every"}, effect: Live, doc: "Time that the sum is for: a day, a week from Monday on, or a month, in UTC."},
		{name: "warn_at", kind: kindRatio, def: "80%", min: 1, max: unit, also: []string{"warn", "alert_at"}, effect: Live, doc: "Share of the sum from which on it is warned; also if the forecast is above the sum."},
		{name: "slow", kind: kindInteger, min: 2, max: 1000, also: []string{"factor", "slowdown"}, effect: Live,
			doc: "While more than the sum is spent, batch tiers run this many times as rarely, up to half of `kafka.retention`; what streams goes on as ever. Without it nothing is slowed."},
	},
}
