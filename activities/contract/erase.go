package contract

import (
	"time"

	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/secrets"
)

// EraseWorkflow removes whatever the sinks, and Syncline's own places, have of one subject:
// rows named by their keys. Its id is erase/<pipeline>/<n>.
const EraseWorkflow = "Erase" // EraseInput → EraseResult

// KeysUpdate hands over the keys of an Erase whose input names no reference: an EraseKeys,
// encrypted with what the query status shows as Public.
const KeysUpdate = "keys"

// Activities of an Erase. EraseAt and SearchLog run on the snapshot queue.
const (
	OpenEraseActivity   = "OpenErase"   // EraseTask → EraseOpened
	PlanEraseActivity   = "PlanErase"   // EraseTask → ErasePlan
	EraseAtActivity     = "EraseAt"     // EraseSink → []ErasePlace
	SearchLogActivity   = "SearchLog"   // EraseTask → []ErasePlace
	NoteEraseActivity   = "NoteErase"   // EraseNote → none
	ForgetEraseActivity = "ForgetErase" // EraseTask → none
)

// Types of the errors of an erasure.
const (
	EraseKeysError   = "EraseKeys"   // the keys did not come, came twice, or cannot be read
	EraseFailedError = "EraseFailed" // at a sink, or in the log; what went well stands
)

// EraseID is the workflow of an erasure.
func EraseID(pipeline, n string) string { return "erase/" + pipeline + "/" + n }

// EraseInput starts an Erase. The keys themselves are never part of it.
type EraseInput struct {
	Pipeline string `json:"pipeline"`
	// Keys is where the workers find an EraseKeys as YAML or JSON. None: they come with
	// the update keys.
	Keys   secrets.Ref `json:"keys,omitzero"`
	Reason string      `json:"reason,omitempty"` // for the record; no personal data
	Who    string      `json:"who,omitempty"`
	Search bool        `json:"search,omitempty"` // only says where something is
}

// EraseKeys are the rows of a subject. They are what is to be erased: they appear in no
// workflow history, log or record but encrypted, or by digest.
type EraseKeys struct {
	// Salt is what digests of keys are made with, so that only who has it can tell what a
	// digest is of.
	Salt string     `json:"salt"`
	Rows []EraseRow `json:"rows"`
}

// EraseRow names a row by the columns of its table's primary key, as texts; the rows of an
// append-only table by any of its columns.
type EraseRow struct {
	Table change.TableID    `json:"table"`
	Key   map[string]string `json:"key"`
}

// EraseTask is an erasure whose name is known.
type EraseTask struct {
	EraseInput
	Name   string        `json:"name"`
	Spec   pipeline.Spec `json:"spec,omitzero"` // of OpenErase's answer
	Sealed []byte        `json:"sealed,omitempty"`
	Plan   ErasePlan     `json:"plan,omitzero"`
}

// EraseOpened is what an erasure works with.
type EraseOpened struct {
	Spec   pipeline.Spec `json:"spec"`
	Public []byte        `json:"public"` // X25519 key of an HPKE (RFC 9180)
}

// ErasePlan says what is to be erased, without saying of whom.
type ErasePlan struct {
	// At is a position of the source: whatever is of before it is to go.
	At     change.Position `json:"at"`
	Tables []EraseTable    `json:"tables"`
}

// EraseTable is a table with rows of the subject.
type EraseTable struct {
	Table      change.TableID `json:"table"`
	Keys       int            `json:"keys"`
	Digests    []string       `json:"digests"` // HMAC-SHA256 of the keys
	AtSource   int            `json:"at_source"`
	Partitions int            `json:"partitions"`
	// Aggregates are what tiers keep of it.
	Aggregates []EraseAggregates `json:"aggregates,omitempty"`
}

// EraseAggregates are those that a tier keeps of a table.
type EraseAggregates struct {
	Tier string `json:"tier"`
	// ByKey: their groups tell the subject from others, and go. Else it may be counted in
	// sums, which hold no row of it and stay.
	ByKey bool `json:"by_key"`
}

// EraseSink is the part of one sink.
type EraseSink struct {
	EraseTask
	Sink pipeline.Sink `json:"sink"`
}

// ErasePlace is what was found at a place before and after.
type ErasePlace struct {
	Sink   string         `json:"sink,omitempty"` // "": the log
	Table  change.TableID `json:"table"`
	Place  string         `json:"place"`
	How    string         `json:"how"` // it was looked at
	Before int64          `json:"before"`
	After  int64          `json:"after"` // of a search the same
	// Sums: aggregates in which the subject may be counted, by other columns than its key's.
	Sums bool `json:"sums,omitempty"`
	// Newer counts rows that have come since, which are not touched.
	Newer int64     `json:"newer,omitempty"`
	Stays string    `json:"stays,omitempty"` // why something may be there for longer,
	Until time.Time `json:"until,omitzero"`  // and until when at the latest, if that is known
}

// EraseProgress is the heartbeat of EraseAt and SearchLog.
type EraseProgress struct {
	Table  change.TableID `json:"table"`
	Doing  string         `json:"doing"`
	Behind string         `json:"behind,omitempty"`
}

// EraseNote is added to the audit trails.
type EraseNote struct {
	EraseTask
	At     time.Time   `json:"at"`
	Result EraseResult `json:"result"`
}

// EraseResult is the result of an Erase, and all of its proof but for the salt.
type EraseResult struct {
	Erasure  string       `json:"erasure"`
	Pipeline string       `json:"pipeline"`
	Who      string       `json:"who,omitempty"`
	Reason   string       `json:"reason,omitempty"`
	Search   bool         `json:"search,omitempty"`
	Began    time.Time    `json:"began"`
	Ended    time.Time    `json:"ended,omitzero"`
	Plan     ErasePlan    `json:"plan"`
	Places   []ErasePlace `json:"places"`
	// Left counts what is still to be found, with what expires by itself: of that Until
	// says when the last is gone.
	Left  int64     `json:"left"`
	Until time.Time `json:"until,omitzero"`
	// Public is what the update keys is to be encrypted with.
	Public []byte `json:"public,omitempty"`
	Waits  bool   `json:"waits,omitempty"` // for the keys
}
