package clickhouse_test

import (
	"net/url"
	"testing"

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
