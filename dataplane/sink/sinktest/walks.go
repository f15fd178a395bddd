package sinktest

import (
	"bytes"
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

func testWalks(e *env) {
	a, b := change.TableID{Schema: "public", Name: "a"}, change.TableID{Schema: "public", Name: `B "q`}
	save := func(table change.TableID, run, state string, offsets ...int64) sink.Walk {
		e.Helper()
		w := sink.Walk{Run: run, Epoch: 3, State: []byte(state), Offsets: offsets}
		e.ok(e.sink.SaveWalk(e.ctx, table, w))
		return w
	}
	same := func(what string, have sink.Walk, err error, want sink.Walk) {
		e.Helper()
		e.ok(err)
		if have.Run != want.Run || have.Epoch != want.Epoch || !bytes.Equal(have.State, want.State) || !slices.Equal(have.Offsets, want.Offsets) {
			e.Fatalf("%s:\nhave %+v\nwant %+v", what, have, want)
		}
	}
	loads := func(s sink.Sink, table change.TableID, run string, want sink.Walk) {
		e.Helper()
		have, err := s.LoadWalk(e.ctx, run, table)
		same("walk "+run, have, err, want)
	}
	last := func(s sink.Sink, table change.TableID, want sink.Walk) {
		e.Helper()
		have, err := s.LastWalk(e.ctx, table)
		same("last walk", have, err, want)
	}
	none := sink.Walk{}
	loads(e.sink, a, "r1", none)
	last(e.sink, a, none)
	save(a, "r1", `{"after": ["it's \"q\"\\ \u00e9 漢", ""]}`)
	last(e.sink, a, none)
	first := save(a, "r1", `{"after": ["2"]}`, 7, 0, 1<<40)
	loads(e.openSink(), a, "r1", first)
	last(e.sink, a, first)
	last(e.sink, b, none)
	second := save(a, "r 2'", `{}`)
	third := save(b, "r 2'", `{}`, 1)
	last(e.sink, a, first) // the newer one has not ended
	loads(e.sink, a, "r 2'", second)
	fourth := save(a, "r4", `{}`, 8, 1, 1<<40)
	last(e.sink, a, fourth)
	other := &env{T: e.T, ctx: e.ctx, open: e.open, pipeline: e.pipeline + "_b"}
	other.sink = other.openSink()
	last(other.sink, a, none)
	e.ok(other.sink.SaveWalk(e.ctx, a, first))

	e.ok(e.sink.ForgetFindings(e.ctx, 3))
	loads(e.sink, a, "r1", first)
	e.ok(e.sink.ForgetFindings(e.ctx, 1))
	loads(e.sink, a, "r1", none)
	loads(e.sink, a, "r 2'", none)
	loads(e.sink, b, "r 2'", third) // of its table the last
	loads(e.sink, a, "r4", fourth)
	e.ok(e.sink.ForgetFindings(e.ctx, 0))
	last(e.sink, a, fourth)
	last(e.sink, b, third)
	e.ok(e.sink.Forget(e.ctx))
	last(e.sink, a, none)
	last(other.sink, a, first)
}
