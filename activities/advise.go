package activities

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"syncline/activities/advise"
	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/replay"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
)

const (
	// CodeBadAdvice: the request contradicts itself or the pipeline.
	CodeBadAdvice fault.Code = "BadAdviceRequest"
	// CodeNoTraffic: the log holds no change of the time that was asked for.
	CodeNoTraffic fault.Code = "NoTraffic"
)

// AdviseTiers reads a pipeline's traffic from the log, as a lane would, and simulates
// classifications on it. An attempt begins anew.
func (a *Activities) AdviseTiers(ctx context.Context, in contract.AdviseInput) (out contract.AdviseResult, err error) {
	var so atomic.Pointer[contract.AdviseProgress]
	so.Store(&contract.AdviseProgress{})
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		st, err := a.advisable(ctx, &in)
		if err != nil {
			return err
		}
		plan, err := advise.New(&st, &in)
		if err != nil {
			return fault.Permanent(CodeBadAdvice, err, "correct what is asked for", "advice on pipeline %s", st.Name)
		}
		if x := in.Experiment; x != nil {
			st.Tables = slices.DeleteFunc(st.Tables, func(t contract.TableStatus) bool { return t.Table != x.Table })
		}
		ko, err := a.kafkaOptions(ctx, &st.Spec)
		if err != nil {
			return err
		}
		index, err := kafka.OpenIndex(ko)
		if err != nil {
			return err
		}
		defer func() { _ = index.Close() }()
		log, err := kafka.OpenLog(ctx, ko, kafka.LogOptions{BufferBytes: int(st.Spec.Stream.MemoryLimit / 4)})
		if err != nil {
			return err
		}
		defer log.Close()
		r := traffic{in: &in, st: &st, index: index, log: log, told: func(p contract.AdviseProgress) { so.Store(&p) }}
		if err := r.plan(ctx); err != nil {
			return err
		}
		if err := r.read(ctx, func(p sink.Partition, rec *deliver.Record, s *change.Schema) error {
			if err := plan.Table(p.Table).Add(s, rec.Change, p.N, rec.Bytes); err != nil {
				return fault.Permanent(CodeTierRules, err, "declare classify so that it fits the table", "the tiers of table %s cannot be told", p.Table)
			}
			return nil
		}); err != nil {
			return err
		}
		if r.cut != math.MaxInt64 {
			plan.Trace().Cut(r.cut)
		}
		first, last := plan.Trace().Span()
		if err := r.covered(first, last); err != nil {
			return err
		}
		if out, err = concluded(plan, &in); err != nil {
			return err
		}
		out.Region, out.Records, out.Read = a.Region, r.so.Records, r.so.Bytes
		out.Notes = append(r.notes, out.Notes...)
		return nil
	})
	return out, err
}

// concluded computes what was asked for.
func concluded(plan *advise.Plan, in *contract.AdviseInput) (out contract.AdviseResult, err error) {
	if in.Experiment == nil {
		return plan.Result(), nil
	}
	out = plan.About()
	if out.Experiment, err = plan.Experiment(in.Experiment); err != nil {
		err = fault.Permanent(CodeBadAdvice, err, "name a table with a key, and columns that its changes carry", "the experiment on table %s", in.Experiment.Table)
	}
	return out, err
}

