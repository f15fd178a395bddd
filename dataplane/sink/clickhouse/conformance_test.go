package clickhouse_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	ch "github.com/ClickHouse/clickhouse-go/v2"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/clickhouse"
	"syncline/dataplane/sink/sinktest"
	"syncline/testsuite/stack"
)

// server returns a DSN and a ledger of the test's own.
func server(t testing.TB) (dsn, ledger string) {
	t.Helper()
	u, err := url.Parse(stack.ClickHouseDatabase(t))
	if err != nil {
		t.Fatal(err)
	}
	return u.String(), u.Path[1:]
}

func open(t testing.TB, dsn, ledger, pipeline string) *clickhouse.Sink {
	t.Helper()
	s, err := clickhouse.Open(clickhouse.Config{DSN: dsn, Pipeline: pipeline, Options: clickhouse.Options{Ledger: ledger}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type probe struct{ dsn, ledger string }

func (p probe) Rows(t *testing.T, s *change.Schema, o sink.TableOptions) [][]*string {
	t.Helper()
	k := open(t, p.dsn, p.ledger, o.Schema) // the suite names the database like the pipeline
	defer func() { _ = k.Close() }()
	var out [][]*string
	err := k.ReadRows(t.Context(), s, o, func(row change.Row) error {
		r := make([]*string, len(row))
		for i, v := range row {
			if v.Kind == change.Text {
				text := string(v.Data)
				r[i] = &text
			}
		}
		out = append(out, r)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// texts runs a query of Strings.
func (p probe) texts(t *testing.T, q string, columns int) (out [][]*string) {
	t.Helper()
	o, err := ch.ParseDSN(p.dsn)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ch.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	rows, err := conn.Query(t.Context(), q)
	if err != nil {
		t.Fatalf("%s: %v", q, err)
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		r, into := make([]*string, columns), make([]any, columns)
		for i := range r {
			r[i] = new(string)
			into[i] = r[i]
		}
		if err := rows.Scan(into...); err != nil {
			t.Fatal(err)
		}
		out = append(out, r)
	}
	if err := rows.Err(); err != nil {
		t.Fatal(err)
	}
	return out
}

// name quotes a name by its bytes: the client library does not understand quotes.
func name(s string) string {
	var b strings.Builder
	for i := range len(s) {
		fmt.Fprintf(&b, "\\x%02X", s[i])
	}
	return b.String()
}

func (p probe) at(s *change.Schema, o sink.TableOptions) (db, table string, key []string) {
	db, table = o.Schema, o.Name
	if table == "" {
		table = s.Table.Name
	}
	for _, k := range s.Key {
		key = append(key, s.Columns[k].Name)
	}
	return db, table, key
}

func (p probe) Held(t *testing.T, s *change.Schema, o sink.TableOptions) ([][]*string, bool) {
	t.Helper()
	db, table, key := p.at(s, o)
	view := sink.HeldName(table, 200)
	if len(p.texts(t, fmt.Sprintf("SELECT name FROM system.tables WHERE database = '%s' AND name = '%s'", name(db), name(view)), 1)) == 0 {
		return nil, false
	}
	since, repair, state, reason := sink.HeldColumns(key)
	var pick []string
	for _, k := range append(slices.Clone(key), repair, state, reason) {
		pick = append(pick, "toString(`"+name(k)+"`)")
	}
	return p.texts(t, fmt.Sprintf("SELECT %s, if(`%[2]s` > now() - 3600 AND `%[2]s` <= now64(6), 'recent', toString(`%[2]s`)) FROM `%s`.`%s`", strings.Join(pick, ", "), since, name(db), name(view)), len(pick)+1), true
}

func (p probe) Free(t *testing.T, s *change.Schema, o sink.TableOptions, column string) (out []string) {
	t.Helper()
	db, table, key := p.at(s, o)
	for i := range key {
		key[i] = "`" + name(key[i]) + "`"
	}
	k := strings.Join(key, ", ")
	for _, r := range p.texts(t, fmt.Sprintf("SELECT `%s` FROM `%s`.`%s` WHERE (%s) NOT IN (SELECT %s FROM `%s`.`%s`)",
		name(column), name(db), name(table+"_live"), k, k, name(db), name(sink.HeldName(table, 200))), 1) {
		out = append(out, *r[0])
	}
	return out
}

func (p probe) Shown(t *testing.T, schema, view string, columns []string) [][]*string {
	t.Helper()
	const null = "the value is NULL"
	var pick []string
	for _, c := range columns {
		pick = append(pick, "ifNull(toString(`"+name(c)+"`), '"+null+"')")
	}
	out := p.texts(t, fmt.Sprintf("SELECT %s FROM `%s`.`%s`", strings.Join(pick, ", "), name(schema), name(view)), len(columns))
	for _, r := range out {
		for i := range r {
			if *r[i] == null {
				r[i] = nil
			}
		}
	}
	return out
}

func (p probe) Capabilities() sinktest.Capabilities { return sinktest.Capabilities{NoEnumLabels: true} }

// TestConformance runs the suite of all sinks over both protocols, side by side.
func TestConformance(t *testing.T) {
	for _, protocol := range []string{"http", "native"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			dsn, ledger := server(t)
			if protocol == "native" {
				dsn = stack.Native(t, dsn)
			}
			conformance(t, dsn, ledger)
		})
	}
}

func conformance(t *testing.T, dsn, ledger string) {
	sinktest.Run(t, func(t *testing.T, pipeline string) sink.Sink { return open(t, dsn, ledger, pipeline) }, probe{dsn, ledger})
}
