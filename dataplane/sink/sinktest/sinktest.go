package sinktest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Probe reads what a sink holds, from behind its back.
type Probe interface {
	// Rows returns the live rows of a table: each value as text in the schema's
	// column order, in any order of rows. A nil value is NULL.
	Rows(t *testing.T, s *change.Schema, o sink.TableOptions) [][]*string
	// Held returns what a table's view of held keys shows, as texts: the key's columns,
	// the repair, the state, the reason and whether the time is within the last hour. ok is
	// false if there is no such view.
	Held(t *testing.T, s *change.Schema, o sink.TableOptions) (rows [][]*string, ok bool)
	// Free returns a column of the rows whose key is not in that view, as a reader asks for it.
	Free(t *testing.T, s *change.Schema, o sink.TableOptions, column string) []string
	// Shown returns columns of a view of aggregates, as texts.
	Shown(t *testing.T, schema, view string, columns []string) [][]*string
	// Capabilities says in what the sink differs.
	Capabilities() Capabilities
}

// Capabilities are the differences that the suite allows.
type Capabilities struct {
	// Atomic: rows and watermarks are committed as one. Without it (ClickHouse) an
	// interrupted Apply may leave rows, never watermarks, and sending them again
	// changes nothing.
	Atomic bool
	// Barrier: a TRUNCATE waits until every partition has come to it. Without it
	// each lane removes the older rows at once.
	Barrier bool
	// NeedsOld: a row with Unchanged values is only taken with its old image, since
	// the sink cannot update some columns of a row.
	NeedsOld bool
	// NoEnumLabels: Evolve cannot add a label to an enum.
	NoEnumLabels bool
	// Present turns a Postgres text into the text that the probe reads back, for
	// types that the sink presents differently. nil: as it is.
	Present func(t *change.Type, text string) string
	// Unsupported says why values of a type are not tested; "" tests them.
	Unsupported func(t *change.Type) string
}

// Open returns a sink of a pipeline on an empty or shared database. It may be
// called several times for one pipeline. The suite calls Init and Close.
type Open func(t *testing.T, pipeline string) sink.Sink

// Run runs the suite. Its subtests run in parallel, each in its own pipeline and
// its own schema (or database) at the sink.
func Run(t *testing.T, open Open, probe Probe) {
	for _, c := range []struct {
		name string
		f    func(*env)
	}{
		{"UpsertAndDelete", testUpsertAndDelete},
		{"UpsertIsIdempotent", testIdempotent},
		{"PartialRows", testPartialRows},
		{"PartialRowMissing", testPartialMissing},
		{"AppendOnly", testAppendOnly},
		{"AppendOnlyChunks", testAppendOnlyChunks},
		{"Aggregates", testAggregates},
		{"AggregatesRetried", testAggregatesRetried},
		{"AggregatesGoWithTheirTable", testAggregatesGo},
		{"AggregatesAreLoaded", testAggregatesLoaded},
		{"AggregatesLoadedAtRandom", testAggregatesLoadedAtRandom},
		{"QuotedNamesAndCompositeKeys", testQuotedNames},
		{"KeyColumnsOnly", testKeyOnly},
		{"Types", testTypes},
		{"WatermarksMoveWithRows", testWatermarks},
		{"StreamingAheadOfTheWatermark", testAhead},
		{"StreamingAheadInDoubt", testAheadInDoubt},
		{"Due", testDue},
		{"CancelledApply", testCancelledApply},
		{"Fencing", testFencing},
		{"FencingByLaneCount", testFencingByLanes},
		{"TakeoverUnderLoad", testTakeoverUnderLoad},
		{"TruncateBarrier", testTruncate},
		{"DeadLetters", testDeadLetters},
		{"TableStates", testStates},
		{"ResetUnderLoad", testResetUnderLoad},
		{"ChunksAreLoadedOnce", testChunks},
		{"ChunkFailureLeavesNothing", testChunkFailure},
		{"LoadTextFormat", testLoadText},
		{"ExistingRows", testExisting},
		{"ResetAndRemove", testResetAndRemove},
		{"BeginLog", testBeginLog},
		{"Evolve", testEvolve},
		{"EvolveOutOfOrder", testEvolveOutOfOrder},
		{"EvolveAtOnce", testEvolveAtOnce},
		{"EvolveWithDefaults", testEvolveDefaults},
		{"Redefine", testRedefine},
		{"Shaped", testShaped},
		{"Findings", testFindings},
		{"Walks", testWalks},
		{"RepairRecords", testRepairRecords},
		{"RepairHold", testHold},
		{"RepairWhole", testWholeRepair},
		{"RepairLeases", testLeases},
		{"RepairMend", testMend},
		{"RepairLetters", testLetters},
		{"RepairRelease", testRelease},
		{"RepairOfResetTable", testRepairOfReset},
		{"HeldViews", testHeldViews},
		{"HeldViewsOfTables", testHeldViewsOfTables},
		{"HeldKeyTypes", testHeldKeyTypes},
		{"AuditTrail", testTrail},
		{"Sizes", testSizes},
		{"Erase", testErase},
		{"EraseAppended", testEraseAppended},
		{"Forget", testForget},
		{"RandomChanges", testRandom},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.f(newEnv(t, open, probe))
		})
	}
}

