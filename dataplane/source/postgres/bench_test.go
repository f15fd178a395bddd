package postgres

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/testsuite/stack"
)

// BenchmarkDrain reads a backlog of small transactions from a real slot.
func BenchmarkDrain(b *testing.B) {
	dsn := stack.Database(b, stack.Postgres(b))
	s, err := NewServer(ServerOptions{DSN: dsn, Pipeline: "bench"})
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		b.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	exec := func(sql string) {
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			b.Fatal(err)
		}
	}
	exec("CREATE TABLE t (id int PRIMARY KEY, a int, b text, c timestamptz DEFAULT now()); INSERT INTO t SELECT g, 0, 'filler of some length' FROM generate_series(1, 10000) g")
	slot := stack.Name(b)
	if err := s.EnsurePublication(ctx, testPublication, []PublishedTable{table("t")}); err != nil {
		b.Fatal(err)
	}
	if _, err := s.CreateSlot(ctx, slot); err != nil {
		b.Fatal(err)
	}
	const changes = 200_000
	exec("SET synchronous_commit = off")
	exec(`DO $$ BEGIN FOR i IN 0..19999 LOOP UPDATE t SET a = a + 1 WHERE id BETWEEN i % 999 * 10 + 1 AND i % 999 * 10 + 10; COMMIT; END LOOP; END $$`)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		st, err := s.NewStream(StreamOptions{Slot: slot, Publication: testPublication, Epoch: 1, SpillDir: b.TempDir(), HeartbeatInterval: -1, TakeOver: true})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := st.Start(ctx); err != nil {
			b.Fatal(err)
		}
		var last change.Position
		for n := 0; n < changes; {
			ev, err := st.Next(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if ev.Change != nil {
				n++
				if !last.Before(ev.Change.Pos) {
					b.Fatal("out of order")
				}
				last = ev.Change.Pos
			}
		}
		if err := st.Close(); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(changes)*float64(b.N)/b.Elapsed().Seconds(), "changes/s")
}
