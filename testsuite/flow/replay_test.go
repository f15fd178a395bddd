package flow

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/replay"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	"syncline/dataplane/transport/kafka"
	"syncline/testsuite/check"
)

// ledgers opens the sinks under another name, for a replay's own ledger.
func (f *flow) ledgers(name string) map[string]sink.Sink {
	f.t.Helper()
	pg, err := pgsink.Open(pgsink.Config{DSN: f.sinkDSN, Pipeline: name})
	f.ok(err)
	ch, err := clickhouse.Open(clickhouse.Config{DSN: f.clickDSN, Pipeline: name, Options: clickhouse.Options{Ledger: f.clickDB, Database: f.clickDB}})
	f.ok(err)
	out := map[string]sink.Sink{"postgres": pg, "clickhouse": ch}
	for _, s := range out {
		f.t.Cleanup(func() { _ = s.Close() })
	}
	return out
}

// cut is the place that a sink has come to.
func (f *flow) cut(s sink.Sink, id change.TableID) (change.Position, []int64) {
	f.t.Helper()
	marks, err := s.Watermarks(f.ctx)
	f.ok(err)
	return replay.Cut(id, marks)
}

// rebuild replays a part of the log into a table of its own.
func (f *flow) rebuild(live, own sink.Sink, id change.TableID, name string, since, until change.Position, end []int64) (replay.Rebuild, replay.Rebuilt, error) {
	f.t.Helper()
	t, err := live.Table(f.ctx, id)
	f.ok(err)
	t.Options.Name = name
	log, err := kafka.OpenLog(f.ctx, f.kafka, kafka.LogOptions{})
	f.ok(err)
	defer func() { _ = log.Close() }()
	b := replay.Rebuild{Table: t, Since: since, Until: until, End: end, Wait: 200 * time.Millisecond}
	ctx, cancel := context.WithTimeout(f.ctx, 60*time.Second)
	defer cancel()
	o := deliver.Options{Epoch: 1, PollTables: 50 * time.Millisecond, IdleMark: 50 * time.Millisecond}
	out, err := b.Run(ctx, log, own, f.source, o, deliver.Observer{})
	return b, out, err
}

// A table that was never loaded comes out of the log as the live one is, with all
// that happened to it; a part of the log brings what happened then.
func TestReplay(t *testing.T) {
	f := newFlow(t)
	id := change.TableID{Schema: "public", Name: "things"}
	f.exec(`CREATE TABLE things (id int PRIMARY KEY, a text, n numeric(12,2)); ALTER TABLE things ALTER a SET STORAGE EXTERNAL`)
	f.load(3, id)
	f.exec(`INSERT INTO things SELECT i, 'gone ' || i, i FROM generate_series(1, 200) i`)
	f.exec(`TRUNCATE things`)
	f.exec(`INSERT INTO things SELECT i, repeat('long ' || i, 2000), i / 3.0 FROM generate_series(1, 300) i`)
	f.exec(`UPDATE things SET n = n + 1 WHERE id % 3 = 0`) // a is not sent again
	f.exec(`DELETE FROM things WHERE id % 7 = 0`)
	f.exec(`UPDATE things SET id = id + 1000, a = 'moved' WHERE id % 11 = 0`)
	f.exec(`ALTER TABLE things ADD c int NOT NULL DEFAULT 5, ADD d text`)
	f.exec(`UPDATE things SET c = id, d = 'set' WHERE id % 5 = 0; INSERT INTO things VALUES (3000, 'new', 1, 2, 'x')`)
	f.equal()
	since := map[string]change.Position{}
	for name, own := range f.ledgers(f.name + "@replay-1") {
		live := f.sinks[name]
		until, end := f.cut(live, id)
		since[name] = until
		b, out, err := f.rebuild(live, own, id, "things_again", change.Position{}, until, end)
		if err != nil || out.Dead != 0 || out.Changes < 500 {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		tables, err := check.TablesOf(f.ctx, own)
		f.ok(err)
		r, err := check.Compare(f.ctx, &check.Postgres{DSN: f.dsn, Source: true}, tables, f.sides[name])
		f.ok(err)
		for _, d := range r.Differences {
			t.Errorf("%s: %v", name, d)
		}
		if r.Rows[id] == 0 || len(tables) != 1 || tables[0].Options.Name != "things_again" {
			t.Errorf("%s: compared %v of %+v", name, r.Rows, tables)
		}
		// Another attempt goes on from where the first came to.
		if _, again, err := f.rebuild(live, own, id, "things_again", change.Position{}, until, end); err != nil || again.Changes != 0 {
			t.Errorf("%s: again: %+v, %v", name, again, err)
		}
		f.ok(b.Forget(f.ctx, own, false))
		known, err := own.Tables(f.ctx)
		if err != nil || len(known) != 0 {
			t.Errorf("%s: the ledger still has %+v, %v", name, known, err)
		}
		// It has the rows of somebody now.
		if _, _, err := f.rebuild(live, own, id, "things_again", change.Position{}, until, end); !fault.Is(err, replay.CodeTableExists) {
			t.Errorf("%s: into a table that exists: %v", name, err)
		}
	}

	f.exec(`INSERT INTO things SELECT i, 'later', i, 1, 'y' FROM generate_series(5000, 5050) i`)
	f.exec(`DELETE FROM things WHERE id BETWEEN 5000 AND 5009 OR id = 3000`)
	f.exec(`UPDATE things SET d = 'z' WHERE id > 5040`)
	f.exec(`UPDATE things SET c = 6 WHERE id = 1`) // its long value is from before
	f.equal()
	until := map[string]change.Position{}
	ends := map[string][]int64{}
	for name, s := range f.sinks {
		until[name], ends[name] = f.cut(s, id)
	}
	f.exec(`UPDATE things SET d = 'after' WHERE id > 5000; DELETE FROM things WHERE id = 5020`)
	f.equal()
	for name, own := range f.ledgers(f.name + "@replay-2") {
		b, out, err := f.rebuild(f.sinks[name], own, id, "things_then", since[name], until[name], ends[name])
		if err != nil || out.Dead != 1 {
			t.Fatalf("%s: %+v, %v", name, out, err)
		}
		tables, err := check.TablesOf(f.ctx, own)
		f.ok(err)
		var rows []string
		f.ok(f.sides[name].Rows(f.ctx, &tables[0], func(vs []check.Value) error {
			rows = append(rows, fmt.Sprint(vs))
			return nil
		}))
		set := 0
		for _, r := range rows {
			if strings.Contains(r, "z") {
				set++
			}
		}
		slices.Sort(rows)
		if len(rows) != 41 || set != 10 || strings.Contains(fmt.Sprint(rows), "after") {
			t.Errorf("%s: %d rows, %d set: %s", name, len(rows), set, rows)
		}
		f.ok(b.Forget(f.ctx, own, true))
		// Dropped with its ledger: it may be made again.
		if _, _, err := f.rebuild(f.sinks[name], own, id, "things_then", since[name], until[name], ends[name]); err != nil {
			t.Errorf("%s: after it was dropped: %v", name, err)
		}
		f.ok(b.Forget(f.ctx, own, true))
	}
}
