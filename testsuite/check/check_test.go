package check

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	chsink "syncline/dataplane/sink/clickhouse"
	pgsink "syncline/dataplane/sink/postgres"
	pgsource "syncline/dataplane/source/postgres"
	"syncline/testsuite/shop"
	"syncline/testsuite/stack"
)

// copies is a shop with a copy of it in each sink.
type copies struct {
	sourceDSN, sinkDSN, chURL, chDB string
	tables                          []Table
	source                          *Postgres
	postgres                        *Postgres
	clickhouse                      *ClickHouse
	sizes                           shop.Sizes
}

// shopIDs are the shop's tables.
func shopIDs() (out []change.TableID) {
	for _, n := range shop.Tables {
		out = append(out, change.TableID{Schema: "shop", Name: n})
	}
	return out
}

// load copies all tables into a sink, as the bootstrap does.
func load(t *testing.T, src *pgsource.Server, schemas []*change.Schema, s sink.Sink, o sink.TableOptions) {
	t.Helper()
	ctx := t.Context()
	if err := s.Init(ctx); err != nil {
		t.Fatal(err)
	}
	exp, err := src.Export(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = exp.Close() }()
	for _, sc := range schemas {
		err := s.AddTable(ctx, sink.Table{ID: sc.Table, Schema: sc, Partitions: 2, Epoch: 1, Options: o})
		if err == nil {
			_, err = s.PlanChunks(ctx, sc.Table, []sink.Chunk{{N: 0}})
		}
		if err == nil {
			_, err = s.LoadChunk(ctx, sc.Table, 0, sink.Loaded{Snapshot: exp.Snapshot, LSN: exp.LSN}, src.CopyChunk(exp.Name, sc, sink.Chunk{N: 0}, "", nil), nil)
		}
		if err == nil {
			err = s.FinishLoad(ctx, sc.Table)
		}
		if err != nil {
			t.Fatalf("%s: %v", sc.Table, err)
		}
	}
}

func makeCopies(t *testing.T) *copies {
	t.Helper()
	c := &copies{sourceDSN: stack.Database(t, stack.Postgres(t)), sinkDSN: stack.Database(t, stack.SinkPostgres(t)), chURL: stack.ClickHouseDatabase(t)}
	u, err := url.Parse(c.chURL)
	if err != nil {
		t.Fatal(err)
	}
	c.chDB = strings.Trim(u.Path, "/")
	if c.sizes, err = shop.Seed(t.Context(), c.sourceDSN, 0.005); err != nil {
		t.Fatal(err)
	}
	src, err := pgsource.NewServer(pgsource.ServerOptions{DSN: c.sourceDSN, Pipeline: "check"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = src.Close() }()
	var pub []pgsource.PublishedTable
	for _, id := range shopIDs() {
		pub = append(pub, pgsource.PublishedTable{ID: id})
	}
	schemas, err := src.Describe(t.Context(), pub)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range schemas {
		c.tables = append(c.tables, Table{Schema: s})
	}
	pg, err := pgsink.Open(pgsink.Config{DSN: c.sinkDSN, Pipeline: "check"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = pg.Close() }()
	load(t, src, schemas, pg, sink.TableOptions{})
	ch, err := chsink.Open(chsink.Config{DSN: c.chURL, Pipeline: "check", Options: chsink.Options{Ledger: c.chDB, Database: c.chDB}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ch.Close() }()
	load(t, src, schemas, ch, sink.TableOptions{})
	c.source = &Postgres{DSN: c.sourceDSN, Source: true}
	c.postgres = &Postgres{DSN: c.sinkDSN}
	c.clickhouse = &ClickHouse{URL: c.chURL, Database: c.chDB}
	return c
}

func exec(t *testing.T, dsn, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.Background()) }()
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatal(err)
	}
}

func (c *copies) table(name string) *Table {
	for i := range c.tables {
		if c.tables[i].ID().Name == name {
			return &c.tables[i]
		}
	}
	panic(name)
}

