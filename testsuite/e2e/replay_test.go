package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/replay"
	"syncline/dataplane/transport/kafka"
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

// TestReplayByTime: between two times of the source's clock the log brings just what
// happened then, whatever a load brought before and came after; the index finds the places.
func TestReplayByTime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	r.exec("CREATE SCHEMA timed", "CREATE TABLE timed.things (id int PRIMARY KEY, a text)", "INSERT INTO timed.things SELECT i, 'loaded' FROM generate_series(1, 50) i")
	r.start()
	p := r.pipe("  include: [timed.*]\n" + fastStream)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	id := change.TableID{Schema: "timed", Name: "things"}
	r.exec("INSERT INTO timed.things SELECT i, 'before' FROM generate_series(100, 119) i", "UPDATE timed.things SET a = 'before' WHERE id <= 10")
	p.equal(1)
	index, err := kafka.OpenIndex(kafka.Options{Brokers: r.brokers, Prefix: p.spec.Kafka.TopicPrefix, Pipeline: p.name})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = index.Close() }()
	clock := func() time.Time {
		at, err := time.Parse(time.RFC3339Nano, r.one(r.source, `SELECT to_char(clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`))
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	// The index tells of a time once it has a record beyond what was before it.
	done := p.reached("pg", id)
	var since time.Time
	until(t, bound, "the index has come past what was before", func(ctx context.Context) error {
		since = clock()
		place, err := index.BeforeTime(ctx, since)
		if err == nil && (!place.Found || place.Pos.Before(done)) {
			err = fmt.Errorf("it is at %s, not %s: %s", place.Pos, done, place.Why)
		}
		return err
	})
	r.exec("INSERT INTO timed.things VALUES (200, 'then'), (201, 'then'), (202, 'gone')", "UPDATE timed.things SET a = 'then' WHERE id IN (5, 20, 100)", "DELETE FROM timed.things WHERE id IN (30, 202)")
	p.equal(1)
	end := clock()
	until(t, bound, "the index tells of the end", func(ctx context.Context) error {
		place, err := index.AfterTime(ctx, end)
		if err == nil && !place.Found {
			err = errors.New(place.Why)
		}
		return err
	})
	r.exec("UPDATE timed.things SET a = 'after' WHERE id IN (5, 6, 200)", "INSERT INTO timed.things VALUES (300, 'after')")
	p.equal(1)
	for _, s := range p.spec.Sinks {
		for to, x := range map[string]struct {
			until string
			want  []string
		}{
			"things_since": {"", []string{"100|then|", "200|after|", "201|then|", "20|then|", "300|after|", "5|after|", "6|after|"}},
			"things_then":  {end.Format(time.RFC3339Nano), []string{"100|then|", "200|then|", "201|then|", "20|then|", "5|then|"}},
		} {
			res, err := p.replayed(contract.ReplayInput{Table: id, Sink: s.Name, To: to, Since: since.Format(time.RFC3339Nano), Until: x.until})
			if err != nil || res.Dead != 0 || res.Since.Before(done) || res.Compared != nil {
				t.Fatalf("%s: %+v, %v", s.Name, res, err)
			}
			rows := p.copied(s.Name, id, to, false)
			slices.Sort(rows)
			if !slices.Equal(rows, x.want) {
				t.Errorf("%s: %s has %q, want %q", s.Name, to, rows, x.want)
			}
		}
	}
	// All of it, compared with the live table: what only the load brought is there alone.
	for _, s := range p.spec.Sinks {
		res, err := p.replayed(contract.ReplayInput{Table: id, Sink: s.Name, To: "things_all"})
		if err != nil || res.Compared == nil || *res.Compared != (contract.Compared{Verdict: verify.Equal, Both: 34, OnlyLive: 38, Loaded: 50}) {
			t.Errorf("%s: %+v, %v", s.Name, res.Compared, err)
		}
	}
	// Rows that somebody wrote at the sinks: of one that the log says was deleted it is
	// known that no load brought it.
	r.one(r.sinkDSN, "INSERT INTO timed.things VALUES (202, 'gone')")
	alive := func(deleted string) {
		r.click("ALTER TABLE " + r.clickDB + ".things UPDATE _deleted = " + deleted + " WHERE id = 202 SETTINGS mutations_sync = 1")
	}
	alive("0")
	for _, s := range p.spec.Sinks {
		res, err := p.replayed(contract.ReplayInput{Table: id, Sink: s.Name, To: "things_more"})
		if err != nil || res.Compared == nil || *res.Compared != (contract.Compared{Verdict: verify.Different, Both: 34, OnlyLive: 39, Deleted: 1, Loaded: 50}) {
			t.Errorf("%s: a row too many: %+v, %v", s.Name, res.Compared, err)
		}
	}
	r.one(r.sinkDSN, "DELETE FROM timed.things WHERE id = 202")
	alive("1")
	if _, err := p.replayed(contract.ReplayInput{Table: id, Sink: "pg", To: "things_early", Since: since.Add(-24 * time.Hour).Format(time.RFC3339)}); err == nil || !strings.Contains(err.Error(), string(replay.CodeExpired)) {
		t.Errorf("since a time before the log's beginning: %v", err)
	}
	p.equal(1)
}

func longText(of string) string { return strings.ReplaceAll(long, "%s", of) }