// env is what one subtest works with.
type env struct {
	*testing.T
	ctx      context.Context
	open     Open
	probe    Probe
	caps     Capabilities
	pipeline string
	schema   string // at the sink
	sink     sink.Sink
}

func newEnv(t *testing.T, open Open, probe Probe) *env {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	id := fmt.Sprintf("st_%08x", rand.Uint32())
	e := &env{T: t, ctx: ctx, open: open, probe: probe, caps: probe.Capabilities(), pipeline: id, schema: id}
	e.sink = e.openSink()
	return e
}

// openSink opens the pipeline's sink once more, as another worker does.
func (e *env) openSink() sink.Sink {
	e.Helper()
	s := e.open(e.T, e.pipeline)
	e.Cleanup(func() { e.ok(s.Close()) })
	e.ok(s.Init(e.ctx))
	return s
}

func (e *env) ok(err error) {
	e.Helper()
	if err != nil {
		e.Fatal(err)
	}
}

// options puts a table into the subtest's own schema.
func (e *env) options(o sink.TableOptions) sink.TableOptions {
	o.Schema = e.schema
	return o
}

// add adds a table and loads nothing, so that it streams.
func (e *env) add(s *change.Schema, partitions int, o sink.TableOptions) sink.Table {
	e.Helper()
	t := e.addLoading(s, partitions, o)
	_, err := e.sink.PlanChunks(e.ctx, s.Table, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, s.Table))
	t.State = sink.Streaming
	return t
}

func (e *env) addLoading(s *change.Schema, partitions int, o sink.TableOptions) sink.Table {
	e.Helper()
	t := sink.Table{ID: s.Table, State: sink.Loading, Partitions: partitions, Epoch: 1, Schema: s, Options: e.options(o)}
	e.ok(e.sink.AddTable(e.ctx, t))
	return t
}

func (e *env) claim(lane, lanes int) sink.Session {
	e.Helper()
	x, err := e.sink.Claim(e.ctx, lane, lanes)
	e.ok(err)
	e.Cleanup(func() { _ = x.Close() }) // closing twice is fine
	_, err = x.Tables(e.ctx)
	e.ok(err)
	return x
}

// rows reads a table back.
func (e *env) rows(t sink.Table) [][]*string {
	e.Helper()
	return e.probe.Rows(e.T, t.Schema, t.Options)
}

// want compares a table with rows given as texts; "NULL" is NULL.
func (e *env) want(t sink.Table, rows ...[]string) {
	e.Helper()
	var want [][]*string
	for _, r := range rows {
		w := make([]*string, len(r))
		for i := range r {
			if r[i] != "NULL" {
				s := e.present(&t.Schema.Columns[i].Type, r[i])
				w[i] = &s
			}
		}
		want = append(want, w)
	}
	e.equal(e.rows(t), want)
}

func (e *env) present(t *change.Type, text string) string {
	if e.caps.Present == nil {
		return text
	}
	return e.caps.Present(t, text)
}
