package activities

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/replay"
	"syncline/dataplane/transport/kafka"
)

// fakeIndex has one place at 1:0/20.
type fakeIndex struct{ kafka.Place }

func (f fakeIndex) Before(_ context.Context, at change.Position) (kafka.Place, error) {
	f.Pos = at
	return f.Place, nil
}
func (f fakeIndex) BeforeTime(context.Context, time.Time) (kafka.Place, error) { return f.Place, nil }
func (f fakeIndex) After(_ context.Context, at change.Position) (kafka.Place, error) {
	return f.Before(context.Background(), at)
}
func (f fakeIndex) AfterTime(context.Context, time.Time) (kafka.Place, error) { return f.Place, nil }

func TestReplayPlaces(t *testing.T) {
	id := change.TableID{Schema: "shop", Name: "orders"}
	at := func(lsn change.LSN) change.Position { return change.Position{Epoch: 1, Commit: lsn, Ordinal: 1} }
	found := kafka.Place{Found: true, Pos: at(0x20), Offsets: map[change.TableID][]int64{id: {5, 50}}}
	for _, c := range []struct {
		since, until string
		place        kafka.Place
		want         contract.ReplayTask
		code         fault.Code
	}{
		{want: contract.ReplayTask{Since: change.Position{Epoch: 1}, Until: at(0x40), End: []int64{10, 20}}},
		{since: "1:0/20:1", place: found, want: contract.ReplayTask{Since: at(0x20), Until: at(0x40), From: []int64{5, 20}, End: []int64{10, 20}}},
		{since: "2026-01-01T00:00:00Z", place: found, want: contract.ReplayTask{Since: at(0x20), Until: at(0x40), From: []int64{5, 20}, End: []int64{10, 20}}},
		{since: "1:0/20:1", place: kafka.Place{Found: true}, want: contract.ReplayTask{Since: at(0x20), Until: at(0x40), From: []int64{0, 0}, End: []int64{10, 20}}},
		{since: "1:0/20:1", place: kafka.Place{Why: "the index begins later"}, code: replay.CodeExpired},
		{until: "1:0/30:1", place: found, want: contract.ReplayTask{Since: change.Position{Epoch: 1}, Until: at(0x30), End: []int64{5, 20}}},
		{until: "1:0/30:1", place: kafka.Place{Why: "the index ends"}, want: contract.ReplayTask{Since: change.Position{Epoch: 1}, Until: at(0x30), End: []int64{10, 20}}},
		{until: "1:0/50:1", place: found, code: replay.CodeBadRequest},
		{until: "2026-01-01T00:00:00Z", place: found, want: contract.ReplayTask{Since: change.Position{Epoch: 1}, Until: at(0x20), End: []int64{5, 20}}},
		{until: "2026-01-01T00:00:00Z", place: kafka.Place{Why: "the index ends"}, code: replay.CodeBadRequest},
		{since: "1:0/30:1", until: "1:0/30:1", place: found, code: replay.CodeBadRequest},
	} {
		out := contract.ReplayTask{Epoch: 1, Table: id, Until: at(0x40), End: []int64{10, 20}}
		err := places(t.Context(), fakeIndex{c.place}, contract.ReplayInput{Since: c.since, Until: c.until}, &out)
		if fault.CodeOf(err) != c.code {
			t.Errorf("%q to %q: %v", c.since, c.until, err)
		}
		if c.code == "" && (out.Since != c.want.Since || out.Until != c.want.Until || !slices.Equal(out.From, c.want.From) || !slices.Equal(out.End, c.want.End)) {
			t.Errorf("%q to %q: %+v", c.since, c.until, out)
		}
	}
}

func TestReplayInput(t *testing.T) {
	ok := contract.ReplayInput{Pipeline: "p", Table: change.TableID{Schema: "s", Name: "t"}, Sink: "w", To: "x"}
	if err := checkReplay(ok); err != nil {
		t.Error(err)
	}
	for want, change := range map[string]func(*contract.ReplayInput){
		"does not say of which": func(in *contract.ReplayInput) { in.Sink = "" },
		"into the live table":   func(in *contract.ReplayInput) { in.To = "" },
		"to is":                 func(in *contract.ReplayInput) { in.To = "a.b" },
		"neither a position":    func(in *contract.ReplayInput) { in.Since = "then" },
	} {
		in := ok
		change(&in)
		if err := checkReplay(in); !fault.Is(err, replay.CodeBadRequest) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
