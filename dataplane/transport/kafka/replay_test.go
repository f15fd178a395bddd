package kafka

import (
	"fmt"
	"strings"
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/replay"
	"syncline/dataplane/sink"
)

var _ replay.Log = (*Log)(nil)

// Rows are told from what the log holds before the watermarks, also when its last
// records are the beginning of a change whose writer died.
func TestKeysOfALog(t *testing.T) {
	t.Parallel()
	o := testOptions(t)
	const limit = 16 << 10
	ensure(t, o, TopicOptions{Partitions: 2, MaxMessageBytes: limit}, orders)
	w := openWriter(t, o, WriterOptions{MaxMessageBytes: limit})
	var cs []*change.Change
	for i := range 300 {
		c := testChange(i, fmt.Sprint(i%60), fmt.Sprint(i))
		if i >= 60 {
			c.Op = change.Update
		}
		if i >= 240 {
			c.New[1] = change.Value{Kind: change.Unchanged}
		}
		if i%60 == 7 && i < 240 {
			c.New[1] = change.TextValue(strings.Repeat(fmt.Sprint(i), 20_000)) // in parts
		}
		cs = append(cs, c)
	}
	mustAppend(t, w, cs...)
	topic, err := TopicName(o.Prefix, o.Pipeline, orders)
	if err != nil {
		t.Fatal(err)
	}
	l := openLog(t, o, LogOptions{})
	r := replay.Request{Table: orders, Partitions: 2, Window: 8, Settle: 8}
	for p := range 2 {
		if _, err := w.c.put(t.Context(), partition{topic, int32(p)}, []byte("k"), []byte("x"), []header{
			{headerPosition, []byte("1:0/99:1")}, {headerAttempt, []byte("dead")}, {headerPart, []byte("0/2")}}); err != nil {
			t.Fatal(err)
		}
		_, end, err := l.Range(t.Context(), sink.Partition{Table: orders, N: p})
		if err != nil {
			t.Fatal(err)
		}
		r.To = append(r.To, sink.Watermark{Offset: end})
		for _, c := range cs {
			if c.Partition(2) == p {
				r.To[p].Pos = c.Pos
			}
		}
	}
	for i := range 60 {
		r.Keys = append(r.Keys, cs[i].Key)
	}
	states, stats, err := replay.Keys(t.Context(), l, r)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 60 {
		s := states[cs[i].Key]
		if !s.Complete || !s.Row[1].Equal(cs[180+i].New[1]) || s.Pos != cs[240+i].Pos {
			t.Errorf("key %d: complete %v (%s) at %s with %d bytes", i, s.Complete, s.Why, s.Pos, len(s.Row[1].Data))
		}
	}
	if stats.Reads < 4 || stats.Records < 120 {
		t.Errorf("%+v", stats)
	}
}
