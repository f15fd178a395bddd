package postgres_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/postgres"
	"syncline/dataplane/sink/sinktest"
	"syncline/testsuite/stack"
)

// TestBinaryLoad pipes COPY to COPY for all types whose binary forms agree.
func TestBinaryLoad(t *testing.T) {
	l := newLab(t, postgres.Options{})
	src := stack.Database(t, stack.Postgres(t))
	s, rows := sinktest.AllTypes("shop", func(ty *change.Type) string {
		switch {
		case ty.Kind == change.Composite, ty.Base == "_mood", ty.Base == "span":
			return "its binary form has OIDs of the source, or its definition may differ"
		}
		return ""
	})
	exec(t, src, "CREATE SCHEMA shop", "CREATE EXTENSION citext", "CREATE EXTENSION hstore",
		"CREATE TYPE shop.mood AS ENUM ('sad', 'so ''so''', 'Happy')", `CREATE DOMAIN shop."E-Mail" AS text`, "CREATE DOMAIN shop.price AS numeric(10,2)")
	var cols, vals []string
	for _, c := range s.Columns {
		cols = append(cols, pgx.Identifier{c.Name}.Sanitize()+" "+c.Type.Name)
	}
	for _, r := range rows {
		var f []string
		for _, v := range r {
			if v == sinktest.NULL {
				f = append(f, "NULL")
			} else {
				f = append(f, "E'"+strings.NewReplacer(`\`, `\\`, "'", `\'`).Replace(v)+"'")
			}
		}
		vals = append(vals, "("+strings.Join(f, ", ")+")")
	}
	exec(t, src, "CREATE TABLE all_types ("+strings.Join(cols, ", ")+")", "INSERT INTO all_types VALUES "+strings.Join(vals, ", "))
	exec(t, l.dsn, "CREATE EXTENSION citext", "CREATE EXTENSION hstore")
	l.add(s, sink.TableOptions{}, 1)
	asked := false
	from := copyOut(src, "SELECT * FROM all_types")
	_, err := l.k.LoadChunk(t.Context(), s.Table, 0, sinktest.Loaded(1), func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
		asked = binary
		return from(ctx, w, binary)
	}, nil)
	must(t, err)
	if !asked {
		t.Fatal("the load took the text format")
	}
	must(t, l.k.FinishLoad(t.Context(), s.Table))
	have, want := sinktest.Lines(query(t, l.dsn, "SELECT * FROM all_types")), sinktest.Lines(query(t, src, "SELECT * FROM all_types"))
	if strings.Join(have, "\n") != strings.Join(want, "\n") {
		t.Fatalf("have\n%s\nwant\n%s", strings.Join(have, "\n"), strings.Join(want, "\n"))
	}
}

func TestMismatchNamesAll(t *testing.T) {
	l := newLab(t, postgres.Options{})
	exec(t, l.dsn, `CREATE TABLE people (id bigint, name varchar(3) UNIQUE, must int NOT NULL, "gen" int GENERATED ALWAYS AS (1) STORED)`)
	s := sinktest.Schema("people", 1, sinktest.Col("id", sinktest.Int8), sinktest.Col("name", sinktest.TextT), sinktest.Col("gen", sinktest.Int4),
		sinktest.Col("gone", sinktest.TextT), sinktest.Col("must2", sinktest.Int4))
	err := l.k.AddTable(t.Context(), sink.Table{ID: s.Table, Partitions: 1, Schema: s})
	wantCode(t, err, sink.CodeTableMismatch)
	for _, part := range []string{`"gone" is missing`, `"must2" is missing`, `"gen" is generated`, `"must" is NOT NULL`, "no primary key or unique index on just (id)"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("error %v does not say: %s", err, part)
		}
	}
	exec(t, l.dsn, "DROP TABLE people", "CREATE TABLE people (id bigint UNIQUE, name varchar(3) UNIQUE)")
	s = sinktest.Schema("people", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("name", sinktest.TextT))
	c, err := l.k.Check(t.Context(), s, sink.TableOptions{})
	must(t, err)
	if c.Problem != "" || c.Columns[0].Lossy != "" || c.Columns[1].Lossy == "" || !strings.Contains(strings.Join(c.Notes, " "), `"people_name_key"`) {
		t.Fatalf("%+v", c)
	}
	// The types differ, so rows are loaded as text; what does not fit is not cut.
	tab := l.add(s, sink.TableOptions{}, 1)
	f, _ := sinktest.Copy(s, []string{"1", "abc"}, []string{"2", "secret"})
	_, err = l.k.LoadChunk(t.Context(), s.Table, 0, sinktest.Loaded(1), f, nil)
	wantCode(t, err, sink.CodeRowRejected)
	if strings.Contains(err.Error(), "secret") || !strings.Contains(err.Error(), "line 2") {
		t.Fatalf("error %v", err)
	}
	f, _ = sinktest.Copy(s, []string{"1", "abc"})
	_, err = l.k.LoadChunk(t.Context(), s.Table, 0, sinktest.Loaded(1), f, nil)
	must(t, err)
	must(t, l.k.FinishLoad(t.Context(), s.Table))
	a, err := l.claim().Apply(t.Context(), sinktest.Batch(tab, 1, sinktest.Put(s, 1, "2", "abcd"), sinktest.Put(s, 2, "3", "abc")))
	must(t, err)
	if len(a.Dead) != 2 || strings.Contains(a.Dead[0].Reason+a.Dead[1].Reason, "abc") {
		t.Fatalf("%+v", a.Dead)
	}
	l.want("SELECT * FROM people", "1 abc")
	l.want("SELECT reason FROM syncline.dead_letters ORDER BY id",
		"string too long (SQLSTATE 22001)", `duplicate in a unique index, constraint "people_name_key" (SQLSTATE 23505)`)
}

