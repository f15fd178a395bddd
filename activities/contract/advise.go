package contract

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/tiers/simulate"
)

// AdviseWorkflow says what other classifications of a pipeline would have written, and
// how long changes would have waited, by the log of its traffic. Rows stay in the worker.
const AdviseWorkflow = "Advise" // AdviseInput → AdviseResult

// AdviseTiersActivity reads the log, on the snapshot queue.
const AdviseTiersActivity = "AdviseTiers" // AdviseInput → AdviseResult

// AdviseInput says which traffic and which classifications.
type AdviseInput struct {
	Pipeline string     `json:"pipeline"`
	Since    time.Time  `json:"since,omitzero"` // of the source's clock; zero: all that the log holds
	Until    time.Time  `json:"until,omitzero"` // zero: now
	With     []Declared `json:"with,omitempty"` // other classifications
	One      uint64     `json:"one,omitempty"`  // of so many keys one is looked at; 0: all, as far as memory allows
	MaxBytes int64      `json:"max_bytes,omitempty"`
	Limit    int        `json:"limit,omitempty"` // changes in memory; default a million
	Given    bool       `json:"given,omitempty"` // no candidates but those given
	// Experiment compares the classifications on arms of a table's entities, instead of on
	// all of the traffic; nil: it does not.
	Experiment *ExperimentInput `json:"experiment,omitempty"`
}

// Declared is what a declaration says of tiers.
type Declared struct {
	Name     string           `json:"name"`
	Tiers    []pipeline.Tier  `json:"tiers"`
	Classify []pipeline.Class `json:"classify"`
}

// YAML writes the classification as it stands in a declaration.
func (d *Declared) YAML() string {
	var b strings.Builder
	quoted := func(v any) string { // JSON's form is YAML's
		out, err := json.Marshal(v)
		if err != nil {
			return `""` // texts always have one
		}
		return string(out)
	}
	if len(d.Tiers) > 0 {
		b.WriteString("tiers:\n")
	}
	for _, t := range d.Tiers {
		fmt.Fprintf(&b, "  - {name: %s, every: %s", t.Name, t.Every)
		if t.Jitter > 0 {
			fmt.Fprintf(&b, ", jitter: %s", t.Jitter)
		}
		if t.Aggregate != nil {
			b.WriteString(", aggregate: " + quoted(t.Aggregate))
		}
		b.WriteString("}\n")
	}
	if len(d.Classify) > 0 {
		b.WriteString("classify:\n")
	}
	for _, k := range d.Classify {
		b.WriteString("  - {match: " + quoted(k.Match))
		if k.Where != "" {
			b.WriteString(", where: " + quoted(k.Where))
		}
		if len(k.Columns) > 0 {
			b.WriteString(", columns: " + quoted(k.Columns))
		}
		b.WriteString(", tier: " + k.Tier + "}\n")
	}
	return b.String()
}

// AdviseProgress is the heartbeat of AdviseTiers.
type AdviseProgress struct {
	Table   change.TableID `json:"table"`
	Records int64          `json:"records"`
	Bytes   int64          `json:"bytes"`
}

// AdviseResult is what the past says. Numbers are of all keys, also if some were left
// out.
type AdviseResult struct {
	Pipeline   string            `json:"pipeline"`
	Region     string            `json:"region,omitempty"` // of the worker
	From       time.Time         `json:"from"`             // commit of the first change
	To         time.Time         `json:"to"`               // and of the last
	Records    int64             `json:"records"`          // that were read
	Read       int64             `json:"read_bytes"`       // of them
	One        uint64            `json:"one"`              // of so many keys one was looked at
	Kept       int               `json:"kept"`             // changes that figures are from
	Notes      []string          `json:"notes"`
	Tables     []AdviseTable     `json:"tables"` // with changes, by bytes
	Candidates []AdviseCandidate `json:"candidates"`
	Experiment *ExperimentResult `json:"experiment,omitempty"`
}

// AdviseTable is what was found out about a table.
type AdviseTable struct {
	Table    change.TableID `json:"table"`
	Changes  int64          `json:"changes"`
	Bytes    int64          `json:"bytes"`
	Volatile []string       `json:"volatile,omitempty"`       // columns that many updates change alone
	Share    float64        `json:"volatile_share,omitempty"` // of the updates
	Few      []simulate.Few `json:"few,omitempty"`            // columns of few values
	Blind    bool           `json:"blind,omitempty"`          // the log does not say what updates change
}

// Kinds of candidates.
const (
	CandidateNow     = "now"     // the pipeline's own classification
	CandidateGiven   = "given"   // one that was asked for
	CandidateTable   = "table"   // all of a table waits
	CandidateColumns = "columns" // updates of none but some columns wait
	CandidateAll     = "all"     // all of all tables waits
	CandidatePeriod  = "period"  // a tier of the declaration has another period
)

// AdviseCandidate is a classification, and what it would have done.
type AdviseCandidate struct {
	Kind string `json:"kind"`
	Declared
	AdviseFigures
	DominatedBy string `json:"dominated_by,omitempty"` // a candidate that is nowhere worse, and somewhere better
}

// AdviseFigures are what a classification would have done.
type AdviseFigures struct {
	Changes  int64        `json:"changes"`
	Waited   int64        `json:"waited"`    // of them
	Rows     int64        `json:"rows"`      // written, at all sinks
	Bytes    int64        `json:"bytes"`     // of them, as the log holds them
	LogBytes int64        `json:"log_bytes"` // that lanes and sweeps read
	Sinks    []AdviseSink `json:"sinks"`
	ByTier   []AdviseTier `json:"by_tier"`
	Sweeps   int64        `json:"sweeps"` // of partitions, at the first sink
	Forced   int64        `json:"forced"` // of those: before their time
	// Seconds that changes waited: on average over all, and of those that waited.
	Mean    float64 `json:"wait_mean_seconds"`
	P50     float64 `json:"wait_p50_seconds"`
	P95     float64 `json:"wait_p95_seconds"`
	Max     float64 `json:"wait_max_seconds"`
	Promise float64 `json:"promise_seconds"` // the longest of its tiers with changes
}

// AdviseSink is the part of a sink.
type AdviseSink struct {
	Sink     string `json:"sink"`
	Streamed int64  `json:"streamed_rows"` // at most: a lane that has much to do merges some
	Swept    int64  `json:"swept_rows"`
	Bytes    int64  `json:"bytes"`
	Batches  int64  `json:"sweep_batches"`
	LogBytes int64  `json:"log_bytes"`
}

// AdviseTier is the part of a tier.
type AdviseTier struct {
	Tier    string  `json:"tier"`
	Changes int64   `json:"changes"`
	P50     float64 `json:"wait_p50_seconds"`
	P95     float64 `json:"wait_p95_seconds"`
	Max     float64 `json:"wait_max_seconds"`
	Promise float64 `json:"promise_seconds"`
}
