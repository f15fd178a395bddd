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

func (p probe) heldView(s *change.Schema, o sink.TableOptions) (table, view pgx.Identifier, key string) {
	table = pgx.Identifier{s.Table.Schema, s.Table.Name}
	if o.Schema != "" {
		table[0] = o.Schema
	}
	if o.Name != "" {
		table[1] = o.Name
	}
	var names []string
	for _, k := range s.Key {
		names = append(names, pgx.Identifier{s.Columns[k].Name}.Sanitize())
	}
	return table, pgx.Identifier{table[0], sink.HeldName(table[1], 63)}, strings.Join(names, ", ")
}

func (p probe) Held(t *testing.T, s *change.Schema, o sink.TableOptions) ([][]*string, bool) {
	t.Helper()
	_, view, key := p.heldView(s, o)
	if *query(t, p.dsn, "SELECT to_regclass('"+strings.ReplaceAll(view.Sanitize(), "'", "''")+"') IS NOT NULL")[0][0] == "f" {
		return nil, false
	}
	var names []string
	for _, k := range s.Key {
		names = append(names, s.Columns[k].Name)
	}
	since, repair, state, reason := sink.HeldColumns(names)
	return query(t, p.dsn, "SELECT "+key+", "+repair+", "+state+", "+reason+", CASE WHEN "+since+" BETWEEN now() - interval '1 hour' AND now() THEN 'recent' ELSE "+since+"::text END FROM "+view.Sanitize()), true
}

// Free asks as a role that may read the table and the view, and nothing of the ledger.
func (p probe) Free(t *testing.T, s *change.Schema, o sink.TableOptions, column string) (out []string) {
	t.Helper()
	table, view, key := p.heldView(s, o)
	role := pgx.Identifier{"reader of " + table[0]}.Sanitize()
	rows := query(t, p.dsn, "BEGIN; CREATE ROLE "+role+"; GRANT USAGE ON SCHEMA "+table[:1].Sanitize()+" TO "+role+"; GRANT SELECT ON "+table.Sanitize()+", "+view.Sanitize()+" TO "+role+";"+
		" SET LOCAL ROLE "+role+"; SELECT "+pgx.Identifier{column}.Sanitize()+" FROM "+table.Sanitize()+" WHERE ("+key+") NOT IN (SELECT "+key+" FROM "+view.Sanitize()+")")
	for _, r := range rows {
		out = append(out, *r[0])
	}
	return out
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

func (p probe) Shown(t *testing.T, schema, view string, columns []string) [][]*string {
	t.Helper()
	var pick []string
	for _, c := range columns {
		pick = append(pick, pgx.Identifier{c}.Sanitize())
	}
	return query(t, p.dsn, "SELECT "+strings.Join(pick, ", ")+" FROM "+pgx.Identifier{schema, view}.Sanitize())
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
