package postgres_test

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/postgres"
	"syncline/dataplane/sink/sinktest"
	"syncline/testsuite/stack"
)

// probe reads rows as texts in the session that the texts of changes assume.
type probe struct{ dsn string }

func (p probe) Rows(t *testing.T, s *change.Schema, o sink.TableOptions) [][]*string {
	t.Helper()
	schema, table := s.Table.Schema, s.Table.Name
	if o.Schema != "" {
		schema = o.Schema
	}
	if o.Name != "" {
		table = o.Name
	}
	cols := make([]string, len(s.Columns))
	for i, c := range s.Columns {
		cols[i] = pgx.Identifier{c.Name}.Sanitize()
	}
	return query(t, p.dsn, "SELECT "+strings.Join(cols, ", ")+" FROM "+pgx.Identifier{schema, table}.Sanitize())
}

// query returns a result as the texts that Postgres prints.
func query(t testing.TB, dsn, sql string) [][]*string {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(context.Background())
	res, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	var out [][]*string
	for _, r := range res[len(res)-1].Rows {
		row := make([]*string, len(r))
		for i, v := range r {
			if v != nil {
				s := string(v)
				row[i] = &s
			}
		}
		out = append(out, row)
	}
	return out
}

func connect(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	c, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	c.RuntimeParams["TimeZone"] = "UTC"
	c.RuntimeParams["IntervalStyle"] = "postgres"
	conn, err := pgx.ConnectConfig(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func exec(t testing.TB, dsn string, sqls ...string) {
	t.Helper()
	conn := connect(t, dsn)
	defer conn.Close(context.Background())
	for _, sql := range sqls {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
}

func (p probe) Capabilities() sinktest.Capabilities {
	return sinktest.Capabilities{Atomic: true, Barrier: true}
}

func open(t testing.TB, dsn, pipeline string, o postgres.Options) *postgres.Sink {
	t.Helper()
	s, err := postgres.Open(postgres.Config{DSN: dsn, Pipeline: pipeline, Options: o})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	dsn := stack.Database(t, stack.SinkPostgres(t))
	// Before the others: two at once may not create an extension.
	exec(t, dsn, "CREATE EXTENSION citext", "CREATE EXTENSION hstore")
	sinktest.Run(t, func(t *testing.T, pipeline string) sink.Sink {
		return open(t, dsn, pipeline, postgres.Options{Connections: 2})
	}, probe{dsn})
}
