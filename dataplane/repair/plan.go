package repair

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"syncline/dataplane/change"
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
}

// Table is a table at a sink under one repair.
type Table struct {
	Source Source
	Rows   verify.Sink
	Ledger Ledger
	Repair string // name of the repair
	ID     change.TableID
	Where  string // the table's row filter at the source

	Fence time.Duration // that the ledger may take to pass a position; default 5 min
	Lease time.Duration // for which keys stay held without being asked for; default 10 min
	// Progress is told how many keys have come to the end of a step; nil: nobody is.
	Progress func(done, of int)

	subject verify.Subject
	info    sink.Table
}

// FromSource says that a row is read again at the source.
const FromSource = "source"

// atOnce is how many keys go through a step together.
const atOnce = 500

func (t *Table) open(ctx context.Context) (err error) {
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
		for _, k := range some {
			f := found[k]
			rk := sink.RepairKey{Key: k, State: sink.Suspected, Kind: f.Kind, Columns: f.Columns, From: FromSource,
				Why: "the row is read at the source, at a position that the sink has passed"}
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
		text, _ := json.Marshal([]any{id.String(), k.Key.String(), k.Kind, k.Columns, k.From, Digest(k.Before), Digest(k.After)}) // strings only
		lines[i] = string(text)
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:])
}
