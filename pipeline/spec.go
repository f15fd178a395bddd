package pipeline

import (
	"slices"
	"strconv"

	"syncline/secrets"
)

// Spec is one pipeline as declared, with all defaults filled in. The names of
// its JSON form are those of the YAML form.
type Spec struct {
	Version    int         `json:"version"`
	Name       string      `json:"name"`
	Source     Source      `json:"source"`
	Kafka      Kafka       `json:"kafka"`
	Sinks      []Sink      `json:"sinks"`
	Tables     Tables      `json:"tables"`
	Snapshot   Snapshot    `json:"snapshot"`
	Stream     Stream      `json:"stream"`
	Tiers      []Tier      `json:"tiers,omitempty"`
	Classify   []Class     `json:"classify,omitempty"`
	Residency  []Residency `json:"residency,omitempty"`
	Thin       []Thin      `json:"thin,omitempty"`
	Objectives []Objective `json:"objectives,omitempty"`
	Budget     *Budget     `json:"budget,omitempty"`
}

// Source is the database that changes come from. Either DSN is set, or Host and
// the fields after it.
type Source struct {
	Type        string           `json:"type"`
	DSN         secrets.Ref      `json:"dsn,omitzero"`
	Host        string           `json:"host,omitempty"`
	Port        int              `json:"port,omitempty"`
	Database    string           `json:"database,omitempty"`
	User        string           `json:"user,omitempty"`
	Password    secrets.Ref      `json:"password,omitzero"`
	Login       secrets.LoginRef `json:"login,omitzero"`
	SSLMode     string           `json:"sslmode,omitempty"`
	SSLRootCert string           `json:"sslrootcert,omitempty"`
	SSLCert     string           `json:"sslcert,omitempty"`
	SSLKey      string           `json:"sslkey,omitempty"`
	Region      string           `json:"region,omitempty"`
	Slot        string           `json:"slot,omitempty"`
	Publication string           `json:"publication,omitempty"`
}

// The values of Kafka.Format.
const (
	FormatSyncline       = "syncline"
	FormatDebezium       = "debezium"
	FormatDebeziumSchema = "debezium-schema"
)

// Kafka is the log between source and sinks.
type Kafka struct {
	Brokers           []string `json:"brokers"`
	TopicPrefix       string   `json:"topic_prefix"`
	Partitions        int      `json:"partitions"`
	ReplicationFactor int      `json:"replication_factor"` // 0: the broker's default
	Retention         Duration `json:"retention"`
	MaxMessageBytes   Size     `json:"max_message_bytes"`
	Compression       string   `json:"compression"`
	Format            string   `json:"format"`
	Region            string   `json:"region,omitempty"`
	SASL              *SASL    `json:"sasl,omitempty"`
	TLS               *TLS     `json:"tls,omitempty"`
}

// SASL is how the workers log in to Kafka.
type SASL struct {
	Mechanism string           `json:"mechanism"`
	Username  string           `json:"username,omitempty"`
	Password  secrets.Ref      `json:"password,omitzero"`
	Login     secrets.LoginRef `json:"login,omitzero"`
}

// TLS turns encryption on. Files are read by the worker.
type TLS struct {
	CAFile     string      `json:"ca_file,omitempty"`     // default: the system's authorities
	CertFile   string      `json:"cert_file,omitempty"`   // client certificate, PEM
	Key        secrets.Ref `json:"key,omitzero"`          // of the client certificate, PEM
	ServerName string      `json:"server_name,omitempty"` // default: the host connected to
}

// The values of Sink.Type.
const (
	SinkPostgres   = "postgres"
	SinkClickHouse = "clickhouse"
)

