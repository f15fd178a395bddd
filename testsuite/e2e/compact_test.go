package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/repair"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
	"syncline/dataplane/verify"
)

// compactable reports whether the broker cleans logs: of those that the stack can run,
// Apache Kafka does. The one in Go takes the settings and keeps every record.
func (r *rig) compactable() bool {
	r.t.Helper()
	c := &kgo.Client{Addr: kgo.TCP(r.brokers...), Timeout: 10 * time.Second}
	res, err := c.ApiVersions(r.t.Context(), &kgo.ApiVersionsRequest{})
	if err != nil {
		r.t.Fatal(err)
	}
	const describeQuorum = 55 // of a real cluster's controllers
	for _, k := range res.ApiKeys {
		if k.ApiKey == describeQuorum {
			return true
		}
	}
	return false
}

// cleaned lets Kafka remove records of a table's topic, and waits until gone says that
// those that are left are as few as they should be. Only a segment that is not written
// to is cleaned, so write has to bring a record to every partition.
func (p *pipe) cleaned(id change.TableID, policy, retention string, write func(), gone func([]*change.Change) bool) {
	t := p.r.t
	t.Helper()
	c := &kgo.Client{Addr: kgo.TCP(p.r.brokers...), Timeout: 10 * time.Second}
	o := p.kafka()
	topic, err := kafka.TopicName(o.Prefix, o.Pipeline, id)
	if err != nil {
		t.Fatal(err)
	}
	var set []kgo.IncrementalAlterConfigsRequestConfig
	for name, value := range map[string]string{
		"cleanup.policy": policy, "retention.ms": retention, "segment.ms": "100", "min.cleanable.dirty.ratio": "0", "delete.retention.ms": "0",
		"max.compaction.lag.ms": "100", "file.delete.delay.ms": "0",
	} {
		set = append(set, kgo.IncrementalAlterConfigsRequestConfig{Name: name, Value: value, ConfigOperation: kgo.ConfigOperationSet})
	}
	res, err := c.IncrementalAlterConfigs(t.Context(), &kgo.IncrementalAlterConfigsRequest{Resources: []kgo.IncrementalAlterConfigsRequestResource{
		{ResourceType: kgo.ResourceTypeTopic, ResourceName: topic, Configs: set},
	}})
	if err == nil && len(res.Resources) == 1 {
		err = res.Resources[0].Error
	}
	if err != nil {
		t.Fatalf("settings of the topic: %v", err)
	}
	begun := time.Now()
	until(t, bound, "Kafka removes records", func(ctx context.Context) error {
		write()
		p.converged()
		if left := p.logged(ctx, id); !gone(left) {
			return fmt.Errorf("%d records are left", len(left))
		}
		return nil
	})
	t.Logf("after %s: Kafka has removed records (%s)", time.Since(begun).Round(100*time.Millisecond), policy)
}

// logged reads all that the log has of a table.
func (p *pipe) logged(ctx context.Context, id change.TableID) (out []*change.Change) {
	t := p.r.t
	t.Helper()
	log, err := kafka.OpenLog(ctx, p.kafka(), kafka.LogOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = log.Close() }()
	ks := p.sinks()
	defer func() {
		for _, k := range ks {
			_ = k.Close()
		}
	}()
	info, err := ks["pg"].Table(ctx, id)
	if err != nil {
		t.Fatal(err)
	}
	for n := range info.Partitions {
		part := sink.Partition{Table: id, N: n}
		first, end, err := log.Range(ctx, part)
		if err != nil {
			t.Fatal(err)
		}
		if first == end {
			continue
		}
		r, err := log.Open(ctx, part, first)
		if err != nil {
			t.Fatal(err)
		}
		for next := first; next < end; {
			rctx, cancel := context.WithTimeout(ctx, 2*time.Second)
			var recs []deliver.Record
			recs, err = r.Read(rctx, 1000)
			cancel()
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			for i := range recs {
				c := *recs[i].Change
				c.New, c.Old = nil, nil // they share a buffer with what is read next
				out, next = append(out, &c), recs[i].Next
			}
		}
		_ = r.Close()
	}
	return out
}

