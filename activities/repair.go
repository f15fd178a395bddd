package activities

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/repair"
	"syncline/dataplane/sink"
	"syncline/dataplane/trail"
	"syncline/dataplane/transport/kafka"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/tiers/shape"
)

// Conditions that a repair cannot begin in.
const (
	CodePlanChanged fault.Code = contract.RepairPlanChangedError
	CodePlanMissing fault.Code = "RepairPlanMissing"
)

// keptRepairs is how many repairs a ledger keeps the keys of.
const keptRepairs = 20

// repairOf opens a table at a sink for a repair.
func (a *Activities) repairOf(ctx context.Context, in contract.RepairTask, progress func(done, of int)) (*repair.Table, func(), error) {
	ko, err := a.kafkaOptions(ctx, &in.Spec)
	if err != nil {
		return nil, nil, err
	}
	srv, sk, err := a.ends(ctx, in.TableTask)
	if err != nil {
		return nil, nil, err
	}
	records, err := kafka.OpenLog(ctx, ko, kafka.LogOptions{})
	stop := func() {
		// Nothing of them is under way any more.
		if records != nil {
			_ = records.Close()
		}
		_ = sk.Close()
		srv.Close()
	}
	if err != nil {
		records = nil
		stop()
		return nil, nil, err
	}
	side, ok := sk.(verify.Sink)
	if !ok {
		stop()
		return nil, nil, fault.Permanent("SinkType", nil, "use postgres or clickhouse", "sink %s cannot be repaired", in.Sink.Name)
	}
	if err := sk.Init(ctx); err != nil { // it may be that of an older release
		stop()
		return nil, nil, err
	}
	of, err := a.shapes(ctx, &in.Spec, in.Sink.Name, shape.FromLog)
	all, err2 := a.shapes(ctx, &in.Spec, in.Sink.Name, shape.All)
	if err := errors.Join(err, err2); err != nil {
		stop()
		return nil, nil, err
	}
	return &repair.Table{Source: srv, Rows: side, Ledger: sk, Shape: all, Log: viewOf(records, of), Epoch: in.Epoch, Repair: in.Repair, ID: in.Table, Where: in.Where, Views: in.Sink.QuarantineViews, Progress: progress}, stop, nil
}

// ledgerOf opens only the ledger of a table's sink: keys can be let go although the
// source or the log is away.
func (a *Activities) ledgerOf(ctx context.Context, in contract.RepairTask, _ func(done, of int)) (*repair.Table, func(), error) {
	sk, err := a.sink(ctx, in.Pipeline, in.Sink)
	if err != nil {
		return nil, nil, err
	}
	return &repair.Table{Ledger: sk, Repair: in.Repair, ID: in.Table}, func() { _ = sk.Close() }, nil
}

// PlanRepair looks again at what audits found and records what is to be done. The
// rows of a plan are in the sinks' ledgers; here they are counted.
func (a *Activities) PlanRepair(ctx context.Context, in contract.RepairPlanTask) (out contract.RepairPlan, err error) {
	var so atomic.Pointer[contract.RepairProgress]
	so.Store(&contract.RepairProgress{})
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		st, plan, err := a.repairable(ctx, in.RepairInput)
		if err != nil {
			return err
		}
		out = contract.RepairPlan{Pipeline: in.Pipeline, Name: in.Name, Spec: st.Spec, Epoch: st.Epoch, Tables: []contract.RepairTable{}}
		for _, task := range plan.Tasks {
			i := slices.IndexFunc(plan.Sinks, func(s pipeline.Sink) bool { return s.Name == task.Sink })
			t, err := a.planTable(ctx, in.Audit, contract.RepairTask{Spec: st.Spec, Epoch: st.Epoch, Repair: in.Name, TableTask: contract.TableTask{
				Endpoint: contract.Endpoint{Pipeline: in.Pipeline, Source: st.Spec.Source, Sink: plan.Sinks[i]}, Table: task.Table, Where: task.Where,
			}}, func(done, of int) {
				so.Store(&contract.RepairProgress{Sink: task.Sink, Table: task.Table, Done: done, Of: of})
			})
			if err != nil {
				return err
			}
			if t == nil {
				continue
			}
			out.Tables = append(out.Tables, *t)
			if !slices.ContainsFunc(out.Sinks, func(s pipeline.Sink) bool { return s.Name == task.Sink }) {
				out.Sinks = append(out.Sinks, plan.Sinks[i])
			}
		}
		out.Hash = planHash(out.Tables)
		return nil
	})
	return out, err
}

