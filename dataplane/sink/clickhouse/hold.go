package clickhouse

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Hold takes keys out of delivery. Without transactions, two repairs that want the same
// key must not both get it: each first writes a lease, then looks for the other's hold
// or lease, and only then takes the key. At least one of two sees the other.
//
// A batch that passed its look at the ledger before may still be on its way to the
// table when Hold returns. That does no harm: its watermark is refused, and its rows
// have the versions of their changes. The older ones lose against the mended row, and
// newer ones are applied again, at the same version, when the key is let go.
func (s *Sink) Hold(ctx context.Context, repair string, table change.TableID, keys []change.Key, lease time.Duration) error {
	if keys != nil && len(keys) == 0 {
		return nil
	}
	r, err := s.record(ctx, table)
	if err != nil {
		return err
	}
	if r.state.State != sink.Streaming {
		return notStreaming(table)
	}
	own := "repair = " + lit(repair)
	if keys != nil {
		own += " AND " + keyIn(keys)
	}
	had, err := s.tally(ctx, table, own)
	if err != nil || had.suspected+had.held == 0 {
		return err
	}
	may := "(" + inHold + " OR " + stateIn(sink.Suspected) + ")"
	if err := s.lease(ctx, table, own+" AND "+may, lease); err != nil {
		return err
	}
	others, err := s.tally(ctx, table, fmt.Sprintf("repair != %s AND key IN (SELECT key FROM %s FINAL WHERE %s AND %s AND %s)", lit(repair), s.ledger("repairs"), s.where(table.String()), own, may))
	if err != nil {
		return err
	}
	if others.held+others.leased > 0 {
		if err := s.lease(ctx, table, own+" AND "+stateIn(sink.Suspected), 0); err != nil {
			return err
		}
		return fault.Transient(sink.CodeHeld, nil, "another repair holds a key of table %s", table)
	}
	if had.suspected > 0 {
		if err := s.take(ctx, table, own); err != nil {
			return err
		}
	}
	return s.tell(ctx, table, own, stateIn(sink.Quarantined), had.lapsed > 0) // a lane may be about to release what had lapsed
}

// tallied counts keys under repair.
type tallied struct {
	suspected, leased uint64 // leased: of the suspected
	held, lapsed      uint64 // lapsed: of the held
}

// tally counts those of a table that a condition over repairs and keys selects.
func (s *Sink) tally(ctx context.Context, table change.TableID, where string) (n tallied, err error) {
	mine := s.where(table.String()) + " AND " + where
	q := fmt.Sprintf(`SELECT countIf(NOT h), countIf(NOT h AND l), countIf(h), countIf(h AND NOT l)
		FROM (SELECT %s AS h, (repair, key) IN (SELECT repair, key FROM %s FINAL WHERE %s AND until > now64(6)) AS l FROM %s FINAL WHERE %s AND (%s OR %s))`,
		inHold, s.ledger("repair_leases"), mine, s.ledger("repairs"), mine, inHold, stateIn(sink.Suspected))
	err = s.conn.query(ctx, "SELECT the holds of table "+table.String(), q, func(scan func(...any) error) error {
		return scan(&n.suspected, &n.leased, &n.held, &n.lapsed)
	})
	return n, err
}

// take sets keys with a lease from Suspected to Quarantined, if the table streams.
func (s *Sink) take(ctx context.Context, table change.TableID, which string) error {
	tab := table.String()
	streams := fmt.Sprintf("(SELECT count() FROM %s FINAL WHERE %s AND aspect = '%s' AND JSONExtractString(body, 'state') = '%s') = 1",
		s.ledger("tables"), s.where(tab), aspectState, sink.Streaming)
	leased := fmt.Sprintf("key IN (SELECT key FROM %s FINAL WHERE %s AND %s AND until > now64(6))", s.ledger("repair_leases"), s.where(tab), which)
	_, err := s.move(ctx, "holds", sink.Quarantined, "reason", fmt.Sprintf("tab = %s AND %s AND %s AND %s AND %s", lit(tab), which, stateIn(sink.Suspected), leased, streams))
	if err != nil {
		return err
	}
	left, err := s.tally(ctx, table, which)
	if err != nil || left.suspected == 0 {
		return err
	}
	r, err := s.record(ctx, table)
	switch {
	case err != nil:
		return err
	case r.state.State != sink.Streaming:
		return notStreaming(table)
	}
	return fault.Transient(sink.CodeNotHeld, nil, "the lease of keys of table %s lapsed before they were held", table)
}

