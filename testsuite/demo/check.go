package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"syncline/dataplane/sink"
	chsink "syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	"syncline/pipeline"
	"syncline/starter/view"
	"syncline/testsuite/check"
)

// convergeBound is how long the sinks may take to come to the source's position.
// Running out of it is a failure, never a success.
const convergeBound = 2 * time.Minute

// errDifferent: a sink does not equal the source.
var errDifferent = errors.New("a sink differs from the source")

// check waits until both sinks have taken in all that the source has committed,
// by position, and compares every row and value.
func (d *demo) check(ctx context.Context, spec *pipeline.Spec) error {
	source := &check.Postgres{DSN: d.get("SYNCLINE_SOURCE_DSN"), Source: true}
	ledgers := map[string]check.Ledger{}
	var sides []check.Side
	var warehouse sink.Sink
	for _, s := range spec.Sinks {
		var sk sink.Sink
		var err error
		dsn, _ := d.lookup(s.DSN.Path())
		switch s.Type {
		case pipeline.SinkPostgres:
			sk, err = pgsink.Open(pgsink.Config{DSN: dsn, Pipeline: spec.Name})
			warehouse = sk
			sides = append(sides, &check.Postgres{DSN: dsn, Label: s.Name})
		case pipeline.SinkClickHouse:
			sk, err = chsink.Open(chsink.Config{DSN: dsn, Pipeline: spec.Name})
			sides = append(sides, &check.ClickHouse{URL: dsn, Label: s.Name})
		}
		if err != nil {
			return err
		}
		defer sk.Close()
		ledgers[s.Name] = sk
	}
	bounded, cancel := context.WithTimeout(ctx, convergeBound)
	defer cancel()
	at := time.Now()
	lsn, err := check.Converge(bounded, source, ledgers)
	if err != nil {
		return fmt.Errorf("the sinks did not come to the source's position within %s: inconclusive: %w", convergeBound, err)
	}
	fmt.Printf("    both sinks have taken in every commit before %s (%s)\n", lsn, time.Since(at).Round(time.Millisecond))
	tables, err := check.TablesOf(ctx, warehouse)
	if err != nil {
		return err
	}
	at = time.Now()
	report, err := check.Compare(ctx, source, tables, sides...)
	if err != nil {
		return fmt.Errorf("compare: %w", err)
	}
	var rows int64
	for _, n := range report.Rows {
		rows += n
	}
	for i, diff := range report.Differences {
		if i == 20 {
			fmt.Printf("    … and %d more\n", len(report.Differences)-i+report.More)
			break
		}
		fmt.Printf("    %s\n", diff)
	}
	if !report.Equal() {
		return errDifferent
	}
	fmt.Printf("    equal: %s rows in %d tables, each value compared in both sinks (%s)\n", view.Count(float64(rows)), len(tables), time.Since(at).Round(100*time.Millisecond))
	return nil
}
