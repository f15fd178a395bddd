package activities

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/replay"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
	"syncline/dataplane/verify"
	"syncline/tiers/shape"
)

// PlanReplay finds the places that a replay goes between.
func (a *Activities) PlanReplay(ctx context.Context, in contract.ReplayInput) (out contract.ReplayTask, err error) {
	defer func() { err = ended(ctx, err) }()
	if err := checkReplay(in); err != nil {
		return out, err
	}
	st, err := a.statusOf(ctx, in.Pipeline)
	if err != nil {
		return out, err
	}
	conf, err := findSink(&st.Spec, in.Sink)
	if err != nil {
		return out, err
	}
	out = contract.ReplayTask{Spec: st.Spec, Epoch: st.Epoch, Table: in.Table, Sink: in.Sink, To: in.To,
		Verify: in.Since == "" && in.Until == "" && !in.NoVerify}
	var t sink.Table
	err = a.withSink(ctx, in.Pipeline, conf, func(sk sink.Sink) error {
		if t, err = sk.Table(ctx, in.Table); err != nil {
			return err
		}
		marks, err := sk.Watermarks(ctx)
		out.Until, out.End = replay.Cut(in.Table, marks)
		return err
	})
	if err != nil {
		return out, err
	}
	live := in.Table.Name
	if t.Options.Name != "" {
		live = t.Options.Name
	}
	if in.To == live {
		return out, badReplay("name another table", "%s is the live table", in.To)
	}
	if t.State != sink.Streaming && t.State != sink.Gated || len(out.End) != t.Partitions {
		return out, badReplay("replay it when it streams", "table %s is %s at %s", in.Table, t.State, in.Sink)
	}
	ko, err := a.kafkaOptions(ctx, &st.Spec)
	if err != nil {
		return out, err
	}
	index, err := kafka.OpenIndex(ko)
	if err != nil {
		return out, err
	}
	defer func() { _ = index.Close() }()
	return out, places(ctx, index, in, &out)
}

func badReplay(fix, format string, args ...any) error {
	return fault.Permanent(replay.CodeBadRequest, nil, fix, format, args...)
}

// checkReplay finds mistakes that no pipeline has to be asked about.
func checkReplay(in contract.ReplayInput) error {
	switch {
	case in.Pipeline == "" || in.Sink == "" || in.Table.Name == "":
		return badReplay(`give {"pipeline": NAME, "table": "schema.name", "sink": NAME, "to": NAME}`, "the replay does not say of which table and sink")
	case in.To == "":
		return badReplay("name a table that is not there yet, as to", "a replay into the live table is not possible")
	case strings.ContainsAny(in.To, ".\"`\x00") || len(in.To) > 63:
		return badReplay("name a table of at most 63 bytes, without its schema", "to is %q", in.To)
	}
	for _, s := range []string{in.Since, in.Until} {
		if _, _, err := contract.ParsePlace(s); err != nil {
			return badReplay("write it like 1:16/B374D848:4 or 2026-01-02T03:04:05Z", "%v", err)
		}
	}
	return nil
}

// index is where places are looked up.
type index interface {
	Before(ctx context.Context, at change.Position) (kafka.Place, error)
	BeforeTime(ctx context.Context, t time.Time) (kafka.Place, error)
	After(ctx context.Context, at change.Position) (kafka.Place, error)
	AfterTime(ctx context.Context, t time.Time) (kafka.Place, error)
}

// places sets where a task begins and ends; it ends at what the sink has at the latest.
func places(ctx context.Context, x index, in contract.ReplayInput, out *contract.ReplayTask) error {
	expired := func(what, why string) error {
		return fault.Permanent(replay.CodeExpired, nil, "name a later place, or none", "%s %s cannot be found: %s", what, in.Since, why)
	}
	pos, at, err := contract.ParsePlace(in.Since)
	switch {
	case err != nil:
		return err
	case in.Since == "": // loads hold what is of an older epoch
		out.Since = change.Position{Epoch: out.Epoch}
	default:
		var p kafka.Place
		if at.IsZero() {
			p, err = x.Before(ctx, pos)
		} else {
			p, err = x.BeforeTime(ctx, at)
		}
		if err != nil {
			return err
		}
		if !p.Found {
			return expired("since", p.Why)
		}
		out.Since = p.Pos
		out.From = make([]int64, len(out.End)) // of a table without a topic by then: its beginning
		copy(out.From, p.Offsets[out.Table])
		for n := range out.From {
			out.From[n] = min(out.From[n], out.End[n])
		}
	}
	if in.Until != "" {
		pos, at, err := contract.ParsePlace(in.Until)
		if err != nil {
			return err
		}
		var p kafka.Place
		if at.IsZero() {
			p, err = x.After(ctx, pos)
			p.Pos = pos
		} else {
			p, err = x.AfterTime(ctx, at)
		}
		switch {
		case err != nil:
			return err
		case !at.IsZero() && !p.Found:
			return badReplay("name an earlier time, or none for now", "until %s cannot be found: %s", in.Until, p.Why)
		case out.Until.Before(p.Pos):
			return badReplay("wait until the sink has come there, or name no end", "until %s is beyond %s, which the sink has come to", in.Until, out.Until)
		}
		out.Until = p.Pos
		if ends := p.Offsets[out.Table]; p.Found && len(ends) == len(out.End) {
			for n := range out.End {
				out.End[n] = min(out.End[n], ends[n])
			}
		}
	}
	if !out.Since.Before(out.Until) {
		return badReplay("name an earlier beginning or a later end", "there is nothing between %s and %s", out.Since, out.Until)
	}
	return nil
}

