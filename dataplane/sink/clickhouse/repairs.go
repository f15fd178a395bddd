package clickhouse

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// rank orders the states within one number of a record's version.
var rank = map[sink.RepairState]uint64{
	sink.Suspected: 1, sink.Quarantined: 2, sink.Replayed: 3, sink.Verified: 4, sink.Releasing: 5, sink.Released: 6, sink.Failed: 6,
}

// nextVer is the version of what is written over a record of version ver.
func nextVer(ver uint64, to sink.RepairState) uint64 { return (ver/16+1)*16 + rank[to] }

// PutRepair records keys under a repair. Whether a key is held is not its to change:
// Hold takes it, its lane lets it go, and a late attempt must not undo either.
func (s *Sink) PutRepair(ctx context.Context, repair string, table change.TableID, keys []sink.RepairKey) error {
	n := len(keys)
	if n == 0 {
		return nil
	}
	names := make([]change.Key, n)
	for i := range keys {
		names[i] = keys[i].Key
	}
	hs, err := s.holdings(ctx, table, "repair = "+lit(repair)+" AND "+keyIn(names), "")
	if err != nil {
		return err
	}
	have := make(map[change.Key]holding, len(hs))
	for _, h := range hs {
		have[h.Key] = h
	}
	var texts, states, kinds, columns, made, whys, befores, afters, poss, snaps, reasons []string
	var vers []uint64
	heldAt := &plain{}
	for _, k := range keys {
		h := have[k.Key]
		switch {
		case rank[k.State] == 0:
			return fault.Permanent(CodeConfig, nil, "name a state of package sink", "a key of table %s is to be %q", table, k.State)
		case k.State.Held() && (!h.State.Held() || h.State == sink.Releasing && k.State != sink.Releasing):
			return notHeld(repair, table)
		case !k.State.Held() && h.State.Held():
			return fault.Permanent(sink.CodeHeld, nil, "let it go first", "repair %s holds a key of table %s, which is to be recorded as %s", repair, table, k.State)
		}
		names, err := json.Marshal(append([]string{}, k.Columns...))
		if err != nil {
			return fmt.Errorf("encode a key of repair %s: %w", repair, err)
		}
		snap := ""
		if k.Snapshot.XMax > 0 {
			snap = k.Snapshot.String()
		}
		texts, states, kinds, columns = append(texts, k.Key.String()), append(states, string(k.State)), append(kinds, k.Kind), append(columns, string(names))
		made, whys, befores, afters = append(made, k.From), append(whys, k.Why), append(befores, string(k.Before)), append(afters, string(k.After))
		poss, snaps, reasons, vers = append(poss, k.At.String()), append(snaps, snap), append(reasons, k.Reason), append(vers, nextVer(h.ver, k.State))
		heldAt.data = appendWord(heldAt.data, uint64(h.heldAt), 8)
	}
	_, err = s.insert(ctx, s.ledger("repairs"), n, []part{same("pipeline", s.pipeline, n), same("repair", repair, n), same("tab", table.String(), n),
		strs("key", texts...), dict("state", states...), dict("kind", kinds...), strs("columns", columns...), dict("made_of", made...), strs("why", whys...),
		strs("before", befores...), strs("after", afters...), strs("pos", poss...), strs("snapshot", snaps...), strs("reason", reasons...), part{name: "held_at", typ: timeType, data: heldAt}, numbers("ver", 8, vers...)})
	return err
}

func notHeld(repair string, table change.TableID) error {
	return fault.Permanent(sink.CodeNotHeld, nil, "repair it anew", "repair %s does not hold all of the keys of table %s", repair, table)
}

// Repair returns keys of a table that a repair has, in the order of their texts.
func (s *Sink) Repair(ctx context.Context, repair string, table change.TableID, part sink.RepairPart) ([]sink.RepairKey, error) {
	var out []sink.RepairKey
	which := "repair = " + lit(repair)
	if len(part.States) > 0 {
		which += " AND " + stateIn(part.States...)
	}
	if part.After != "" {
		which += " AND key > " + lit(part.After.String())
	}
	q := fmt.Sprintf("SELECT key, state, kind, columns, made_of, why, before, after, pos, snapshot, reason FROM %s FINAL WHERE %s AND %s ORDER BY key",
		s.ledger("repairs"), s.where(table.String()), which)
	if part.Most > 0 {
		q += fmt.Sprintf(" LIMIT %d", part.Most)
	}
	err := s.conn.query(ctx, "SELECT the keys of repair "+repair, q, func(scan func(...any) error) error {
		var k sink.RepairKey
		var key, state, columns, before, after, pos, snap string
		if err := scan(&key, &state, &k.Kind, &columns, &k.From, &k.Why, &before, &after, &pos, &snap, &k.Reason); err != nil {
			return err
		}
		k.State, k.Before, k.After = sink.RepairState(state), rawJSON(before), rawJSON(after)
		var err error
		if k.Key, k.At, k.Snapshot, err = parseHeld(key, pos, snap); err != nil || json.Unmarshal([]byte(columns), &k.Columns) != nil {
			return damagedRepair(repair, table)
		}
		out = append(out, k)
		return nil
	})
	return out, err
}

// CountRepair counts a repair's keys of a table by state.
func (s *Sink) CountRepair(ctx context.Context, repair string, table change.TableID) (map[sink.RepairState]int, error) {
	out := map[sink.RepairState]int{}
	q := fmt.Sprintf("SELECT state, count() FROM %s FINAL WHERE %s AND repair = %s GROUP BY state", s.ledger("repairs"), s.where(table.String()), lit(repair))
	err := s.conn.query(ctx, "SELECT the keys of repair "+repair, q, func(scan func(...any) error) error {
		var state string
		var n uint64
		err := scan(&state, &n)
		out[sink.RepairState(state)] = int(n)
		return err
	})
	return out, err
}

