package kafka

import (
	"strings"
	"testing"

	"syncline/dataplane/change"
)

func TestSizes(t *testing.T) {
	o := testOptions(t)
	full, empty := change.TableID{Schema: "s", Name: "full"}, change.TableID{Schema: "s", Name: "empty"}
	ensure(t, o, TopicOptions{Partitions: 2}, full, empty)
	w := openWriter(t, o, WriterOptions{})
	var seq uint64
	for i := range 20 {
		c := testChange(i, strings.Repeat("k", i+1), strings.Repeat("x", 1000))
		c.Table = full
		var err error
		if seq, err = w.Append(t.Context(), c); err != nil {
			t.Fatal(err)
		}
	}
	waitAcked(t, w, seq)
	told := map[change.TableID]int64{}
	w.Encoded(func(id change.TableID, n int64) { told[id] = n })
	if len(told) != 1 || told[full] < 20_000 || told[full] > 30_000 {
		t.Errorf("encoded %v", told)
	}
	a, err := OpenAdmin(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	got, err := a.Sizes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if n := got[full]; n < told[full] || n > told[full]+10_000 || got[empty] != 0 {
		t.Errorf("sizes %v, of records with %v", got, told)
	}
}