// ReplayTable rebuilds a table from the log. An attempt goes on where the one before
// it came to.
func (a *Activities) ReplayTable(ctx context.Context, in contract.ReplayTask) (out contract.ReplayResult, err error) {
	var so atomic.Pointer[contract.ReplayProgress]
	so.Store(&contract.ReplayProgress{Sink: in.Sink, Table: in.Table})
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		begun := time.Now()
		conf, err := findSink(&in.Spec, in.Sink)
		if err != nil {
			return err
		}
		var t sink.Table
		err = a.withSink(ctx, in.Spec.Name, conf, func(live sink.Sink) (err error) {
			t, err = live.Table(ctx, in.Table)
			return err
		})
		if err != nil {
			return err
		}
		t.Options.Name = in.To
		own, err := a.sink(ctx, in.Ledger(), conf)
		if err != nil {
			return err
		}
		defer own.Close()
		srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
		ko, err := a.kafkaOptions(ctx, &in.Spec)
		if err != nil {
			return err
		}
		records, err := kafka.OpenLog(ctx, ko, kafka.LogOptions{BufferBytes: int(in.Spec.Stream.MemoryLimit / 4)})
		if err != nil {
			return err
		}
		defer records.Close()
		of, err := a.shapes(ctx, &in.Spec, in.Sink, shape.FromLog)
		if err != nil {
			return err
		}
		view := viewOf(records, of)
		b := replay.Rebuild{Table: t, Since: in.Since, Until: in.Until, From: in.From, End: in.End}
		o := deliverOptions(&contract.DeliverInput{Spec: in.Spec, Sink: in.Sink, Epoch: in.Epoch}, &conf)
		done, err := b.Run(ctx, view, own, sourceOf(srv, of), o, deliver.Observer{Status: func(s deliver.Status) {
			so.Store(&contract.ReplayProgress{Sink: in.Sink, Table: in.Table, Changes: s.Changes, Pos: s.Oldest})
		}})
		out = contract.ReplayResult{Pipeline: in.Spec.Name, Table: in.Table, Sink: in.Sink, To: in.To, Since: in.Since, Until: in.Until,
			Changes: done.Changes, Dead: done.Dead, Took: time.Since(begun).Seconds()}
		if err != nil || !in.Verify {
			return err
		}
		copied, err := own.Table(ctx, in.Table)
		if err != nil {
			return err
		}
		return a.withSink(ctx, in.Spec.Name, conf, func(live sink.Sink) (err error) {
			out.Compared, err = compare(ctx, live, &in, &copied, func() (func(change.Key) bool, bool, error) { return b.Deleted(ctx, view) })
			out.Took = time.Since(begun).Seconds()
			return err
		})
	})
	return out, err
}

// compare compares a table that was rebuilt with the live one, in the sink.
func compare(ctx context.Context, live sink.Sink, in *contract.ReplayTask, copied *sink.Table, deleted func() (func(change.Key) bool, bool, error)) (*contract.Compared, error) {
	side, ok := live.(replay.Digests)
	if !ok {
		return nil, fault.Permanent("SinkType", nil, "use postgres or clickhouse", "sink %s cannot be verified", in.Sink)
	}
	t, err := live.Table(ctx, in.Table)
	if err != nil {
		return nil, err
	}
	var gone func(change.Key) bool
	if t.Rows > 0 { // its load brought rows, which the log does not have
		told := false
		if gone, told, err = deleted(); err != nil {
			return nil, err
		}
		if !told {
			return &contract.Compared{Verdict: verify.Inconclusive, Reason: "the log has too many deletions to tell which rows only the load brought", Loaded: t.Rows}, nil
		}
	}
	c, err := replay.Compare(ctx, side, live.Watermarks, verify.Subject{Schema: t.Schema, Options: t.Options},
		verify.Subject{Schema: copied.Schema, Options: copied.Options}, in.End, gone)
	if err != nil {
		return nil, err
	}
	return &contract.Compared{Verdict: c.Verdict, Reason: c.Reason, Both: c.Both, Different: c.Different, OnlyLive: c.OnlyLive, Deleted: c.Deleted, OnlyReplayed: c.OnlyReplayed, Loaded: t.Rows}, nil
}

// ForgetReplay removes the ledger of a replay, and its table if it failed.
func (a *Activities) ForgetReplay(ctx context.Context, in contract.ReplayEnd) error {
	return beating(ctx, func(ctx context.Context) error {
		conf, err := findSink(&in.Spec, in.Sink)
		if err != nil {
			return err
		}
		return a.withSink(ctx, in.Ledger(), conf, func(own sink.Sink) error {
			return replay.Rebuild{Table: sink.Table{ID: in.Table}}.Forget(ctx, own, in.Drop)
		})
	})
}
