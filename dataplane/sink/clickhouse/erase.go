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

// erasing is a table of which something is looked for by key.
type erasing struct {
	*Sink
	rows *erased           // nil: the table is not there
	kept []*erased         // of its aggregates those by the key,
	sums []sink.Trace      // and the others
	keys map[string]string // conditions for those of the ledger's tables
}

// erased is a table whose rows are looked for by key.
type erased struct {
	at   target
	cond string
	upTo *change.Position // of the rows that are to go; nil: of whatever is there
}

// erasing puts the keys into the ledger. What an earlier attempt has put there stays, and
// is the same.
func (s *Sink) erasing(ctx context.Context, erasure string, t sink.Table, keys []change.Key, upTo change.Position) (*erasing, error) {
	tab := t.ID.String()
	upTo = raise(upTo, t.Epoch) // as its rows are
	if len(t.Schema.Key) == 0 {
		return nil, fault.Permanent(sink.CodeEraseKey, nil, "name columns of it", "table %s has no key at the sink", t.ID)
	}
	l, err := s.fitting(ctx, t.Schema, t.Options)
	missing := fault.Is(err, CodeTableMissing)
	if missing {
		l, _ = s.newLayout(t.Schema, t.Options) // as which its keys are written down
	} else if err != nil {
		return nil, err
	}
	if t.Options.AppendOnly {
		if l.pk, err = apart(l, t.Schema.KeyNames()); err != nil {
			return nil, err
		}
	}
	e := &erasing{Sink: s, keys: map[string]string{}}
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
	of := func(l *layout, names []string, upTo *change.Position) *erased {
		var columns, casts []string
		for k, name := range names {
			columns = append(columns, ident(name))
			casts = append(casts, l.castKey(name, fmt.Sprintf("v[%d]", k+1)))
		}
		return &erased{l.at, fmt.Sprintf("(%s) IN (SELECT %s FROM (SELECT JSONExtract(body, 'Array(String)') AS v FROM %s WHERE %s AND tab = %s))",
			strings.Join(columns, ", "), strings.Join(casts, ", "), s.ledger("erasures"), s.ofErasure(erasure, erasureValues), lit(tab)), upTo}
	}
	if !missing {
		e.rows = of(l, l.pk, &upTo)
	}
	ps, err := s.partialsOf(ctx, tab)
	for _, p := range ps {
		if !sink.ByGroup(p.plan, l.pk) {
			e.sums = append(e.sums, sink.SumsTrace("aggregates "+p.at.String(), p.plan))
			continue
		}
		lp, err := s.fitting(ctx, p.plan.Schema(), sink.TableOptions{Schema: p.at.db, Name: p.at.table, OrderBy: p.plan.By(), AppendOnly: true})
		if err != nil {
			return nil, err
		}
		e.kept = append(e.kept, of(lp, l.pk, nil))
	}
	return e, err
}

// apart makes sure that columns tell rows apart as the source does: the type of each
// holds all its values, and equal ones are equal here.
func apart(l *layout, names []string) ([]string, error) {
	for _, name := range names {
		c := &l.cols[l.schema.Column(name)]
		if c.folds || c.clamps || c.lossy != "" || c.shape != scalar && c.shape != dictText {
			return nil, fault.Permanent(sink.CodeEraseKey, nil, "name columns of integers, text or uuid", "column %q of table %s, which is %s, does not tell its values apart", name, l.at, c.typ)
		}
	}
	return names, nil
}

// putKeys puts the keys into the ledger in each form, and last in that by which they are
// known to be there.
func (s *Sink) putKeys(ctx context.Context, erasure string, l *layout, tab string, keys []change.Key) error {
	texts, raw := make([]string, len(keys)), make([]string, len(keys))
	rows, ask := make([]sink.Row, len(keys)), make([]int, len(keys))
	for i, k := range keys {
		texts[i], raw[i], rows[i].Key, ask[i] = k.String(), string(k), k, i
	}
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
	if err := s.putErasure(ctx, erasure, erasureRaw, tab, raw); err != nil {
		return err
	}
	return s.putErasure(ctx, erasure, erasureKey, tab, texts)
}

// count counts rows that are to go and those beyond the position, also rows that a
// lightweight delete only hides.
func (s *Sink) count(ctx context.Context, in *erased) (old, newer int64, err error) {
	if in == nil {
		return 0, 0, nil
	}
	newest := "0"
	if in.upTo != nil {
		newest = colVersion + " > " + versionLit(*in.upTo)
	}
	q := fmt.Sprintf("SELECT countIf(NOT (%[1]s)), countIf(%[1]s) FROM %[2]s WHERE %[3]s SETTINGS apply_deleted_mask = 0", newest, in.at, in.cond)
	var a, b uint64
	err = s.conn.query(ctx, "SELECT rows of "+in.at.String(), q, func(scan func(...any) error) error { return scan(&a, &b) })
	return int64(a), int64(b), err
}