func TestInit(t *testing.T) {
	dsn := stack.Database(t, stack.SinkPostgres(t))
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			k := open(t, dsn, fmt.Sprint("p", i), postgres.Options{})
			defer k.Close()
			if err := k.Init(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	exec(t, dsn, "INSERT INTO syncline.migrations VALUES (99)")
	k := open(t, dsn, "p", postgres.Options{})
	defer k.Close()
	wantCode(t, k.Init(t.Context()), postgres.CodeLedgerNewer)
}

func TestNoSecretsInErrors(t *testing.T) {
	for _, dsn := range []string{"postgres://u:hunter2@127.0.0.1:1/db?connect_timeout=1", "postgres://u:hunter2@127.0.0.1:x/db", "host=127.0.0.1 password=hunter2 port=1 ssl"} {
		k, err := postgres.Open(postgres.Config{DSN: dsn, Pipeline: "p"})
		if err == nil {
			err = k.Init(t.Context())
			wantCode(t, err, sink.CodeUnreachable)
			if !fault.Retryable(err) {
				t.Error("a server may come back")
			}
			k.Close()
		}
		if err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error %v", err)
		}
	}
	if _, err := postgres.Open(postgres.Config{DSN: "postgres://h/d", Pipeline: "p", Options: postgres.Options{Connections: 1}}); !errors.Is(err, &fault.Error{Code: postgres.CodeConfig}) {
		t.Errorf("error %v", err)
	}
}

// TestResetEndsLoaders: a load that hangs does not hold up a reset.
func TestResetEndsLoaders(t *testing.T) {
	l := newLab(t, postgres.Options{})
	s := people()
	l.add(s, sink.TableOptions{}, 1)
	f, _ := sinktest.Copy(s, []string{"1", "stale"})
	sent, ended := make(chan struct{}), make(chan error)
	go func() {
		_, err := l.k.LoadChunk(t.Context(), s.Table, 0, sinktest.Loaded(1), func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
			if _, err := f(ctx, w, binary); err != nil {
				return 0, err
			}
			close(sent)
			<-ctx.Done()
			return 0, ctx.Err()
		}, nil)
		ended <- err
	}()
	<-sent
	began := time.Now()
	must(t, l.k.ResetTable(t.Context(), s.Table, 2))
	if d := time.Since(began); d > 20*time.Second {
		t.Fatalf("the reset took %s", d)
	}
	if err := <-ended; err == nil {
		t.Fatal("the load of the time before succeeded")
	}
	l.want("SELECT * FROM people")
}

// TestAddAgain: a table that was removed keeps its rows and takes a load over them.
func TestAddAgain(t *testing.T) {
	l := newLab(t, postgres.Options{})
	s := people()
	l.add(s, sink.TableOptions{}, 2)
	f, _ := sinktest.Copy(s, []string{"1", "a"}, []string{"2", "b"})
	_, err := l.k.LoadChunk(t.Context(), s.Table, 0, sinktest.Loaded(1), f, nil)
	must(t, err)
	must(t, l.k.RemoveTable(t.Context(), s.Table, false)) // before its key was built
	l.add(s, sink.TableOptions{Existing: sink.KeepRows}, 1)
	f, _ = sinktest.Copy(s, []string{"2", "B"}, []string{"3", "c"})
	_, err = l.k.LoadChunk(t.Context(), s.Table, 0, sinktest.Loaded(1), f, nil)
	must(t, err)
	must(t, l.k.FinishLoad(t.Context(), s.Table))
	l.want("SELECT * FROM people ORDER BY id", "1 a", "2 B", "3 c")
}
