package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/sinktest"
	"syncline/dataplane/wire"
	"syncline/testsuite/stack"
	"syncline/tiers/aggregate"
)

// overBoth runs a test over each protocol.
func overBoth(t *testing.T, f func(t *testing.T, protocol string)) {
	for _, protocol := range []string{"http", "native"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			f(t, protocol)
		})
	}
}

// databaseURL leads to a database of the test's own.
func databaseURL(t testing.TB, protocol string) *url.URL {
	t.Helper()
	dsn := stack.ClickHouseDatabase(t)
	if protocol == "native" {
		dsn = stack.Native(t, dsn)
	}
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func openTest(t testing.TB, protocol string, o Options, query string) *Sink {
	t.Helper()
	u := databaseURL(t, protocol)
	o.Ledger, o.Database, u.RawQuery = u.Path[1:], u.Path[1:], query
	s, err := Open(Config{DSN: u.String(), Pipeline: "p", Options: o})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	if err := s.Init(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func add(t testing.TB, s *Sink, sch *change.Schema, o sink.TableOptions) sink.Table {
	t.Helper()
	tab := sink.Table{ID: sch.Table, Schema: sch, Epoch: 1, Partitions: 2, Options: o}
	if err := s.AddTable(t.Context(), tab); err != nil {
		t.Fatal(err)
	}
	return tab
}

func claim(t testing.TB, s *Sink) *session {
	t.Helper()
	x, err := s.Claim(t.Context(), 0, 1)
	if err != nil {
		t.Fatal(err)
	}
	return x.(*session)
}

// rowsOf reads a table through ReadRows, as sorted lines.
func rowsOf(t testing.TB, s *Sink, sch *change.Schema, o sink.TableOptions) []string {
	t.Helper()
	var out []string
	err := s.ReadRows(t.Context(), sch, o, func(r change.Row) error {
		var f []string
		for _, v := range r {
			if v.Kind == change.Null {
				f = append(f, "NULL")
			} else {
				f = append(f, string(v.Data))
			}
		}
		out = append(out, strings.Join(f, "|"))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

// strings1 runs a query with one String column.
func strings1(t testing.TB, s *Sink, q string) (out []string) {
	t.Helper()
	err := s.conn.query(t.Context(), "test", q, func(scan func(...any) error) error {
		var v string
		if err := scan(&v); err != nil {
			return err
		}
		out = append(out, v)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func want(t testing.TB, have []string, lines ...string) {
	t.Helper()
	slices.Sort(lines)
	if !slices.Equal(have, lines) {
		t.Fatalf("have %q\nwant %q", have, lines)
	}
}

// typedSamples have elements that the suite of all sinks leaves untyped.
var typedSamples = []sinktest.Sample{
	{Type: arrayOf(sinktest.Builtin("smallint", "int2", 21, -1)), Values: []string{"{-32768,NULL,7}", "{}"}},
	{Type: arrayOf(sinktest.Int8), Values: []string{"{9223372036854775807}", "{{1,2},{3,4}}", "[2:3]={7,8}"}},
	{Type: arrayOf(sinktest.Builtin("numeric(10,2)", "numeric", 1700, 10<<16+2+4)), Values: []string{"{1.10,NaN,NULL,-99999999.99}", "{0.00}"}},
	{Type: arrayOf(sinktest.Builtin("numeric", "numeric", 1700, -1)), Values: []string{"{1.10,NaN,Infinity,123456789012345678901234567890.5}"}},
	{Type: arrayOf(sinktest.Builtin("double precision", "float8", 701, -1)), Values: []string{"{1e+300,0.1,NaN,-Infinity,1e-07,123456789012345}"}},
	{Type: arrayOf(sinktest.Builtin("real", "float4", 700, -1)), Values: []string{"{1.1,1e+06,3.4028235e+38}"}},
	{Type: arrayOf(sinktest.TextT), Values: []string{`{a,"b c","",NULL,"NULL","q\"x","\\","{"}`}},
	{Type: arrayOf(sinktest.Bool), Values: []string{"{t,f,NULL}"}},
	{Type: arrayOf(sinktest.Builtin("uuid", "uuid", 2950, -1)), Values: []string{"{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}"}},
	{Type: arrayOf(sinktest.Builtin("bytea", "bytea", 17, -1)), Values: []string{`{"\\x00ff","\\x"}`}},
	{Type: arrayOf(sinktest.Builtin("date", "date", 1082, -1)), Values: []string{`{2024-02-29,NULL}`, `{"0044-03-15 BC",infinity}`}},
	{Type: arrayOf(timestamptz), Values: []string{`{"2024-01-02 03:04:05.5+00",NULL}`, `{infinity,"294276-12-31 23:59:59+00"}`}},
	{Type: arrayOf(sinktest.Builtin("timestamp without time zone", "timestamp", 1114, -1)), Values: []string{`{"1900-01-01 00:00:00","2299-12-31 23:59:59.999999"}`}},
	{Type: arrayOf(sinktest.Builtin("box", "box", 603, -1)), Values: []string{"{(1,1),(0,0);(3,3),(2,2)}"}},
	{Type: arrayOf(sinktest.Builtin("int4range", "int4range", 3904, -1)), Values: []string{`{"[1,3)",empty}`}},
	{Type: arrayOf(sinktest.Builtin("interval", "interval", 1186, -1)), Values: []string{`{"1 day 02:00:00",NULL}`}},
	{Type: sinktest.Builtin("numeric(30,20)", "numeric", 1700, 30<<16+20+4), Values: []string{"1234567890.12345678901234567890", "-0.00000000000000000001"}},
	{Type: sinktest.Builtin("numeric(76,38)", "numeric", 1700, 76<<16+38+4), Values: []string{strings.Repeat("9", 38) + "." + strings.Repeat("9", 38), "-1." + strings.Repeat("0", 38)}},
	{Type: sinktest.Builtin("numeric(5,0)", "numeric", 1700, 5<<16+4), Values: []string{"-99999", "0"}},
	{Type: sinktest.Builtin("numeric(3,-2)", "numeric", 1700, 3<<16+(2048-2)+4), Values: []string{"99900", "-100"}},
	{Type: sinktest.Builtin("numeric(2,5)", "numeric", 1700, 2<<16+5+4), Values: []string{"0.00099", "-0.00001"}},
	{Type: sinktest.Builtin("numeric(100,50)", "numeric", 1700, 100<<16+50+4), Values: []string{strings.Repeat("9", 50) + "." + strings.Repeat("9", 50)}},
	{Type: sinktest.Builtin("timestamp without time zone", "timestamp", 1114, -1), Values: []string{"1900-01-01 00:00:00", "2299-12-31 23:59:59.999999", "1899-12-31 23:59:59.999999", "2300-01-01 00:00:00", "1969-12-31 23:59:59.9"}},
	{Type: sinktest.Builtin("date", "date", 1082, -1), Values: []string{"1900-01-01", "2299-12-31", "1899-12-31", "2300-01-01"}},
	{Type: sinktest.Builtin("double precision", "float8", 701, -1), Values: []string{"1e+15", "123456789012345", "0.0001", "1e-05", "-0"}},
	{Type: sinktest.Builtin("real", "float4", 700, -1), Values: []string{"100000", "1e+06", "0.0001", "1e-05"}},
}

// TestTypesFromPostgres loads what a real server's COPY writes and reads back
// what it prints.
func TestTypesFromPostgres(t *testing.T) { overBoth(t, typesFromPostgres) }

func typesFromPostgres(t *testing.T, protocol string) {
	s := openTest(t, protocol, Options{}, "")
	ctx := t.Context()
	pg, err := pgx.Connect(ctx, stack.Database(t, stack.Postgres(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pg.Close(context.WithoutCancel(ctx)) }()
	sch := sinktest.Schema("typed", 1, sinktest.Col("id", sinktest.Int4))
	ddl := []string{"id int PRIMARY KEY"}
	rows := 0
	for i, x := range typedSamples {
		name := fmt.Sprintf("c%d", i)
		sch.Columns = append(sch.Columns, sinktest.Col(name, x.Type))
		ddl = append(ddl, name+" "+x.Type.Name)
		rows = max(rows, len(x.Values))
	}
	exec := func(q string) {
		t.Helper()
		if _, err := pg.Exec(ctx, q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	exec("SET timezone = 'UTC'")
	exec("CREATE TABLE typed (" + strings.Join(ddl, ", ") + ")")
	for n := range rows + 1 {
		vs := []string{fmt.Sprint(n)}
		for _, x := range typedSamples {
			v := "NULL"
			if n < rows {
				v = "'" + strings.ReplaceAll(x.Values[n%len(x.Values)], "'", "''") + "'"
			}
			vs = append(vs, v)
		}
		exec("INSERT INTO typed VALUES (" + strings.Join(vs, ", ") + ")")
	}
	var source []string
	var texts []string
	for _, c := range sch.Columns {
		texts = append(texts, "coalesce("+c.Name+"::text, 'NULL')")
	}
	got, err := pg.Query(ctx, "SELECT concat_ws('|', "+strings.Join(texts, ", ")+") FROM typed")
	if err != nil {
		t.Fatal(err)
	}
	if source, err = pgx.CollectRows(got, pgx.RowTo[string]); err != nil {
		t.Fatal(err)
	}
	add(t, s, sch, sink.TableOptions{})
	if _, err := s.PlanChunks(ctx, sch.Table, []sink.Chunk{{}}); err != nil {
		t.Fatal(err)
	}
	var text strings.Builder
	tag, err := pg.PgConn().CopyTo(ctx, &text, "COPY typed TO STDOUT")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.LoadChunk(ctx, sch.Table, 0, sinktest.Loaded(1), textCopy([]byte(text.String()), tag.RowsAffected()), nil); err != nil {
		t.Fatal(err)
	}
	if err := s.FinishLoad(ctx, sch.Table); err != nil {
		t.Fatal(err)
	}
	// bool and "t" differ between a cast to text and the wire; arrays do not.
	have := rowsOf(t, s, sch, sink.TableOptions{})
	slices.Sort(source)
	for i := range source {
		h, w := strings.Split(have[i], "|"), strings.Split(source[i], "|")
		for k := range w {
			if h[k] != w[k] {
				t.Errorf("row %s, %s: have %s, want %s", w[0], sch.Columns[k].Type.Name, h[k], w[k])
			}
		}
	}
	// And again as updates that leave everything alone: values are taken from the sink.
	x := claim(t, s)
	var partial []sink.Row
	for n := range rows + 1 {
		r := make([]string, len(sch.Columns))
		for i := range r {
			r[i] = sinktest.Unchanged
		}
		r[0] = fmt.Sprint(n)
		partial = append(partial, sinktest.Put(sch, n+1, r...))
	}
	a, err := x.Apply(ctx, sinktest.Batch(sink.Table{ID: sch.Table, Schema: sch}, 1, partial...))
	if err != nil || len(a.Dead) > 0 {
		t.Fatalf("%+v %v", a.Dead, err)
	}
	want(t, rowsOf(t, s, sch, sink.TableOptions{}), have...)
	if v := strings1(t, s, "SELECT DISTINCT toString(_version) FROM "+s.target(sch.Table, sink.TableOptions{}).String()+" FINAL WHERE _deleted = 0"); len(v) != rows+1 {
		t.Fatalf("the updates did not take effect: %v", v)
	}
}

// TestKeysThatColumnsCannotTellApart has keys that clash in their columns or have several texts.
func TestKeysThatColumnsCannotTellApart(t *testing.T) {
	s := openTest(t, "http", Options{}, "")
	ctx := t.Context()
	sch := sinktest.Schema("periods", 3, sinktest.Col("id", sinktest.Citext), sinktest.Col("until", timestamptz),
		sinktest.Col("n", sinktest.Builtin("numeric", "numeric", 1700, -1)), sinktest.Col("v", sinktest.TextT), sinktest.Col("w", sinktest.TextT))
	tab := add(t, s, sch, sink.TableOptions{})
	if err := s.FinishLoad(ctx, sch.Table); err != nil {
		t.Fatal(err)
	}
	x := claim(t, s)
	apply := func(offset int64, rows ...sink.Row) {
		t.Helper()
		if a, err := x.Apply(ctx, sinktest.Batch(tab, offset, rows...)); err != nil || len(a.Dead) > 0 {
			t.Fatal(a.Dead, err)
		}
	}
	apply(1, sinktest.Put(sch, 1, "a", "infinity", "1", "x", "1"), sinktest.Put(sch, 2, "a", "9999-12-31 00:00:00+00", "1", "y", "2"),
		sinktest.Put(sch, 3, "A", "2024-01-01 00:00:00+00", "1.50", "z", "3"), sinktest.Put(sch, 4, "a", "-infinity", "NaN", "q", "4"))
	apply(2, sinktest.Put(sch, 5, "A", "infinity", "1.0", "X", sinktest.Unchanged), sinktest.Put(sch, 6, "a", "2024-01-01 00:00:00+00", "1.5", "Z", sinktest.Unchanged))
	want(t, rowsOf(t, s, sch, tab.Options), "A|infinity|1.0|X|1", "a|9999-12-31 00:00:00+00|1|y|2", "a|2024-01-01 00:00:00+00|1.5|Z|3", "a|-infinity|NaN|q|4")
	apply(3, sinktest.Del(sch, 7, "a", "infinity", "1"), sinktest.Del(sch, 8, "A", "2024-01-01 00:00:00+00", "1.500"), sinktest.Del(sch, 9, "a", "-infinity", "NaN"))
	want(t, rowsOf(t, s, sch, tab.Options), "a|9999-12-31 00:00:00+00|1|y|2")
	want(t, strings1(t, s, "SELECT v FROM "+s.target(sch.Table, tab.Options).view().String()), "y")
}

// TestOrderByOtherColumns moves rows in the sorting key, also with a batch that is
// applied in other pieces before.
func TestOrderByOtherColumns(t *testing.T) {
	s := openTest(t, "http", Options{}, "")
	ctx := t.Context()
	sch := sinktest.Schema("moves", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("region", sinktest.TextT), sinktest.Col("n", sinktest.Int4))
	if err := s.AddTable(ctx, sink.Table{ID: sch.Table, Schema: sch, Epoch: 1, Options: sink.TableOptions{OrderBy: []string{"region"}}}); !fault.Is(err, sink.CodeTableMismatch) {
		t.Fatalf("without old images: %v", err)
	}
	sch.Full = true
	tab := add(t, s, sch, sink.TableOptions{OrderBy: []string{"region"}})
	if err := s.FinishLoad(ctx, sch.Table); err != nil {
		t.Fatal(err)
	}
	x := claim(t, s)
	upd := func(n int, old, new []string) sink.Row {
		r := sinktest.Put(sch, n, new...)
		r.Old = sinktest.Values(old...)
		return r
	}
	apply := func(rows ...sink.Row) {
		t.Helper()
		if a, err := x.Apply(ctx, sinktest.Batch(tab, 1, rows...)); err != nil || len(a.Dead) > 0 {
			t.Fatal(a.Dead, err)
		}
	}
	apply(sinktest.Put(sch, 1, "1", "eu", "1"), sinktest.Put(sch, 1, "2", sinktest.NULL, "1"))
	apply(upd(2, []string{"1", "eu", "1"}, []string{"1", "us", "2"}), upd(2, []string{"2", sinktest.NULL, "1"}, []string{"2", "eu", "2"}))
	want(t, rowsOf(t, s, sch, tab.Options), "1|us|2", "2|eu|2")
	// The same changes merged otherwise, after a crash: eu to asia at once.
	apply(upd(3, []string{"1", "eu", "1"}, []string{"1", "asia", "3"}))
	del := sinktest.Del(sch, 4, "2")
	del.Old = sinktest.Values("2", sinktest.NULL, "1")
	apply(del)
	want(t, rowsOf(t, s, sch, tab.Options), "1|asia|3")
	want(t, strings1(t, s, "SELECT region FROM "+s.target(sch.Table, tab.Options).view().String()), "asia")
}

// TestLateWriters lets superseded writers finish after the fact.
func TestLateWriters(t *testing.T) {
	s := openTest(t, "http", Options{}, "")
	ctx := t.Context()
	sch := sinktest.Schema("late", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("v", sinktest.TextT))
	tab := add(t, s, sch, sink.TableOptions{})
	if _, err := s.PlanChunks(ctx, sch.Table, []sink.Chunk{{}}); err != nil {
		t.Fatal(err)
	}
	// A first attempt reads rows that are gone when the second reads, and sends them last.
	sent, second := make(chan struct{}), make(chan struct{})
	stalled := make(chan error, 1)
	slow, _ := sinktest.Copy(sch, []string{"1", "old"}, []string{"2", "gone"})
	go func() {
		_, err := s.LoadChunk(ctx, sch.Table, 0, sinktest.Loaded(1), func(ctx context.Context, w io.Writer, bin bool) (int64, error) {
			close(sent)
			<-second
			return slow(ctx, w, bin)
		}, nil)
		stalled <- err
	}()
	<-sent
	fast, _ := sinktest.Copy(sch, []string{"1", "new"})
	if _, err := s.LoadChunk(ctx, sch.Table, 0, sinktest.Loaded(2), fast, nil); err != nil {
		t.Fatal(err)
	}
	// What a killed attempt leaves behind.
	r, err := s.record(ctx, sch.Table)
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.beginAttempt(ctx, r, 0)
	if err != nil {
		t.Fatal(err)
	}
	l, _ := s.newLayout(sch, tab.Options)
	stray := func(pos change.Position, id, v string) {
		t.Helper()
		b := newBlock(l)
		if err := b.add(sinktest.Values(id, v), "", stamp{pos: pos}, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.insert(ctx, l.at, b.rows, b.parts()); err != nil {
			t.Fatal(err)
		}
	}
	stray(r.def.loadPosition(0, n), "3", "killed")
	if err := s.FinishLoad(ctx, sch.Table); err != nil {
		t.Fatal(err)
	}
	close(second)
	if err := <-stalled; err != nil {
		t.Fatal(err)
	}
	want(t, rowsOf(t, s, sch, tab.Options), "1|new")
	x := claim(t, s)
	if cs, err := x.Chunks(ctx, sch.Table); err != nil || len(cs) != 1 || cs[0].LSN != sinktest.Loaded(2).LSN {
		t.Fatalf("%+v %v", cs, err)
	}
	// A row from before a TRUNCATE arrives after it.
	if done, err := x.Truncate(ctx, sink.Watermark{Partition: sink.Partition{Table: sch.Table}, Pos: sinktest.Pos(5), Offset: 6}, 2); err != nil || !done {
		t.Fatal(done, err)
	}
	if cs, err := x.Chunks(ctx, sch.Table); err != nil || len(cs) != 0 {
		t.Fatalf("chunks after a TRUNCATE: %+v %v", cs, err)
	}
	stray(sinktest.Pos(4), "4", "late")
	stray(sinktest.Pos(6), "5", "after")
	want(t, rowsOf(t, s, sch, tab.Options), "5|after")
	want(t, strings1(t, s, "SELECT v FROM "+l.at.view().String()), "after")
	// Rows of an epoch that was reset.
	if err := s.ResetTable(ctx, sch.Table, 2); err != nil {
		t.Fatal(err)
	}
	stray(sinktest.Pos(7), "6", "of epoch 1")
	want(t, strings1(t, s, "SELECT v FROM "+l.at.view().String()))
	// And a gate: what it was for is why the table is loaded again.
	if err := s.setAspect(ctx, sch.Table.String(), aspectState, state{State: sink.Gated, Reason: "late", Epoch: 1}); err != nil {
		t.Fatal(err)
	}
	if now, err := s.Table(ctx, sch.Table); err != nil || now.State != sink.Loading {
		t.Fatalf("after a gate of epoch 1: %+v %v", now, err)
	}
	if _, err := s.PlanChunks(ctx, sch.Table, []sink.Chunk{{}}); err != nil {
		t.Fatal(err)
	}
	again, _ := sinktest.Copy(sch, []string{"7", "again"})
	if c, err := s.LoadChunk(ctx, sch.Table, 0, sinktest.Loaded(8), again, nil); err != nil || !c.Done {
		t.Fatalf("%+v %v", c, err)
	}
	if err := s.FinishLoad(ctx, sch.Table); err != nil {
		t.Fatal(err)
	}
	if now, err := s.Table(ctx, sch.Table); err != nil || now.State != sink.Streaming {
		t.Fatalf("%+v %v", now, err)
	}
	want(t, strings1(t, s, "SELECT v FROM "+l.at.String()), "again")
}

// TestLatePartials: what attempts at a chunk wrote that did not count is in no aggregate,
// though it comes in after the load was finished.
func TestLatePartials(t *testing.T) {
	s := openTest(t, "http", Options{}, "")
	ctx := t.Context()
	sch := sinktest.Schema("late_partials", 0, sinktest.Col("host", sinktest.TextT), sinktest.Col("n", sinktest.Int8))
	tab := add(t, s, sch, sink.TableOptions{AppendOnly: true})
	spec := aggregate.Spec{Group: []string{"host"}, Values: []aggregate.Value{{Column: "n", Functions: []string{"sum"}}}}
	p, err := spec.Bind(sch, "bulk")
	if err != nil {
		t.Fatal(err)
	}
	seen := sinktest.Loaded(1)
	seen.Sort = &sink.Sorting{Plans: []*aggregate.Plan{p}, Of: func(change.Row) (*aggregate.Plan, error) { return p, nil }}
	load := func() {
		t.Helper()
		if _, err := s.PlanChunks(ctx, sch.Table, []sink.Chunk{{}}); err != nil {
			t.Fatal(err)
		}
		lost := func(context.Context, io.Writer, bool) (int64, error) { return 0, errors.New("lost") }
		if _, err := s.LoadChunk(ctx, sch.Table, 0, seen, lost, nil); err == nil {
			t.Fatal("an attempt that is lost")
		}
		copy, _ := sinktest.Copy(sch, []string{"a", "1"}, []string{"a", "2"}, []string{"b", "3"})
		if _, err := s.LoadChunk(ctx, sch.Table, 0, seen, copy, nil); err != nil {
			t.Fatal(err)
		}
		r, err := s.record(ctx, sch.Table)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := s.beginAttempt(ctx, r, 0); err != nil || n != 3 {
			t.Fatal(n, err)
		}
		if err := s.FinishLoad(ctx, sch.Table); err != nil {
			t.Fatal(err)
		}
	}
	load()
	l, problem := s.newLayout(p.Schema(), sink.PartialsOptions(p, tab.Options))
	if problem != "" {
		t.Fatal(problem)
	}
	stray := func(epoch uint32, attempt int) {
		t.Helper()
		x := p.New()
		for _, row := range []change.Row{sinktest.Values("a", "100"), sinktest.Values("late", "100")} {
			if err := x.Add(row); err != nil {
				t.Fatal(err)
			}
		}
		b := newBlock(l)
		d := definition{Epoch: epoch}
		for _, row := range x.Rows(aggregate.LoadRun(0, attempt, 0)) {
			if err := b.add(row, "", stamp{pos: d.loadPosition(0, attempt)}, nil); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := s.insert(ctx, l.at, b.rows, b.parts()); err != nil {
			t.Fatal(err)
		}
	}
	shown := func() []string {
		t.Helper()
		view := (&partials{l.at, p}).view()
		return strings1(t, s, "SELECT concat(assumeNotNull(host), ' ', toString(rows), ' ', toString(assumeNotNull(n_sum))) FROM "+view.String()+" ORDER BY 1")
	}
	stray(1, 1)
	stray(1, 3)
	want(t, shown(), "a 2 3", "b 1 3")
	// Nor if the table is loaded again, when attempts are counted from one.
	if err := s.ResetTable(ctx, sch.Table, 2); err != nil {
		t.Fatal(err)
	}
	load()
	stray(1, 2)
	stray(1, 9)
	stray(2, 3)
	want(t, shown(), "a 2 3", "b 1 3")
}

// TestSmallBlocksAndCompression sends a load in many pieces.
func TestSmallBlocksAndCompression(t *testing.T) { overBoth(t, smallBlocksAndCompression) }

func smallBlocksAndCompression(t *testing.T, protocol string) {
	for _, query := range []string{"", "compress=lz4", "compress=zstd", "compress=gzip", "none", "lz4", "zstd"} {
		if query == "compress=gzip" && protocol == "native" {
			continue // refused: see TestNativeFaults
		}
		t.Run(query, func(t *testing.T) {
			t.Parallel()
			o := Options{BlockRows: 700, BlockBytes: 16 << 10}
			if _, ok := compressions[query]; ok {
				o.Compression, query = query, "compress=lz4" // which it overrides
			}
			s := openTest(t, protocol, o, query)
			sch := benchSchema()
			tab := add(t, s, sch, sink.TableOptions{Name: "odd (name); `x`, --"})
			if _, err := s.PlanChunks(t.Context(), sch.Table, []sink.Chunk{{}}); err != nil {
				t.Fatal(err)
			}
			const rows = 5000
			var told int64
			c, err := s.LoadChunk(t.Context(), sch.Table, 0, sinktest.Loaded(1), textCopy(benchText(rows), rows), func(n int64) { told = n })
			if err != nil || c.Rows != rows || told != c.Bytes {
				t.Fatal(c, told, err)
			}
			if err := s.FinishLoad(t.Context(), sch.Table); err != nil {
				t.Fatal(err)
			}
			if n := strings1(t, s, "SELECT toString(count()) FROM "+s.target(sch.Table, tab.Options).view().String()); n[0] != "5000" {
				t.Fatalf("%s rows", n[0])
			}
		})
	}
}

// TestBatchCompression sends batches with a compression of their own, whatever the sink's is.
func TestBatchCompression(t *testing.T) { overBoth(t, batchCompression) }

func batchCompression(t *testing.T, protocol string) {
	for _, own := range []string{"none", "zstd"} {
		u := databaseURL(t, protocol)
		var sent atomic.Int64
		s, err := Open(Config{DSN: u.String(), Pipeline: "p", Options: Options{Ledger: u.Path[1:], Database: u.Path[1:], Compression: own}, Dial: func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := wire.Plain(ctx, network, addr)
			return &counted{c, &sent}, err
		}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = s.Close() })
		if err := s.Init(t.Context()); err != nil {
			t.Fatal(err)
		}
		sch := sinktest.Schema("big", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("v", sinktest.TextT))
		tab := add(t, s, sch, sink.TableOptions{})
		if err := s.FinishLoad(t.Context(), sch.Table); err != nil {
			t.Fatal(err)
		}
		x := claim(t, s)
		text := strings.Repeat("all alike ", 100_000)
		for i, name := range []string{"", "none", "lz4", "zstd", ""} {
			n := strconv.Itoa(i)
			b := sinktest.Batch(tab, int64(2+i), sinktest.Put(sch, 1+i, n, text))
			b.Compression = name
			before := sent.Load()
			if _, err := x.Apply(t.Context(), b); err != nil {
				t.Fatalf("compression %q at a sink with %q: %v", name, own, err)
			}
			if n := sent.Load() - before; (n > 900_000) != (name == "none" || name == "" && own == "none") {
				t.Errorf("compression %q at a sink with %q: %d bytes", name, own, n)
			}
		}
		at := s.target(sch.Table, tab.Options)
		want(t, strings1(t, s, "SELECT toString(count()) FROM "+at.view().String()+" WHERE v = repeat('all alike ', 100000)"), "5")
		b := sinktest.Batch(tab, 9, sinktest.Put(sch, 8, "9", text))
		b.Compression = "gzip"
		if _, err := x.Apply(t.Context(), b); !fault.Is(err, CodeConfig) {
			t.Errorf("a compression that is not known: %v", err)
		}
	}
}

// counted counts what is written to a connection.
type counted struct {
	net.Conn
	n *atomic.Int64
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// TestJSONOption keeps json as JSON.
func TestJSONOption(t *testing.T) { overBoth(t, jsonOption) }

func jsonOption(t *testing.T, protocol string) {
	s := openTest(t, protocol, Options{JSON: true, NumericText: true}, "")
	sch := sinktest.Schema("docs", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("doc", sinktest.Builtin("jsonb", "jsonb", 3802, -1)), sinktest.Col("d", money),
		sinktest.Col("more", sinktest.Builtin("json", "json", 114, -1)))
	sch.Columns[1].NotNull = true
	tab := add(t, s, sch, sink.TableOptions{})
	if err := s.FinishLoad(t.Context(), sch.Table); err != nil {
		t.Fatal(err)
	}
	x := claim(t, s)
	if _, err := x.Apply(t.Context(), sinktest.Batch(tab, 2, sinktest.Put(sch, 1, "1", `{"a": {"b": 7}}`, "1.2500", `{"c": 8}`), sinktest.Put(sch, 1, "2", `{"a": 1}`, "NaN", sinktest.NULL), sinktest.Del(sch, 2, "3"))); err != nil {
		t.Fatal(err)
	}
	at := s.target(sch.Table, tab.Options)
	want(t, strings1(t, s, "SELECT toString(doc.a.b) || d || toString(more.c) FROM "+at.view().String()+" WHERE id = 1"), "71.25008")
	want(t, strings1(t, s, "SELECT toString(isNull(more)) FROM "+at.view().String()), "0", "1")
	c, err := s.Check(t.Context(), sch, tab.Options)
	if err != nil || c.Columns[1].Lossy == "" || c.Columns[2].Sink != "Nullable(String)" || !c.Exists || !c.Rows {
		t.Fatalf("%+v %v", c, err)
	}
	if !slices.ContainsFunc(c.Notes, func(n string) bool {
		return strings.Contains(n, "in Go") && strings.HasSuffix(n, "columns doc, more")
	}) {
		t.Errorf("notes %q", c.Notes)
	}
}

// TestNotNullDropped lets NULL into a column that had none.
func TestNotNullDropped(t *testing.T) {
	s := openTest(t, "http", Options{}, "")
	ctx := t.Context()
	sch := sinktest.Schema("loose", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("n", sinktest.Int8), sinktest.Col("e", mood))
	sch.Columns[1].NotNull, sch.Columns[2].NotNull = true, true
	tab := add(t, s, sch, sink.TableOptions{})
	if err := s.FinishLoad(ctx, sch.Table); err != nil {
		t.Fatal(err)
	}
	x := claim(t, s)
	if _, err := x.Apply(ctx, sinktest.Batch(tab, 1, sinktest.Put(sch, 1, "1", "10", "sad"))); err != nil {
		t.Fatal(err)
	}
	// Before anybody says so: the value is kept all the same.
	if _, err := x.Apply(ctx, sinktest.Batch(tab, 2, sinktest.Put(sch, 2, "2", sinktest.NULL, sinktest.NULL))); err != nil {
		t.Fatal(err)
	}
	want(t, rowsOf(t, s, sch, tab.Options), "1|10|sad", "2|NULL|NULL")
	loose := *sch
	loose.Columns = slices.Clone(sch.Columns)
	loose.Columns[1].NotNull, loose.Columns[2].NotNull = false, false
	if err := x.Evolve(ctx, tab, &loose, sinktest.Pos(2)); err != nil {
		t.Fatal(err)
	}
	tab.Schema = &loose
	if _, err := x.Apply(ctx, sinktest.Batch(tab, 3, sinktest.Put(&loose, 3, "3", sinktest.NULL, sinktest.NULL))); err != nil {
		t.Fatal(err)
	}
	want(t, rowsOf(t, s, &loose, tab.Options), "1|10|sad", "2|NULL|NULL", "3|NULL|NULL")
	want(t, strings1(t, s, "SELECT toString(id) FROM "+s.target(sch.Table, tab.Options).view().String()+" WHERE n IS NULL AND e IS NULL"), "3")
}

func TestFaultsAreNamed(t *testing.T) {
	gone, err := Open(Config{DSN: "http://user:hunter2@127.0.0.1:1/", Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = gone.Tables(t.Context())
	if !fault.Is(err, sink.CodeUnreachable) || !fault.Retryable(err) || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("unreachable: %v", err)
	}
	for code, c := range map[int]struct {
		want  fault.Code
		retry bool
	}{
		516: {sink.CodeAuth, true}, 497: {sink.CodePrivilege, false}, 60: {CodeTableMissing, false}, 252: {CodeBusy, true},
		241: {CodeBusy, true}, 341: {CodeBusy, true}, 47: {CodeQuery, false},
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("X-ClickHouse-Exception-Code", fmt.Sprint(code))
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = fmt.Fprintf(w, "Code: %d. DB::Exception: near 'secret value'. (NAME)", code)
		}))
		s, err := Open(Config{DSN: srv.URL, Pipeline: "p"})
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Tables(t.Context())
		if fault.CodeOf(err) != c.want || fault.Retryable(err) != c.retry || strings.Contains(err.Error(), "secret") {
			t.Errorf("code %d: %v", code, err)
		}
		srv.Close()
	}
	// Whatever the server says once the caller has given up is no condition of it.
	over, cancel := context.WithCancel(t.Context())
	cancel()
	for _, cause := range []error{&ch.Exception{Code: 394}, &ch.HTTPError{StatusCode: 500}, io.ErrUnexpectedEOF} {
		if err := wrap(over, cause, "SELECT"); !errors.Is(err, context.Canceled) || fault.CodeOf(err) != "" {
			t.Errorf("%v after the caller has given up: %v", cause, err)
		}
	}
	for _, c := range []Config{{DSN: "http://x/"}, {Pipeline: "p", DSN: "postgres://u:hunter2@x/"}, {Pipeline: "p", DSN: "http://u:hunter2@x:bad/"},
		{Pipeline: "p", DSN: "http://x/", Options: Options{BlockRows: -1}}} {
		if _, err := Open(c); fault.CodeOf(err) != CodeConfig || fault.Retryable(err) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v", err)
		}
	}
}

// TestShortWrite puts something between that loses rows without an error.
func TestShortWrite(t *testing.T) {
	s := openTest(t, "http", Options{}, "")
	sch := sinktest.Schema("short", 1, sinktest.Col("id", sinktest.Int4))
	tab := add(t, s, sch, sink.TableOptions{})
	server, err := url.Parse(stack.ClickHouse(t))
	if err != nil {
		t.Fatal(err)
	}
	server.Path = ""
	proxy := httputil.NewSingleHostReverseProxy(server)
	proxy.ModifyResponse = func(r *http.Response) error {
		if r.Header.Get("X-ClickHouse-Summary") != "" {
			r.Header.Set("X-ClickHouse-Summary", `{"written_rows":"2"}`)
		}
		return nil
	}
	srv := httptest.NewServer(proxy)
	defer srv.Close()
	lossy, err := Open(Config{DSN: srv.URL, Pipeline: "p", Options: s.opts})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = lossy.Close() }()
	b := newBlock(testLayout(t, sch, sink.TableOptions{Schema: s.opts.Database}))
	for i := range 3 {
		if err := b.add(sinktest.Values(fmt.Sprint(i)), "", stamp{pos: sinktest.Pos(i)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	at := s.target(sch.Table, tab.Options)
	if _, err := lossy.insert(t.Context(), at, 3, b.parts()); !fault.Is(err, CodeShortWrite) || !fault.Retryable(err) {
		t.Fatalf("two of three rows written: %v", err)
	}
	if n, err := s.insert(t.Context(), at, 3, b.parts()); err != nil || n == 0 {
		t.Fatal(n, err)
	}
}

// TestPipelinesLeaveWhileOthersDelete: pipelines that share a ledger are forgotten while
// another deletes its rows there. Both are done by ALTER, and the server breaks off a
// mutation whose parts are dropped.
func TestPipelinesLeaveWhileOthersDelete(t *testing.T) {
	stays := openTest(t, "http", Options{}, "")
	sch := sinktest.Schema("stays", 1, sinktest.Col("id", sinktest.Int4))
	stop, left := make(chan struct{}), make(chan error, 1)
	go func() {
		left <- func() error {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return nil
				default:
				}
				leaves := &Sink{pipeline: fmt.Sprint("leaves", n%3), opts: stays.opts, conn: stays.conn}
				s := sinktest.Schema("leaves", 1, sinktest.Col("id", sinktest.Int4))
				if err := leaves.BeginLog(t.Context(), s.Table, make([]sink.LogRange, 64), false); err != nil {
					return err
				}
				if err := leaves.Forget(t.Context()); err != nil {
					return err
				}
			}
		}()
	}()
	add(t, stays, sch, sink.TableOptions{})
	for range 100 {
		if err := stays.BeginLog(t.Context(), sch.Table, make([]sink.LogRange, 2), false); err != nil {
			t.Fatal(err)
		}
		if err := stays.deleteRows(t.Context(), stays.ledger("watermarks"), stays.where(sch.Table.String())); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	if err := <-left; err != nil {
		t.Fatal(err)
	}
}