func notStreaming(table change.TableID) error {
	return fault.Permanent(sink.CodeNotStreaming, nil, "repair it when it streams", "table %s is not streaming", table)
}

// lease gives the keys that a condition over "repairs" selects a lease from now on, by
// the server's clock; 0 takes it away.
func (s *Sink) lease(ctx context.Context, table change.TableID, which string, d time.Duration) error {
	_, err := s.conn.exec(ctx, "INSERT of leases", fmt.Sprintf(`INSERT INTO %s (pipeline, repair, tab, key, until, ver)
		SELECT pipeline, repair, tab, key, addMicroseconds(now64(6, 'UTC'), %d), toUInt64(toUnixTimestamp64Micro(now64(6, 'UTC'))) FROM %s FINAL WHERE %s AND %s`,
		s.ledger("repair_leases"), d.Microseconds(), s.ledger("repairs"), s.where(table.String()), which))
	return err
}

// tell raises Table.Holds and waits until no batch goes on an older look, unless that
// was done since the records that state selects were written.
func (s *Sink) tell(ctx context.Context, table change.TableID, where, state string, always bool) error {
	var since int64
	q := fmt.Sprintf("SELECT toInt64(max(toUnixTimestamp64Micro(at))) FROM %s FINAL WHERE %s AND %s AND %s", s.ledger("repairs"), s.where(table.String()), where, state)
	if err := s.conn.query(ctx, "SELECT the holds of table "+table.String(), q, func(scan func(...any) error) error { return scan(&since) }); err != nil {
		return err
	}
	r, err := s.record(ctx, table)
	if err != nil {
		return err
	}
	if !always && since <= r.holds {
		return nil
	}
	// The time of raising it, so that two that do it at once do not raise it once.
	tab := lit(table.String())
	_, err = s.conn.exec(ctx, "INSERT of the record of a table", fmt.Sprintf(`INSERT INTO %[1]s (pipeline, tab, aspect, ver, body)
		SELECT %[2]s, %[3]s, '%[4]s', greatest(max(ver) + 1, toUInt64(toUnixTimestamp64Micro(now64(6, 'UTC')))), '{}' FROM %[1]s WHERE pipeline = %[2]s AND tab = %[3]s AND aspect = '%[4]s'`,
		s.ledger("tables"), lit(s.pipeline), tab, aspectHolds))
	if err != nil {
		return err
	}
	return outwait(ctx)
}

// LetGo sets keys that the repair holds to Releasing.
func (s *Sink) LetGo(ctx context.Context, repair string, table change.TableID, failed map[change.Key]string, keys []change.Key) error {
	all := slices.Clone(keys)
	var of, why []string
	for k, reason := range failed {
		all = append(all, k)
		if reason != "" {
			of, why = append(of, lit(k.String())), append(why, lit(reason))
		}
	}
	if len(all) == 0 {
		return nil
	}
	own := "repair = " + lit(repair) + " AND " + keyIn(all)
	where := "tab = " + lit(table.String()) + " AND " + own
	from, reason := stateIn(sink.Quarantined, sink.Replayed, sink.Verified), "reason"
	if len(of) > 0 {
		reason = fmt.Sprintf("transform(key, [%s], [%s], reason)", strings.Join(of, ", "), strings.Join(why, ", "))
		from = fmt.Sprintf("(%s OR %s AND reason = '' AND key IN (%s))", from, stateIn(sink.Releasing), strings.Join(of, ", "))
	}
	if _, err := s.move(ctx, "releases", sink.Releasing, reason, where+" AND "+from); err != nil {
		return err
	}
	return s.tell(ctx, table, own, stateIn(sink.Releasing), false)
}

