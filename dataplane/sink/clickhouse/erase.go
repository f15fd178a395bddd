package clickhouse

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Keys are looked for by a subquery of the ledger: the texts of statements, which the
// server keeps in its own tables, have none. body is the secret in hexadecimal, the
// key as other tables of the ledger have it, or the values of the primary key in JSON.
const erasuresTable = `CREATE TABLE IF NOT EXISTS %s.erasures (pipeline String, erasure String, kind LowCardinality(String), tab String, body String,
	at DateTime64(9, 'UTC') MATERIALIZED now64(9, 'UTC'))
	ENGINE = MergeTree PARTITION BY pipeline ORDER BY (pipeline, erasure, kind, tab)`

const (
	erasureSecret = "secret"
	erasureKey    = "key" // as people read it, and as dead letters have it
	erasureRaw    = "raw"
	erasureValues = "values"
)

func (s *Sink) ofErasure(erasure, kind string) string {
	return s.mine() + " AND erasure = " + lit(erasure) + " AND kind = " + lit(kind)
}

func (s *Sink) putErasure(ctx context.Context, erasure, kind, tab string, bodies []string) error {
	n := len(bodies)
	_, err := s.insert(ctx, s.ledger("erasures"), n, []part{same("pipeline", s.pipeline, n), same("erasure", erasure, n), dict("kind", slices.Repeat([]string{kind}, n)...), same("tab", tab, n), strs("body", bodies...)})
	return err
}

// SaveErasure keeps the secret of an erasure.
func (s *Sink) SaveErasure(ctx context.Context, erasure string, secret []byte) ([]byte, error) {
	have, err := s.Erasure(ctx, erasure)
	if err != nil || have != nil {
		return have, err
	}
	if err := s.putErasure(ctx, erasure, erasureSecret, "", []string{hex.EncodeToString(secret)}); err != nil {
		return nil, err
	}
	return s.Erasure(ctx, erasure)
}

// Erasure returns the secret of an erasure.
func (s *Sink) Erasure(ctx context.Context, erasure string) (secret []byte, err error) {
	q := fmt.Sprintf("SELECT body FROM %s WHERE %s ORDER BY at LIMIT 1", s.ledger("erasures"), s.ofErasure(erasure, erasureSecret))
	err = s.conn.query(ctx, "SELECT an erasure", q, func(scan func(...any) error) error {
		var text string
		if err := scan(&text); err != nil {
			return err
		}
		secret, err = hex.DecodeString(text)
		return err
	})
	return secret, err
}

// ForgetErasure removes what is kept of an erasure.
func (s *Sink) ForgetErasure(ctx context.Context, erasure string) error {
	return s.deleteRows(ctx, s.ledger("erasures"), s.mine()+" AND erasure = "+lit(erasure))
}

// erasing is a table whose rows are looked for by key.
type erasing struct {
	*Sink
	lay  *layout           // nil: the table is not there
	rows string            // condition for its rows
	keys map[string]string // conditions for those of the ledger's tables
	upTo change.Position
}

// erasing puts the keys into the ledger. What an earlier attempt has put there stays, and
// is the same.
func (s *Sink) erasing(ctx context.Context, erasure string, t sink.Table, keys []change.Key, upTo change.Position) (*erasing, error) {
	tab := t.ID.String()
	l, err := s.fitting(ctx, t.Schema, t.Options)
	if fault.Is(err, CodeTableMissing) {
		l, err = nil, nil
	}
	if err != nil {
		return nil, err
	}
	if t.Options.AppendOnly || len(t.Schema.Key) == 0 {
		return nil, fault.Permanent(sink.CodeEraseKey, nil, "delete the rows at the sink by hand", "table %s has no key at the sink: its rows are only ever added", t.ID)
	}
	e := &erasing{Sink: s, lay: l, upTo: upTo, keys: map[string]string{}}
	for _, t := range ledgerOfKeys {
		kind := erasureKey
		if t == "dead_letters" {
			kind = erasureRaw
		}
		e.keys[t] = fmt.Sprintf("%s AND key IN (SELECT body FROM %s WHERE %s AND tab = %s)", s.where(tab), s.ledger("erasures"), s.ofErasure(erasure, kind), lit(tab))
	}
	have := false
	q := fmt.Sprintf("SELECT 1 FROM %s WHERE %s AND tab = %s LIMIT 1", s.ledger("erasures"), s.ofErasure(erasure, erasureKey), lit(tab))
	if err := s.conn.query(ctx, "SELECT an erasure", q, func(func(...any) error) error { have = true; return nil }); err != nil {
		return nil, err
	}
	if !have {
		if err := s.putKeys(ctx, erasure, l, tab, keys); err != nil {
			return nil, err
		}
	}
	if l == nil {
		return e, nil
	}
	var names, casts []string
	for k, name := range l.pk {
		names = append(names, ident(name))
		casts = append(casts, l.castKey(name, fmt.Sprintf("v[%d]", k+1)))
	}
	e.rows = fmt.Sprintf("(%s) IN (SELECT %s FROM (SELECT JSONExtract(body, 'Array(String)') AS v FROM %s WHERE %s AND tab = %s))",
		strings.Join(names, ", "), strings.Join(casts, ", "), s.ledger("erasures"), s.ofErasure(erasure, erasureValues), lit(tab))
	return e, nil
}

