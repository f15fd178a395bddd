package activities

import (
	"context"
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// ledger is a sink of which only the ledger is asked for.
type ledger struct {
	sink.Sink
	tables []sink.Table
	marks  []sink.Watermark
}

func (l ledger) Tables(context.Context) ([]sink.Table, error)         { return l.tables, nil }
func (l ledger) Watermarks(context.Context) ([]sink.Watermark, error) { return l.marks, nil }

// Offsets and chunks of an earlier life are of another log and another snapshot:
// whatever attempt finds them forgets them, and keeps what an attempt before it made.
func TestWhatIsLeftBehindIsSeen(t *testing.T) {
	schema := func(cols ...string) *change.Schema {
		s := &change.Schema{Table: change.TableID{Schema: "shop", Name: "orders"}}
		for _, c := range cols {
			s.Columns = append(s.Columns, change.Column{Name: c})
		}
		return s
	}
	table := func(edit func(*sink.Table)) sink.Table {
		s := sink.Table{ID: change.TableID{Schema: "shop", Name: "orders"}, State: sink.Loading, Partitions: 4, Epoch: 1, Schema: schema("id")}
		if edit != nil {
			edit(&s)
		}
		return s
	}
	want := []sink.Table{table(nil)}
	for name, c := range map[string]struct {
		l    ledger
		left bool
	}{
		"nothing":                        {ledger{}, false},
		"made by an attempt before":      {ledger{tables: want}, false},
		"options as a ledger reads them": {ledger{tables: []sink.Table{table(func(t *sink.Table) { t.Options.OrderBy = []string{} })}}, false},
		"where its log begins":           {ledger{tables: want, marks: []sink.Watermark{{Offset: 7}}}, false},
		"something delivered":            {ledger{tables: want, marks: []sink.Watermark{{Offset: 7, Pos: change.Position{Epoch: 1, Commit: 8}}}}, true},
		"streaming":                      {ledger{tables: []sink.Table{table(func(t *sink.Table) { t.State = sink.Streaming })}}, true},
		"removed":                        {ledger{tables: []sink.Table{table(func(t *sink.Table) { t.State = sink.Removed })}}, true},
		"chunks":                         {ledger{tables: []sink.Table{table(func(t *sink.Table) { t.Chunks = 3 })}}, true},
		"other partitions":               {ledger{tables: []sink.Table{table(func(t *sink.Table) { t.Partitions = 8 })}}, true},
		"another definition":             {ledger{tables: []sink.Table{table(func(t *sink.Table) { t.Schema = schema("id", "v") })}}, true},
		"another place":                  {ledger{tables: []sink.Table{table(func(t *sink.Table) { t.Options.Name = "o" })}}, true},
		"another table":                  {ledger{tables: []sink.Table{table(func(t *sink.Table) { t.ID.Name = "x" })}}, true},
	} {
		if left, err := leftBehind(t.Context(), c.l, want); err != nil || left != c.left {
			t.Errorf("%s: %v, %v", name, left, err)
		}
	}
}
