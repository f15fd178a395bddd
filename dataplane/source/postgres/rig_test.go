package postgres

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/testsuite/stack"
)

// rig is a database of its own on the real source server.
type rig struct {
	t    *testing.T
	dsn  string
	s    *Server
	conn *pgx.Conn
	slot string
}

const testPublication = `Syncline "pub"`

func newRig(t *testing.T) *rig {
	t.Helper()
	dsn := stack.Database(t, stack.Postgres(t))
	s, err := NewServer(ServerOptions{DSN: dsn, Pipeline: stack.Name(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	r := &rig{t: t, dsn: dsn, s: s, slot: stack.Name(t)}
	r.conn, err = pgx.Connect(r.ctx(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.conn.Close(context.Background()) })
	return r
}

func (r *rig) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	r.t.Cleanup(cancel)
	return ctx
}

func (r *rig) exec(sql string, args ...any) {
	r.t.Helper()
	mode := []any{pgx.QueryExecModeSimpleProtocol}
	if _, err := r.conn.Exec(r.ctx(), sql, append(mode, args...)...); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) scan(dest any, sql string, args ...any) {
	r.t.Helper()
	if err := r.conn.QueryRow(r.ctx(), sql, args...).Scan(dest); err != nil {
		r.t.Fatalf("%s: %v", sql, err)
	}
}

func (r *rig) publish(tables ...PublishedTable) {
	r.t.Helper()
	if err := r.s.EnsurePublication(r.ctx(), testPublication, tables); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.s.CreateSlot(r.ctx(), r.slot); err != nil {
		r.t.Fatal(err)
	}
}

func table(name string) PublishedTable {
	return PublishedTable{ID: change.TableID{Schema: "public", Name: name}}
}

func (r *rig) stream(o StreamOptions) *Stream {
	r.t.Helper()
	o.Slot, o.Publication = r.slot, testPublication
	if o.Epoch == 0 {
		o.Epoch = 1
	}
	if o.SpillDir == "" {
		o.SpillDir = r.t.TempDir()
	}
	if o.HeartbeatInterval == 0 {
		o.HeartbeatInterval = -1
	}
	st, err := r.s.NewStream(o)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = st.Close() })
	if _, err := st.Start(r.ctx()); err != nil {
		r.t.Fatal(err)
	}
	return st
}

// got is a change that outlives its event.
type got struct {
	change.Change
	schema *change.Schema
}

// drain reads until everything that is committed now was returned.
func (r *rig) drain(st *Stream) (out []got, schemas []*change.Schema) {
	r.t.Helper()
	var end string
	r.scan(&end, "SELECT pg_current_wal_insert_lsn()::text")
	until, err := change.ParseLSN(end)
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.s.Heartbeat(r.ctx()); err != nil { // so that there is a commit beyond
		r.t.Fatal(err)
	}
	byVersion := map[change.Version]*change.Schema{}
	ctx := r.ctx()
	for {
		ev, err := st.Next(ctx)
		if err != nil {
			r.t.Fatal(err)
		}
		if ev.Schema != nil {
			schemas = append(schemas, ev.Schema)
			byVersion[ev.Schema.Version()] = ev.Schema
		}
		if ev.Change != nil {
			out = append(out, got{clone(ev), byVersion[ev.Change.Schema]})
		}
		if ev.Through >= until {
			return out, schemas
		}
	}
}

func clone(ev capture.Event) change.Change {
	c := *ev.Change
	cp := func(r change.Row) change.Row {
		if r == nil {
			return nil
		}
		out := make(change.Row, len(r))
		for i, v := range r {
			out[i] = change.Value{Kind: v.Kind, Data: append([]byte(nil), v.Data...)}
		}
		return out
	}
	c.New, c.Old, c.Moved = cp(c.New), cp(c.Old), cp(c.Moved)
	return c
}

// text is a short form: op, key, new and old image, the other half's key.
func text(c change.Change) string {
	row := func(r change.Row) string {
		var b []string
		for _, v := range r {
			switch {
			case v.Kind == change.Null:
				b = append(b, "∅")
			case v.Kind == change.Unchanged:
				b = append(b, "=")
			case len(v.Data) > 20:
				b = append(b, fmt.Sprintf("<%d>", len(v.Data)))
			default:
				b = append(b, string(v.Data))
			}
		}
		return strings.Join(b, ",")
	}
	s := string(c.Op) + c.Key.String()
	if c.New != nil {
		s += " " + row(c.New)
	}
	if c.Old != nil {
		s += " was " + row(c.Old)
	}
	if c.Moved != nil {
		s += " other " + row(c.Moved)
	}
	if c.Last {
		s += "."
	}
	return s
}

func texts(cs []got) []string {
	var out []string
	for _, c := range cs {
		out = append(out, text(c.Change))
	}
	return out
}

func expect(t *testing.T, cs []got, want ...string) {
	t.Helper()
	if g := strings.Join(texts(cs), "\n"); g != strings.Join(want, "\n") {
		t.Errorf("changes:\n%s\nwant:\n%s", g, strings.Join(want, "\n"))
	}
}
