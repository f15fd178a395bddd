package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
	"syncline/pipeline"
)

// hourLog has a record of 100 bytes each second from nine o'clock on, in two partitions, of
// which the first offsets are deleted.
type hourLog struct{ first int64 }

var nine = time.Date(2026, 1, 2, 9, 0, 0, 0, time.UTC)

func (l hourLog) Range(context.Context, sink.Partition) (first, end int64, err error) {
	return l.first, 3600, nil
}

func (hourLog) Schema(context.Context, change.Version) (*change.Schema, error) {
	return &change.Schema{}, nil
}

func (l hourLog) Open(_ context.Context, p sink.Partition, offset int64) (deliver.Reader, error) {
	if offset < l.first {
		return nil, fault.Permanent(deliver.CodeOffsetGone, nil, "", "at %d", offset)
	}
	return &hourReader{p, offset}, nil
}

type hourReader struct {
	p  sink.Partition
	at int64
}

func (r *hourReader) Read(ctx context.Context, most int) (out []deliver.Record, _ error) {
	for ; r.at < 3600 && len(out) < most; r.at++ {
		c := &change.Change{Table: r.p.Table, Op: change.Update, CommitTime: nine.Add(time.Duration(r.at) * time.Second), Pos: change.Position{Epoch: 1, Commit: change.LSN(100 + r.at)}}
		out = append(out, deliver.Record{Change: c, Offset: r.at, Next: r.at + 1, Bytes: 100})
	}
	if len(out) == 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return out, nil
}

func (r *hourReader) Lag() int64 { return 3600 - r.at }
func (*hourReader) Close() error { return nil }

// What is read of the log is what was asked for, as far as it is there, and what is
// missing is told.
func TestTrafficThatIsRead(t *testing.T) {
	id := change.TableID{Schema: "shop", Name: "orders"}
	at := func(minute int) time.Time { return nine.Add(time.Duration(minute) * time.Minute) }
	place := func(offset int64) kafka.Place {
		return kafka.Place{Found: true, Offsets: map[change.TableID][]int64{id: {offset, offset}}}
	}
	missing := kafka.Place{Why: "the index begins later"}
	for _, c := range []struct {
		in          contract.AdviseInput
		first       int64
		place       kafka.Place
		records     int64 // read
		from, until int   // minutes: what was handed on
		note        string
		code        fault.Code
	}{
		{records: 7200, until: 60},
		{in: contract.AdviseInput{Since: at(30)}, place: place(1700), records: 3800, from: 30, until: 60},
		{in: contract.AdviseInput{Since: at(30), Until: at(40)}, place: place(1700), records: 3800, from: 30, until: 40},
		{in: contract.AdviseInput{Since: at(-10)}, place: missing, records: 7200, until: 60},
		{in: contract.AdviseInput{Since: at(-10)}, place: missing, first: 600, records: 6000, from: 10, until: 60, note: "already deleted changes from 2026-01-02T08:50:00Z on: what is looked at begins with 2026-01-02T09:10:00Z"},
		{in: contract.AdviseInput{Since: at(5)}, place: place(200), first: 600, records: 6000, from: 10, until: 60, note: "already deleted"},
		{in: contract.AdviseInput{Since: at(5)}, place: kafka.Place{Found: true}, first: 600, records: 6000, from: 10, until: 60, note: "already deleted"},
		{in: contract.AdviseInput{Since: at(30)}, place: place(1700), first: 600, records: 3800, from: 30, until: 60},
		{first: 600, records: 6000, from: 10, until: 60, note: "from its beginning on"},
		{in: contract.AdviseInput{MaxBytes: 240_000}, records: 2402, until: 20, note: "ends with 2026-01-02T09:19:59Z"},
		{in: contract.AdviseInput{Since: at(70)}, place: place(3600), code: CodeNoTraffic},
		{in: contract.AdviseInput{Since: at(1), Until: at(5)}, place: missing, first: 600, records: 6000, code: CodeNoTraffic},
	} {
		st := &contract.PipelineStatus{Name: "shop", Spec: pipeline.Spec{Kafka: pipeline.Kafka{Partitions: 2}}, Tables: []contract.TableStatus{{Table: id}}}
		r := traffic{in: &c.in, st: st, index: fakeIndex{c.place}, log: hourLog{c.first}, told: func(contract.AdviseProgress) {}}
		var seen []int64
		err := r.plan(t.Context())
		if err == nil {
			err = r.read(t.Context(), func(_ sink.Partition, rec *deliver.Record, _ *change.Schema) error {
				seen = append(seen, rec.Change.CommitTime.UnixMicro())
				return nil
			})
		}
		if err != nil {
			t.Fatal(err)
		}
		seen = slices.DeleteFunc(seen, func(at int64) bool { return at >= r.cut })
		var first, last int64
		if len(seen) > 0 {
			first, last = slices.Min(seen), slices.Max(seen)
		}
		err = r.covered(first, last)
		what := fmt.Sprintf("%+v in a log from %d on", c.in, c.first)
		if fault.CodeOf(err) != c.code || r.so.Records != c.records || r.so.Bytes != 100*c.records {
			t.Errorf("%s: %v, %+v", what, err, r.so)
		}
		if c.code != "" {
			continue
		}
		if len(seen) != 2*60*(c.until-c.from) || first != at(c.from).UnixMicro() || last != at(c.until).Add(-time.Second).UnixMicro() {
			t.Errorf("%s: %d changes from %s to %s", what, len(seen), time.UnixMicro(first).UTC(), time.UnixMicro(last).UTC())
		}
		if notes := strings.Join(r.notes, "\n"); (notes == "") != (c.note == "") || !strings.Contains(notes, c.note) {
			t.Errorf("%s: %q", what, notes)
		}
	}
}
