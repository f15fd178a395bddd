package repair

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/replay"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
	"syncline/tiers/shape"
)

// Source is the side that is right.
type Source interface {
	verify.Source
	// ReadAt is Read, with the snapshot that the rows were read in.
	ReadAt(ctx context.Context, t *verify.Subject, keys []change.Key) ([]verify.Row, change.Snapshot, error)
}

// Ledger is what a repair needs of a sink beside its rows; a sink.Sink is one.
type Ledger interface {
	verify.Ledger
	sink.Repairs
	ShowHeld(ctx context.Context, show bool) error // of sink.HeldViews
}

// Table is a table at a sink under one repair.
type Table struct {
	Source Source
	Rows   verify.Sink
	Ledger Ledger
	Repair string // name of the repair
	ID     change.TableID
	Where  string // the table's row filter at the source
	// Shape is what the sink is to hold of a definition's rows; nil: all of them.
	Shape func(*change.Schema) (*shape.Shape, error)
	Log   replay.Log
	Epoch uint32 // of what is captured now
	Views bool   // whether readers see in views which keys are held

	Fence time.Duration // that the ledger may take to pass a position; default 5 min
	Lease time.Duration // for which keys stay held without being asked for; default 10 min
	// Progress is told how many keys have come to the end of a step; nil: nobody is.
	Progress func(done, of int)

	subject    verify.Subject
	info       sink.Table
	logRecords atomic.Int64
}

// What rows are made of.
const (
	FromLog    = "log"    // its changes are replayed
	FromSource = "source" // it is read again
)

// Reading records of the log costs less than reading rows at the source, each by its
// key, but there may be any number of them. So few are read for a key, or so many in all.
const (
	recordsOfKey = 8
	recordsOfAll = 1 << 15
)

func (t *Table) open(ctx context.Context) (err error) {
	t.logRecords.Store(0)
	if t.Fence <= 0 {
		t.Fence = 5 * time.Minute
	}
	if t.Lease <= 0 {
		t.Lease = 10 * time.Minute
	}
	if t.info, err = t.Ledger.Table(ctx, t.ID); err != nil {
		return err
	}
	t.subject = verify.Subject{Schema: t.info.Schema, Options: t.info.Options, Where: t.Where, Kept: &verify.Kept{}}
	if t.Shape != nil {
		if t.subject.Shape, err = t.Shape(t.info.Schema); err != nil {
			return err
		}
	}
	t.subject.Forms, _, err = t.subject.Compared(ctx, t.Rows)
	return err
}

func (t *Table) told(done, of int) {
	if t.Progress != nil {
		t.Progress(done, of)
	}
}

// Plan finds out which of the keys still differ, and gives them to each, in portions.
func (t *Table) Plan(ctx context.Context, keys []change.Key, each func(context.Context, []sink.RepairKey) error) error {
	if err := t.open(ctx); err != nil {
		return err
	}
	res, err := verify.Keys(ctx, t.Source, t.Rows, t.Ledger, verify.Subject{Schema: t.subject.Schema, Options: t.subject.Options, Where: t.Where, Shape: t.subject.Shape}, keys, verify.Options{Fence: t.Fence})
	if err != nil {
		return err
	}
	if res.Reason != "" && len(res.Findings) == 0 {
		return &Undecided{t.ID, res.Reason}
	}
	found := res.Findings
	slices.SortFunc(found, func(a, b sink.Finding) int { return cmp.Compare(a.Key, b.Key) })
	size, done := portioned{}, 0
	for len(found) > 0 {
		n := min(len(found), size.next())
		ks, err := t.plan(ctx, found[:n])
		if err == nil {
			err = each(ctx, ks)
		}
		if err != nil {
			return err
		}
		size.took(ks)
		found, done = found[n:], done+n
		t.told(done, len(res.Findings))
	}
	return nil
}

// plan says what is to be done about some findings.
func (t *Table) plan(ctx context.Context, found []sink.Finding) ([]sink.RepairKey, error) {
	some := make([]change.Key, len(found))
	for i := range found {
		some[i] = found[i].Key
	}
	want, err := t.Source.Read(ctx, &t.subject, some)
	if err != nil {
		return nil, err
	}
	have, err := t.Rows.Read(ctx, &t.subject, some)
	if err != nil {
		return nil, err
	}
	right, wrong := first(want), first(have)
	marks, err := t.Ledger.Watermarks(ctx)
	if err != nil {
		return nil, err
	}
	logged, err := t.logged(ctx, some, have, marks)
	if err != nil {
		return nil, err
	}
	out := make([]sink.RepairKey, 0, len(found))
	for i := range found {
		f := &found[i]
		rk := sink.RepairKey{Key: f.Key, State: sink.Suspected, Kind: f.Kind, Columns: f.Columns}
		rk.From, rk.Why = t.from(logged[f.Key], right[f.Key])
		if rk.Before, err = t.image(wrong[f.Key]); err != nil {
			return nil, err
		}
		if rk.After, err = t.image(right[f.Key]); err != nil {
			return nil, err
		}
		out = append(out, rk)
	}
	return out, nil
}

// from tells what a row is to be made of: the log's word counts if the source, read
// later, says the same.
func (t *Table) from(st replay.State, right change.Row) (from, why string) {
	switch {
	case st.Why != "":
		return FromSource, st.Why
	case !verify.Same(t.subject.Forms, st.Row, right):
		// Either it was written to since, or the log is wrong.
		return FromSource, "what the log says is not what the source has"
	}
	return FromLog, ""
}

