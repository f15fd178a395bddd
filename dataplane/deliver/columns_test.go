package deliver

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// wider gives a table of the stand a definition with more columns.
func (st *stand) wider(id change.TableID, columns ...change.Column) {
	s := schemaOf(id, true, "id", "a")
	s.Columns = append(s.Columns, columns...)
	st.s[id], st.log.schemas[s.Version()] = s, s
}

// A table with a column of which the definition does not say what older rows have
// in it waits for the source's answer; the lane's other tables do not.
func TestNewColumnWaitsForTheSource(t *testing.T) {
	five := "5"
	for name, last := range map[string]error{
		"carried":     nil,
		"not carried": fault.Permanent(sink.CodeSchemaGate, nil, "resync the table", "column %q", "c"),
	} {
		t.Run(name, func(t *testing.T) {
			st := newStand(tableA, tableC)
			chunks := []sink.Chunk{{N: 0, Done: true, LSN: 50, Snapshot: change.Snapshot{XMin: 3, XMax: 3}}}
			st.sink.tables[tableA].chunks = chunks
			release := make(chan struct{})
			var asked atomic.Int32
			st.src.carried = func(ctx context.Context, columns []string, cs []sink.Chunk) error {
				if asked.Add(1) == 1 {
					return fault.Transient("SourceUnreachable", nil, "once")
				}
				if !slices.Equal(columns, []string{"c"}) || len(cs) != 1 || cs[0].LSN != 50 {
					t.Errorf("asked about %v, loaded by %+v", columns, cs)
				}
				select {
				case <-release:
				case <-ctx.Done():
				}
				return last
			}
			st.row(tableA, 100, 1, 1, "before")
			st.wider(tableA, change.Column{Name: "c", Type: schemaOf(tableA, true, "c").Columns[0].Type}, change.Column{Name: "d", Missing: &five})
			st.row(tableA, 110, 1, 1, "after")
			stop := st.start(t, quick(0, 1), Observer{})
			until(t, "the second question", func() bool { return asked.Load() == 2 })
			for i := range change.LSN(20) {
				st.row(tableC, 200+i, 1, 1, "x")
				until(t, "the other table", func() bool { return st.at(tableC) == 200+i })
			}
			if st.at(tableA) != 100 {
				t.Errorf("at %s while the source is asked", st.at(tableA))
			}
			close(release)
			if last == nil {
				until(t, "the change behind the question", func() bool { return st.at(tableA) == 110 })
			} else {
				until(t, "gate", func() bool { return st.state(tableA) == sink.Gated })
			}
			if err := stop(); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if n := asked.Load(); n != 2 {
				t.Errorf("asked %d times", n)
			}
			if r := st.sink.tables[tableA].info.Reason; last != nil && (!strings.Contains(r, "SchemaGate") || st.at(tableA) != 100) {
				t.Errorf("at %s, reason %q", st.at(tableA), r)
			}
		})
	}
}

// What another lane has brought to the sink, and what has a constant for older
// rows, is not asked about.
func TestKnownColumnsAreNotAskedAbout(t *testing.T) {
	st := newStand(tableA)
	five := "5"
	st.src.carried = func(_ context.Context, columns []string, _ []sink.Chunk) error {
		t.Errorf("asked about %v", columns)
		return nil
	}
	stop := st.start(t, quick(0, 1), Observer{})
	st.row(tableA, 90, 1, 1, "x")
	until(t, "the lane", func() bool { return st.at(tableA) == 90 })
	st.wider(tableA, change.Column{Name: "c", Missing: &five})
	st.row(tableA, 100, 1, 1, "x")
	until(t, "the constant", func() bool { return st.at(tableA) == 100 })
	st.wider(tableA, change.Column{Name: "c", Missing: &five}, change.Column{Name: "d"})
	st.sink.mu.Lock()
	st.sink.tables[tableA].info.Schema = st.s[tableA]
	st.sink.mu.Unlock()
	st.row(tableA, 110, 1, 1, "x")
	until(t, "what another lane brought", func() bool { return st.at(tableA) == 110 })
	_ = stop()
}

// Stopped while the source is asked, a lane ends at once.
func TestLaneEndsWhileTheSourceIsAsked(t *testing.T) {
	st := newStand(tableA)
	asked := make(chan struct{})
	st.src.carried = func(ctx context.Context, _ []string, _ []sink.Chunk) error {
		close(asked)
		<-ctx.Done()
		return ctx.Err()
	}
	st.wider(tableA, change.Column{Name: "c"})
	st.row(tableA, 100, 1, 1, "x")
	stop := st.start(t, quick(0, 1), Observer{})
	<-asked
	if err := stop(); !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
}
