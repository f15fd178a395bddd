package e2e

import (
	"context"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/replay"
	"syncline/dataplane/verify"
	"syncline/testsuite/check"
)

// replayed runs a replay as a Temporal client of any kind does.
func (p *pipe) replayed(in contract.ReplayInput) (res contract.ReplayResult, err error) {
	p.r.t.Helper()
	in.Pipeline = p.name
	ctx, cancel := context.WithTimeout(p.r.t.Context(), bound)
	defer cancel()
	run, err := p.r.tc.ExecuteWorkflow(ctx, client.StartWorkflowOptions{TaskQueue: contract.Queue(p.r.queue, contract.Control)}, contract.ReplayWorkflow, in)
	if err != nil {
		p.r.t.Fatal(err)
	}
	return res, run.Get(ctx, &res)
}

// reached is what a sink has come to of a table.
func (p *pipe) reached(name string, id change.TableID) change.Position {
	p.r.t.Helper()
	for sinkName, k := range p.sinks() {
		if sinkName == name {
			marks, err := k.Watermarks(p.r.t.Context())
			if err != nil {
				p.r.t.Fatal(err)
			}
			pos, _ := replay.Cut(id, marks)
			_ = k.Close()
			return pos
		}
		_ = k.Close()
	}
	p.r.t.Fatalf("no sink %s", name)
	return change.Position{}
}

// copied returns the texts of a replayed table's rows; with want, they are compared
// with the source's.
func (p *pipe) copied(name string, id change.TableID, to string, want bool) (rows []string) {
	p.r.t.Helper()
	for sinkName, k := range p.sinks() {
		for _, t := range p.tables(k) {
			if sinkName != name || t.ID() != id {
				continue
			}
			t.Options.Name = to
			if want {
				rep, err := check.Compare(p.r.t.Context(), &check.Postgres{DSN: p.r.source, Source: true}, []check.Table{t}, p.side(name))
				if err != nil {
					p.r.t.Fatal(err)
				}
				for _, d := range rep.Differences {
					p.r.t.Errorf("%s (want %s, have %s)", d, d.Want, d.Have)
				}
			}
			err := p.side(name).Rows(p.r.t.Context(), &t, func(vs []check.Value) error {
				var b strings.Builder
				for _, v := range vs {
					b.WriteString(v.Text + "|")
				}
				rows = append(rows, b.String())
				return nil
			})
			if err != nil {
				p.r.t.Fatal(err)
			}
		}
		_ = k.Close()
	}
	return rows
}

// TestReplay: a table that was empty when it was loaded comes out of the log equal to
// the live one at both sinks, and a part of the log brings what happened in it.
func TestReplay(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE SCHEMA again", "CREATE TABLE again.things (id int PRIMARY KEY, a text, n numeric(12,2))")
	r.start()
	p := r.pipe("  include: [again.*]\n" + fastStream)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	id := change.TableID{Schema: "again", Name: "things"}
	r.exec("INSERT INTO again.things SELECT i, 'gone', i FROM generate_series(1, 100) i",
		"TRUNCATE again.things",
		"INSERT INTO again.things SELECT i, "+longText("i")+", i / 3.0 FROM generate_series(1, 200) i",
		"UPDATE again.things SET n = n + 1 WHERE id % 3 = 0",
		"DELETE FROM again.things WHERE id % 7 = 0",
		"ALTER TABLE again.things ADD c int NOT NULL DEFAULT 5",
		"UPDATE again.things SET c = id WHERE id % 5 = 0")
	p.equal(1)
	since := map[string]change.Position{}
	for _, s := range p.spec.Sinks {
		since[s.Name] = p.reached(s.Name, id)
		res, err := p.replayed(contract.ReplayInput{Table: id, Sink: s.Name, To: "things_again"})
		if err != nil || res.Dead != 0 || res.Changes < 300 {
			t.Fatalf("%s: %+v, %v", s.Name, res, err)
		}
		if c := res.Compared; c == nil || *c != (contract.Compared{Verdict: verify.Equal, Both: 172}) {
			t.Errorf("%s: %+v", s.Name, c)
		}
		if n := len(p.copied(s.Name, id, "things_again", true)); n != 172 {
			t.Errorf("%s: %d rows", s.Name, n)
		}
		if _, err := p.replayed(contract.ReplayInput{Table: id, Sink: s.Name, To: "things_again"}); err == nil || !strings.Contains(err.Error(), string(replay.CodeTableExists)) {
			t.Errorf("%s: into a table that is there: %v", s.Name, err)
		}
		if n := len(p.copied(s.Name, id, "things_again", true)); n != 172 {
			t.Errorf("%s: %d rows after a replay that was refused", s.Name, n)
		}
	}
	r.exec("INSERT INTO again.things SELECT i, 'then', i FROM generate_series(1000, 1019) i", "DELETE FROM again.things WHERE id BETWEEN 1000 AND 1004 OR id = 1")
	p.equal(1)
	until := map[string]change.Position{}
	for _, s := range p.spec.Sinks {
		until[s.Name] = p.reached(s.Name, id)
	}
	r.exec("UPDATE again.things SET a = 'after' WHERE id >= 1000")
	p.equal(1)
	for _, s := range p.spec.Sinks {
		res, err := p.replayed(contract.ReplayInput{Table: id, Sink: s.Name, To: "things_then", Since: since[s.Name].String(), Until: until[s.Name].String()})
		if err != nil || res.Dead != 0 || res.Compared != nil {
			t.Fatalf("%s: %+v, %v", s.Name, res, err)
		}
		rows := p.copied(s.Name, id, "things_then", false)
		if len(rows) != 15 || strings.Contains(strings.Join(rows, ""), "after") {
			t.Errorf("%s: %d rows: %s", s.Name, len(rows), rows)
		}
	}
	p.equal(1) // and the live tables know nothing of it
}

func longText(of string) string { return strings.ReplaceAll(long, "%s", of) }
