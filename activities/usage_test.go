package activities

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/testsuite"
	"pgregory.net/rapid"

	"syncline/activities/contract"
	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/dataplane/wire"
)

// Whatever comes in whatever window: what is given is what was carried, by direction;
// what was counted is counted once; and parts share a window by their weights.
func TestAccountsLoseNothing(t *testing.T) {
	tabs := []part{{"a", "stream"}, {"a", "hourly"}, {"b", "stream"}}
	rapid.Check(t, func(t *rapid.T) {
		a := &account{accountKey: accountKey{"p", contract.DeliverActivity, "s", "", "sink:s"}, region: "east"}
		var carried, given [2]int64
		var want, got moved
		var silent int // windows since the last batch
		n := rapid.IntRange(1, 30).Draw(t, "windows")
		for i := range n {
			weights := map[part]int64{}
			for _, p := range tabs {
				if rapid.IntRange(0, 3).Draw(t, "batch") == 0 {
					m := moved{changes: rapid.Int64Range(0, 9).Draw(t, "changes"), logical: rapid.Int64Range(0, 1e6).Draw(t, "logical"), encoded: rapid.Int64Range(1, 1e12).Draw(t, "encoded")}
					a.carried(sent, p, m.changes, m.logical, m.encoded)
					weights[p] += m.encoded
					want.changes, want.logical, want.encoded = want.changes+m.changes, want.logical+m.logical, want.encoded+m.encoded
				}
			}
			if silent++; len(weights) > 0 {
				silent = 0
			}
			d := wire.Count{Sent: rapid.Int64Range(0, 1e12).Draw(t, "sent") * rapid.Int64Range(0, 1).Draw(t, "some"), Received: rapid.Int64Range(0, 1e3).Draw(t, "received")}
			carried[sent], carried[received] = carried[sent]+d.Sent, carried[received]+d.Received
			owed := a.owed.bytes
			u := usages{at: time.Unix(int64(5*i), 0), region: "west"}
			a.settle(d, i == n-1, &u)
			var all, shared int64
			for _, w := range weights {
				all += w
			}
			for _, r := range u.rows {
				direction := sent
				if r.Origin == "east" && r.Destination == "west" {
					direction = received
				} else if r.Origin != "west" || r.Destination != "east" {
					t.Fatalf("from %q to %q", r.Origin, r.Destination)
				}
				if r.Pipeline != "p" || r.Sink != "s" || r.Component != "deliver" {
					t.Fatalf("%+v", r)
				}
				given[direction] += int64(r.Wire)
				got.changes, got.logical, got.encoded = got.changes+int64(r.Changes), got.logical+int64(r.Logical), got.encoded+int64(r.Encoded)
				if direction == received && r.Changes+r.Logical+r.Encoded > 0 {
					t.Fatalf("counted on the way back: %+v", r)
				}
				w := weights[part{r.Tab, r.Tier}]
				if len(weights) > 0 && direction == sent {
					exact := float64(owed[sent]+d.Sent) * float64(w) / float64(all)
					if diff := float64(r.Wire) - exact; diff > 1+exact/1e9 || diff < -1-exact/1e9 {
						t.Fatalf("%d bytes of %d for %d of %d", r.Wire, owed[sent]+d.Sent, w, all)
					}
					shared += int64(r.Wire)
				}
				if r.Tab == "" && (silent == 0 || r.Tier != "") {
					t.Fatalf("of no table, beside a batch: %+v", r)
				}
			}
			if len(weights) > 0 && shared != owed[sent]+d.Sent {
				t.Fatalf("%d of %d are shared", shared, owed[sent]+d.Sent)
			}
			if silent > patience+1 && d != (wire.Count{}) && a.owed.held >= patience {
				t.Fatalf("bytes are kept for %d windows", a.owed.held)
			}
			for direction := range carried {
				if carried[direction] != given[direction]+a.owed.bytes[direction] {
					t.Fatalf("carried %v, given %v, owed %v", carried, given, a.owed.bytes)
				}
			}
		}
		if given != carried || got != want {
			t.Fatalf("carried %v, given %v; counted %+v, told %+v", carried, given, want, got)
		}
	})
}