func rawJSON(text string) json.RawMessage {
	if text == "" {
		return nil
	}
	return json.RawMessage(text)
}

func parseHeld(key, pos, snap string) (k change.Key, at change.Position, seen change.Snapshot, err error) {
	if k, err = change.ParseKey(key); err != nil {
		return k, at, seen, err
	}
	if at, err = change.ParsePosition(pos); err == nil && snap != "" {
		seen, err = change.ParseSnapshot(snap)
	}
	return k, at, seen, err
}

// damagedRepair leaves out the key, which is row data.
func damagedRepair(repair string, table change.TableID) error {
	return fmt.Errorf("the ledger's record of a key of table %s in repair %s is damaged", table, repair)
}

// holding is a record with its lease.
type holding struct {
	sink.Hold
	ver    uint64
	since  int64 // when it was written, in microseconds by the server's clock
	heldAt int64 // when it was quarantined
}

// holdings reads records of a table. where is a condition over repairs and keys, state
// one over all of "repairs"; both may be empty.
func (s *Sink) holdings(ctx context.Context, table change.TableID, where, state string) ([]holding, error) {
	mine := s.where(table.String())
	if where != "" {
		mine += " AND " + where
	}
	if state == "" {
		state = "1"
	}
	var out []holding
	q := fmt.Sprintf(`SELECT r.key, r.repair, r.state, r.pos, r.snapshot, r.reason, toUInt8(l.until > now64(6)), r.ver, toInt64(toUnixTimestamp64Micro(r.since)), toInt64(toUnixTimestamp64Micro(r.held_at))
		FROM (SELECT key, repair, state, pos, snapshot, reason, ver, at AS since, held_at FROM %s FINAL WHERE %s AND %s) AS r
		LEFT JOIN (SELECT key, repair, until FROM %s FINAL WHERE %s) AS l ON r.key = l.key AND r.repair = l.repair ORDER BY r.key, r.repair`,
		s.ledger("repairs"), mine, state, s.ledger("repair_leases"), mine)
	err := s.conn.query(ctx, "SELECT the holds of table "+table.String(), q, func(scan func(...any) error) error {
		var h holding
		var key, state, pos, snap string
		var live uint8
		if err := scan(&key, &h.Repair, &state, &pos, &snap, &h.Reason, &live, &h.ver, &h.since, &h.heldAt); err != nil {
			return err
		}
		h.State, h.Lapsed = sink.RepairState(state), live == 0
		var err error
		if h.Key, h.At, h.Snapshot, err = parseHeld(key, pos, snap); err != nil {
			return damagedRepair(h.Repair, table)
		}
		out = append(out, h)
		return nil
	})
	return out, err
}

// inHold is the condition of states in which a key is held.
var inHold = stateIn(sink.Quarantined, sink.Replayed, sink.Verified, sink.Releasing)

func stateIn(states ...sink.RepairState) string {
	texts := make([]string, len(states))
	for i, st := range states {
		texts[i] = lit(string(st))
	}
	return "state IN (" + strings.Join(texts, ", ") + ")"
}

func keyIn(keys []change.Key) string {
	texts := make([]string, len(keys))
	for i, k := range keys {
		texts[i] = lit(k.String())
	}
	return "key IN (" + strings.Join(texts, ", ") + ")"
}

// move writes records over themselves in another state, in one statement with the
// condition that selects them. reason is an expression.
func (s *Sink) move(ctx context.Context, what string, to sink.RepairState, reason, where string) (written, error) {
	heldAt := "held_at"
	if to == sink.Quarantined {
		heldAt = "now64(6, 'UTC')"
	}
	return s.conn.exec(ctx, "INSERT of "+what, fmt.Sprintf(`INSERT INTO %[1]s
		(pipeline, repair, tab, key, state, kind, columns, made_of, why, before, after, pos, snapshot, reason, held_at, ver)
		SELECT pipeline, repair, tab, key, %[2]s, kind, columns, made_of, why, before, after, pos, snapshot, %[3]s, %[7]s, (intDiv(ver, 16) + 1) * 16 + %[4]d
		FROM %[1]s FINAL WHERE %[5]s AND %[6]s`, s.ledger("repairs"), lit(string(to)), reason, rank[to], s.mine(), where, heldAt))
}

// ForgetRepairs removes those that hold no key, but for the newest so many.
func (s *Sink) ForgetRepairs(ctx context.Context, keep int) error {
	var old []string
	n := 0
	q := fmt.Sprintf("SELECT repair, toUInt8(countIf(%s) > 0) FROM %s FINAL WHERE %s GROUP BY repair ORDER BY max(at) DESC, repair DESC", inHold, s.ledger("repairs"), s.mine())
	err := s.conn.query(ctx, "SELECT the repairs", q, func(scan func(...any) error) error {
		var repair string
		var holds uint8
		if err := scan(&repair, &holds); err != nil {
			return err
		}
		if n++; n > keep && holds == 0 {
			old = append(old, lit(repair))
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	for _, t := range []string{"repair_leases", "repairs"} {
		if err := s.deleteRows(ctx, s.ledger(t), s.mine()+" AND repair IN ("+strings.Join(old, ", ")+")"); err != nil {
			return err
		}
	}
	return nil
}
