package sink

import (
	"context"
	"encoding/json"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/trail"
)

// Codes of repairs.
const (
	// CodeQuarantined is of a change that waits until the repair of its key is over.
	// Unlike other dead letters it needs nobody: the lane applies it in the end.
	CodeQuarantined fault.Code = "Quarantined"
	// CodeHeld: another repair holds one of the keys. Transient.
	CodeHeld fault.Code = "KeyHeld"
	// CodeNotHeld: the repair does not hold one of the keys, any more or yet. Permanent
	// for the step that needs it.
	CodeNotHeld fault.Code = "KeyNotHeld"
)

// RepairState of a key. A key is held from Quarantined to Releasing: lanes set its
// changes aside, in order.
//
//	suspected ──► quarantined ──► replayed ──► verified ──► releasing ──► released
//	                   └──────────────┴────────────┴───────────┴──► failed
//
// A key that is given up is let go like any other; what was set aside is applied
// either way, and the Reason says how it ended.
type RepairState string

// The states of a key; see RepairState.
const (
	Suspected   RepairState = "suspected"   // in a plan; nothing was done
	Quarantined RepairState = "quarantined" // its changes are set aside
	Replayed    RepairState = "replayed"    // its row was written anew
	Verified    RepairState = "verified"    // and found equal to the source's
	Releasing   RepairState = "releasing"   // its lane is to apply what was set aside
	Released    RepairState = "released"    // it was
	Failed      RepairState = "failed"      // it was given up, with a reason
)

// Held reports whether changes of a key in the state are set aside.
func (s RepairState) Held() bool {
	return s == Quarantined || s == Replayed || s == Verified || s == Releasing
}

// RepairKey is what the ledger keeps of one key under repair. It is row data: it stays
// in the ledger and never enters workflow history or logs.
type RepairKey struct {
	Key     change.Key
	State   RepairState
	Kind    string   // of package verify
	Columns []string // that differ, if it is changed
	// From says what its row is made of: "log", or "source" and Why.
	From, Why string
	// Before and After are the rows as objects of texts by column; null: no row.
	Before, After json.RawMessage
	// At and Snapshot say which changes are in the row that was written: those at or
	// before At, and those that Snapshot sees, if it is not zero.
	At       change.Position
	Snapshot change.Snapshot
	Reason   string // why it failed, or is about to; no row values
}

// RepairPart says which of a repair's keys are asked for. The zero value is all.
type RepairPart struct {
	States []RepairState // those in one of them; none: whatever they are
	After  change.Key    // those behind it, in the ledger's order
	Most   int           // so many; 0: all
}

// Hold is a key of a table that is held.
type Hold struct {
	Key      change.Key
	Repair   string
	State    RepairState
	At       change.Position
	Snapshot change.Snapshot
	Lapsed   bool // its repair let its lease go by: it is to be released like Releasing
	Reason   string
}

// Contains reports whether a change is in the row that the repair has written.
func (h *Hold) Contains(c *change.Change) bool {
	if !h.At.Before(c.Pos) {
		return true
	}
	return h.Snapshot.XMax > 0 && c.Pos.Epoch <= h.At.Epoch && h.Snapshot.Sees(c.XID)
}

// Change decodes what was set aside.
func (d *DeadLetter) Change() (*change.Change, error) {
	c := new(change.Change)
	if err := change.Decode(d.Payload, c); err != nil {
		return nil, fault.Permanent(fault.CodeOf(err), err, "resync the table", "table %s: a change that was set aside is damaged", d.Table)
	}
	return c, nil
}

// Repairs is what the ledger keeps of repairs, and how a repair takes keys out of
// delivery, writes their rows, and gives them back.
//
// Holding and releasing keys raises Table.Holds, and Apply refuses, with
// CodeNotStreaming, a batch with rows that was planned before: so from the moment
// that Hold returns, no change of a held key reaches the table but through Mend.
type Repairs interface {
	// PutRepair records keys of a table under a repair, over what is there of them.
	PutRepair(ctx context.Context, repair string, table change.TableID, keys []RepairKey) error
	// Repair returns keys of a table that a repair has. Their order is the ledger's own
	// and does not change, so that After the last key of a part the next begins.
	Repair(ctx context.Context, repair string, table change.TableID, part RepairPart) ([]RepairKey, error)
	// CountRepair counts a repair's keys of a table by state.
	CountRepair(ctx context.Context, repair string, table change.TableID) (map[RepairState]int, error)
	// Hold sets those keys of the repair which are Suspected to Quarantined, for as long
	// as the lease; keys that the repair holds get the lease anew. Nil are all keys of the
	// repair. As one: CodeHeld if another repair holds any of them, CodeNotStreaming if the
	// table does not stream.
	Hold(ctx context.Context, repair string, table change.TableID, keys []change.Key, lease time.Duration) error
	// Mend writes rows (Insert: the whole row; Delete: none) of keys that the repair holds
	// in place of whatever the sink has of them, be it a row of a higher version or more
	// than one, and leaves no reader without a row meanwhile. Row.Pos is what a sink that
	// keeps versions takes as the version. As one, where the sink can; repeated, it changes
	// nothing. CodeNotHeld if any key is not held. A row that the sink cannot take is
	// returned in Applied.Dead, with its Key and Reason, and is left as it was.
	Mend(ctx context.Context, repair string, b TableBatch) (Applied, error)
	// Letters returns the open dead letters of the keys, by position.
	Letters(ctx context.Context, table change.TableID, keys []change.Key) ([]DeadLetter, error)
	// LetGo sets keys that the repair holds to Releasing, with a reason if they failed
	// (by key; others as they are). Their lanes do the rest.
	LetGo(ctx context.Context, repair string, table change.TableID, failed map[change.Key]string, keys []change.Key) error
	// LetGoAll does so with all keys of the repair that are in one of the states; a reason
	// is that of each.
	LetGoAll(ctx context.Context, repair string, table change.TableID, reason string, states ...RepairState) error
	// Holds returns the keys of a table that are held, by any repair, and Lapsed those of
	// them whose repair let its lease go by, which costs little if there are none.
	Holds(ctx context.Context, table change.TableID) ([]Hold, error)
	Lapsed(ctx context.Context, table change.TableID) ([]change.Key, error)
	// ForgetRepairs removes those that hold no key, but for the newest so many.
	ForgetRepairs(ctx context.Context, keep int) error
	// AppendTrail adds entries to the pipeline's audit trail, each with the text's and
	// the last entry's hash (package trail). An entry whose ID is there already is left out.
	AppendTrail(ctx context.Context, entries []trail.Entry) error
	// Trail gives the pipeline's entries in order.
	Trail(ctx context.Context, each func(trail.Entry) error) error
}
