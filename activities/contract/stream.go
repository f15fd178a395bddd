package contract

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/pipeline"
)

// StreamInput starts a Stream.
type StreamInput struct {
	Spec   pipeline.Spec `json:"spec"`
	Epoch  uint32        `json:"epoch"`
	SlotAt change.LSN    `json:"slot_at"`
	Parent string        `json:"parent,omitempty"`
}

// CaptureComponent is the name, and the activity id, of a stream's capture.
const CaptureComponent = "capture"

// LaneComponent is the name, and the activity id, of one lane of a sink.
func LaneComponent(sink string, lane int) string { return fmt.Sprintf("deliver/%s/%d", sink, lane) }

// ParseLaneComponent is the inverse of LaneComponent.
func ParseLaneComponent(s string) (sink string, lane int, ok bool) {
	rest, found := strings.CutPrefix(s, "deliver/")
	i := strings.LastIndexByte(rest, '/')
	if !found || i < 0 {
		return "", 0, false
	}
	lane, err := strconv.Atoi(rest[i+1:])
	return rest[:i], lane, err == nil
}

// StreamStatus answers StatusQuery of a Stream.
type StreamStatus struct {
	Components []ComponentState `json:"components"`
}

// CaptureInput starts the Capture activity.
type CaptureInput struct {
	Spec   pipeline.Spec `json:"spec"`
	Epoch  uint32        `json:"epoch"`
	SlotAt change.LSN    `json:"slot_at"`
}

// CaptureProgress is the heartbeat of Capture.
type CaptureProgress struct {
	Worker     string     `json:"worker"`
	Attempt    int32      `json:"attempt"`
	Read       change.LSN `json:"read"`      // the source has sent
	Through    change.LSN `json:"through"`   // is in the log with all in-sync replicas
	Confirmed  change.LSN `json:"confirmed"` // the slot was told
	Changes    int64      `json:"changes"`   // in this attempt
	Bytes      int64      `json:"bytes"`
	Rate       float64    `json:"rate"`        // changes per second, lately
	LagBytes   int64      `json:"lag_bytes"`   // of the source's log, not yet in ours
	SpillBytes int64      `json:"spill_bytes"` // of transactions in progress, on disk
	At         time.Time  `json:"at"`
}

// TierWait is how well a lane keeps what a tier promises.
type TierWait struct {
	Waits   int64     `json:"waits,omitempty"`           // changes that do, now
	Since   time.Time `json:"since,omitzero"`            // no later than when the first of them was committed
	Overdue float64   `json:"overdue_seconds,omitempty"` // by how much it is late
	// Of the last run that the lane took part in, in this attempt:
	At      time.Time `json:"at,omitzero"` // when the last of its changes took effect
	Changes int64     `json:"changes"`
	Late    int64     `json:"late"` // of them, those that waited for longer than promised
	Longest float64   `json:"longest_seconds"`
}

// DeliverInput starts a Deliver activity: one lane of one sink.
type DeliverInput struct {
	Spec  pipeline.Spec `json:"spec"`
	Epoch uint32        `json:"epoch"`
	Sink  string        `json:"sink"`
	Lane  int           `json:"lane"`
}

// DeliverProgress is the heartbeat of Deliver.
type DeliverProgress struct {
	Worker     string              `json:"worker"`
	Attempt    int32               `json:"attempt"`
	Token      int64               `json:"token"` // fencing token
	Partitions int                 `json:"partitions"`
	Applied    int64               `json:"applied"` // in this attempt
	Duplicates int64               `json:"duplicates"`
	Skipped    int64               `json:"skipped"` // were in the snapshot already
	Dead       int64               `json:"dead"`
	Rate       float64             `json:"rate"` // changes per second, lately
	LagP50     float64             `json:"lag_p50_seconds"`
	LagP99     float64             `json:"lag_p99_seconds"`
	Backlog    int64               `json:"backlog"`         // records in the log, not applied
	Waits      int64               `json:"waits,omitempty"` // changes that wait for their tier's next run
	WaitsSince time.Time           `json:"waits_since,omitzero"`
	Tiers      map[string]TierWait `json:"tiers,omitempty"`
	Through    change.LSN          `json:"through"` // every change before it has taken effect in this lane
	At         time.Time           `json:"at"`
}
