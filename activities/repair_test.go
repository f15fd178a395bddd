package activities

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/repair"
	"syncline/dataplane/sink"
	"syncline/dataplane/trail"
	"syncline/dataplane/verify"
)

// trailed is a ledger of the keys of one repair.
type trailed struct {
	repair.Ledger
	keys []sink.RepairKey
	out  []trail.Entry
}

func (l *trailed) Repair(_ context.Context, _ string, _ change.TableID, part sink.RepairPart) ([]sink.RepairKey, error) {
	i := 1 + slices.IndexFunc(l.keys, func(k sink.RepairKey) bool { return k.Key == part.After })
	return l.keys[i:min(len(l.keys), i+part.Most)], nil
}

func (l *trailed) Table(context.Context, change.TableID) (sink.Table, error) {
	return sink.Table{Rows: 7}, nil
}

func (l *trailed) AppendTrail(_ context.Context, es []trail.Entry) error {
	l.out = append(l.out, es...)
	return nil
}

// The audit trail tells of each step, and at the end of each key that was touched,
// whether it was repaired or given up, without a key or a value.
func TestTrace(t *testing.T) {
	key := func(name string, st sink.RepairState) sink.RepairKey {
		return sink.RepairKey{Key: change.Key("secret-" + name), State: st, Kind: verify.Changed, From: repair.FromLog,
			Before: json.RawMessage(`{"v": "secret-before"}`), After: json.RawMessage(`{"v": "secret-after"}`), Reason: string(st)}
	}
	keys := []sink.RepairKey{key("a", sink.Released), key("b", sink.Failed), key("c", sink.Releasing), key("d", sink.Suspected)}
	task := contract.RepairTask{Repair: "r1", Who: "ann", Reason: "no"}
	task.Table = shopTable("orders")
	for state, want := range map[sink.RepairState]string{
		sink.Quarantined: "quarantined",
		sink.Released:    "released, released, failed, failed",
		sink.Failed:      "failed, released, failed, failed",
	} {
		led := &trailed{keys: keys}
		if err := (&Activities{}).trace(t.Context(), led, task, string(state), contract.RepairStep{Keys: 3}); err != nil {
			t.Fatal(err)
		}
		var actions []string
		ids := map[string]bool{}
		for _, e := range led.out {
			actions = append(actions, e.Action)
			ids[e.ID] = true
			text, err := json.Marshal(e)
			if err != nil || strings.Contains(string(text), "secret") || e.Actor != "ann" || e.Repair != "r1" || e.Table != "shop.orders" {
				t.Errorf("%s, %v", text, err)
			}
		}
		if got := strings.Join(actions, ", "); got != want || len(ids) != len(led.out) {
			t.Errorf("%s: %s, want %s; ids %v", state, got, want, ids)
		}
	}
}

// The hash of a plan is that of its keys, whatever tables are equal by now.
func TestPlanHash(t *testing.T) {
	one := []sink.RepairKey{{Key: "a", State: sink.Suspected, Kind: verify.Missing, From: repair.FromSource, Columns: nil}, {Key: "b", Kind: verify.Changed, From: repair.FromLog, Columns: []string{"v"}}}
	count := func(sinkName string, ks []sink.RepairKey) contract.RepairTable {
		t.Helper()
		out, over, err := countRepair(t.Context(), &trailed{keys: ks}, "r1", sinkName, shopTable("orders"))
		if err != nil || over != (len(ks) == 0) || out.Rows != 7 {
			t.Errorf("%+v, %v, %v", out, over, err)
		}
		return out
	}
	w := count("warehouse", one)
	if w.Keys != 2 || w.Missing != 1 || w.Changed != 1 || w.Columns["v"] != 1 || w.From[repair.FromLog] != 1 || w.From[repair.FromSource] != 1 {
		t.Errorf("%+v", w)
	}
	empty := count("analytics", nil)
	if planHash([]contract.RepairTable{w}) != planHash([]contract.RepairTable{w, empty}) {
		t.Error("a table without keys is in the hash")
	}
	if back := count("warehouse", []sink.RepairKey{one[1], one[0]}); back.Hash != w.Hash {
		t.Error("the order of the keys is in the hash")
	}
	one[0].After = json.RawMessage(`{}`)
	if again := count("warehouse", one); again.Hash == w.Hash {
		t.Error("what a row will be is not in the hash")
	}
	if other := count("other", one); planHash([]contract.RepairTable{other}) == planHash([]contract.RepairTable{w}) {
		t.Error("the sink is not in the hash")
	}
}
