package analytics

import (
	"slices"
	"time"
)

// Window is the span of time that one row of a counting table covers. Time is
// where it begins, by the clock of the worker.
const Window = 5 * time.Second

// Row is a row of one of the tables.
type Row interface{ Table() string }

// Applies counts changes that took effect at a sink.
type Applies struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Tab      string    `ch:"tab"`
	Lane     uint32    `ch:"lane"`
	Worker   string    `ch:"worker"`
	Inserts  uint64    `ch:"inserts"`
	Updates  uint64    `ch:"updates"`
	Deletes  uint64    `ch:"deletes"`
	// Truncates counts one per partition of the table.
	Truncates uint64 `ch:"truncates"`
}

// Lag sums up how long changes took from the commit at the source to the commit
// at the sink, on the source's clock.
type Lag struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Tab      string    `ch:"tab"`
	Changes  uint64    `ch:"changes"`
	Micros   uint64    `ch:"micros"` // their sum
	Max      uint64    `ch:"max_micros"`
	// Buckets counts by LagBucket; BucketMicros is the upper end of one.
	Buckets map[uint16]uint64 `ch:"buckets"`
	// Skew is how much the source's clock is ahead of the worker's, as far as known.
	Skew int64 `ch:"skew_micros"`
	// SkewError bounds the error of Skew; -1: the clocks were not compared.
	SkewError int64 `ch:"skew_error_micros"`
}

// Errors counts failures of a component that ended an attempt.
type Errors struct {
	Time      time.Time `ch:"ts"`
	Pipeline  string    `ch:"pipeline"`
	Component string    `ch:"component"` // capture, deliver/<sink>/<lane>, or the name of an activity
	Code      string    `ch:"code"`
	Retryable bool      `ch:"retryable"`
	Message   string    `ch:"message"` // redacted
	Worker    string    `ch:"worker"`
	Workflow  string    `ch:"workflow"`
	Run       string    `ch:"run"`
	Attempt   uint32    `ch:"attempt"`
}

// Retries counts failures that were tried again, inside of an attempt or by another.
type Retries struct {
	Time      time.Time `ch:"ts"`
	Pipeline  string    `ch:"pipeline"`
	Component string    `ch:"component"`
	Code      string    `ch:"code"`
	Count     uint64    `ch:"retries"`
}

// Duplicates counts changes that came again and were dropped.
type Duplicates struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Tab      string    `ch:"tab"`
	Resent   uint64    `ch:"resent"`    // by capture, after a crash: the watermark covered them
	InLoad   uint64    `ch:"contained"` // the snapshot had brought them
}

// DeadLetters counts changes that a sink cannot take.
type DeadLetters struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Tab      string    `ch:"tab"`
	Code     string    `ch:"code"`
	Count    uint64    `ch:"letters"`
}

// Backlog is what a lane has before it at one moment.
type Backlog struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Lane     uint32    `ch:"lane"`
	Records  uint64    `ch:"records"`
	// Bytes is exact for what is read ahead, and by the mean size of records for the rest.
	Bytes uint64 `ch:"bytes"`
}

// Stages of Throughput.
const (
	StageCapture  = "capture"  // source to Kafka
	StageDeliver  = "deliver"  // Kafka to a sink
	StageSnapshot = "snapshot" // source to a sink, by chunks
)

// Throughput counts what passed a stage.
type Throughput struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Stage    string    `ch:"stage"`
	Sink     string    `ch:"sink"` // empty for capture
	Tab      string    `ch:"tab"`  // empty for deliver: a batch may hold rows of many tables
	Changes  uint64    `ch:"changes"`
	Rows     uint64    `ch:"rows"`    // after changes of one key were merged
	Bytes    uint64    `ch:"bytes"`   // values to Kafka; statements to a sink; COPY output
	Batches  uint64    `ch:"batches"` // or chunks
	Micros   uint64    `ch:"micros"`  // that batches took
}

// Progress is how far a partition came within a window. Offsets of one partition
// follow each other without a gap as long as every window was recorded, and lead
// from a time to a place in the log.
type Progress struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Tab      string    `ch:"tab"`
	Part     uint32    `ch:"part"`
	From     int64     `ch:"from_offset"`
	To       int64     `ch:"to_offset"`
	Pos      string    `ch:"pos"`   // epoch:LSN:ordinal
	Token    int64     `ch:"token"` // fencing token of the lane
}

// SchemaVersions tells of definitions as they were met.
type SchemaVersions struct {
	Time       time.Time `ch:"ts"`
	Pipeline   string    `ch:"pipeline"`
	Tab        string    `ch:"tab"`
	Version    string    `ch:"version"`
	Columns    uint32    `ch:"columns"`
	Definition string    `ch:"definition"` // JSON: names and types
}

// Verdicts of Verifications.
const (
	Equal        = "equal"
	Different    = "different"
	Inconclusive = "inconclusive"
)

