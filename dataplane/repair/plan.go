package repair

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/replay"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
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
	Log    replay.Log
	Epoch  uint32 // of what is captured now
	Views  bool   // whether readers see in views which keys are held

	Fence time.Duration // that the ledger may take to pass a position; default 5 min
	Lease time.Duration // for which keys stay held without being asked for; default 10 min
	// Progress is told how many keys have come to the end of a step; nil: nobody is.
	Progress func(done, of int)

	subject    verify.Subject
	info       sink.Table
	logRecords int64
}

// What rows are made of.
const (
	FromLog    = "log"    // its changes are replayed
	FromSource = "source" // it is read again
)

// atOnce is how many keys go through a step together.
const atOnce = 500

func (t *Table) open(ctx context.Context) (err error) {
	t.logRecords = 0
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
	t.subject.Forms, _, err = t.Rows.Forms(ctx, &t.subject)
	return err
}

func (t *Table) told(done, of int) {
	if t.Progress != nil {
		t.Progress(done, of)
	}
}

// Plan finds out which of the keys still differ and records them under the repair.
func (t *Table) Plan(ctx context.Context, keys []change.Key) ([]sink.RepairKey, error) {
	if err := t.open(ctx); err != nil {
		return nil, err
	}
	res, err := verify.Keys(ctx, t.Source, t.Rows, t.Ledger, verify.Subject{Schema: t.subject.Schema, Options: t.subject.Options, Where: t.Where}, keys, verify.Options{Fence: t.Fence})
	if err != nil {
		return nil, err
	}
	if res.Reason != "" && len(res.Findings) == 0 {
		return nil, &Undecided{t.ID, res.Reason}
	}
	found := make(map[change.Key]*sink.Finding, len(res.Findings))
	differ := make([]change.Key, 0, len(res.Findings))
	for i := range res.Findings {
		f := &res.Findings[i]
		found[f.Key], differ = f, append(differ, f.Key)
	}
	slices.Sort(differ)
	var out []sink.RepairKey
	for some := range slices.Chunk(differ, atOnce) {
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
		for _, k := range some {
			f := found[k]
			rk := sink.RepairKey{Key: k, State: sink.Suspected, Kind: f.Kind, Columns: f.Columns, From: FromLog}
			switch st := logged[k]; {
			case st.Why != "":
				rk.From, rk.Why = FromSource, st.Why
			case !verify.Same(t.subject.Forms, st.Row, right[k]):
				// Either it was written to since, or the log is wrong.
				rk.From, rk.Why = FromSource, "what the log says is not what the source has"
			}
			if rk.Before, err = t.image(wrong[k]); err != nil {
				return nil, err
			}
			if rk.After, err = t.image(right[k]); err != nil {
				return nil, err
			}
			out = append(out, rk)
		}
		t.told(len(out), len(differ))
	}
	return out, nil
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
	r := replay.Request{Table: t.ID, Partitions: t.info.Partitions, Keys: keys, To: make([]sink.Watermark, t.info.Partitions), Load: replay.Load{Epoch: t.Epoch, To: t.info.LoadedTo}}
	for _, m := range marks {
		if m.Table == t.ID && m.N < len(r.To) {
			r.To[m.N] = m
		}
	}
	states, stats, err := replay.Keys(ctx, t.Log, r)
	if err != nil {
		return nil, err
	}
	t.logRecords += stats.Records
	version := t.subject.Schema.Version()
	for k, st := range states {
		switch {
		case !st.Complete:
			if st.Why == "" {
				st.Why = replay.NoChange
			}
		case !st.Deleted && st.Schema != version:
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

// Hash of what a plan will do to a table, whatever the order of its keys.
func Hash(id change.TableID, keys []sink.RepairKey) string {
	lines := make([]string, len(keys))
	for i := range keys {
		k := &keys[i]
		text, _ := json.Marshal([]any{id.String(), k.Key.String(), k.Kind, append([]string{}, k.Columns...), k.From, Digest(k.Before), Digest(k.After)}) // strings only
		lines[i] = string(text)
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:])
}