// Undecided is a table of which it cannot be told what differs.
type Undecided struct {
	Table  change.TableID
	Reason string
}

// Error tells why.
func (u *Undecided) Error() string {
	return fmt.Sprintf("table %s: which keys differ cannot be told: %s", u.Table, u.Reason)
}

// logged is what the log says of keys up to the sink's watermarks; Why is set if it is
// not to be gone by.
func (t *Table) logged(ctx context.Context, keys []change.Key, have []verify.Row, marks []sink.Watermark) (map[change.Key]replay.State, error) {
	// That a read begins with what was sent again, and takes an older change for the last,
	// shows when the row is compared with the source's: nothing need be read before it.
	// Each read has to wait for a broker, so for many keys the first is as long as pays.
	pays := recordsOfKey * int64(len(keys))
	r := replay.Request{Table: t.ID, Partitions: t.info.Partitions, Keys: keys, Window: max(512, pays/int64(max(1, t.info.Partitions))), Settle: -1, Most: max(recordsOfAll, pays), To: make([]sink.Watermark, t.info.Partitions), Load: replay.Load{Epoch: t.Epoch, To: t.info.LoadedTo}}
	for _, m := range marks {
		if m.Table == t.ID && m.N < len(r.To) {
			r.To[m.N] = m
		}
	}
	states, stats, err := replay.Keys(ctx, t.Log, r)
	if err != nil {
		return nil, err
	}
	t.logRecords.Add(stats.Records)
	version := t.subject.Schema.Version()
	for k, st := range states {
		same := st.Deleted || !st.Complete || st.Schema == version
		if !same { // a view of the log has its versions, and the sink's definitions
			def, err := t.Log.Schema(ctx, st.Schema)
			if err != nil {
				return nil, err
			}
			same = def.Version() == version
		}
		switch {
		case !st.Complete:
			if st.Why == "" {
				st.Why = replay.NoChange
			}
		case !same:
			st.Why = replay.Redefined
		default:
			st.Why = ""
		}
		states[k] = st
	}
	for _, row := range have {
		st, ok := states[row.Key]
		if !ok || st.Why != "" {
			continue
		}
		// A sink that keeps versions shows the higher one. Others number rows in ways of
		// their own, which are far below.
		pos := st.Pos
		pos.Epoch = max(pos.Epoch, t.info.Epoch)
		if v, ok := new(big.Int).SetString(row.Version, 10); ok && v.Cmp(pos.Version()) >= 0 {
			st.Why = "the row at the sink has the version of the right one, or a higher one"
			states[row.Key] = st
		}
	}
	return states, nil
}

func first(rows []verify.Row) map[change.Key]change.Row {
	out := make(map[change.Key]change.Row, len(rows))
	for _, r := range rows {
		if out[r.Key] == nil {
			out[r.Key] = r.Values
		}
	}
	return out
}

// image is a row as an object of texts by column; nil if there is none.
func (t *Table) image(r change.Row) (json.RawMessage, error) {
	if r == nil {
		return nil, nil
	}
	texts := make(map[string]*string, len(r))
	for i, v := range r {
		var text *string
		if v.Kind == change.Text {
			s := strings.ToValidUTF8(string(v.Data), "\uFFFD")
			text = &s
		}
		texts[t.subject.Schema.Columns[i].Name] = text
	}
	return json.Marshal(texts)
}

// alike reports whether two images are of the same row, as far as the sink can tell.
func (t *Table) alike(a, b json.RawMessage) (bool, error) {
	var rows [2]change.Row
	for n, image := range []json.RawMessage{a, b} {
		if len(image) == 0 {
			continue
		}
		var texts map[string]*string
		if err := json.Unmarshal(image, &texts); err != nil {
			return false, fmt.Errorf("a row's image of table %s is damaged", t.ID)
		}
		rows[n] = make(change.Row, len(t.subject.Schema.Columns))
		for i := range t.subject.Schema.Columns {
			if text := texts[t.subject.Schema.Columns[i].Name]; text != nil {
				rows[n][i] = change.TextValue(*text)
			}
		}
	}
	return verify.Same(t.subject.Forms, rows[0], rows[1]), nil
}

// Digest of a row's image or of a key, for those who may not see it.
func Digest(b []byte) string {
	if b == nil {
		return ""
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:8])
}

// Hash is that of what a plan will do to a table, whatever the order of its keys.
type Hash struct{ lines [][sha256.Size]byte }

// Add takes in keys of the table.
func (h *Hash) Add(id change.TableID, keys []sink.RepairKey) {
	for i := range keys {
		k := &keys[i]
		text, _ := json.Marshal([]any{id.String(), k.Key.String(), k.Kind, append([]string{}, k.Columns...), k.From, Digest(k.Before), Digest(k.After)}) // strings only
		h.lines = append(h.lines, sha256.Sum256(text))
	}
}

// Sum is the hash of all keys so far.
func (h *Hash) Sum() string {
	slices.SortFunc(h.lines, func(a, b [sha256.Size]byte) int { return bytes.Compare(a[:], b[:]) })
	all := sha256.New()
	for i := range h.lines {
		all.Write(h.lines[i][:])
	}
	return hex.EncodeToString(all.Sum(nil))
}
