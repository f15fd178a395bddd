package clickhouse

import (
	"context"
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// releases is a batch's list as conditions: which records, and which reason each gets.
type releases struct {
	byTable map[change.TableID][]sink.Release
	where   string // selects them among all of the pipeline's
}

func releasesOf(list []sink.Release) releases {
	r := releases{byTable: map[change.TableID][]sink.Release{}}
	rows := make([]string, len(list))
	for i, v := range list {
		r.byTable[v.Table] = append(r.byTable[v.Table], v)
		rows[i] = fmt.Sprintf("(%s, %s, %s)", lit(v.Repair), lit(v.Table.String()), lit(v.Key.String()))
	}
	r.where = "(repair, tab, key) IN (" + strings.Join(rows, ", ") + ")"
	return r
}

// releasing finds which of the keys are still to be released, and whether any of them is
// not the lane's to release.
func (x *session) releasing(ctx context.Context, r releases) (lapsed, left int, err error) {
	for id, list := range r.byTable {
		type held struct {
			repair string
			key    change.Key
		}
		keys, ours := make([]change.Key, len(list)), make(map[held]bool, len(list))
		for i := range list {
			keys[i] = list[i].Key
			ours[held{list[i].Repair, list[i].Key}] = true
		}
		hs, err := x.holdings(ctx, id, keyIn(keys), inHold)
		if err != nil {
			return 0, 0, err
		}
		for _, h := range hs {
			if !ours[held{h.Repair, h.Key}] {
				continue
			}
			switch {
			case h.State == sink.Releasing:
			case h.Lapsed:
				lapsed++
			default:
				return 0, 0, fault.Permanent(sink.CodeNotStreaming, nil, "read the tables again", "a key of table %s is held, and is not to be let go yet", id)
			}
			left++
		}
	}
	return lapsed, left, nil
}

// beginRelease sets keys whose lease has lapsed to Releasing before anything of them is
// written: from then on a repair that wakes up can neither mend them nor hold them on.
func (x *session) beginRelease(ctx context.Context, list []sink.Release) error {
	if len(list) == 0 {
		return nil
	}
	r := releasesOf(list)
	lapsed, _, err := x.releasing(ctx, r)
	if err != nil || lapsed == 0 {
		return err
	}
	live := fmt.Sprintf("(repair, tab, key) NOT IN (SELECT repair, tab, key FROM %s FINAL WHERE %s AND until > now64(6))", x.ledger("repair_leases"), x.mine())
	_, err = x.move(ctx, "releases", sink.Releasing, "reason", fmt.Sprintf("%s AND %s AND %s AND (%s) = 0",
		r.where, stateIn(sink.Quarantined, sink.Replayed, sink.Verified), live, x.fencedBy()))
	if err != nil {
		return err
	}
	if lapsed, _, err = x.releasing(ctx, r); err == nil && lapsed > 0 {
		if err = x.check(ctx, nil); err == nil {
			err = fault.Transient(sink.CodeNotHeld, nil, "keys whose lease has lapsed cannot be let go yet")
		}
	}
	return err
}

// endRelease records that the keys are let go, if the lane and the tables are as they were.
func (x *session) endRelease(ctx context.Context, list []sink.Release, tables []sink.TableBatch) error {
	if len(list) == 0 {
		return nil
	}
	live, want := x.streaming(tables)
	byReason := map[string][]sink.Release{} // which are few
	for _, v := range list {
		byReason[v.Reason] = append(byReason[v.Reason], v)
	}
	for reason, of := range byReason {
		to := sink.Released
		if reason != "" {
			to = sink.Failed
		}
		_, err := x.move(ctx, "releases", to, lit(reason), fmt.Sprintf("%s AND %s AND (%s) = 0 AND (%s) = %d",
			releasesOf(of).where, stateIn(sink.Releasing), x.fencedBy(), live, want))
		if err != nil {
			return err
		}
	}
	// If it was not written because something has changed, that is what to report.
	if err := x.check(ctx, tables); err != nil {
		return err
	}
	_, left, err := x.releasing(ctx, releasesOf(list))
	if err == nil && left > 0 {
		err = fault.Transient(sink.CodeNotHeld, nil, "keys could not be let go")
	}
	return err
}

// settle removes dead letters that the batch makes good, but for changes that it sets
// aside once more: they have the same place.
func (x *session) settle(ctx context.Context, settled []sink.DeadLetter, dead ...[]sink.DeadLetter) error {
	type place struct {
		sink.Partition
		pos change.Position
	}
	again := map[place]bool{}
	for _, ds := range dead {
		for _, d := range ds {
			again[place{d.Partition, d.Pos}] = true
		}
	}
	byTable := map[change.TableID][]string{}
	for _, d := range settled {
		if !again[place{d.Partition, d.Pos}] {
			byTable[d.Table] = append(byTable[d.Table], fmt.Sprintf("(%d, %s)", d.N, lit(d.Pos.String())))
		}
	}
	for id, places := range byTable {
		if err := x.deleteRows(ctx, x.ledger("dead_letters"), x.where(id.String())+" AND (part, pos) IN ("+strings.Join(places, ", ")+")"); err != nil {
			return err
		}
	}
	return nil
}