// Kinds of Verifications: of all rows of a table, or of keys that changed.
const (
	KindFull    = "full"
	KindChanged = "changed"
)

// OfTables is the condition that selects Verifications which say how a table is: what
// is equal of the changed keys alone takes back no difference elsewhere.
const OfTables = "(kind != '" + KindChanged + "' OR verdict = '" + Different + "')"

// Verifications are comparisons of one table at one sink with the source.
type Verifications struct {
	Time      time.Time `ch:"ts"` // of the verdict
	Pipeline  string    `ch:"pipeline"`
	Sink      string    `ch:"sink"`
	Tab       string    `ch:"tab"`
	Run       string    `ch:"run"`
	Kind      string    `ch:"kind"` // what compared: check, full, changed
	Verdict   string    `ch:"verdict"`
	Rows      uint64    `ch:"rows"`      // compared
	Differing uint64    `ch:"differing"` // missing, surplus or unequal
	Pos       string    `ch:"pos"`       // at which
	Micros    uint64    `ch:"micros"`
	Reason    string    `ch:"reason"` // of an inconclusive one; names of columns, never values
}

// Repairs are steps of a repair.
type Repairs struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Tab      string    `ch:"tab"`
	Run      string    `ch:"run"`
	State    string    `ch:"state"` // suspected, quarantined, replayed, verified, released, failed
	Keys     uint64    `ch:"keys"`
	RowsRead uint64    `ch:"rows_read"`
	Reason   string    `ch:"reason"`
}

// Conflicts counts rows that two sides changed at once.
type Conflicts struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Tab      string    `ch:"tab"`
	Kind     string    `ch:"kind"`
	Decision string    `ch:"decision"`
	Count    uint64    `ch:"conflicts"`
}

// Results of a step of a rotation.
const (
	RotationOK          = "ok"
	RotationFailed      = "failed"
	RotationCompensated = "compensated" // everything is as before
	RotationHeld        = "held"        // it waits for somebody, beyond its patience
	RotationRetried     = "retried"     // an attempt of a step failed
)

// RotationEnd is the step by which a rotation as a whole is told, while it is held up and
// when it ends; the others are those of the protocol.
const RotationEnd = "end"

// Rotations are steps of a rotation of a secret, which is named by its path.
type Rotations struct {
	Time       time.Time `ch:"ts"`
	Secret     string    `ch:"secret"`
	Run        string    `ch:"run"`
	Generation uint64    `ch:"generation"`
	Step       string    `ch:"step"`
	Result     string    `ch:"result"`
	Consumer   string    `ch:"consumer"`
	Micros     uint64    `ch:"micros"`
	Reason     string    `ch:"reason"`
}

// AuditTrail is who did what to a pipeline.
type AuditTrail struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Actor    string    `ch:"actor"`  // identity of the worker, or of who asked
	Action   string    `ch:"action"` // the activity or update
	Object   string    `ch:"object"` // table, sink, slot, topic
	Detail   string    `ch:"detail"` // JSON of counts and positions
	Workflow string    `ch:"workflow"`
	Run      string    `ch:"run"`
}

// Freshness is how long changes waited that were not delivered at once, against what
// their tier promises.
type Freshness struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Sink     string    `ch:"sink"`
	Tab      string    `ch:"tab"`
	Tier     string    `ch:"tier"`
	Changes  uint64    `ch:"changes"`
	Late     uint64    `ch:"late"`       // of them, those that waited for longer than promised
	Micros   uint64    `ch:"micros"`     // of all of them together
	Max      uint64    `ch:"max_micros"` // of the one that waited longest
	Promised uint64    `ch:"promised_micros"`
}

// Wire is what connections carried, with TLS and without the headers of TCP and IP, by
// kind of activity and the end that they lead to: source, kafka, or sink: and its name.
type Wire struct {
	Time        time.Time `ch:"ts"`
	Pipeline    string    `ch:"pipeline"`
	Component   string    `ch:"component"`
	End         string    `ch:"peer"`
	Sent        uint64    `ch:"sent"`
	Received    uint64    `ch:"received"`
	Connections uint64    `ch:"connections"` // that were opened
}

// Usage counts what was moved for a table, by tier and route: changes and logical bytes
// once, where they take effect; encoded bytes on each leg that carries them (Kafka's
// records as they are read, statements as they are written); bytes on the wire as
// connections carried them, given to tables in proportion to encoded, so that their sum
// is what was measured.
type Usage struct {
	Time        time.Time `ch:"ts"`
	Pipeline    string    `ch:"pipeline"`
	Sink        string    `ch:"sink"`        // empty for capture
	Tab         string    `ch:"tab"`         // empty for what is of no table, such as heartbeats
	Tier        string    `ch:"tier"`        // empty for what is of no tier, such as capture
	Component   string    `ch:"component"`   // capture, snapshot, deliver, …
	Origin      string    `ch:"origin"`      // region that the bytes left; empty: not said
	Destination string    `ch:"destination"` // region that they went to
	Changes     uint64    `ch:"changes"`
	Logical     uint64    `ch:"logical"` // bytes of the values as text
	Encoded     uint64    `ch:"encoded"` // bytes before the transport compresses them
	Wire        uint64    `ch:"wire"`    // bytes with TLS, as Wire has them
}