func TestPlantedErrorsAreFound(t *testing.T) {
	c := makeCopies(t)
	ctx := t.Context()
	compare := func(t *testing.T, side Side) *Report {
		t.Helper()
		r, err := Compare(ctx, c.source, c.tables, side)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	for _, side := range []Side{c.postgres, c.clickhouse} {
		r := compare(t, side)
		for _, d := range r.Differences {
			t.Errorf("a true copy: %s: want %s, have %s", d, d.Want, d.Have)
		}
		if r.Rows[c.table("order_items").ID()] != c.sizes.Items {
			t.Errorf("%d rows compared", r.Rows[c.table("order_items").ID()])
		}
		total, err := CompareTotals(ctx, c.source, c.table("accounts"), "balance", c.sizes.Total(), side)
		if err != nil || len(total) > 0 {
			t.Errorf("totals: %v %v", total, err)
		}
	}
	if t.Failed() {
		return
	}
	tests := []struct {
		name      string
		pg, ch    string // ch: %s is the database
		want      Kind
		table     string
		key       string
		column    string
		total     bool
		wantValue string
	}{
		{name: "missing row", pg: `DELETE FROM shop.order_items WHERE order_id = 7 AND line = 2`, ch: "ALTER TABLE %s.order_items DELETE WHERE order_id = 7 AND line = 2",
			want: Missing, table: "order_items", key: `["7" "2"]`},
		{name: "extra row", pg: `INSERT INTO shop.transfers SELECT 999999, payer, payee, amount, at FROM shop.transfers WHERE id = 1`,
			ch:   "INSERT INTO %[1]s.transfers (id, payer, payee, amount, at, _version) SELECT 999999, payer, payee, amount, at, _version FROM %[1]s.transfers WHERE id = 1",
			want: Extra, table: "transfers", key: `["999999"]`},
		{name: "changed column", pg: `UPDATE shop.customers SET rating = rating + 1 WHERE id = 5`, ch: "ALTER TABLE %s.customers UPDATE rating = rating + 1 WHERE id = 5",
			want: Changed, table: "customers", key: `["5"]`, column: "rating"},
		{name: "empty text for NULL", pg: `UPDATE shop.orders SET note = '' WHERE id = 3`, ch: "ALTER TABLE %s.orders UPDATE note = '' WHERE id = 3",
			want: Changed, table: "orders", key: `["3"]`, column: "note", wantValue: "NULL"},
		{name: "NULL for empty text", pg: `UPDATE shop.orders SET note = NULL WHERE id = 8`, ch: "ALTER TABLE %s.orders UPDATE note = NULL WHERE id = 8",
			want: Changed, table: "orders", key: `["8"]`, column: "note", wantValue: `""`},
		{name: "stale value", pg: `UPDATE shop.accounts SET balance = balance - 1 WHERE id = 9`, ch: "ALTER TABLE %s.accounts UPDATE balance = balance - 1 WHERE id = 9",
			want: Changed, table: "accounts", key: `["9"]`, column: "balance", total: true},
	}
	for _, side := range []Side{c.postgres, c.clickhouse} {
		var found []Difference
		for _, tt := range tests {
			if side == c.postgres {
				exec(t, c.sinkDSN, "SET session_replication_role = replica; "+tt.pg)
			} else if err := c.clickhouse.query(ctx, fmt.Sprintf(tt.ch, ident(c.chDB)), nil); err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
		}
		if side == c.clickhouse { // mutations run beside
			deadline := time.Now().Add(30 * time.Second)
			for found = nil; len(found) < len(tests) && time.Now().Before(deadline); {
				found = compare(t, side).Differences
			}
		} else {
			found = compare(t, side).Differences
		}
		if len(found) != len(tests) {
			t.Errorf("%s: %d differences, want %d", side.Name(), len(found), len(tests))
		}
		for _, tt := range tests {
			ok := false
			for _, d := range found {
				ok = ok || d.Kind == tt.want && d.Table.Name == tt.table && fmt.Sprint(d.Key) == tt.key && d.Column == tt.column &&
					d.Side == side.Name() && (tt.wantValue == "" || d.Want.String() == tt.wantValue)
			}
			if !ok {
				t.Errorf("%s: %s was not found in %v", side.Name(), tt.name, found)
			}
			if tt.total {
				total, err := CompareTotals(ctx, c.source, c.table(tt.table), tt.column, c.sizes.Total(), side)
				if err != nil || len(total) != 1 {
					t.Errorf("%s: total: %v %v", side.Name(), total, err)
				}
			}
		}
	}
}

func TestManyDifferencesAreBounded(t *testing.T) {
	s := &change.Schema{Table: change.TableID{Schema: "s", Name: "t"}, Key: []int{0}, Columns: []change.Column{{Name: "id"}, {Name: "v"}}}
	a, b := memSide{"a", nil}, memSide{"b", nil}
	for i := range 30_000 {
		k := Value{Text: fmt.Sprint(i)}
		a.rows = append(a.rows, []Value{k, {Text: "x"}})
		b.rows = append(b.rows, []Value{k, {Text: "y"}})
	}
	r, err := Compare(t.Context(), a, []Table{{Schema: s}}, b)
	if err != nil || len(r.Differences) != maxPerTable || r.More == 0 || r.Equal() {
		t.Fatalf("%d differences and %d more, %v", len(r.Differences), r.More, err)
	}
	b.rows = append(a.rows[:len(a.rows):len(a.rows)], a.rows[5])
	r, err = Compare(t.Context(), a, []Table{{Schema: s}}, b)
	if err != nil || len(r.Differences) != 1 || r.Differences[0].Kind != Duplicate {
		t.Fatalf("%v %v", r, err)
	}
	// Without a key, rows are compared as wholes.
	s.Key = nil
	r, err = Compare(t.Context(), a, []Table{{Schema: s}}, memSide{"b", a.rows[1:]})
	if err != nil || len(r.Differences) != 1 || r.Differences[0].Kind != Missing || r.Differences[0].Key[0].Text != "0" {
		t.Fatalf("%v %v", r, err)
	}
}

type memSide struct {
	name string
	rows [][]Value
}

func (m memSide) Name() string { return m.name }
func (m memSide) Sum(context.Context, *Table, string) (string, error) {
	return "", errors.New("no sums")
}
func (m memSide) Rows(_ context.Context, _ *Table, f func([]Value) error) error {
	for _, r := range m.rows {
		if err := f(r); err != nil {
			return err
		}
	}
	return nil
}

func TestCountersThatGoBackAreSeen(t *testing.T) {
	s := &change.Schema{Table: change.TableID{Schema: "s", Name: "t"}, Key: []int{0}, Columns: []change.Column{{Name: "id"}, {Name: "version"}}}
	side := &memSide{"b", [][]Value{{{Text: "1"}, {Text: "5"}}, {{Text: "2"}, {Text: "5"}}}}
	w, err := NewWatcher(side, Counter{Table{Schema: s}, "version"})
	if err != nil {
		t.Fatal(err)
	}
	sample := func(a, b string) {
		side.rows[0][1].Text, side.rows[1][1].Text = a, b
		if err := w.Sample(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	sample("5", "5")
	sample("6", "5")
	if n, back := w.Result(); n != 2 || len(back) != 0 {
		t.Fatalf("%d %v", n, back)
	}
	sample("6", "4")
	if _, back := w.Result(); len(back) != 1 || back[0].Kind != Stepped || back[0].Key[0].Text != "2" || back[0].Want.Text != "5" || back[0].Have.Text != "4" {
		t.Fatalf("%v", back)
	}
	if _, err := NewWatcher(side, Counter{Table{Schema: s}, "id"}); err == nil {
		t.Error("a key is no counter")
	}
}

type memLedger struct {
	tables []sink.Table
	marks  []sink.Watermark
}

func (m *memLedger) Tables(context.Context) ([]sink.Table, error)         { return m.tables, nil }
func (m *memLedger) Watermarks(context.Context) ([]sink.Watermark, error) { return m.marks, nil }

func TestAwaitIsNeverSatisfiedByTime(t *testing.T) {
	id := change.TableID{Schema: "s", Name: "t"}
	part := func(n int, commit change.LSN, ord uint32) sink.Watermark {
		return sink.Watermark{Partition: sink.Partition{Table: id, N: n}, Pos: change.Position{Epoch: 1, Commit: commit, Ordinal: ord}}
	}
	const top = ^uint32(0)
	tests := map[string]struct {
		state  sink.State
		loaded change.LSN
		marks  []sink.Watermark
		ok     bool
		word   string
	}{
		"all there":          {sink.Streaming, 50, []sink.Watermark{part(0, 99, top), part(1, 100, 1)}, true, ""},
		"one short":          {sink.Streaming, 50, []sink.Watermark{part(0, 99, 7), part(1, 100, 1)}, false, "partition 0"},
		"one without a mark": {sink.Streaming, 50, []sink.Watermark{part(0, 99, top)}, false, "partition 1"},
		"before the load":    {sink.Streaming, 150, []sink.Watermark{part(0, 99, top), part(1, 100, 1)}, false, "partition 0"},
		"still loading":      {sink.Loading, 50, []sink.Watermark{part(0, 99, top), part(1, 100, 1)}, false, "loading"},
		"gated":              {sink.Gated, 50, []sink.Watermark{part(0, 99, top), part(1, 100, 1)}, false, "gated"},
	}
	for name, tt := range tests {
		ctx, cancel := context.WithTimeout(t.Context(), 60*time.Millisecond)
		l := &memLedger{[]sink.Table{{ID: id, State: tt.state, Partitions: 2, Epoch: 1, LoadedTo: tt.loaded}}, tt.marks}
		err := Await(ctx, "sink", l, 100)
		cancel()
		if (err == nil) != tt.ok || err != nil && !strings.Contains(err.Error(), tt.word) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if err := Await(ctx, "sink", &memLedger{}, 100); err == nil {
		t.Error("an empty ledger has nothing to be consistent")
	}
}

func TestCanonical(t *testing.T) {
	base := func(b string, mod int32) change.Type { return change.Type{Kind: change.Base, Base: b, Mod: mod} }
	typed, free, ts := base("numeric", 4+(12<<16|2)), base("numeric", -1), base("timestamptz", -1)
	text := base("text", -1)
	list := change.Type{Kind: change.Array, Base: "_text", Elem: &text}
	same := []struct {
		t    change.Type
		a, b string
		want bool
	}{
		{typed, "12.30", "12.3", true}, {typed, "100", "100.00", true}, {typed, "100", "1", false}, {free, "1.0", "1.00", false},
		{ts, "2024-01-01 00:00:00+00", "2024-01-01 00:00:00.000000", true}, {ts, "2024-01-01 00:00:00.1", "2024-01-01 00:00:00.01", false},
		{base("float8", -1), "1e+06", "1000000", true}, {base("float8", -1), "NaN", "nan", true}, {base("float8", -1), "-0", "0", false},
		{base("bool", -1), "t", "true", true}, {list, `{a,"b"}`, `{a,b}`, true}, {list, `{NULL}`, `{"NULL"}`, false}, {list, `{"a,b"}`, `{a,b}`, false},
		{base("hstore", -1), `"b"=>NULL, "a"=>"1"`, `"a"=>"1", "b"=>NULL`, true}, {text, "", " ", false},
	}
	for _, tt := range same {
		a, err1 := canonical(&tt.t, tt.a)
		b, err2 := canonical(&tt.t, tt.b)
		if err1 != nil || err2 != nil || (a == b) != tt.want {
			t.Errorf("%s: %q and %q: %v, %v %v", tt.t.Base, tt.a, tt.b, a == b, err1, err2)
		}
	}
}
