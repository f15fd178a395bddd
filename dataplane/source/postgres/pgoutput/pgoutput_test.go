package pgoutput

import (
	"bytes"
	"testing"
	"time"

	"syncline/dataplane/change"
)

func samples() []Message {
	at := time.Date(2024, 2, 29, 12, 0, 0, 123000, time.UTC)
	row := change.Row{change.TextValue("1"), {}, {Kind: change.Unchanged}, change.TextValue("")}
	return []Message{
		{Kind: Begin, Commit: 1<<33 + 5, Time: at, XID: 7},
		{Kind: Commit, Commit: 5, End: 50, Time: at.Add(-50 * 365 * 24 * time.Hour)},
		{Kind: Origin, Name: "elsewhere"},
		{Kind: RelationKind, Relation: &Relation{ID: 9, Schema: "Shop", Name: "Order Lines", Identity: 'd',
			Columns: []Column{{Key: true, Name: "id", Type: 23, Mod: -1}, {Name: "Näme", Type: 1700, Mod: 655366}}}},
		{Kind: TypeKind},
		{Kind: Insert, RelID: 9, New: row},
		{Kind: Update, RelID: 9, New: row},
		{Kind: Update, RelID: 9, OldKind: OldKey, Old: row[:2], New: row},
		{Kind: Update, RelID: 9, OldKind: OldFull, Old: row, New: row},
		{Kind: Delete, RelID: 9, OldKind: OldKey, Old: row},
		{Kind: Truncate, RelIDs: []uint32{9, 10}},
		{Kind: Logical, Transact: true, MessageAt: 77, Prefix: []byte("syncline"), Content: []byte("x")},
		{Kind: StreamStart, XID: 12, First: true},
		{Kind: StreamStop},
		{Kind: StreamCommit, XID: 12, Commit: 8, End: 9, Time: at},
		{Kind: StreamAbort, XID: 12, SubXID: 14},
	}
}

// A message that was decoded and appended again is the same bytes, in and out
// of a stream block, with a Message that other kinds were decoded into before.
func TestRoundTrip(t *testing.T) {
	var reused Message
	for _, inStream := range []bool{false, true} {
		for _, m := range samples() {
			raw := Append(nil, inStream, &m)
			if err := Decode(raw, inStream, &reused); err != nil {
				t.Fatalf("%c: %v", m.Kind, err)
			}
			if again := Append(nil, inStream, &reused); !bytes.Equal(raw, again) {
				t.Errorf("%c: %x became %x", m.Kind, raw, again)
			}
			for n := range raw {
				if err := Decode(raw[:n], inStream, &reused); err == nil && n > 0 {
					t.Errorf("%c cut to %d of %d bytes was taken", m.Kind, n, len(raw))
				}
			}
		}
	}
}

func TestDecodeAllocatesNothingPerRow(t *testing.T) {
	row := change.Row{change.TextValue("1"), change.TextValue("two"), {}}
	raw := Append(nil, false, &Message{Kind: Update, RelID: 9, OldKind: OldFull, Old: row, New: row})
	var m Message
	if n := testing.AllocsPerRun(100, func() {
		if err := Decode(raw, false, &m); err != nil {
			t.Fatal(err)
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
}

func FuzzDecode(f *testing.F) {
	for _, m := range samples() {
		f.Add(Append(nil, false, &m), false)
		f.Add(Append(nil, true, &m), true)
	}
	f.Fuzz(func(t *testing.T, raw []byte, inStream bool) {
		var m, again Message
		if Decode(raw, inStream, &m) != nil {
			return
		}
		out := Append(nil, inStream, &m)
		if err := Decode(out, inStream, &again); err != nil {
			t.Fatalf("%x was taken, %x was not: %v", raw, out, err)
		}
		if twice := Append(nil, inStream, &again); !bytes.Equal(out, twice) {
			t.Fatalf("%x became %x", out, twice)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	row := change.Row{change.TextValue("12345"), change.TextValue("a name"), change.TextValue("10.50"), change.TextValue("2024-02-29 12:00:00+00")}
	raw := Append(nil, false, &Message{Kind: Insert, RelID: 9, New: row})
	var m Message
	b.ReportAllocs()
	for b.Loop() {
		if err := Decode(raw, false, &m); err != nil {
			b.Fatal(err)
		}
	}
}
