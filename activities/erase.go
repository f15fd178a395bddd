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

	"github.com/goccy/go-yaml"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
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

// maxErased is how many rows one erasure names at most.
const maxErased = 1000

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

// subjects are the rows of an erasure, by table.
type subjects struct {
	salt string
	rows map[change.TableID][]map[string]string
}

// keysOf reads the keys of an erasure. What is wrong with them is said without them.
func (a *Activities) keysOf(ctx context.Context, in *contract.EraseTask) (out subjects, err error) {
	var text []byte
	if !in.Keys.IsZero() {
		s, err := a.Secrets.Resolve(ctx, in.Keys)
		if err != nil {
			return out, err
		}
		text = []byte(s.Reveal())
	} else {
		err := a.withSink(ctx, in.Pipeline, in.Spec.Sinks[0], func(sk sink.Sink) error {
			secret, err := sk.Erasure(ctx, in.Name)
			if err != nil {
				return err
			}
			if text, err = contract.OpenKeys(secret, in.Sealed); err != nil {
				return fault.Permanent(CodeEraseKeys, nil, "begin the erasure again", "the keys were not encrypted for this erasure")
			}
			return nil
		})
		if err != nil {
			return out, err
		}
	}
	const fix = `give {"salt": RANDOM TEXT, "rows": [{"table": "schema.name", "key": {"column": "value"}}]}`
	var keys contract.EraseKeys
	if err := yaml.UnmarshalWithOptions(text, &keys, yaml.Strict()); err != nil {
		return out, fault.Permanent(CodeEraseKeys, nil, fix, "the keys are not in the form of an erasure's")
	}
	switch {
	case len(keys.Salt) < 16:
		return out, fault.Permanent(CodeEraseKeys, nil, fix, "the salt is shorter than 16 characters")
	case len(keys.Rows) == 0 || len(keys.Rows) > maxErased:
		return out, fault.Permanent(CodeEraseKeys, nil, fix, "there are %d rows; an erasure takes 1 to %d", len(keys.Rows), maxErased)
	}
	out = subjects{salt: keys.Salt, rows: map[change.TableID][]map[string]string{}}
	for _, r := range keys.Rows {
		out.rows[r.Table] = append(out.rows[r.Table], r.Key)
	}
	return out, nil
}

