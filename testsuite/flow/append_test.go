package flow

import (
	"fmt"
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/source/postgres"
)

// An append-only table is loaded in chunks, each in a snapshot of its own, while
// rows are inserted into all of them: every row arrives once.
func TestAppendOnlyInChunks(t *testing.T) {
	f := newFlow(t)
	f.exec(`CREATE TABLE log (id int PRIMARY KEY, a text); INSERT INTO log SELECT i * 10, repeat('x', 100) FROM generate_series(1, 2000) i`)
	schema := f.prepare(4, postgres.PublishedTable{ID: change.TableID{Schema: "public", Name: "log"}, AppendOnly: true})[0]
	if len(schema.Key) > 0 {
		t.Fatal("an append-only table has a key")
	}
	cut, err := f.source.PlanChunks(f.ctx, schema, postgres.ChunkOptions{ChunkBytes: 60_000})
	f.ok(err)
	if len(cut) < 4 {
		t.Fatalf("%d chunks", len(cut))
	}
	for _, s := range f.sinks {
		f.ok(s.AddTable(f.ctx, sink.Table{ID: schema.Table, Schema: schema, Partitions: 4, Epoch: 1, Options: sink.TableOptions{AppendOnly: true}}))
		_, err := s.PlanChunks(f.ctx, schema.Table, cut)
		f.ok(err)
	}
	for i := range cut {
		f.exec(fmt.Sprintf(`INSERT INTO log SELECT j * 10 + %d, 'between' FROM generate_series(0, 2000, 50) j`, i+1))
		held, err := f.source.Export(f.ctx)
		f.ok(err)
		for _, s := range f.sinks {
			n := (i * 3) % len(cut) // not in order
			if len(cut)%3 == 0 {
				n = i
			}
			c, _, err := s.Chunk(f.ctx, schema.Table, n)
			f.ok(err)
			_, err = s.LoadChunk(f.ctx, schema.Table, n, sink.Loaded{Snapshot: held.Snapshot, LSN: held.LSN}, f.source.CopyChunk(held.Name, schema, c, "", nil), nil)
			f.ok(err)
		}
		f.ok(held.Close())
	}
	for _, s := range f.sinks {
		f.ok(s.FinishLoad(f.ctx, schema.Table))
	}
	f.run()
	f.exec(`INSERT INTO log SELECT j * 10 + 9, 'after' FROM generate_series(0, 2000, 50) j`)
	f.equal()
}
