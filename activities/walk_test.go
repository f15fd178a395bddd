package activities

import (
	"context"
	"slices"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// memory is a ledger of one table.
type memory struct {
	walks    map[string]sink.Walk
	last     sink.Walk
	findings map[string][]sink.Finding
	marks    []sink.Watermark
}

func (m *memory) SaveWalk(_ context.Context, _ change.TableID, w sink.Walk) error {
	if m.walks[w.Run] = w; w.Offsets != nil {
		m.last = w
	}
	return nil
}

func (m *memory) LoadWalk(_ context.Context, run string, _ change.TableID) (sink.Walk, error) {
	return m.walks[run], nil
}

func (m *memory) LastWalk(context.Context, change.TableID) (sink.Walk, error) { return m.last, nil }

func (m *memory) RecordFindings(_ context.Context, run string, _ change.TableID, fs []sink.Finding) error {
	for _, f := range fs {
		if !slices.ContainsFunc(m.findings[run], func(x sink.Finding) bool { return x.Key == f.Key }) {
			m.findings[run] = append(m.findings[run], f)
		}
	}
	return nil
}

func (m *memory) Findings(_ context.Context, run string, _ change.TableID) ([]sink.Finding, error) {
	return m.findings[run], nil
}

func (m *memory) LastFindings(context.Context, change.TableID) (string, error) { return "", nil }

func (m *memory) ForgetFindings(context.Context, int) error { return nil }

func (m *memory) Watermarks(context.Context) ([]sink.Watermark, error) { return m.marks, nil }

// An attempt goes on where the one before it was: with its place, its counts, its
// findings, and the offsets that were there when the first one began.
func TestKeeper(t *testing.T) {
	ctx := t.Context()
	tab := sink.Table{ID: shopTable("orders"), Partitions: 2, Epoch: 1}
	m := &memory{walks: map[string]sink.Walk{}, findings: map[string][]sink.Finding{}}
	mark := func(offsets ...int64) {
		m.marks = []sink.Watermark{{Partition: sink.Partition{Table: shopTable("users")}, Offset: 99}}
		for n, o := range offsets {
			m.marks = append(m.marks, sink.Watermark{Partition: sink.Partition{Table: tab.ID, N: n}, Offset: o})
		}
	}
	open := func(run string) *keeper {
		t.Helper()
		k := &keeper{ledger: m, run: run, table: &tab}
		if err := k.load(ctx); err != nil {
			t.Fatal(err)
		}
		return k
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	mark(7, 8)
	one := open("r1")
	if one.so != nil || !slices.Equal(one.state.Begin, []int64{7, 8}) {
		t.Fatalf("%+v", one.state)
	}
	found := []sink.Finding{{Key: "a", Kind: verify.Missing}}
	must(one.done(ctx, verify.Place{After: []string{"10"}}, &verify.Result{Rows: 10, Parts: 1, From: 5, Findings: found}))
	must(one.done(ctx, verify.Place{After: []string{"20"}}, &verify.Result{Rows: 20, Parts: 2, From: 5, Findings: found})) // too soon after it

	mark(70, 80)
	two := open("r1")
	if so := two.so; so == nil || so.Rows != 10 || so.Parts != 1 || so.From != 5 || len(so.Findings) != 1 || two.state.Place.After[0] != "10" || !slices.Equal(two.state.Begin, []int64{7, 8}) {
		t.Fatalf("%+v %+v", two.state, so)
	}
	two.begun = two.begun.Add(-time.Hour)
	must(two.end(ctx, &verify.Result{Verdict: verify.Inconclusive, Reason: "late"}))
	if m.last.Run != "" {
		t.Fatalf("what is inconclusive verified something: %+v", m.last)
	}
	found = append(found, sink.Finding{Key: "b", Kind: verify.Extra})
	must(two.end(ctx, &verify.Result{Verdict: verify.Different, Rows: 100, Findings: found}))
	if !slices.Equal(m.last.Offsets, []int64{7, 8}) || m.last.Epoch != 1 || len(m.findings["r1"]) != 2 {
		t.Fatalf("%+v", m)
	}
	if three := open("r1"); !three.state.Place.End || three.so.Rows != 100 || len(three.so.Findings) != 2 || three.took() < time.Hour {
		t.Errorf("%+v", three.state)
	}

	tab.Epoch = 2 // it is loaded again
	if k := open("r1"); k.so != nil || k.state.Place.End {
		t.Errorf("%+v", k.state)
	}
	mark(7, -1)
	k := open("r2")
	must(k.end(ctx, &verify.Result{Verdict: verify.Equal}))
	if m.last.Run != "r1" {
		t.Errorf("without offsets: %+v", m.last)
	}
}
