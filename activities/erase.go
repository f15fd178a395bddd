package activities

import (
	"context"
	"crypto/ecdh"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/trail"
	"syncline/dataplane/transport/kafka"
	"syncline/dataplane/verify"
	"syncline/pipeline"
)

// Conditions that an erasure cannot begin in.
const (
	// CodeEraseKeys: the keys cannot be read, or name no rows of the pipeline.
	CodeEraseKeys fault.Code = contract.EraseKeysError
	// CodeEraseAtSource: the source still has one of the rows, so it would come back.
	CodeEraseAtSource fault.Code = "EraseAtSource"
	// CodeEraseReason: the erasure does not say why it is done.
	CodeEraseReason fault.Code = "EraseReason"
)

// OpenErase makes the key pair of an erasure. The secret part is in the first sink's
// ledger, where rows are, until the erasure is over.
func (a *Activities) OpenErase(ctx context.Context, in contract.EraseTask) (out contract.EraseOpened, err error) {
	err = beating(ctx, func(ctx context.Context) error {
		switch {
		case in.Pipeline == "":
			return fault.Permanent(CodeEraseReason, nil, `give {"pipeline": NAME, "reason": TEXT, "who": NAME}`, "the erasure names no pipeline")
		case strings.TrimSpace(in.Reason) == "" && !in.Search:
			return fault.Permanent(CodeEraseReason, nil, "give a reason, without personal data: a ticket's number, for example", "the erasure does not say why it is done")
		}
		st, err := a.statusOf(ctx, in.Pipeline)
		if err != nil {
			return err
		}
		out.Spec = st.Spec
		fresh, err := ecdh.X25519().GenerateKey(nil)
		if err != nil {
			return err
		}
		return a.withSink(ctx, in.Pipeline, st.Spec.Sinks[0], func(sk sink.Sink) error {
			if err := sk.Init(ctx); err != nil { // it may be that of an older release
				return err
			}
			secret, err := sk.SaveErasure(ctx, in.Name, fresh.Bytes())
			if err != nil {
				return err
			}
			kept, err := ecdh.X25519().NewPrivateKey(secret)
			if err != nil {
				return err
			}
			out.Public = kept.PublicKey().Bytes()
			return nil
		})
	})
	return out, err
}

// PlanErase takes the source's position, and looks whether it has the rows still: then
// it is refused, since they would come back with their next change, a load or a repair.
func (a *Activities) PlanErase(ctx context.Context, in contract.EraseTask) (out contract.ErasePlan, err error) {
	err = beating(ctx, func(ctx context.Context) error {
		return a.withSubject(ctx, &in, func(subj *subjects) error {
			st, err := a.statusOf(ctx, in.Pipeline)
			if err != nil {
				return err
			}
			// Also says which of the tables the pipeline does not have.
			if _, err := planAudit(&st, contract.AuditInput{Pipeline: in.Pipeline, Tables: subj.tables()}); err != nil {
				return err
			}
			at, err := subj.srv.Position(ctx)
			if err != nil {
				return err
			}
			out = contract.ErasePlan{At: change.Position{Epoch: st.Epoch, Commit: at}, Tables: []contract.EraseTable{}}
			var there []string
			for _, id := range subj.tables() {
				t, keys, err := a.anySink(ctx, subj, id)
				if err != nil {
					return err
				}
				rows, err := subj.atSource(ctx, t.Schema, keys)
				if err != nil {
					return err
				}
				et := contract.EraseTable{Table: id, Keys: len(keys), AtSource: int(rows), Partitions: t.Partitions, Aggregates: aggregatesOf(&in.Spec, t.Schema)}
				for _, k := range keys {
					d, err := contract.KeyDigest(subj.salt, id, k)
					if err != nil {
						return err
					}
					et.Digests = append(et.Digests, d)
				}
				out.Tables = append(out.Tables, et)
				if rows > 0 {
					there = append(there, fmt.Sprintf("%d of %s", rows, id))
				}
			}
			if len(there) > 0 && !in.Search {
				return fault.Permanent(CodeEraseAtSource, nil, "delete them at the source, or exclude them by the table's where; then erase", "the source still has rows that are to be erased (%s): they would come back", strings.Join(there, ", "))
			}
			return nil
		})
	})
	return out, err
}

