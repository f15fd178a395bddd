package postgres_test

import (
	"errors"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/postgres"
	"syncline/dataplane/sink/sinktest"
)

// A worker of the release before holds goes on, unless a key of its table is held, or a
// change waits for its tier.
func TestOlderWorkerAndHolds(t *testing.T) {
	l := newLab(t, postgres.Options{})
	s := people()
	tab := l.add(s, sink.TableOptions{}, 0)
	x := l.claim()
	conn, err := pgx.Connect(t.Context(), l.dsn)
	must(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	seq := int64(0)
	old := func() error {
		_, err := conn.Exec(t.Context(), "SELECT syncline.hold_lane($1, 0, $2, $3, true, $4, $5)", "lab", x.Token(), seq, []string{tab.ID.String()}, []int64{1})
		return err
	}
	must(t, old())
	seq++
	k := sinktest.Put(s, 1, "1", "a").Key
	must(t, l.k.PutRepair(t.Context(), "r", tab.ID, []sink.RepairKey{{Key: k, State: sink.Suspected}}))
	must(t, l.k.Hold(t.Context(), "r", tab.ID, []change.Key{k}, time.Minute))
	var pe *pgconn.PgError
	if err := old(); !errors.As(err, &pe) || pe.Code != "SYN01" {
		t.Errorf("while a key is held: %v", err)
	}
	must(t, l.k.LetGo(t.Context(), "r", tab.ID, nil, []change.Key{k}))
	now, err := l.k.Table(t.Context(), tab.ID)
	must(t, err)
	b := &sink.Batch{Tables: []sink.TableBatch{{Schema: s, Epoch: 1, Holds: now.Holds, Rows: []sink.Row{sinktest.Put(s, 2, "1", "b")}}}, Released: []sink.Release{{Table: tab.ID, Key: k, Repair: "r"}}}
	y := l.claim()
	_, err = y.Apply(t.Context(), b)
	must(t, err)
	x, seq = y, 1
	must(t, old())
	seq++
	// Nor does one go on where changes wait, which would apply again what was streamed.
	x = l.claim()
	b = sinktest.Batch(tab, 1)
	b.Marks[0].Ahead = sink.Ahead{Pos: sinktest.Pos(3), Offset: 3, Waits: 1, Rules: "r"}
	_, err = x.Apply(t.Context(), b)
	must(t, err)
	seq = 1
	if err := old(); !errors.As(err, &pe) || pe.Code != "SYN01" {
		t.Errorf("while changes wait: %v", err)
	}
	b.Marks[0] = sink.Watermark{Partition: b.Marks[0].Partition, Pos: sinktest.Pos(3), Offset: 3}
	_, err = x.Apply(t.Context(), b)
	must(t, err)
	seq = 2
	must(t, old())
	l.want("SELECT id::text, name FROM people", "1 b")
}
