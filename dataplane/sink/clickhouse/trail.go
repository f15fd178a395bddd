package clickhouse

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"syncline/dataplane/fault"
	"syncline/dataplane/trail"
)

// CodeTrailBusy: another attempt is adding to the audit trail. Transient.
const CodeTrailBusy fault.Code = "AuditTrailBusy"

// AppendTrail adds entries to the audit trail. An attempt takes its turn, which ends
// that of every other, waits until none of theirs is under way, and writes under the
// condition that it is still its own. Only a statement that was stuck for longer than
// that makes two entries of one number: both stay, for whoever reads the trail to see.
func (s *Sink) AppendTrail(ctx context.Context, entries []trail.Entry) error {
	add, err := s.untold(ctx, entries)
	if err != nil || len(add) == 0 {
		return err
	}
	const what = "INSERT into the audit trail"
	nonce := rand.Text()
	turns := s.ledger("trail_turns")
	_, err = s.conn.exec(ctx, what, fmt.Sprintf("INSERT INTO %s (pipeline, nonce, ver) SELECT %s, %s, max(ver) + 1 FROM %s WHERE %s", turns, lit(s.pipeline), lit(nonce), turns, s.mine()))
	if err != nil {
		return err
	}
	if err := outwait(ctx); err != nil {
		return err
	}
	if add, err = s.untold(ctx, add); err != nil || len(add) == 0 {
		return err
	}
	var last int64
	var hash string
	q := fmt.Sprintf("SELECT n, hash FROM %s WHERE %s ORDER BY n DESC, written_at LIMIT 1", s.ledger("audit_trail"), s.mine())
	if err := s.conn.query(ctx, "SELECT the end of the audit trail", q, func(scan func(...any) error) error { return scan(&last, &hash) }); err != nil {
		return err
	}
	first := last + 1
	var values [10][]string
	hashes := make([]string, len(add))
	for i := range add {
		e := &add[i]
		if err := e.Seal(last, hash); err != nil {
			return fault.Permanent(CodeConfig, err, "give it a detail in JSON", "an entry cannot be added to the audit trail")
		}
		last, hash, hashes[i] = e.N, e.Hash, e.Hash
		for c, v := range []string{strconv.FormatInt(e.N, 10), lit(e.ID), strconv.FormatInt(e.At.UnixMicro(), 10), lit(e.Repair), lit(e.Actor), lit(e.Action),
			lit(e.Table), lit(string(e.Detail)), lit(e.Prev), lit(e.Hash)} {
			values[c] = append(values[c], v)
		}
	}
	names := []string{"n", "id", "us", "repair", "actor", "action", "tab", "detail", "prev", "hash"}
	lists, join := make([]string, len(names)), make([]string, len(names))
	for c, name := range names {
		lists[c], join[c] = fmt.Sprintf("[%s] AS %ss", strings.Join(values[c], ", "), name), fmt.Sprintf("%[1]ss AS %[1]s", name)
	}
	_, err = s.conn.exec(ctx, what, fmt.Sprintf(`INSERT INTO %s (pipeline, n, id, us, repair, actor, action, tab, detail, prev, hash)
		SELECT %s, n, id, us, repair, actor, action, tab, detail, prev, hash FROM (SELECT %s) ARRAY JOIN %s
		WHERE (SELECT any(nonce) FROM %s FINAL WHERE %s) = %s`, s.ledger("audit_trail"), lit(s.pipeline), strings.Join(lists, ", "), strings.Join(join, ", "), turns, s.mine(), lit(nonce)))
	if err != nil {
		return err
	}
	var have []string
	q = fmt.Sprintf("SELECT hash FROM %s WHERE %s AND n BETWEEN %d AND %d ORDER BY n, written_at", s.ledger("audit_trail"), s.mine(), first, last)
	err = s.conn.query(ctx, "SELECT the end of the audit trail", q, func(scan func(...any) error) error {
		var h string
		err := scan(&h)
		have = append(have, h)
		return err
	})
	if err == nil && !slices.Equal(have, hashes) {
		return fault.Transient(CodeTrailBusy, nil, "another attempt adds to the audit trail of pipeline %s", s.pipeline)
	}
	return err
}

// untold returns the entries that are not in the trail, each once.
func (s *Sink) untold(ctx context.Context, entries []trail.Entry) ([]trail.Entry, error) {
	if len(entries) == 0 {
		return nil, nil
	}
	told := make(map[string]bool, len(entries))
	ids := make([]string, len(entries))
	for i := range entries {
		ids[i] = lit(entries[i].ID)
	}
	q := fmt.Sprintf("SELECT DISTINCT id FROM %s WHERE %s AND id IN (%s)", s.ledger("audit_trail"), s.mine(), strings.Join(ids, ", "))
	err := s.conn.query(ctx, "SELECT from the audit trail", q, func(scan func(...any) error) error {
		var id string
		err := scan(&id)
		told[id] = true
		return err
	})
	if err != nil {
		return nil, err
	}
	var out []trail.Entry
	for _, e := range entries {
		if !told[e.ID] {
			told[e.ID] = true
			out = append(out, e)
		}
	}
	return out, nil
}

// Trail gives the entries as they are stored, also those that should not be there.
func (s *Sink) Trail(ctx context.Context, each func(trail.Entry) error) error {
	q := fmt.Sprintf("SELECT n, id, us, repair, actor, action, tab, detail, prev, hash FROM %s WHERE %s ORDER BY n, written_at", s.ledger("audit_trail"), s.mine())
	var stop error // of the caller's own: nothing that the server did
	err := s.conn.query(ctx, "SELECT the audit trail", q, func(scan func(...any) error) error {
		var e trail.Entry
		var us int64
		var detail string
		if err := scan(&e.N, &e.ID, &us, &e.Repair, &e.Actor, &e.Action, &e.Table, &detail, &e.Prev, &e.Hash); err != nil {
			return err
		}
		e.At = time.UnixMicro(us).UTC()
		if detail != "" {
			e.Detail = json.RawMessage(detail)
		}
		stop = each(e)
		return stop
	})
	if stop != nil {
		return stop
	}
	return err
}