// EraseAt erases at one sink: what waits or is under way takes effect first, so that it
// does not come after. A search changes nothing.
func (a *Activities) EraseAt(ctx context.Context, in contract.EraseSink) (out []contract.ErasePlace, err error) {
	var so atomic.Pointer[contract.EraseProgress]
	so.Store(&contract.EraseProgress{})
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		out = nil
		return a.withSubject(ctx, &in.EraseTask, func(subj *subjects) error {
			return a.withSink(ctx, in.Pipeline, in.Sink, func(sk sink.Sink) error {
				if err := sk.Init(ctx); err != nil {
					return err
				}
				tables, err := sk.Tables(ctx)
				if err != nil {
					return err
				}
				for _, id := range subj.tables() {
					i := slices.IndexFunc(tables, func(t sink.Table) bool { return t.ID == id })
					if i < 0 {
						continue // it was never there
					}
					t, keys, err := subj.of(ctx, tables[i])
					if err != nil {
						return err
					}
					ps, err := eraseTable(ctx, &in, sk, subj, t, keys, func(doing, behind string) {
						so.Store(&contract.EraseProgress{Table: id, Doing: doing, Behind: behind})
					})
					if err != nil {
						return err
					}
					out = append(out, ps...)
				}
				return nil
			})
		})
	})
	return out, err
}

func eraseTable(ctx context.Context, in *contract.EraseSink, sk sink.Sink, subj *subjects, t sink.Table, keys []change.Key, so func(doing, behind string)) ([]contract.ErasePlace, error) {
	upTo := in.Plan.At
	so("count", "")
	before, newer, err := sk.Traces(ctx, in.Name, t, keys, upTo)
	if err != nil {
		return nil, err
	}
	after := before
	if !in.Search {
		if t.State == sink.Loading || t.State == sink.Gated {
			return nil, fault.Permanent(sink.CodeNotStreaming, nil, "wait for its load, resync it or remove it, and erase again", "table %s is %s at %s: what is still to be delivered could bring the rows back", t.ID, t.State, in.Sink.Name)
		}
		if t.State == sink.Streaming {
			if err := sk.SetDue(ctx, t.ID, sink.AllTiers, upTo); err != nil {
				return nil, err
			}
			for behind := " "; behind != ""; {
				if behind, err = verify.Await(ctx, sk, t.ID, sink.AllTiers, upTo.Commit, time.Second); err != nil {
					return nil, err
				}
				so("wait for the lanes", behind)
			}
		}
		so("erase", "")
		gone := func(ctx context.Context) error {
			rows, err := subj.atSource(ctx, t.Schema, keys)
			if err == nil && rows > 0 {
				err = fault.Permanent(CodeEraseAtSource, nil, "delete them at the source, and erase again", "the source has %d of the rows of table %s again", rows, t.ID)
			}
			return err
		}
		if err := sk.EraseKeys(ctx, in.Name, t, keys, upTo, gone); err != nil {
			return nil, err
		}
		so("count again", "")
		if after, newer, err = sk.Traces(ctx, in.Name, t, keys, upTo); err != nil {
			return nil, err
		}
	}
	return erasePlaces(in.Sink.Name, t.ID, before, after, newer), nil
}

// erasePlaces are traces before and after. What waited may have made aggregates that were
// not there before.
func erasePlaces(at string, id change.TableID, before, after []sink.Trace, newer int64) (out []contract.ErasePlace) {
	for i, tr := range after {
		p := contract.ErasePlace{Sink: at, Table: id, Place: tr.Place, How: tr.How, After: tr.Found, Sums: tr.Sums, Stays: tr.Stays, Until: tr.Until}
		if n := slices.IndexFunc(before, func(b sink.Trace) bool { return b.Place == tr.Place }); n >= 0 {
			p.Before = before[n].Found
		}
		if i == 0 {
			p.Newer = newer
		}
		out = append(out, p)
	}
	return out
}