// Sink is one place that changes go to. Either DSN is set, or Host and the
// fields after it.
type Sink struct {
	Name          string           `json:"name"`
	Type          string           `json:"type"`
	DSN           secrets.Ref      `json:"dsn,omitzero"`
	Host          string           `json:"host,omitempty"`
	Port          int              `json:"port,omitempty"`
	Database      string           `json:"database,omitempty"`
	User          string           `json:"user,omitempty"`
	Password      secrets.Ref      `json:"password,omitzero"`
	Login         secrets.LoginRef `json:"login,omitzero"`
	SSLMode       string           `json:"sslmode,omitempty"`     // Postgres
	SSLRootCert   string           `json:"sslrootcert,omitempty"` // Postgres
	SSLCert       string           `json:"sslcert,omitempty"`     // Postgres
	SSLKey        string           `json:"sslkey,omitempty"`      // Postgres
	Protocol      string           `json:"protocol,omitempty"`    // ClickHouse: http or native
	Compression   string           `json:"compression,omitempty"` // ClickHouse: none, lz4 or zstd; "": as the DSN says
	TLS           *TLS             `json:"tls,omitempty"`         // ClickHouse
	Region        string           `json:"region,omitempty"`
	Schema        string           `json:"schema,omitempty"` // schema or database of all tables; default: the source's schema names
	Lanes         int              `json:"lanes"`
	OnExisting    string           `json:"on_existing"` // refuse, truncate or append: sink.Existing
	MaxBatchRows  int              `json:"max_batch_rows"`
	MaxBatchBytes Size             `json:"max_batch_bytes"`
	// QuarantineViews: beside each table, a view of the keys that repairs hold.
	QuarantineViews bool `json:"quarantine_views,omitempty"`
}

// Tables chooses the source's tables.
type Tables struct {
	Include []string      `json:"include"`
	Exclude []string      `json:"exclude,omitempty"`
	Options []TableOption `json:"options,omitempty"`
}

// TableOption sets options of the tables that Match, a glob, names. Every entry
// that matches a table applies to it; of two that set the same field the later wins.
type TableOption struct {
	Match      string   `json:"match"`
	Columns    *Columns `json:"columns,omitempty"`
	Where      string   `json:"where,omitempty"`
	AppendOnly *bool    `json:"append_only,omitempty"`
	OrderBy    []string `json:"order_by,omitempty"`
	Target     string   `json:"target,omitempty"`
	ChunkBytes Size     `json:"chunk_bytes,omitempty"`
}

// Columns keeps the columns of Include, or all but those of Exclude.
type Columns struct {
	Include []string `json:"include,omitempty"`
	Exclude []string `json:"exclude,omitempty"`
}

// Pick applies c to a table's columns, in their order. It also returns the names
// that c mentions and the table does not have.
func (c *Columns) Pick(columns []string) (kept, unknown []string) {
	if c == nil {
		return columns, nil
	}
	has := make(map[string]bool, len(columns))
	for _, n := range columns {
		has[n] = true
	}
	named := make(map[string]bool)
	for _, list := range [][]string{c.Include, c.Exclude} {
		for _, n := range list {
			named[n] = true
			if !has[n] {
				unknown = append(unknown, n)
			}
		}
	}
	for _, n := range columns {
		if named[n] == (len(c.Include) > 0) {
			kept = append(kept, n)
		}
	}
	return kept, unknown
}

// The values of Snapshot.Mode.
const (
	SnapshotInitial = "initial"
	SnapshotNever   = "never"
)

// Snapshot says how existing rows are loaded.
type Snapshot struct {
	Mode        string   `json:"mode"`
	Parallelism int      `json:"parallelism"`
	ChunkBytes  Size     `json:"chunk_bytes"`
	MaxHold     Duration `json:"max_hold"`
}

// The values of Stream.Order.
const (
	OrderKey         = "key"
	OrderTransaction = "transaction"
)

// Stream says how changes are moved.
type Stream struct {
	MaxBatchRows      int      `json:"max_batch_rows"`
	MaxBatchBytes     Size     `json:"max_batch_bytes"`
	StatusInterval    Duration `json:"status_interval"`
	MemoryLimit       Size     `json:"memory_limit"`
	SpillDir          string   `json:"spill_dir,omitempty"`
	HeartbeatInterval Duration `json:"heartbeat_interval"`
	Order             string   `json:"order"`
}

// Tier is a batch tier: its changes wait for its next run (package tiers).
type Tier struct {
	Name   string   `json:"name"` // unique; "stream" is there without being declared
	Every  Duration `json:"every"`
	Jitter Duration `json:"jitter"` // by which a run is later, at most
	// Aggregate: the tier keeps this of its rows, and not the rows.
	Aggregate *Aggregate `json:"aggregate,omitempty"`
	// Omit and Sample are of its rows, at all sinks: columns that are NULL there, and those
	// of which entities are.
	Omit   []string `json:"omit,omitempty"`
	Sample *Sample  `json:"sample,omitempty"`
	// Compression of its batches to ClickHouse: none, lz4 or zstd; "": the sink's.
	Compression string `json:"compression,omitempty"`
}

