package pgoutput

import (
	"time"

	"syncline/dataplane/change"
)

// Kind is the first byte of a message.
type Kind byte

// The messages of protocol version 2.
const (
	Begin        Kind = 'B'
	Commit       Kind = 'C'
	Origin       Kind = 'O'
	RelationKind Kind = 'R'
	TypeKind     Kind = 'Y'
	Insert       Kind = 'I'
	Update       Kind = 'U'
	Delete       Kind = 'D'
	Truncate     Kind = 'T'
	Logical      Kind = 'M'
	StreamStart  Kind = 'S'
	StreamStop   Kind = 'E'
	StreamCommit Kind = 'c'
	StreamAbort  Kind = 'A'
)

// Old says what an update or delete carries of the row before it.
type Old byte

// The forms of an old row.
const (
	OldNone Old = 0
	OldKey  Old = 'K' // only columns of the replica identity have values
	OldFull Old = 'O'
)

// Message is any message; Kind says which of the fields are set.
type Message struct {
	Kind Kind
	// XID is the transaction of Begin, StreamStart, StreamCommit and StreamAbort;
	// of everything between StreamStart and StreamStop, the subtransaction that did it.
	XID    uint32
	SubXID uint32     // StreamAbort: what is rolled back, the same as XID for all of it
	Commit change.LSN // Begin, Commit, StreamCommit: where the commit record starts
	End    change.LSN // Commit, StreamCommit: where it ends
	Time   time.Time  // Begin, Commit, StreamCommit: of the commit, on the source's clock
	First  bool       // StreamStart: the first block of its transaction

	Relation  *Relation // RelationKind; a new one each time
	RelID     uint32    // Insert, Update, Delete
	RelIDs    []uint32  // Truncate
	OldKind   Old       // Update, Delete
	Old       change.Row
	New       change.Row
	Name      string // Origin: its name
	Prefix    []byte // Logical
	Content   []byte // Logical
	Transact  bool   // Logical: it belongs to a transaction
	MessageAt change.LSN
}

// Relation describes a table as it was when the changes that follow were made.
type Relation struct {
	ID       uint32
	Schema   string
	Name     string
	Identity byte // pg_class.relreplident: d, n, f or i
	Columns  []Column
}

// Column of a Relation.
type Column struct {
	Key  bool // part of the replica identity
	Name string
	Type uint32
	Mod  int32
}
