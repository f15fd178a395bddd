package flow

import (
	"fmt"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/sink"
	"syncline/dataplane/source/postgres"
	"syncline/testsuite/check"
	"syncline/tiers/aggregate"
)

// bySeverity lets rows wait that are not critical; a deletion, which says nothing of
// the row but its key, does not.
type bySeverity struct{}

func (bySeverity) Rules(change.TableID) string { return "critical rows stream, others wait" }

func (bySeverity) Aggregates(string, *change.Schema) (map[string]*aggregate.Plan, error) {
	return nil, nil
}

func (bySeverity) Classify(_ string, s *change.Schema) (func(*change.Change) (string, error), error) {
	n := s.Column("severity")
	if n < 0 {
		return nil, fmt.Errorf("table %s has no severity", s.Table)
	}
	return func(c *change.Change) (string, error) {
		if c.Op == change.Delete || c.New[n].Kind == change.Unchanged || string(c.New[n].Data) == "critical" {
			return "", nil
		}
		return "bulk", nil
	}, nil
}

// Critical rows are there while the others wait, and once these are due, all are: with
// large values that updates leave out, deletions, and rows that change from one to the other.
func TestBulkWaitsAndCriticalStreams(t *testing.T) {
	f := newFlow(t)
	f.tiers = bySeverity{}
	f.exec(`CREATE TABLE metrics (id int PRIMARY KEY, severity text NOT NULL, value int NOT NULL, body text);
		ALTER TABLE metrics ALTER body SET STORAGE EXTERNAL;
		CREATE TABLE log (id int PRIMARY KEY, severity text NOT NULL)`)
	metrics := change.TableID{Schema: "public", Name: "metrics"}
	logs := change.TableID{Schema: "public", Name: "log"}
	schemas := f.prepare(3, postgres.PublishedTable{ID: metrics}, postgres.PublishedTable{ID: logs, AppendOnly: true})
	for _, s := range f.sinks {
		for i, sc := range schemas {
			f.ok(s.AddTable(f.ctx, sink.Table{ID: sc.Table, Schema: sc, Partitions: 3, Epoch: 1, Options: sink.TableOptions{AppendOnly: i == 1}}))
		}
	}
	f.copyAll(schemas...)
	f.run()
	position := func() change.LSN {
		lsn, err := (&check.Postgres{DSN: f.dsn}).Position(f.ctx)
		f.ok(err)
		return lsn
	}
	// A partition lets nothing wait before it is past its load.
	f.exec(`INSERT INTO metrics SELECT i, 'critical', 0, '' FROM generate_series(-50, -1) i; INSERT INTO log SELECT i, 'critical' FROM generate_series(-50, -1) i`)
	f.equal()

	f.exec(`INSERT INTO metrics SELECT i, CASE WHEN i % 10 = 0 THEN 'critical' ELSE 'info' END, 0, repeat('x', 3000) || i FROM generate_series(1, 2000) i`)
	f.exec(`INSERT INTO log SELECT i, CASE WHEN i % 10 = 0 THEN 'critical' ELSE 'info' END FROM generate_series(1, 2000) i`)
	at := position()
	var seen string
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(seen)
		}
	})
	for name, s := range f.sinks {
		f.until(name+" streams ahead of what waits", func() bool {
			marks, err := s.Watermarks(f.ctx)
			f.ok(err)
			there, waits := 0, int64(0)
			for _, m := range marks {
				if m.Streamed().Pos.Commit >= at-1 {
					there, waits = there+1, waits+m.Ahead.Waits
				}
			}
			seen = fmt.Sprint(marks)
			return there == 6 && waits == 3600
		})
		for _, sc := range schemas {
			n := 0
			table := check.Table{Schema: sc, Options: sink.TableOptions{AppendOnly: sc.Table == logs}}
			f.ok(f.sides[name].Rows(f.ctx, &table, func([]check.Value) error { n++; return nil }))
			if n != 250 {
				t.Errorf("%s: %d rows of %s while most wait, want 250", name, n, sc.Table)
			}
		}
	}
	// Rows of either kind become the other, some without their large value in the log.
	for i := range 40 {
		f.exec(fmt.Sprintf(`UPDATE metrics SET value = value + 1 WHERE id %% 40 = %d`, i))
		f.exec(fmt.Sprintf(`UPDATE metrics SET severity = CASE severity WHEN 'critical' THEN 'info' ELSE 'critical' END, body = CASE WHEN id %% 2 = 0 THEN body ELSE 'y' END WHERE id %% 60 = %d AND id %% 7 = 0`, i))
		f.exec(fmt.Sprintf(`DELETE FROM metrics WHERE id %% 90 = %d`, i))
		f.exec(fmt.Sprintf(`INSERT INTO metrics VALUES (%d, 'info', 0, 'z'), (%d, 'critical', 0, 'z')`, 10_000+2*i, 10_001+2*i))
		if i%10 == 5 {
			f.due(position())
		}
	}
	f.due(position())
	f.equal()
	if n := f.swept.Load(); n < 7000 {
		t.Errorf("%d changes waited, want nearly all that are not critical, at both sinks", n)
	}
}

func (f *flow) due(at change.LSN) {
	f.t.Helper()
	for _, s := range f.sinks {
		tables, err := s.Tables(f.ctx)
		f.ok(err)
		for i := range tables {
			f.ok(s.SetDue(f.ctx, tables[i].ID, sink.AllTiers, change.Position{Epoch: 1, Commit: at}))
		}
	}
}

func (f *flow) until(what string, ok func() bool) {
	f.t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			f.t.Fatalf("not in time: %s", what)
		}
	}
}

var _ deliver.Tiers = bySeverity{}