// PlaceKafka is that of Storage in Kafka; a sink's is PlaceSink and its name.
const (
	PlaceKafka = "kafka"
	PlaceSink  = "sink:"
)

// Storage is how much a table occupies at a place at one moment.
type Storage struct {
	Time     time.Time `ch:"ts"`
	Pipeline string    `ch:"pipeline"`
	Place    string    `ch:"place"`
	Tab      string    `ch:"tab"` // empty for what is of no table, such as the ledger
	Region   string    `ch:"region"`
	Bytes    uint64    `ch:"bytes"`
}

// Kinds of SecurityEvents.
const (
	SecurityAuth       = "auth"       // a login was refused
	SecurityPermission = "permission" // a right is missing
	SecuritySecret     = "secret"     // a secret cannot be had
	SecurityTLS        = "tls"        // a certificate was not accepted
)

// SecurityEvents are refusals on the way to a server or a secret.
type SecurityEvents struct {
	Time      time.Time `ch:"ts"`
	Pipeline  string    `ch:"pipeline"`
	Component string    `ch:"component"`
	Kind      string    `ch:"kind"`
	Code      string    `ch:"code"`
	Message   string    `ch:"message"` // redacted
	Worker    string    `ch:"worker"`
}

// Objectives counts events that kept a promise of the pipeline and that broke it.
type Objectives struct {
	Time      time.Time `ch:"ts"`
	Pipeline  string    `ch:"pipeline"`
	Objective string    `ch:"objective"`
	Good      uint64    `ch:"good"`
	Bad       uint64    `ch:"bad"`
}

// Table returns the name of the table.
func (*Applies) Table() string        { return "applies" }
func (*Lag) Table() string            { return "lag" }
func (*Errors) Table() string         { return "errors" }
func (*Retries) Table() string        { return "retries" }
func (*Duplicates) Table() string     { return "duplicates" }
func (*DeadLetters) Table() string    { return "dead_letters" }
func (*Backlog) Table() string        { return "backlog" }
func (*Throughput) Table() string     { return "throughput" }
func (*Progress) Table() string       { return "progress" }
func (*SchemaVersions) Table() string { return "schema_versions" }
func (*Verifications) Table() string  { return "verifications" }
func (*Repairs) Table() string        { return "repairs" }
func (*Conflicts) Table() string      { return "conflicts" }
func (*Rotations) Table() string      { return "rotations" }
func (*AuditTrail) Table() string     { return "audit_trail" }
func (*CostLedger) Table() string     { return "cost_ledger" }
func (*Pricings) Table() string       { return "pricings" }
func (*Prices) Table() string         { return "prices" }
func (*Budgets) Table() string        { return "budgets" }
func (*SecurityEvents) Table() string { return "security_events" }
func (*Objectives) Table() string     { return "objectives" }
func (*Wire) Table() string           { return "wire" }
func (*Freshness) Table() string      { return "freshness" }
func (*Usage) Table() string          { return "usage" }
func (*Storage) Table() string        { return "storage" }

// kinds makes an empty row of each table, to decode into.
var kinds = func() map[string]func() Row {
	m := map[string]func() Row{}
	for _, f := range []func() Row{
		func() Row { return new(Applies) }, func() Row { return new(Lag) }, func() Row { return new(Errors) },
		func() Row { return new(Retries) }, func() Row { return new(Duplicates) }, func() Row { return new(DeadLetters) },
		func() Row { return new(Backlog) }, func() Row { return new(Throughput) }, func() Row { return new(Progress) },
		func() Row { return new(SchemaVersions) }, func() Row { return new(Verifications) }, func() Row { return new(Repairs) },
		func() Row { return new(Conflicts) }, func() Row { return new(Rotations) }, func() Row { return new(AuditTrail) },
		func() Row { return new(CostLedger) }, func() Row { return new(SecurityEvents) }, func() Row { return new(Objectives) },
		func() Row { return new(Wire) }, func() Row { return new(Freshness) },
		func() Row { return new(Usage) }, func() Row { return new(Storage) },
		func() Row { return new(Pricings) }, func() Row { return new(Prices) }, func() Row { return new(Budgets) },
	} {
		m[f().Table()] = f
	}
	return m
}()

// Tables lists the names of all tables.
func Tables() []string {
	out := make([]string, 0, len(kinds))
	for name := range kinds {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
