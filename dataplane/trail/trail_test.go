package trail

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

func chain(t interface{ Fatal(...any) }, n int) []Entry {
	var out []Entry
	hash := ""
	for i := range n {
		e := Entry{ID: fmt.Sprintf("r/%d", i), At: time.Unix(1e9, int64(i)*1001), Repair: "r", Actor: "ann", Action: "replayed", Table: "public.a",
			Detail: json.RawMessage(fmt.Sprintf(`{"b": %d, "a": "x < y"}`, i))}
		if err := e.Seal(int64(i), hash); err != nil {
			t.Fatal(err)
		}
		hash = e.Hash
		out = append(out, e)
	}
	return out
}

func check(es []Entry, known map[int64]string) (int64, error) {
	c := Checker{Known: known}
	for i := range es {
		if err := c.Next(&es[i]); err != nil {
			return 0, err
		}
	}
	n, _, err := c.End()
	return n, err
}

// Whatever is done to a trail whose end is known, the first entry that is not as it
// was written is named.
func TestEditsAreSeen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		es := chain(t, rapid.IntRange(1, 12).Draw(t, "entries"))
		known := map[int64]string{int64(len(es)): es[len(es)-1].Hash}
		if n, err := check(es, known); err != nil || n != int64(len(es)) {
			t.Fatalf("a good trail: %d, %v", n, err)
		}
		i := rapid.IntRange(0, len(es)-1).Draw(t, "entry")
		reseal := func() { // by someone who knows how
			for j := i; j < len(es); j++ {
				prev := ""
				if j > 0 {
					prev = es[j-1].Hash
				}
				if err := es[j].Seal(int64(j), prev); err != nil {
					t.Fatal(err)
				}
			}
		}
		switch rapid.IntRange(0, 5).Draw(t, "edit") {
		case 0:
			es[i].Actor = "bob"
		case 1:
			es[i].Detail = json.RawMessage(`{"a":"x < y","b":77}`)
		case 2:
			es = slices.Delete(es, i, i+1)
		case 3:
			es = slices.Insert(es, i, es[i])
		case 4:
			es[i].Action = "released"
			reseal()
		case 5:
			es = slices.Delete(es, i, i+1)
			reseal()
		}
		var b *Broken
		if _, err := check(es, known); !errors.As(err, &b) {
			t.Fatalf("not seen: %v", err)
		}
	})
}

// An entry that went through a database is as it was.
func TestTextComesBack(t *testing.T) {
	es := chain(t, 3)
	text, err := json.Marshal(es)
	if err != nil {
		t.Fatal(err)
	}
	var back []Entry
	if err := json.Unmarshal(text, &back); err != nil {
		t.Fatal(err)
	}
	for i := range back {
		back[i].At = back[i].At.In(time.FixedZone("", 3600))
	}
	if _, err := check(back, nil); err != nil {
		t.Fatal(err)
	}
}