// SearchLog counts the records of the keys in the topics. They are not removed: a log is
// only ever cut at its beginning.
func (a *Activities) SearchLog(ctx context.Context, in contract.EraseTask) (out []contract.ErasePlace, err error) {
	var so atomic.Pointer[contract.EraseProgress]
	so.Store(&contract.EraseProgress{Doing: "search the log"})
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		out = nil
		return a.withSubject(ctx, &in, func(subj *subjects) error {
			ko, err := a.kafkaOptions(ctx, &in.Spec)
			if err != nil {
				return err
			}
			log, err := kafka.OpenLog(ctx, ko, kafka.LogOptions{})
			if err != nil {
				return err
			}
			defer log.Close()
			for _, et := range in.Plan.Tables {
				t, keys, err := a.anySink(ctx, subj, et.Table)
				if err != nil {
					return err
				}
				traces := log.Traces
				if t.Options.AppendOnly {
					traces = log.TracesOfRows
				}
				found, err := traces(ctx, t.Schema, et.Partitions, keys, func(n int64) {
					so.Store(&contract.EraseProgress{Table: et.Table, Doing: fmt.Sprintf("searched %d records", n)})
				})
				if err != nil {
					return err
				}
				for _, f := range found {
					out = append(out, inLog(&in.Spec, et.Table, f))
				}
			}
			return nil
		})
	})
	return out, err
}

func inLog(spec *pipeline.Spec, id change.TableID, f kafka.LogTrace) contract.ErasePlace {
	p := contract.ErasePlace{Table: id, Place: "topic " + f.Topic, How: fmt.Sprintf(f.How, f.Records), Before: f.Found, After: f.Found}
	if f.Found == 0 {
		return p
	}
	if keep := spec.Kafka.Retention.Std(); keep > 0 {
		p.Until = time.Now().Add(keep).UTC().Truncate(time.Second)
		p.Stays = "kafka.retention, counted from now, and until the segment is closed (segment.ms or segment.bytes of the topic)"
	} else {
		p.Stays = "kafka.retention is without a limit: cut the topic with kafka-delete-records, or set a retention and apply"
	}
	return p
}

// NoteErase adds the erasure to the audit trail of each sink, and to analytics.
func (a *Activities) NoteErase(ctx context.Context, in contract.EraseNote) error {
	return beating(ctx, func(ctx context.Context) error {
		for _, s := range in.Spec.Sinks {
			var entries []trail.Entry
			for _, t := range in.Plan.Tables {
				var places []contract.ErasePlace
				for _, p := range in.Result.Places {
					if p.Table == t.Table && (p.Sink == s.Name || p.Sink == "") {
						places = append(places, p)
					}
				}
				text, err := json.Marshal(map[string]any{"reason": in.Reason, "keys": t.Digests, "at": in.Plan.At, "places": places})
				if err != nil {
					return err
				}
				entries = append(entries, trail.Entry{ID: in.Name + "/" + t.Table.String() + "/erased", At: in.At, Repair: in.Name, Actor: in.Who, Action: "erased", Table: t.Table.String(), Detail: text})
			}
			if err := a.withSink(ctx, in.Pipeline, s, func(sk sink.Sink) error { return sk.AppendTrail(ctx, entries) }); err != nil {
				return err
			}
		}
		for _, t := range in.Plan.Tables {
			text, err := json.Marshal(map[string]any{"erasure": in.Name, "reason": in.Reason, "keys": t.Digests, "left": in.Result.Left, "until": in.Result.Until})
			if err != nil {
				return err
			}
			a.Analytics.Put(&analytics.AuditTrail{Time: in.At, Pipeline: in.Pipeline, Actor: in.Who, Action: "erased", Object: t.Table.String(), Detail: string(text), Workflow: contract.EraseWorkflow, Run: in.Name})
		}
		return nil
	})
}

// ForgetErase removes what the erasure kept in the ledgers: after it nobody can decrypt
// the keys that are in its history.
func (a *Activities) ForgetErase(ctx context.Context, in contract.EraseTask) error {
	return beating(ctx, func(ctx context.Context) error {
		for _, s := range in.Spec.Sinks {
			if err := a.withSink(ctx, in.Pipeline, s, func(sk sink.Sink) error {
				if err := sk.Init(ctx); err != nil {
					return err
				}
				return sk.ForgetErasure(ctx, in.Name)
			}); err != nil {
				return err
			}
		}
		return nil
	})
}
