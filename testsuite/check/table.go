package check

import (
	"context"
	"fmt"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Table is one to compare.
type Table struct {
	Schema  *change.Schema    // columns that are copied, and the key
	Options sink.TableOptions // where it is at a sink; zero: under its own name
	Where   string            // row filter at the source, in SQL; "" for none
}

// ID names the table at the source.
func (t *Table) ID() change.TableID { return t.Schema.Table }

// TablesOf returns the tables that a sink delivers, from its ledger.
func TablesOf(ctx context.Context, s sink.Sink) ([]Table, error) {
	ts, err := s.Tables(ctx)
	if err != nil {
		return nil, fmt.Errorf("read tables of the ledger: %w", err)
	}
	var out []Table
	for _, t := range ts {
		if t.State == sink.Removed {
			continue
		}
		if t.Schema == nil {
			return nil, fmt.Errorf("table %s: the ledger has no schema", t.ID)
		}
		out = append(out, Table{Schema: t.Schema, Options: t.Options})
	}
	return out, nil
}

// Value is a canonical text, or NULL.
type Value struct {
	Null bool
	Text string
}

// String returns the text quoted, or NULL.
func (v Value) String() string {
	if v.Null {
		return "NULL"
	}
	return fmt.Sprintf("%q", v.Text)
}

// Side is a place that holds tables.
type Side interface {
	// Name is used in reports.
	Name() string
	// Rows calls f for every live row of the table, with canonical values in the
	// order of the schema's columns. f must not keep the slice.
	Rows(ctx context.Context, t *Table, f func([]Value) error) error
	// Sum adds up a numeric column, exactly.
	Sum(ctx context.Context, t *Table, column string) (string, error)
}

// Kind of a difference.
type Kind string

// The kinds of differences.
const (
	Missing   Kind = "missing row"
	Extra     Kind = "extra row"
	Duplicate Kind = "row more than once"
	Changed   Kind = "different value"
	Stepped   Kind = "counter went back"
	Total     Kind = "different total"
)

// Difference is one that was found.
type Difference struct {
	Side   string
	Table  change.TableID
	Kind   Kind
	Key    []Value // of the row; all columns for a table without a key
	Column string  // for Changed, Stepped and Total
	Want   Value   // at the source, or before
	Have   Value
}

// String names table, key and column, without the values outside of the key.
func (d Difference) String() string {
	s := fmt.Sprintf("%s: %s: %s", d.Side, d.Table, d.Kind)
	if len(d.Key) > 0 {
		s += fmt.Sprintf(", key %v", d.Key)
	}
	if d.Column != "" {
		s += fmt.Sprintf(", column %q", d.Column)
	}
	return s
}
