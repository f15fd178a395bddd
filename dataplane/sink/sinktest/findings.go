package sinktest

import (
	"cmp"
	"slices"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

func testFindings(e *env) {
	a, b := change.TableID{Schema: "public", Name: "a"}, change.TableID{Schema: "public", Name: `B "q`}
	one, two := Schema("a", 1, Col("k", TextT)), Schema("a", 2, Col("k", TextT), Col("l", TextT))
	finding := func(kind string, columns []string, s *change.Schema, key ...string) sink.Finding {
		return sink.Finding{Key: Put(s, 1, key...).Key, Kind: kind, Columns: columns, At: Pos(1).Commit}
	}
	// By what people read.
	ordered := func(fs ...sink.Finding) []sink.Finding {
		return slices.SortedFunc(slices.Values(fs), func(a, b sink.Finding) int { return cmp.Compare(a.Key.String(), b.Key.String()) })
	}
	record := func(run string, table change.TableID, fs ...sink.Finding) {
		e.Helper()
		e.ok(e.sink.RecordFindings(e.ctx, run, table, fs))
	}
	want := func(s sink.Sink, run string, table change.TableID, fs ...sink.Finding) {
		e.Helper()
		have, err := s.Findings(e.ctx, run, table)
		e.ok(err)
		if !slices.EqualFunc(have, ordered(fs...), func(a, b sink.Finding) bool {
			return a.Key == b.Key && a.Kind == b.Kind && a.At == b.At && slices.Equal(a.Columns, b.Columns)
		}) {
			e.Fatalf("findings of %s in %s\nhave %v\nwant %v", table, run, have, ordered(fs...))
		}
	}
	all := []sink.Finding{
		finding("changed", []string{"z", `a "b"`, "é,{}", ""}, one, "10"),
		finding("missing", nil, one, "9"),
		finding("extra", []string{}, one, `it's "q"\ (1),?`),
		finding("missing", nil, one, "zß漢\n\t\u200b"),
		finding("twice", nil, one, ""),
		finding("changed", []string{"c"}, one, strings.Repeat(`\"漢`, 2000)), // longer than an index takes
		finding("missing", nil, two, "1", `a","b`),
		finding("missing", nil, two, `1","a`, "b"),
		finding("missing", nil, two, "", ""),
	}
	all[1].At = 0xFFFFFFFF_00000001
	want(e.sink, "r1", a)
	record("r1", a)
	record("r1", a, all[:6]...)
	again := slices.Clone(all[4:])
	again[0].Kind = "extra" // what is recorded stays
	record("r1", a, again...)
	want(e.openSink(), "r1", a, all...)

	record("r1", b, all[0])
	record("r 2'", a, all[1])
	other := &env{T: e.T, ctx: e.ctx, open: e.open, pipeline: e.pipeline + "_b"}
	other.sink = other.openSink()
	e.ok(other.sink.RecordFindings(e.ctx, "r0", a, all[2:3]))
	want(e.sink, "r1", a, all...)
	want(e.sink, "r1", b, all[0])
	want(e.sink, "r 2'", a, all[1])
	want(e.sink, "r0", a)
	want(other.sink, "r1", a)

	record("r3", b, all[2])
	record("r1", b, all[3]) // so the first run is the newest
	for table, last := range map[change.TableID]string{a: "r 2'", b: "r1", {Schema: "public", Name: "none"}: ""} {
		run, err := e.sink.LastFindings(e.ctx, table)
		if e.ok(err); run != last {
			e.Errorf("the last findings of %s are of %q, want %q", table, run, last)
		}
	}
	e.ok(e.sink.ForgetFindings(e.ctx, 3))
	want(e.sink, "r 2'", a, all[1])
	e.ok(e.sink.ForgetFindings(e.ctx, 2))
	want(e.sink, "r 2'", a)
	want(e.sink, "r3", b, all[2])
	want(e.sink, "r1", a, all...)
	want(e.sink, "r1", b, all[0], all[3])
	e.ok(e.sink.Forget(e.ctx))
	want(e.sink, "r1", a)
	want(e.sink, "r3", b)
	want(other.sink, "r0", a, all[2])
	e.ok(other.sink.ForgetFindings(e.ctx, 0))
	want(other.sink, "r0", a)
}