// repairable are the tables that can be verified, and so repaired.
func (a *Activities) repairable(ctx context.Context, in contract.RepairInput) (st contract.PipelineStatus, plan contract.AuditPlan, err error) {
	if in.Pipeline == "" {
		return st, plan, fault.Permanent("RepairInput", nil, `give {"pipeline": NAME}`, "the repair names no pipeline")
	}
	if st, err = a.statusOf(ctx, in.Pipeline); err != nil {
		return st, plan, err
	}
	plan, err = planAudit(&st, contract.AuditInput{Pipeline: in.Pipeline, Tables: in.Tables, Sinks: in.Sinks})
	return st, plan, err
}

// planHash is that of the hashes of the tables.
func planHash(ts []contract.RepairTable) string {
	h := sha256.New()
	for i := range ts {
		if ts[i].Keys > 0 {
			fmt.Fprintf(h, "%s\x00%s\n", ts[i].Sink, ts[i].Hash)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// planTable plans the repair of a table at a sink; nil if nothing was found of it.
func (a *Activities) planTable(ctx context.Context, run string, task contract.RepairTask, progress func(done, of int)) (*contract.RepairTable, error) {
	t, stop, err := a.repairOf(ctx, task, progress)
	if err != nil {
		return nil, err
	}
	defer stop()
	led := t.Ledger.(sink.Sink)
	if run == "" {
		if run, err = led.LastFindings(ctx, task.Table); err != nil {
			return nil, err
		}
	}
	found, err := led.Findings(ctx, run, task.Table)
	if err != nil || len(found) == 0 {
		return nil, err
	}
	keys := make([]change.Key, len(found))
	for i := range found {
		keys[i] = found[i].Key
	}
	err = t.Plan(ctx, keys, func(ctx context.Context, ks []sink.RepairKey) error {
		return led.PutRepair(ctx, task.Repair, task.Table, ks)
	})
	var undecided *repair.Undecided
	if errors.As(err, &undecided) {
		return nil, fault.Transient("RepairUndecided", nil, "%s", undecided)
	}
	if err != nil {
		return nil, err
	}
	// What counts is what the ledger says: an attempt before this one may have recorded
	// keys that do not differ any more.
	out, _, err := countRepair(ctx, led, task.Repair, task.Sink.Name, task.Table)
	out.Where, out.Settled, out.More = task.Where, max(0, len(keys)-out.Keys), len(keys) >= maxFindings
	return &out, err
}

// countRepair counts the keys of a plan by what is wrong with them and what they will be
// made of. over says that every one has come to an end.
func countRepair(ctx context.Context, led repair.Ledger, name, sinkName string, id change.TableID) (out contract.RepairTable, over bool, err error) {
	out = contract.RepairTable{Sink: sinkName, Table: id, Columns: map[string]int{}, From: map[string]int{}}
	over = true
	var hash repair.Hash
	err = repair.Pages(ctx, led, name, id, nil, func(ks []sink.RepairKey) error {
		hash.Add(id, ks)
		out.Keys += len(ks)
		for i := range ks {
			over = over && (ks[i].State == sink.Released || ks[i].State == sink.Failed)
			switch ks[i].Kind {
			case verify.Missing:
				out.Missing++
			case verify.Extra:
				out.Extra++
			case verify.Twice:
				out.Twice++
			default:
				out.Changed++
			}
			for _, c := range ks[i].Columns {
				out.Columns[c]++
			}
			out.From[ks[i].From]++
		}
		return nil
	})
	if err != nil {
		return out, over, err
	}
	out.Hash = hash.Sum()
	info, err := led.Table(ctx, id)
	out.Rows = info.Rows
	return out, over, err
}

// LoadRepair reads a plan back from the ledgers and refuses it if it does not say what
// its hash says.
func (a *Activities) LoadRepair(ctx context.Context, in contract.RepairPlanTask) (out contract.RepairPlan, err error) {
	err = beating(ctx, func(ctx context.Context) error {
		st, plan, err := a.repairable(ctx, in.RepairInput)
		if err != nil {
			return err
		}
		out = contract.RepairPlan{Pipeline: in.Pipeline, Name: in.Name, Spec: st.Spec, Epoch: st.Epoch, Sinks: plan.Sinks, Tables: []contract.RepairTable{}}
		over := true // every key has come to an end
		for _, s := range plan.Sinks {
			sk, err := a.sink(ctx, in.Pipeline, s)
			if err != nil {
				return err
			}
			err = func() error {
				defer func() { _ = sk.Close() }()
				if err := sk.Init(ctx); err != nil {
					return err
				}
				for _, task := range plan.Tasks {
					if task.Sink != s.Name {
						continue
					}
					t, ended, err := countRepair(ctx, sk, in.Name, s.Name, task.Table)
					if err != nil {
						return err
					}
					if t.Keys == 0 {
						continue
					}
					over, t.Where = over && ended, task.Where
					out.Tables = append(out.Tables, t)
				}
				return nil
			}()
			if err != nil {
				return err
			}
		}
		// In the order of a plan, which is that of the tasks.
		slices.SortStableFunc(out.Tables, func(x, y contract.RepairTable) int {
			at := func(t contract.RepairTable) int {
				return slices.IndexFunc(plan.Tasks, func(k contract.AuditTask) bool { return k.Sink == t.Sink && k.Table == t.Table })
			}
			return at(x) - at(y)
		})
		out.Hash = planHash(out.Tables)
		switch {
		case len(out.Tables) > 0 && over:
			return fault.Permanent(CodePlanChanged, nil, "verify, and make a new plan if anything differs", "plan %s was carried out already", in.Name)
		case len(out.Tables) == 0:
			return fault.Permanent(CodePlanMissing, nil, "starter repair "+in.Pipeline+" --plan makes one", "no sink of pipeline %s has a plan %q", in.Pipeline, in.Name)
		case out.Hash != in.Hash:
			return fault.Permanent(CodePlanChanged, nil, "make a new plan, read it, and apply that", "plan %s does not say what its hash says any more", in.Name)
		}
		return nil
	})
	return out, err
}

// step runs one step of a repair over a table's keys, and records it.
func (a *Activities) step(ctx context.Context, in contract.RepairTask, state string, f func(context.Context, *repair.Table) (contract.RepairStep, error)) (out contract.RepairStep, err error) {
	var so atomic.Pointer[contract.RepairProgress]
	so.Store(&contract.RepairProgress{Sink: in.Sink.Name, Table: in.Table})
	open := a.repairOf
	if state == string(sink.Failed) {
		open = a.ledgerOf
	}
	err = long(ctx, func() any { return so.Load() }, func(ctx context.Context) error {
		t, stop, err := open(ctx, in, func(done, of int) {
			p := contract.RepairProgress{Sink: in.Sink.Name, Table: in.Table, Done: done, Of: of}
			if done < 0 {
				p = contract.RepairProgress{Sink: in.Sink.Name, Table: in.Table, Left: -done}
			}
			so.Store(&p)
		})
		if err != nil {
			return err
		}
		defer stop()
		if out, err = f(ctx, t); err != nil {
			return err
		}
		a.Analytics.Put(&analytics.Repairs{
			Time: time.Now().UTC(), Pipeline: in.Pipeline, Sink: in.Sink.Name, Tab: in.Table.String(), Run: in.Repair,
			State: state, Keys: uint64(out.Keys), RowsRead: uint64(out.Read), Reason: in.Reason,
		})
		return a.trace(ctx, t.Ledger, in, state, out)
	})
	return out, err
}

// trace adds a step to the audit trail: at the end each key, by digest, with what it
// was, what it is, and how it ended.
func (a *Activities) trace(ctx context.Context, led repair.Ledger, in contract.RepairTask, state string, so contract.RepairStep) error {
	now := time.Now().UTC()
	entry := func(id, action string, detail any) (trail.Entry, error) {
		text, err := json.Marshal(detail)
		return trail.Entry{ID: in.Repair + "/" + in.Table.String() + "/" + id, At: now, Repair: in.Repair, Actor: in.Who, Action: action, Table: in.Table.String(), Detail: text}, err
	}
	e, err := entry(state, state, map[string]any{"keys": so.Keys, "rows_read": so.Read, "released": so.Outcome.Released, "failed": so.Outcome.Failed, "reason": in.Reason})
	if err != nil {
		return err
	}
	if err := led.AppendTrail(ctx, []trail.Entry{e}); err != nil || state != string(sink.Released) && state != string(sink.Failed) {
		return err
	}
	return repair.Pages(ctx, led, in.Repair, in.Table, nil, func(ks []sink.RepairKey) error {
		out := make([]trail.Entry, 0, len(ks))
		for i := range ks {
			k := &ks[i]
			how := string(k.State)
			switch {
			case k.State == sink.Suspected: // nothing was done to it
				continue
			case k.State == sink.Releasing: // given up: its lane has yet to let it go
				how = string(sink.Failed)
			}
			e, err := entry("key/"+repair.Digest([]byte(k.Key)), how, map[string]any{
				"key": repair.Digest([]byte(k.Key)), "kind": k.Kind, "columns": k.Columns, "from": k.From,
				"before": repair.Digest(k.Before), "after": repair.Digest(k.After), "at": k.At.String(), "reason": k.Reason,
			})
			if err != nil {
				return err
			}
			out = append(out, e)
		}
		return led.AppendTrail(ctx, out)
	})
}

// QuarantineKeys takes the keys of a plan out of delivery.
func (a *Activities) QuarantineKeys(ctx context.Context, in contract.RepairTask) (contract.RepairStep, error) {
	return a.step(ctx, in, string(sink.Quarantined), func(ctx context.Context, t *repair.Table) (out contract.RepairStep, err error) {
		out.Keys, err = t.Quarantine(ctx)
		return out, err
	})
}

// ReplayKeys writes their rows.
func (a *Activities) ReplayKeys(ctx context.Context, in contract.RepairTask) (contract.RepairStep, error) {
	return a.step(ctx, in, string(sink.Replayed), func(ctx context.Context, t *repair.Table) (out contract.RepairStep, err error) {
		out.Keys, out.Read, err = t.Replay(ctx)
		return out, err
	})
}

// ReverifyKeys compares their rows with the source's.
func (a *Activities) ReverifyKeys(ctx context.Context, in contract.RepairTask) (contract.RepairStep, error) {
	return a.step(ctx, in, string(sink.Verified), func(ctx context.Context, t *repair.Table) (out contract.RepairStep, err error) {
		out.Keys, err = t.Reverify(ctx)
		return out, err
	})
}

// ReleaseKeys gives them back to their lanes, and verifies them once more.
func (a *Activities) ReleaseKeys(ctx context.Context, in contract.RepairTask) (contract.RepairStep, error) {
	return a.step(ctx, in, string(sink.Released), func(ctx context.Context, t *repair.Table) (out contract.RepairStep, err error) {
		out.Outcome, err = t.Release(ctx)
		out.Keys = out.Outcome.Released
		return out, err
	})
}

// AbandonKeys lets go whatever is still held. It does not wait for the lanes: a
// pipeline may be paused.
func (a *Activities) AbandonKeys(ctx context.Context, in contract.RepairTask) (contract.RepairStep, error) {
	return a.step(ctx, in, string(sink.Failed), func(ctx context.Context, t *repair.Table) (out contract.RepairStep, err error) {
		if err := t.Abandon(ctx, in.Reason); err != nil {
			return out, err
		}
		n, err := t.Ledger.CountRepair(ctx, in.Repair, in.Table)
		out.Keys = n[sink.Releasing] + n[sink.Failed]
		out.Outcome.Failed = out.Keys
		return out, err
	})
}

// NoteRepair adds an entry to the trail of each sink of a repair, and tells where those
// end.
func (a *Activities) NoteRepair(ctx context.Context, in contract.RepairNote) (out []contract.TrailSink, err error) {
	err = beating(ctx, func(ctx context.Context) error {
		text, err := json.Marshal(in.Detail)
		if err != nil {
			return err
		}
		for _, s := range in.Sinks {
			sk, err := a.sink(ctx, in.Pipeline, s)
			if err != nil {
				return err
			}
			if err = sk.Init(ctx); err == nil {
				err = sk.AppendTrail(ctx, []trail.Entry{{ID: in.Repair + "/" + in.Action, At: in.At, Repair: in.Repair, Actor: in.Who, Action: in.Action, Detail: text}})
			}
			if err == nil && in.Action == "ended" {
				err = sk.ForgetRepairs(ctx, keptRepairs)
			}
			if err == nil {
				end := contract.TrailSink{Sink: s.Name}
				err = sk.Trail(ctx, func(e trail.Entry) error {
					end.Entries, end.Hash = e.N, e.Hash
					return nil
				})
				out = append(out, end)
			}
			if err = errors.Join(err, sk.Close()); err != nil {
				return err
			}
		}
		return nil
	})
	return out, err
}

// CheckTrail reads the audit trail of every sink of a pipeline from its first entry on.
func (a *Activities) CheckTrail(ctx context.Context, in contract.TrailTask) (out contract.TrailVerdict, err error) {
	out = contract.TrailVerdict{Pipeline: in.Pipeline, Sinks: []contract.TrailSink{}}
	err = beating(ctx, func(ctx context.Context) error {
		st, err := a.statusOf(ctx, in.Pipeline)
		if err != nil {
			return err
		}
		for _, s := range st.Spec.Sinks {
			activity.RecordHeartbeat(ctx, s.Name)
			v, err := a.checkTrail(ctx, in, s)
			if err != nil {
				return err
			}
			out.Sinks = append(out.Sinks, v)
		}
		return nil
	})
	return out, err
}

func (a *Activities) checkTrail(ctx context.Context, in contract.TrailTask, s pipeline.Sink) (out contract.TrailSink, err error) {
	out.Sink = s.Name
	sk, err := a.sink(ctx, in.Pipeline, s)
	if err != nil {
		return out, err
	}
	defer func() { _ = sk.Close() }()
	if err := sk.Init(ctx); err != nil {
		return out, err
	}
	c := trail.Checker{Known: map[int64]string{}}
	for _, k := range in.Known {
		if k.Sink == s.Name && k.Entries > 0 {
			c.Known[k.Entries] = k.Hash
		}
	}
	err = sk.Trail(ctx, func(e trail.Entry) error { return c.Next(&e) })
	if err == nil {
		out.Entries, out.Hash, err = c.End()
	}
	var broken *trail.Broken
	if errors.As(err, &broken) {
		out.Broken, err = broken.Error(), nil
	}
	return out, err
}