// putKeys puts the keys into the ledger in each form, and last in that by which they are
// known to be there.
func (s *Sink) putKeys(ctx context.Context, erasure string, l *layout, tab string, keys []change.Key) error {
	texts, raw := make([]string, len(keys)), make([]string, len(keys))
	rows, ask := make([]sink.Row, len(keys)), make([]int, len(keys))
	for i, k := range keys {
		texts[i], raw[i], rows[i].Key, ask[i] = k.String(), string(k), k, i
	}
	if l != nil {
		values, err := keyTexts(l, rows, ask)
		if err != nil {
			return err
		}
		bodies := make([]string, len(values))
		for i, vs := range values {
			b, err := json.Marshal(vs)
			if err != nil {
				return err
			}
			bodies[i] = string(b)
		}
		if err := s.putErasure(ctx, erasure, erasureValues, tab, bodies); err != nil {
			return err
		}
	}
	if err := s.putErasure(ctx, erasure, erasureRaw, tab, raw); err != nil {
		return err
	}
	return s.putErasure(ctx, erasure, erasureKey, tab, texts)
}

// count counts rows up to the position and beyond it, also those that a lightweight
// delete only hides.
func (e *erasing) count(ctx context.Context) (old, newer int64, err error) {
	if e.lay == nil {
		return 0, 0, nil
	}
	v := versionLit(e.upTo)
	q := fmt.Sprintf("SELECT countIf(%[1]s <= %[2]s), countIf(%[1]s > %[2]s) FROM %[3]s WHERE %[4]s SETTINGS apply_deleted_mask = 0", colVersion, v, e.lay.at, e.rows)
	var a, b uint64
	err = e.conn.query(ctx, "SELECT rows of "+e.lay.at.String(), q, func(scan func(...any) error) error { return scan(&a, &b) })
	return int64(a), int64(b), err
}

// rewrite has parts written anew without the keys, and waits for it. An attempt that
// finds the mutation of another under way leaves it to that.
func (e *erasing) rewrite(ctx context.Context, erasure string) error {
	old, _, err := e.count(ctx)
	if err != nil || old == 0 {
		return err
	}
	under := false
	q := fmt.Sprintf("SELECT 1 FROM system.mutations WHERE database = %s AND table = %s AND NOT is_done AND position(command, %s) > 0 LIMIT 1", lit(e.lay.at.db), lit(e.lay.at.table), lit(erasure))
	if err := e.conn.query(ctx, "SELECT mutations of "+e.lay.at.String(), q, func(func(...any) error) error { under = true; return nil }); err != nil {
		return err
	}
	if under {
		return fault.Transient(CodeBusy, nil, "parts of table %s are being written anew", e.lay.at)
	}
	// First what deletes only hide, which a mutation with a condition passes over. Mutations
	// are done in order, so the second waits for both.
	for _, q := range []string{"APPLY DELETED MASK SETTINGS mutations_sync = 0",
		fmt.Sprintf("DELETE WHERE %s <= %s AND %s SETTINGS mutations_sync = 2", colVersion, versionLit(e.upTo), e.rows)} {
		if _, err := e.conn.exec(ctx, "erase from "+e.lay.at.String(), "ALTER TABLE "+e.lay.at.String()+" "+q); err != nil {
			return err
		}
	}
	return nil
}

// ledgerOfKeys are the ledger's tables with keys.
var ledgerOfKeys = []string{"dead_letters", "findings", "repairs", "repair_leases"}