// tables are those that have rows of the subject, in order.
func (s *subjects) tables() []change.TableID {
	var out []change.TableID
	for id := range s.rows {
		out = append(out, id)
	}
	slices.SortFunc(out, func(a, b change.TableID) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// of returns the keys of a table as its log and ledgers have them.
func (s *subjects) of(ctx context.Context, srv *source.Server, schema *change.Schema) ([]change.Key, error) {
	id := schema.Table
	if len(schema.Key) == 0 {
		return nil, fault.Permanent(sink.CodeEraseKey, nil, "delete the rows at the sinks by hand", "table %s has no primary key", id)
	}
	var names []string
	for _, i := range schema.Key {
		names = append(names, schema.Columns[i].Name)
	}
	var texts [][]string
	for n, row := range s.rows[id] {
		vs := make([]string, len(names))
		for i, name := range names {
			v, ok := row[name]
			if !ok || len(row) != len(names) {
				return nil, fault.Permanent(CodeEraseKeys, nil, "name a value for each of them, and nothing else", "row %d of table %s does not name the columns of its primary key (%s)", n+1, id, strings.Join(names, ", "))
			}
			vs[i] = v
		}
		texts = append(texts, vs)
	}
	keys, err := srv.CanonicalKeys(ctx, schema, texts)
	if err != nil {
		return nil, err
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

// PlanErase takes the source's position, and looks whether it has the rows still: then
// it is refused, since they would come back with their next change, a load or a repair.
func (a *Activities) PlanErase(ctx context.Context, in contract.EraseTask) (out contract.ErasePlan, err error) {
	err = beating(ctx, func(ctx context.Context) error {
		subj, err := a.keysOf(ctx, &in)
		if err != nil {
			return err
		}
		st, err := a.statusOf(ctx, in.Pipeline)
		if err != nil {
			return err
		}
		tasks, err := planAudit(&st, contract.AuditInput{Pipeline: in.Pipeline, Tables: subj.tables()})
		if err != nil {
			return err
		}
		srv, err := a.source(ctx, in.Pipeline, in.Spec.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
		at, err := srv.Position(ctx)
		if err != nil {
			return err
		}
		out = contract.ErasePlan{At: change.Position{Epoch: st.Epoch, Commit: at}, Tables: []contract.EraseTable{}}
		var there []string
		for _, id := range subj.tables() {
			t, err := a.tableAt(ctx, in.Pipeline, in.Spec.Sinks, id)
			if err != nil {
				return err
			}
			keys, err := subj.of(ctx, srv, t.Schema)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(tasks.Tasks, func(k contract.AuditTask) bool { return k.Table == id })
			rows, err := srv.Read(ctx, &verify.Subject{Schema: t.Schema, Where: tasks.Tasks[i].Where}, keys)
			if err != nil {
				return err
			}
			et := contract.EraseTable{Table: id, Keys: len(keys), AtSource: len(rows), Partitions: t.Partitions}
			for _, k := range keys {
				d, err := contract.KeyDigest(subj.salt, id, k)
				if err != nil {
					return err
				}
				et.Digests = append(et.Digests, d)
			}
			out.Tables = append(out.Tables, et)
			if len(rows) > 0 {
				there = append(there, fmt.Sprintf("%d of %s", len(rows), id))
			}
		}
		if len(there) > 0 && !in.Search {
			return fault.Permanent(CodeEraseAtSource, nil, "delete them at the source, or exclude them by the table's where; then erase", "the source still has rows that are to be erased (%s): they would come back", strings.Join(there, ", "))
		}
		return nil
	})
	return out, err
}

// tableAt returns a table as the first sink that has it knows it.
func (a *Activities) tableAt(ctx context.Context, name string, sinks []pipeline.Sink, id change.TableID) (out sink.Table, err error) {
	for _, s := range sinks {
		err = a.withSink(ctx, name, s, func(sk sink.Sink) (err error) {
			out, err = sk.Table(ctx, id)
			return err
		})
		if err == nil {
			return out, nil
		}
	}
	return out, err
}

// EraseAt erases at one sink: what waits or is under way takes effect first, so that it
// does not come after. A search changes nothing.
func (a *Activities) EraseAt(ctx context.Context, in contract.EraseSink) (out []contract.ErasePlace, err error) {
	var so atomic.Pointer[contract.EraseProgress]
	so.Store(&contract.EraseProgress{})
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		out = nil
		subj, err := a.keysOf(ctx, &in.EraseTask)
		if err != nil {
			return err
		}
		srv, err := a.source(ctx, in.Pipeline, in.Spec.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
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
				keys, err := subj.of(ctx, srv, tables[i].Schema)
				if err != nil {
					return err
				}
				ps, err := eraseTable(ctx, &in, sk, srv, tables[i], keys, func(doing, behind string) {
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
	return out, err
}

func eraseTable(ctx context.Context, in *contract.EraseSink, sk sink.Sink, srv *source.Server, t sink.Table, keys []change.Key, so func(doing, behind string)) ([]contract.ErasePlace, error) {
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
			if err := sk.SetDue(ctx, t.ID, upTo); err != nil {
				return nil, err
			}
			for behind := " "; behind != ""; {
				if behind, err = verify.Await(ctx, sk, t.ID, upTo.Commit, time.Second); err != nil {
					return nil, err
				}
				so("wait for the lanes", behind)
			}
		}
		so("erase", "")
		gone := func(ctx context.Context) error {
			rows, err := srv.Read(ctx, &verify.Subject{Schema: t.Schema, Where: in.Spec.Options(t.ID).Where}, keys)
			if err == nil && len(rows) > 0 {
				err = fault.Permanent(CodeEraseAtSource, nil, "delete them at the source, and erase again", "the source has %d of the rows of table %s again", len(rows), t.ID)
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
	var out []contract.ErasePlace
	for i := range after {
		p := contract.ErasePlace{Sink: in.Sink.Name, Table: t.ID, Place: after[i].Place, How: after[i].How, Before: before[i].Found, After: after[i].Found, Stays: after[i].Stays, Until: after[i].Until}
		if i == 0 {
			p.Newer = newer
		}
		out = append(out, p)
	}
	return out, nil
}

// SearchLog counts the records of the keys in the topics. They are not removed: a log is
// only ever cut at its beginning.
func (a *Activities) SearchLog(ctx context.Context, in contract.EraseTask) (out []contract.ErasePlace, err error) {
	var so atomic.Pointer[contract.EraseProgress]
	so.Store(&contract.EraseProgress{Doing: "search the log"})
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		out = nil
		subj, err := a.keysOf(ctx, &in)
		if err != nil {
			return err
		}
		srv, err := a.source(ctx, in.Pipeline, in.Spec.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
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
			t, err := a.tableAt(ctx, in.Pipeline, in.Spec.Sinks, et.Table)
			if err != nil {
				return err
			}
			keys, err := subj.of(ctx, srv, t.Schema)
			if err != nil {
				return err
			}
			found, err := log.Traces(ctx, t.Schema, et.Partitions, keys, func(n int64) {
				so.Store(&contract.EraseProgress{Table: et.Table, Doing: fmt.Sprintf("searched %d records", n)})
			})
			if err != nil {
				return err
			}
			for _, f := range found {
				p := contract.ErasePlace{Table: et.Table, Place: "topic " + f.Topic, How: fmt.Sprintf("each of %d records by its key", f.Records), Before: f.Found, After: f.Found}
				if f.Found > 0 {
					if keep := in.Spec.Kafka.Retention.Std(); keep > 0 {
						p.Until = time.Now().Add(keep).UTC().Truncate(time.Second)
						p.Stays = "kafka.retention, counted from now, and until the segment is closed (segment.ms or segment.bytes of the topic)"
					} else {
						p.Stays = "kafka.retention is without a limit: cut the topic with kafka-delete-records, or set a retention and apply"
					}
				}
				out = append(out, p)
			}
		}
		return nil
	})
	return out, err
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
