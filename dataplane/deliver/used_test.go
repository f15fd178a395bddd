package deliver

import (
	"fmt"
	"sync"
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// usedOf sums up what a lane tells of what it moved.
type usedOf struct {
	mu sync.Mutex
	by map[string]Used
}

func (u *usedOf) observe(t change.TableID, tier string, n Used) {
	u.mu.Lock()
	defer u.mu.Unlock()
	k := t.Name + " " + tier
	s := u.by[k]
	u.by[k] = Used{s.Changes + n.Changes, s.Read + n.Read, s.Text + n.Text, s.Sent + n.Sent}
}

func (u *usedOf) of(k string) Used {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.by[k]
}

// Each record, row and byte is told of once, by table and tier: what waits is read when
// it is laid aside, and again, with all that lies between, when it is applied.
func TestUsedByTableAndTier(t *testing.T) {
	st := newStand(tableA, tableB)
	st.row(tableA, 100, 1, 0, "now: past the load")
	var text int64 // of what waits
	for k := range 30 {
		v := fmt.Sprintf("hourly: %d", k)
		if k%3 == 0 {
			v = fmt.Sprintf("daily: %d", k)
		}
		text += int64(len("k" + v))
		st.row(tableA, 110, uint32(2*k+1), k, v)
		if k < 10 {
			st.row(tableA, 110, uint32(2*k+2), 100+k, "now: x")
		}
	}
	for k := range 4 { // of one key: one row is left
		st.row(tableB, 110, uint32(k+1), 1, fmt.Sprintf("now: %d", k))
	}
	got := usedOf{by: map[string]Used{}}
	var status sync.Map
	o := quick(0, 1)
	o.Tiers, o.SweepRows = byValue{}, 4
	o.Compression = map[string]string{"hourly": "lz4", "daily": "zstd"}
	stop := st.start(t, o, Observer{Used: got.observe, Status: func(s Status) { status.Store("", s) }})
	until(t, "streamed", func() bool {
		s, _ := status.Load("")
		now, ok := s.(Status)
		return ok && now.Waits == 30 && now.Changes == 15
	})
	until(t, "what was streamed is told", func() bool {
		return got.of("orders ").Read+got.of("orders hourly").Read+got.of("orders daily").Read == 4100
	})
	for k, want := range map[string]Used{
		"orders ":       {Changes: 11, Read: 1100, Text: int64(len("know: past the load") + 10*len("know: x")), Sent: 110},
		"orders hourly": {Read: 2000},
		"orders daily":  {Read: 1000},
	} {
		if got.of(k) != want {
			t.Errorf("%s: %+v, want %+v", k, got.of(k), want)
		}
	}
	b := got.of("events ")
	if b.Changes != 4 || b.Read != 400 || b.Sent < 10 || b.Text != b.Sent/10*int64(len("know: 0")) {
		t.Errorf("of merged changes: %+v", b)
	}
	if err := st.sink.SetDue(t.Context(), tableA, sink.AllTiers, change.Position{Epoch: 1, Commit: 111}); err != nil {
		t.Fatal(err)
	}
	st.row(tableA, 120, 1, 200, "now: the partition is past what is due")
	until(t, "swept", func() bool { return got.of("orders hourly").Changes+got.of("orders daily").Changes == 30 })
	stop()
	h, d := got.of("orders hourly"), got.of("orders daily")
	// Read again: once to see which keys were streamed, once to apply. The last record may
	// have come before the sweep began, and then lies behind the last that waited.
	if again := h.Read + d.Read - 3000; again != 2*4000 && again != 2*4100 && again != 2*4100-100 {
		t.Errorf("read again: %d", again)
	}
	if h.Changes < 18 || h.Changes > 22 || h.Sent+d.Sent != 300 || h.Text+d.Text != text {
		t.Errorf("hourly %+v and daily %+v, want 30 rows of %d bytes", h, d, text)
	}
	// A row that waited goes with the strongest compression of its batch's tiers.
	if s := st.sink.sent; s["zstd"]+s["lz4"] != 30 || s["zstd"] <= 10 || s[""] < 12 {
		t.Errorf("rows by compression: %v", s)
	}
}