// advisable looks at the pipeline, and at what was asked of it.
func (a *Activities) advisable(ctx context.Context, in *contract.AdviseInput) (st contract.PipelineStatus, err error) {
	bad := func(fix, format string, args ...any) error {
		return fault.Permanent(CodeBadAdvice, nil, fix, format, args...)
	}
	switch {
	case in.Pipeline == "":
		return st, bad(`give {"pipeline": NAME}`, "the request names no pipeline")
	case !in.Until.IsZero() && !in.Since.Before(in.Until):
		return st, bad("name an earlier beginning or a later end", "there is nothing between %s and %s", stamp(in.Since), stamp(in.Until))
	case in.MaxBytes < 0 || in.Limit < 0:
		return st, bad("leave max_bytes and limit out, or give numbers above zero", "max_bytes is %d and limit %d", in.MaxBytes, in.Limit)
	}
	if st, err = a.statusOf(ctx, in.Pipeline); err != nil {
		return st, err
	}
	switch {
	case st.Phase == contract.Destroyed || st.Phase == contract.Destroying || st.Phase == contract.SetupFailed:
		return st, bad("starter apply starts it again", "pipeline %s is %s, and so is its log", st.Name, st.Phase)
	case st.Spec.Stream.Order == pipeline.OrderTransaction:
		return st, bad("stream.order: key", "pipeline %s applies whole transactions, which cannot wait in part", st.Name)
	}
	return st, nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// traffic is the part of the log that is looked at.
type traffic struct {
	in    *contract.AdviseInput
	st    *contract.PipelineStatus
	index index
	log   replay.Log
	told  func(contract.AdviseProgress)

	parts   []stretch
	records int64 // of all
	expired bool  // the log began earlier once
	so      contract.AdviseProgress
	cut     int64 // from when on changes are left out, Unix microseconds
	notes   []string
}

// stretch is of one partition.
type stretch struct {
	p         sink.Partition
	from, end int64
}

// plan finds where to begin and to end. What comes later is not looked at.
func (r *traffic) plan(ctx context.Context) error {
	r.cut = math.MaxInt64
	var at kafka.Place
	if !r.in.Since.IsZero() {
		var err error
		if at, err = r.index.BeforeTime(ctx, r.in.Since); err != nil {
			return err
		}
	}
	for i := range r.st.Tables {
		id := r.st.Tables[i].Table
		for n := range r.st.Spec.Kafka.Partitions {
			p := sink.Partition{Table: id, N: n}
			first, end, err := r.log.Range(ctx, p)
			if err != nil {
				return err
			}
			s := stretch{p, first, end}
			if from := at.Offsets[id]; at.Found && n < len(from) && from[n] > first {
				s.from = min(from[n], end)
			} else if first > 0 && (!at.Found || n >= len(from) || from[n] < first) {
				r.expired = true
			}
			r.records += s.end - s.from
			r.parts = append(r.parts, s)
		}
	}
	return nil
}

// read hands on what was committed within the time that was asked for.
func (r *traffic) read(ctx context.Context, each func(sink.Partition, *deliver.Record, *change.Schema) error) error {
	for _, s := range r.parts {
		most := int64(math.MaxInt64)
		if r.in.MaxBytes > 0 && r.records > 0 { // in proportion, so that all partitions are read up to about the same time
			most = int64(float64(r.in.MaxBytes) * float64(s.end-s.from) / float64(r.records))
		}
		r.so.Table = s.p.Table
		had := r.so.Bytes
		err := replay.Traffic(ctx, r.log, s.p, s.from, s.end, func(rec *deliver.Record, sc *change.Schema) (bool, error) {
			r.so.Records, r.so.Bytes = r.so.Records+1, r.so.Bytes+int64(rec.Bytes)
			if r.so.Records%512 == 0 {
				r.told(r.so)
			}
			at := rec.Change.CommitTime
			switch {
			case at.Before(r.in.Since) && !r.in.Since.IsZero():
				return true, nil
			case !r.in.Until.IsZero() && !at.Before(r.in.Until):
				return true, nil // others that were committed earlier may follow
			case r.so.Bytes-had > most:
				r.cut = min(r.cut, at.UnixMicro())
				return false, nil
			}
			return true, each(s.p, rec, sc)
		})
		if err != nil {
			return err
		}
		r.told(r.so)
	}
	return nil
}

// covered says how much of what was asked for there was, between two commits.
func (r *traffic) covered(first, last int64) error {
	if first == 0 {
		fix := "name an earlier beginning, or wait for changes"
		if r.expired {
			fix = "name a later beginning and end: kafka.retention is how long the log keeps changes"
		}
		within := "in the log"
		if !r.in.Since.IsZero() {
			within = "since " + stamp(r.in.Since)
		}
		if !r.in.Until.IsZero() {
			within += " until " + stamp(r.in.Until)
		}
		return fault.Permanent(CodeNoTraffic, nil, fix, "no change of pipeline %s %s is in the log", r.st.Name, within)
	}
	if r.expired {
		since := "its beginning"
		if !r.in.Since.IsZero() {
			since = stamp(r.in.Since)
		}
		r.notes = append(r.notes, fmt.Sprintf("the log has already deleted changes from %s on: what is looked at begins with %s", since, stamp(time.UnixMicro(first))))
	}
	if r.cut != math.MaxInt64 {
		r.notes = append(r.notes, fmt.Sprintf("more than %d bytes lie in the log: what is looked at ends with %s", r.in.MaxBytes, stamp(time.UnixMicro(last))))
	}
	return nil
}
