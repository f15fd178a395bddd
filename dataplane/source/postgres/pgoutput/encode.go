package pgoutput

import (
	"encoding/binary"
	"time"

	"syncline/dataplane/change"
)

// Append appends the message as the server would send it. It is the inverse of
// Decode, for tests and for simulated sources.
func Append(b []byte, inStream bool, m *Message) []byte {
	be := binary.BigEndian
	b = append(b, byte(m.Kind))
	switch m.Kind {
	case RelationKind, TypeKind, Insert, Update, Delete, Truncate, Logical:
		if inStream {
			b = be.AppendUint32(b, m.XID)
		}
	}
	switch m.Kind {
	case Begin:
		b = be.AppendUint64(b, uint64(m.Commit))
		b = appendTime(b, m.Time)
		b = be.AppendUint32(b, m.XID)
	case Commit, StreamCommit:
		if m.Kind == StreamCommit {
			b = be.AppendUint32(b, m.XID)
		}
		b = append(b, 0)
		b = be.AppendUint64(b, uint64(m.Commit))
		b = be.AppendUint64(b, uint64(m.End))
		b = appendTime(b, m.Time)
	case Origin:
		b = be.AppendUint64(b, 0)
		b = append(append(b, m.Name...), 0)
	case RelationKind:
		b = appendRelation(b, m.Relation)
	case TypeKind:
		b = append(be.AppendUint32(b, 0), 0, 0)
	case Insert:
		b = appendRow(append(be.AppendUint32(b, m.RelID), 'N'), m.New)
	case Update:
		b = be.AppendUint32(b, m.RelID)
		if m.OldKind != OldNone {
			b = appendRow(append(b, byte(m.OldKind)), m.Old)
		}
		b = appendRow(append(b, 'N'), m.New)
	case Delete:
		b = appendRow(append(be.AppendUint32(b, m.RelID), byte(m.OldKind)), m.Old)
	case Truncate:
		b = append(be.AppendUint32(b, uint32(len(m.RelIDs))), 0)
		for _, id := range m.RelIDs {
			b = be.AppendUint32(b, id)
		}
	case Logical:
		b = append(b, boolByte(m.Transact))
		b = be.AppendUint64(b, uint64(m.MessageAt))
		b = append(append(b, m.Prefix...), 0)
		b = append(be.AppendUint32(b, uint32(len(m.Content))), m.Content...)
	case StreamStart:
		b = append(be.AppendUint32(b, m.XID), boolByte(m.First))
	case StreamAbort:
		b = be.AppendUint32(be.AppendUint32(b, m.XID), m.SubXID)
	case StreamStop:
	}
	return b
}

func boolByte(v bool) byte {
	if v {
		return 1
	}
	return 0
}

func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(b, uint64((t.Unix()-y2k)*1e6+int64(t.Nanosecond())/1e3))
}

func appendRow(b []byte, r change.Row) []byte {
	b = binary.BigEndian.AppendUint16(b, uint16(len(r)))
	for _, v := range r {
		switch v.Kind {
		case change.Null:
			b = append(b, 'n')
		case change.Unchanged:
			b = append(b, 'u')
		case change.Text:
			b = binary.BigEndian.AppendUint32(append(b, 't'), uint32(len(v.Data)))
			b = append(b, v.Data...)
		}
	}
	return b
}

func appendRelation(b []byte, r *Relation) []byte {
	b = binary.BigEndian.AppendUint32(b, r.ID)
	if r.Schema != "pg_catalog" {
		b = append(b, r.Schema...)
	}
	b = append(append(append(b, 0), r.Name...), 0)
	b = append(b, r.Identity)
	b = binary.BigEndian.AppendUint16(b, uint16(len(r.Columns)))
	for _, c := range r.Columns {
		b = append(append(append(b, boolByte(c.Key)), c.Name...), 0)
		b = binary.BigEndian.AppendUint32(b, c.Type)
		b = binary.BigEndian.AppendUint32(b, uint32(c.Mod))
	}
	return b
}