// Shapes reports whether the tier does not keep its rows whole.
func (t *Tier) Shapes() bool { return len(t.Omit) > 0 || t.Sample != nil }

// Aggregate is what a tier keeps of its rows (package tiers/aggregate).
type Aggregate struct {
	Group  []string         `json:"group,omitempty"`
	Time   *AggregateTime   `json:"time,omitempty"`
	Values []AggregateValue `json:"values,omitempty"`
}

// AggregateTime puts rows into buckets of time.
type AggregateTime struct {
	Column string   `json:"column"`
	Bucket Duration `json:"bucket"`
}

// AggregateValue is what is kept of a column.
type AggregateValue struct {
	Column    string   `json:"column"`
	Functions []string `json:"functions"`
}

// Class gives changes of the tables that Match, a glob, names to a tier; the first
// that matches a change decides.
type Class struct {
	Match   string   `json:"match"`
	Where   string   `json:"where,omitempty"`   // condition on the row (package tiers/predicate)
	Columns []string `json:"columns,omitempty"` // only changes that touch none but these
	Tier    string   `json:"tier"`
}

// The values of Residency.Otherwise.
const (
	OtherwiseRefuse   = "refuse"   // the declaration is not taken
	OtherwiseDrop     = "drop"     // the columns are NULL
	OtherwiseMask     = "mask"     // their values are replaced by a keyed hash
	OtherwiseWithhold = "withhold" // the rows are not there
)

// Residency is a class of data, and where it may be: rows of the tables that Match, a
// glob, names, or columns of them.
type Residency struct {
	Name      string      `json:"name"`
	Match     string      `json:"match"`
	Columns   []string    `json:"columns,omitempty"`            // these tables have; none: whole rows
	IfPresent []string    `json:"columns_if_present,omitempty"` // and these, if they do
	Where     string      `json:"where,omitempty"`              // condition on the row (package tiers/predicate)
	Regions   []string    `json:"regions"`                      // where the data may be
	Otherwise string      `json:"otherwise"`
	Key       secrets.Ref `json:"key,omitzero"` // of masks
}

// Allows reports whether the data may be in a region; nowhere that is not said.
func (r *Residency) Allows(region string) bool { return slices.Contains(r.Regions, region) }

// Thin says what sinks hold of the tables that Match, a glob, names, beside what all do.
type Thin struct {
	Match  string   `json:"match"`
	Sinks  []string `json:"sinks,omitempty"` // none: all
	Omit   []string `json:"omit,omitempty"`  // columns that are NULL there
	Sample *Sample  `json:"sample,omitempty"`
}

// Sample keeps the rows of a share of entities.
type Sample struct {
	By   []string `json:"by"` // the entity's columns
	Rate Ratio    `json:"rate"`
	Salt string   `json:"salt"`
}

// The values of Objective.Indicator.
const (
	ObjectiveLag         = "lag"          // a change is good if it arrived Within
	ObjectiveApplyErrors = "apply-errors" // a change is good if a sink took it
	ObjectiveConvergence = "convergence"  // a verdict of a verification is good if it is "equal"
	ObjectiveBacklog     = "backlog"      // a moment is good if at most AtMost records wait
)

// Objective is a promise: of all events within Period, Target are good.
type Objective struct {
	Name      string   `json:"name"` // unique; default: the indicator
	Indicator string   `json:"indicator"`
	Within    Duration `json:"within,omitempty"`  // lag
	AtMost    int64    `json:"at_most,omitempty"` // backlog
	Target    Ratio    `json:"target"`
	Period    Duration `json:"period"`
}

// Describe says what the objective promises, in a few words.
func (o Objective) Describe() string {
	what := map[string]string{
		ObjectiveLag:         "of changes arrive within " + o.Within.String(),
		ObjectiveApplyErrors: "of changes are taken by the sinks",
		ObjectiveConvergence: "of verdicts are equal",
		ObjectiveBacklog:     "of the time at most " + strconv.FormatInt(o.AtMost, 10) + " records wait",
	}[o.Indicator]
	return o.Target.String() + " " + what + ", over " + o.Period.String()
}