// compacted makes rows diverge of which the log has lost all changes but the last, and
// then those, too: what is at the sink is found and repaired all the same, from the log as
// long as it tells, and the plan says which.
func (p *pipe) compacted(id change.TableID, rows int) {
	r, t := p.r, p.r.t
	t.Helper()
	if !r.compactable() {
		t.Log("Kafka cannot compact a log here: the drills with a compacted log are left out (--kafka apache runs them)")
		return
	}
	// What the drills need: rows that are written to again and again, of which one is then
	// deleted, and one that only the load has brought.
	const stale, deleted, missing = 80, 91, 100
	loaded := rows
	key := func(n int) change.Key {
		k, err := change.MakeKey(&change.Schema{Table: id, Columns: []change.Column{{Name: "id"}}, Key: []int{0}}, change.Row{change.TextValue(fmt.Sprint(n))})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	for range 3 {
		r.exec(fmt.Sprintf("UPDATE drill SET n = n + 1 WHERE id IN (%d, %d, %d)", stale, deleted, missing))
	}
	r.exec(fmt.Sprintf("DELETE FROM drill WHERE id = %d", deleted))
	p.converged()
	of := func(left []*change.Change, n int) (ops []change.Op) {
		for _, c := range left {
			if c.Key == key(n) {
				ops = append(ops, c.Op)
			}
		}
		return ops
	}
	if ops := of(p.logged(t.Context(), id), deleted); len(ops) < 4 {
		t.Fatalf("the log has %v of a key before it is compacted", ops)
	}
	write := func() { r.exec("UPDATE drill SET n = n + 1 WHERE id BETWEEN 200 AND 300") }
	plant := func() {
		r.one(r.sinkDSN, fmt.Sprintf("INSERT INTO drill VALUES (%d, 'row %[1]d', NULL, 92)", deleted))
		r.one(r.sinkDSN, fmt.Sprintf("UPDATE drill SET n = n - 1 WHERE id = %d", stale))
		r.one(r.sinkDSN, fmt.Sprintf("DELETE FROM drill WHERE id IN (%d, %d)", missing, loaded))
		for _, q := range []string{
			fmt.Sprintf("DELETE FROM drill WHERE id IN (%d, %d, %d, %d)", stale, deleted, missing, loaded),
			fmt.Sprintf("INSERT INTO drill (id, a, b, n, _version, _deleted) VALUES (%d, 'row %[1]d', NULL, 92, 7, 0), (%d, 'row %[2]d', '', 82, 7, 0)", deleted, stale),
		} {
			r.click(strings.ReplaceAll(q, "drill", r.clickDB+".drill"))
		}
	}
	mend := func(name string, from map[string]int) {
		t.Helper()
		plant()
		res := p.verdicts(p.startAudit(contract.AuditInput{}), 1)
		for _, v := range res.Tables {
			if v.Verdict != verify.Different || v.Missing != 2 || v.Extra != 1 || v.Changed != 1 || v.Twice != 0 {
				t.Errorf("%s at %s: %+v", name, v.Sink, v)
			}
		}
		plan := p.repaired(p.startRepair("repair/"+p.name+"/"+strings.ReplaceAll(name, " ", "-"), contract.RepairInput{Audit: res.Run}))
		for i := range plan.Tables {
			if got := plan.Tables[i].From; got[repair.FromLog] != from[repair.FromLog] || got[repair.FromSource] != from[repair.FromSource] {
				t.Errorf("%s at %s: rows are made from %v, want %v", name, plan.Tables[i].Sink, got, from)
			}
		}
		out := p.repaired(p.startRepair("repair/"+p.name, contract.RepairInput{Plan: plan.Name, Hash: plan.Hash, Why: name}))
		if out.Failed() > 0 {
			t.Errorf("%s: %+v", name, out)
		}
		if after := p.verdicts(p.startAudit(contract.AuditInput{}), 1); after.Convergence != 1 {
			t.Fatalf("after the repair of %s: %+v", name, after)
		}
	}
	p.cleaned(id, "compact", "-1", write, func(left []*change.Change) bool {
		return len(of(left, stale)) == 1 && len(of(left, deleted)) == 1 && len(of(left, missing)) == 1
	})
	mend("a compacted log", map[string]int{repair.FromLog: 3, repair.FromSource: 1})
	p.cleaned(id, "compact,delete", "4000", write, func(left []*change.Change) bool {
		return len(of(left, stale))+len(of(left, deleted))+len(of(left, missing)) == 0
	})
	mend("a log that has lost the keys", map[string]int{repair.FromSource: 4})
}