// Traces counts what there is of keys.
func (s *Sink) Traces(ctx context.Context, erasure string, t sink.Table, keys []change.Key, upTo change.Position) (out []sink.Trace, newer int64, err error) {
	e, err := s.erasing(ctx, erasure, t, keys, upTo)
	if err != nil {
		return nil, 0, err
	}
	rows := sink.Trace{Place: "table " + s.target(t.ID, t.Options).String(), How: "counted by key in all parts, with older versions, tombstones and what deletes hide",
		Stays: "files of parts that were written anew are removed by the server within old_parts_lifetime; its backups and replicas' detached parts are not reached"}
	if rows.Found, newer, err = e.count(ctx); err != nil {
		return nil, 0, err
	}
	if e.lay != nil {
		if rows.Until, err = s.partsGone(ctx, e.lay.at); err != nil {
			return nil, 0, err
		}
	}
	out = append(out, rows)
	for _, l := range ledgerOfKeys {
		tr := sink.Trace{Place: "ledger " + s.ledger(l).String(), How: "counted by key"}
		var n uint64
		if err := s.conn.query(ctx, "SELECT from "+s.ledger(l).String(), fmt.Sprintf("SELECT count() FROM %s WHERE %s", s.ledger(l), e.keys[l]), func(scan func(...any) error) error { return scan(&n) }); err != nil {
			return nil, 0, err
		}
		tr.Found = int64(n)
		out = append(out, tr)
	}
	bounds := sink.Trace{Place: "ledger " + s.ledger("chunks").String(), How: "counted by bound"}
	wanted := map[string]bool{}
	for _, k := range keys {
		vs, err := k.Values()
		if err != nil {
			return nil, 0, fmt.Errorf("a key of table %s is damaged", t.ID)
		}
		wanted[strings.Join(vs, "\x00")] = true
	}
	for _, l := range []string{"chunks", "loaded"} {
		err = s.conn.query(ctx, "SELECT the plan of table "+t.ID.String(), fmt.Sprintf("SELECT body FROM %s WHERE %s", s.ledger(l), s.where(t.ID.String())), func(scan func(...any) error) error {
			var body string
			if err := scan(&body); err != nil {
				return err
			}
			var c sink.Chunk
			if json.Unmarshal([]byte(body), &c) == nil && (len(c.After) > 0 && wanted[strings.Join(c.After, "\x00")] || len(c.UpTo) > 0 && wanted[strings.Join(c.UpTo, "\x00")]) {
				bounds.Found++
			}
			return nil
		})
		if err != nil {
			return nil, 0, err
		}
	}
	if bounds.Found > 0 {
		bounds.Stays = sink.StayingBounds
	}
	return append(out, bounds), newer, nil
}

// partsGone is when the last of a table's parts that are out of use will be removed; zero
// if there is none.
func (s *Sink) partsGone(ctx context.Context, t target) (at time.Time, err error) {
	q := fmt.Sprintf(`SELECT toInt64(max(toUnixTimestamp(remove_time))) + (SELECT toInt64OrZero(any(value)) FROM system.merge_tree_settings WHERE name = 'old_parts_lifetime')
		FROM system.parts WHERE database = %s AND table = %s AND NOT active HAVING count() > 0`, lit(t.db), lit(t.table))
	err = s.conn.query(ctx, "SELECT the parts of "+t.String(), q, func(scan func(...any) error) error {
		var unix int64
		err := scan(&unix)
		at = time.Unix(unix, 0).UTC()
		return err
	})
	return at, err
}

// EraseKeys writes the parts that have rows of the keys anew without them. Versions tell
// them from rows that have come since, so lanes need not be kept off.
func (s *Sink) EraseKeys(ctx context.Context, erasure string, t sink.Table, keys []change.Key, upTo change.Position, _ func(context.Context) error) error {
	held, err := s.Holds(ctx, t.ID)
	if err != nil {
		return err
	}
	for _, h := range held {
		if slices.Contains(keys, h.Key) {
			return fault.Transient(sink.CodeHeld, nil, "table %s: a repair holds one of the keys", t.ID)
		}
	}
	e, err := s.erasing(ctx, erasure, t, keys, upTo)
	if err != nil {
		return err
	}
	if e.lay != nil {
		if err := e.rewrite(ctx, erasure); err != nil {
			return err
		}
	}
	for _, l := range ledgerOfKeys {
		if err := s.deleteRows(ctx, s.ledger(l), e.keys[l]); err != nil {
			return err
		}
	}
	// The place of a verification that is not over is a key; one that runs records it again.
	return s.deleteRows(ctx, s.ledger("verifications"), s.where(t.ID.String())+" AND offsets = ''")
}