// A batch is counted once it is in the sink: its bytes may be seen a window before, and
// the last of them a window after. What belongs to no batch is of no table.
func TestOwed(t *testing.T) {
	var o owed
	a, rest := []weighted{{part{"a", "stream"}, 7}}, part{}
	if got := o.divide([2]int64{100, 5}, nil, rest, false); got != nil {
		t.Fatal(got)
	}
	for i, by := range [][]weighted{a, nil} {
		if got := o.divide([2]int64{10, 0}, by, rest, false); len(got) != 1 || got[0].part != a[0].part || got[0].bytes != [2]int64{110 - int64(100*i), int64(5 - 5*i)} {
			t.Fatal(i, got)
		}
	}
	for i := range patience {
		got := o.divide([2]int64{1, 2}, nil, rest, false)
		if i < patience-1 && got != nil || i == patience-1 && (len(got) != 1 || got[0] != given{rest, [2]int64{patience, 2 * patience}}) {
			t.Fatal(i, got)
		}
	}
	o.divide([2]int64{1, 0}, nil, rest, false)
	if got := o.divide([2]int64{}, nil, rest, true); len(got) != 1 || got[0] != (given{rest, [2]int64{1, 0}}) {
		t.Fatal(got)
	}
}

// The connections of activities that are for one table are that table's, without a batch.
func TestWiresRecord(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			_ = c.Close()
		}
	}()
	w := NewWires(observe.NewMetrics("x"), "west")
	carry := func(k accountKey, region string, n int) {
		c, err := w.open(k, region).dial()(t.Context(), "tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		if _, err := c.Write(make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	carry(accountKey{"p", contract.VerifyTableActivity, "s", "a", "source"}, "east", 10)
	carry(accountKey{"p", contract.VerifyTableActivity, "s", "b", "source"}, "east", 20)
	carry(accountKey{"p", contract.CaptureActivity, "", "", "kafka"}, "west", 100)
	w.open(accountKey{"p", contract.CaptureActivity, "", "", "kafka"}, "west").carried(sent, part{tab: "a"}, 1, 2, 3)
	var usage []analytics.Usage
	var wires []analytics.Wire
	w.record(time.Unix(7, 0), false, func(rows ...analytics.Row) {
		for _, r := range rows {
			switch r := r.(type) {
			case *analytics.Usage:
				usage = append(usage, *r)
			case *analytics.Wire:
				wires = append(wires, *r)
			}
		}
	})
	at := time.Unix(5, 0).UTC()
	for _, want := range []analytics.Usage{
		{Time: at, Pipeline: "p", Sink: "s", Tab: "a", Component: "verify", Origin: "west", Destination: "east", Wire: 10},
		{Time: at, Pipeline: "p", Sink: "s", Tab: "a", Component: "verify", Origin: "east", Destination: "west", Wire: 10},
		{Time: at, Pipeline: "p", Sink: "s", Tab: "b", Component: "verify", Origin: "west", Destination: "east", Wire: 20},
		{Time: at, Pipeline: "p", Sink: "s", Tab: "b", Component: "verify", Origin: "east", Destination: "west", Wire: 20},
		{Time: at, Pipeline: "p", Tab: "a", Component: "capture", Origin: "west", Destination: "west", Changes: 1, Logical: 2, Encoded: 3, Wire: 200},
	} {
		if !remove(&usage, want) {
			t.Errorf("no row %+v", want)
		}
	}
	for _, want := range []analytics.Wire{
		{Time: at, Pipeline: "p", Component: contract.VerifyTableActivity, End: "source", Sent: 30, Received: 30, Connections: 2},
		{Time: at, Pipeline: "p", Component: contract.CaptureActivity, End: "kafka", Sent: 100, Received: 100, Connections: 1},
	} {
		if !remove(&wires, want) {
			t.Errorf("no row %+v", want)
		}
	}
	if len(usage)+len(wires) > 0 {
		t.Errorf("and %+v %+v", usage, wires)
	}
}

func remove[T comparable](s *[]T, v T) bool {
	for i := range *s {
		if (*s)[i] == v {
			*s = append((*s)[:i], (*s)[i+1:]...)
			return true
		}
	}
	return false
}

// An account is found by the activity and what it works on; nobody counts outside of one.
func TestAccountOfActivity(t *testing.T) {
	w := NewWires(observe.NewMetrics("x"), "west")
	if w.account(t.Context(), "p", kafkaEnd, "") != nil {
		t.Error("no activity, and an account")
	}
	var none *account
	none.carried(sent, part{}, 1, 1, 1)
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.RegisterActivityWithOptions(func(ctx context.Context) error {
		ctx = context.WithValue(ctx, subjectKey{}, subject{sink: "s", tab: "a.b"})
		a := w.account(ctx, "p@replay", kafkaEnd, "east")
		if a == nil || a.pipeline != "p" || a.sink != "s" || a.tab != "a.b" || a.region != "east" || a != w.account(ctx, "p", kafkaEnd, "east") {
			t.Errorf("%+v", a)
		}
		return nil
	}, activity.RegisterOptions{Name: contract.ReplayTableActivity})
	if _, err := env.ExecuteActivity(contract.ReplayTableActivity); err != nil {
		t.Error(err)
	}
}