// LetGoAll sets all keys that the repair holds in some states to Releasing.
func (s *Sink) LetGoAll(ctx context.Context, repair string, table change.TableID, reason string, states ...sink.RepairState) error {
	states = slices.DeleteFunc(slices.Clone(states), func(st sink.RepairState) bool { return !st.Held() || st == sink.Releasing })
	if len(states) == 0 {
		return nil
	}
	own, why := "repair = "+lit(repair), "reason"
	if reason != "" {
		why = lit(reason)
	}
	if _, err := s.move(ctx, "releases", sink.Releasing, why, "tab = "+lit(table.String())+" AND "+own+" AND "+stateIn(states...)); err != nil {
		return err
	}
	return s.tell(ctx, table, own, stateIn(sink.Releasing), false)
}

// Lapsed returns the keys of a table that are held although their lease went by.
func (s *Sink) Lapsed(ctx context.Context, table change.TableID) ([]change.Key, error) {
	var out []change.Key
	mine := s.where(table.String())
	q := fmt.Sprintf("SELECT key FROM %s FINAL WHERE %s AND %s AND (repair, key) NOT IN (SELECT repair, key FROM %s FINAL WHERE %s AND until > now64(6))",
		s.ledger("repairs"), mine, inHold, s.ledger("repair_leases"), mine)
	err := s.conn.query(ctx, "SELECT the holds of table "+table.String(), q, func(scan func(...any) error) error {
		var text string
		if err := scan(&text); err != nil {
			return err
		}
		k, err := change.ParseKey(text)
		if err != nil {
			return fmt.Errorf("the ledger's record of a key of table %s under repair is damaged", table)
		}
		out = append(out, k)
		return nil
	})
	return out, err
}

// Holds returns the keys of a table that are held.
func (s *Sink) Holds(ctx context.Context, table change.TableID) ([]sink.Hold, error) {
	hs, err := s.holdings(ctx, table, "", inHold)
	out := make([]sink.Hold, len(hs))
	for i := range hs {
		out[i] = hs[i].Hold
	}
	return out, err
}

// failHolds gives up every key of a table that is held: what was set aside is gone.
func (s *Sink) failHolds(ctx context.Context, tab, reason string) error {
	_, err := s.move(ctx, "holds", sink.Failed, lit(reason), "tab = "+lit(tab)+" AND "+inHold)
	return err
}

// Letters returns the open dead letters of the keys.
func (s *Sink) Letters(ctx context.Context, table change.TableID, keys []change.Key) ([]sink.DeadLetter, error) {
	var out []sink.DeadLetter
	for some := range slices.Chunk(keys, repairKeys) {
		list := make([]string, len(some))
		for i, k := range some {
			list[i] = lit(string(k))
		}
		// A change that was read twice from the log is one.
		q := fmt.Sprintf("SELECT part, offset, pos, key, code, reason, payload FROM %s FINAL WHERE %s AND key IN (%s) ORDER BY part, pos, offset LIMIT 1 BY part, pos",
			s.ledger("dead_letters"), s.where(table.String()), strings.Join(list, ", "))
		err := s.conn.query(ctx, "SELECT the dead letters of table "+table.String(), q, func(scan func(...any) error) error {
			d := sink.DeadLetter{Partition: sink.Partition{Table: table}}
			var n uint32
			var pos, key, code, payload string
			if err := scan(&n, &d.Offset, &pos, &key, &code, &d.Reason, &payload); err != nil {
				return err
			}
			var err error
			if d.Pos, err = change.ParsePosition(pos); err != nil {
				return fmt.Errorf("the ledger has a dead letter of table %s at a damaged position", table)
			}
			d.N, d.Key, d.Code, d.Payload = int(n), change.Key(key), fault.Code(code), []byte(payload)
			out = append(out, d)
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(out, func(a, b sink.DeadLetter) int { return a.Pos.Compare(b.Pos) })
	return out, nil
}