// rewrite has parts written anew without the keys, and waits for it. An attempt that
// finds the mutation of another under way leaves it to that.
func (s *Sink) rewrite(ctx context.Context, erasure string, in *erased) error {
	old, _, err := s.count(ctx, in)
	if err != nil || old == 0 {
		return err
	}
	under := false
	q := fmt.Sprintf("SELECT 1 FROM system.mutations WHERE database = %s AND table = %s AND NOT is_done AND position(command, %s) > 0 LIMIT 1", lit(in.at.db), lit(in.at.table), lit(erasure))
	if err := s.conn.query(ctx, "SELECT mutations of "+in.at.String(), q, func(func(...any) error) error { under = true; return nil }); err != nil {
		return err
	}
	if under {
		return fault.Transient(CodeBusy, nil, "parts of table %s are being written anew", in.at)
	}
	steps := []string{fmt.Sprintf("DELETE WHERE %s <= %s AND %s SETTINGS mutations_sync = 2", colVersion, versionLit(*in.upTo), in.cond)}
	// First what deletes only hide, which a mutation with a condition passes over. Mutations
	// are done in order, so the second waits for both. Of a table with partials, whose column
	// _part is in the way of it, nobody should have hidden anything.
	q = fmt.Sprintf("SELECT 1 FROM system.parts WHERE database = %s AND table = %s AND active AND has_lightweight_delete LIMIT 1", lit(in.at.db), lit(in.at.table))
	if err := s.conn.query(ctx, "SELECT the parts of "+in.at.String(), q, func(func(...any) error) error {
		steps = append([]string{"APPLY DELETED MASK SETTINGS mutations_sync = 0"}, steps...)
		return nil
	}); err != nil {
		return err
	}
	for _, q := range steps {
		if _, err := s.conn.exec(ctx, "erase from "+in.at.String(), "ALTER TABLE "+in.at.String()+" "+q); err != nil {
			return err
		}
	}
	return nil
}

// newest is the highest version of what there is of the keys.
func (s *Sink) newest(ctx context.Context, in *erased) (change.Position, error) {
	var text string
	q := fmt.Sprintf("SELECT toString(max(%s)) FROM %s WHERE %s SETTINGS apply_deleted_mask = 0", colVersion, in.at, in.cond)
	if err := s.conn.query(ctx, "SELECT versions from "+in.at.String(), q, func(scan func(...any) error) error { return scan(&text) }); err != nil {
		return change.Position{}, err
	}
	return parseVersion(text)
}

// ledgerOfKeys are the ledger's tables with keys.
var ledgerOfKeys = []string{"dead_letters", "findings", "repairs", "repair_leases"}

// Traces counts what there is of keys.
func (s *Sink) Traces(ctx context.Context, erasure string, t sink.Table, keys []change.Key, upTo change.Position) (out []sink.Trace, newer int64, err error) {
	e, err := s.erasing(ctx, erasure, t, keys, upTo)
	if err != nil {
		return nil, 0, err
	}
	rows := sink.Trace{Place: "table " + s.target(t.ID, t.Options).String(), How: "counted by key in all parts, with older versions, tombstones and what deletes hide", Stays: staysInParts}
	if rows.Found, newer, err = s.count(ctx, e.rows); err != nil {
		return nil, 0, err
	}
	if e.rows != nil {
		if rows.Until, err = s.partsGone(ctx, e.rows.at); err != nil {
			return nil, 0, err
		}
	}
	out = append(out, rows)
	var by []string // the columns of a chunk's bounds, unless they are the key
	if t.Options.AppendOnly {
		by = t.Schema.KeyNames()
	}
	for _, l := range ledgerOfKeys {
		tr, cond := sink.Trace{Place: "ledger " + s.ledger(l).String(), How: "counted by key"}, e.keys[l]
		if by != nil && l == "dead_letters" {
			cond = s.where(t.ID.String())
		}
		var n uint64
		if err := s.conn.query(ctx, "SELECT from "+s.ledger(l).String(), fmt.Sprintf("SELECT count() FROM %s WHERE %s", s.ledger(l), cond), func(scan func(...any) error) error { return scan(&n) }); err != nil {
			return nil, 0, err
		}
		if tr.Found = int64(n); n > 0 && by != nil {
			tr.How, tr.Stays = "all of the table counted", sink.StayingLetters
		}
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
			if json.Unmarshal([]byte(body), &c) == nil && slices.Equal(c.By, by) && (len(c.After) > 0 && wanted[strings.Join(c.After, "\x00")] || len(c.UpTo) > 0 && wanted[strings.Join(c.UpTo, "\x00")]) {
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
	out = append(out, bounds)
	for _, k := range e.kept {
		tr := sink.Trace{Place: "aggregates " + k.at.String(), How: "groups counted by key in all parts, of each run", Stays: staysInParts}
		if tr.Found, _, err = s.count(ctx, k); err != nil {
			return nil, 0, err
		}
		if tr.Until, err = s.partsGone(ctx, k.at); err != nil {
			return nil, 0, err
		}
		out = append(out, tr)
	}
	return append(out, e.sums...), newer, nil
}

const staysInParts = "files of parts that were written anew are removed by the server within old_parts_lifetime; its backups and replicas' detached parts are not reached"

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
// them from rows that have come since, so lanes need not be kept off. Of what a load brought,
// and of aggregates, they do not say of when it is; but what was there before the source had
// none of the keys is of rows that are gone.
func (s *Sink) EraseKeys(ctx context.Context, erasure string, t sink.Table, keys []change.Key, upTo change.Position, gone func(context.Context) error) error {
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
	for _, k := range e.kept {
		at, err := s.newest(ctx, k)
		if err != nil {
			return err
		}
		k.upTo = &at
	}
	if err := gone(ctx); err != nil {
		return err
	}
	for _, in := range append([]*erased{e.rows}, e.kept...) {
		if err := s.rewrite(ctx, erasure, in); err != nil {
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
