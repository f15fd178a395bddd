package postgres_test

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/postgres"
	"syncline/dataplane/sink/sinktest"
	"syncline/testsuite/stack"
)

// lab is a database with a sink of one pipeline.
type lab struct {
	*testing.T
	dsn string
	k   *postgres.Sink
}

func newLab(t *testing.T, o postgres.Options) *lab {
	t.Helper()
	t.Parallel()
	l := &lab{T: t, dsn: stack.Database(t, stack.SinkPostgres(t))}
	l.k = open(t, l.dsn, "lab", o)
	t.Cleanup(func() { must(t, l.k.Close()) })
	must(t, l.k.Init(t.Context()))
	return l
}

func (l *lab) add(s *change.Schema, o sink.TableOptions, chunks int) sink.Table {
	l.Helper()
	t := sink.Table{ID: s.Table, Partitions: 1, Epoch: 1, Schema: s, Options: o}
	must(l, l.k.AddTable(l.Context(), t))
	var cut []sink.Chunk
	for n := range chunks {
		cut = append(cut, sink.Chunk{N: n})
	}
	_, err := l.k.PlanChunks(l.Context(), t.ID, cut)
	must(l, err)
	if chunks == 0 {
		must(l, l.k.FinishLoad(l.Context(), t.ID))
	}
	return t
}

func (l *lab) claim() sink.Session {
	l.Helper()
	x, err := l.k.Claim(l.Context(), 0, 1)
	must(l, err)
	l.Cleanup(func() { _ = x.Close() })
	return x
}

func (l *lab) want(sql string, lines ...string) {
	l.Helper()
	var have []string
	for _, r := range query(l, l.dsn, sql) {
		f := make([]string, len(r))
		for i, v := range r {
			f[i] = "NULL"
			if v != nil {
				f[i] = *v
			}
		}
		have = append(have, strings.Join(f, " "))
	}
	if strings.Join(have, "\n") != strings.Join(lines, "\n") {
		l.Fatalf("%s: have %q, want %q", sql, have, lines)
	}
}

func wantCode(t testing.TB, err error, code fault.Code) {
	t.Helper()
	if !fault.Is(err, code) {
		t.Fatalf("error %v, want %s", err, code)
	}
}

func people() *change.Schema {
	return sinktest.Schema("people", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("name", sinktest.TextT))
}

// TestStoppedHolder: a worker that is stopped in the middle of a transaction does
// not keep its lane.
func TestStoppedHolder(t *testing.T) {
	l := newLab(t, postgres.Options{TakeoverWait: 100 * time.Millisecond})
	l.claim()
	u, err := url.Parse(l.dsn)
	must(t, err)
	q := u.Query()
	q.Set("application_name", "syncline lab")
	u.RawQuery = q.Encode()
	stopped := connect(t, u.String())
	defer stopped.Close(context.Background())
	_, err = stopped.Exec(t.Context(), "BEGIN; SELECT FROM syncline.lanes FOR SHARE")
	must(t, err)
	began := time.Now()
	l.claim()
	if d := time.Since(began); d > 10*time.Second {
		t.Fatalf("the takeover took %s", d)
	}
	if _, err := stopped.Exec(t.Context(), "COMMIT"); err == nil {
		t.Fatal("the stopped holder could commit")
	}
}

// TestStoppedLoader: a newer attempt at a chunk ends the older one.
func TestStoppedLoader(t *testing.T) {
	l := newLab(t, postgres.Options{})
	s := people()
	l.add(s, sink.TableOptions{}, 1)
	good, _ := sinktest.Copy(s, []string{"1", "a"})
	at, resume, ended := make(chan struct{}), make(chan struct{}), make(chan error)
	go func() {
		_, err := l.k.LoadChunk(t.Context(), s.Table, 0, sinktest.Loaded(1), func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
			close(at)
			<-resume
			return good(ctx, w, binary)
		}, nil)
		ended <- err
	}()
	<-at
	_, err := l.k.LoadChunk(t.Context(), s.Table, 0, sinktest.Loaded(2), good, nil)
	must(t, err)
	close(resume)
	if err := <-ended; err == nil {
		t.Fatal("the older attempt succeeded")
	}
	must(t, l.k.FinishLoad(t.Context(), s.Table))
	l.want("SELECT * FROM people", "1 a")
}

// TestBrokenConnections ends the lane's backend at random moments. Rows of an
// append-only table show every batch that is applied twice or not at all.
func TestBrokenConnections(t *testing.T) {
	l := newLab(t, postgres.Options{})
	s := sinktest.Schema("log", 0, sinktest.Col("n", sinktest.Int4))
	tab := l.add(s, sink.TableOptions{}, 0)
	x := l.claim()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		killer := connect(t, l.dsn)
		defer killer.Close(context.Background())
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Duration(rand.IntN(8000)) * time.Microsecond):
			}
			if _, err := killer.Exec(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%enter_lane%' OR query LIKE '%log%' AND datname = current_database() AND pid <> pg_backend_pid()`); err != nil {
				t.Error(err)
				return
			}
		}
	})
	broken := 0
	const batches, each = 150, 20
	for n := range batches {
		var rows []sink.Row
		for i := range each {
			rows = append(rows, sinktest.Put(s, n+1, fmt.Sprint(n*each+i)))
		}
		b := sinktest.Batch(tab, int64(n+1), rows...)
		b.Tables[0].Rows = rows
		for try := 0; ; try++ {
			_, err := x.Apply(t.Context(), b)
			if err == nil {
				break
			}
			broken++
			if !fault.Retryable(err) || try > 1000 {
				t.Fatal(err)
			}
			if n%2 == 0 { // a caller that asks the ledger and goes on
				ws, err := x.Watermarks(t.Context(), []sink.Partition{b.Marks[0].Partition})
				if err == nil && ws[0].Equal(b.Marks[0]) {
					break
				}
			}
		}
	}
	close(stop)
	wg.Wait()
	t.Logf("%d broken connections", broken)
	l.want("SELECT count(*), count(DISTINCT n), max(n) FROM log", fmt.Sprintf("%d %d %d", batches*each, batches*each, batches*each-1))
}

// TestLostCommits: the server comes back without the lane's last commits, as it
// may after a crash, since they were not flushed.
func TestLostCommits(t *testing.T) {
	l := newLab(t, postgres.Options{})
	s := people()
	tab := l.add(s, sink.TableOptions{}, 0)
	x := l.claim()
	for n := 1; n <= 3; n++ {
		_, err := x.Apply(t.Context(), sinktest.Batch(tab, int64(n), sinktest.Put(s, n, "1", fmt.Sprint(n))))
		must(t, err)
	}
	exec(t, l.dsn, "UPDATE syncline.lanes SET seq = seq - 1", `UPDATE syncline.watermarks SET "offset" = 2`, "UPDATE people SET name = '2'")
	for range 2 {
		_, err := x.Apply(t.Context(), sinktest.Batch(tab, 4, sinktest.Put(s, 4, "2", "4")))
		wantCode(t, err, sink.CodeSessionLost)
		if !fault.Retryable(err) {
			t.Fatal("a new claim helps")
		}
	}
	l.want("SELECT * FROM people", "1 2")
	_, err := l.claim().Apply(t.Context(), sinktest.Batch(tab, 3, sinktest.Put(s, 3, "1", "3")))
	must(t, err)
}

// TestRoleWithoutRights: foreign keys stay, wait for parents, and are reported.
func TestRoleWithoutRights(t *testing.T) {
	l := newLab(t, postgres.Options{})
	role := strings.ToLower(stack.Name(t))
	exec(t, l.dsn, "CREATE ROLE "+role+" LOGIN PASSWORD 'hunter2'")
	t.Cleanup(func() {
		conn, err := pgx.Connect(context.Background(), l.dsn)
		must(t, err)
		defer conn.Close(context.Background())
		_, err = conn.Exec(context.Background(), "DROP OWNED BY "+role+"; DROP ROLE "+role)
		must(t, err)
	})
	u, err := url.Parse(l.dsn)
	must(t, err)
	u.User = url.UserPassword(role, "hunter2")
	k := open(t, u.String(), "weak", postgres.Options{})
	defer k.Close()
	wantCode(t, k.Init(t.Context()), sink.CodePrivilege)
	exec(t, l.dsn, "GRANT USAGE ON SCHEMA syncline TO "+role, "GRANT ALL ON ALL TABLES IN SCHEMA syncline TO "+role, "GRANT ALL ON ALL SEQUENCES IN SCHEMA syncline TO "+role,
		"CREATE TABLE people (id int PRIMARY KEY, name text)", "CREATE TABLE pets (id int PRIMARY KEY, owner int REFERENCES people)",
		"GRANT ALL ON people, pets TO "+role)
	must(t, k.Init(t.Context()))
	s := people()
	pets := sinktest.Schema("pets", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("owner", sinktest.Int4))
	c, err := k.Check(t.Context(), pets, sink.TableOptions{})
	must(t, err)
	if c.Problem != "" || !strings.Contains(strings.Join(c.Notes, "\n"), "1 foreign keys stay enforced") {
		t.Fatalf("%+v", c)
	}
	var tabs []sink.Table
	for _, s := range []*change.Schema{s, pets} {
		tab := sink.Table{ID: s.Table, Partitions: 1, Epoch: 1, Schema: s}
		must(t, k.AddTable(t.Context(), tab))
		_, err := k.PlanChunks(t.Context(), s.Table, nil)
		must(t, err)
		must(t, k.FinishLoad(t.Context(), s.Table))
		tabs = append(tabs, tab)
	}
	x, err := k.Claim(t.Context(), 0, 1)
	must(t, err)
	defer x.Close()
	child := sinktest.Batch(tabs[1], 1, sinktest.Put(pets, 2, "1", "7"))
	_, err = x.Apply(t.Context(), child)
	wantCode(t, err, postgres.CodeConflict)
	if !fault.Retryable(err) {
		t.Fatal("the parent may arrive later")
	}
	_, err = x.Apply(t.Context(), sinktest.Batch(tabs[0], 1, sinktest.Put(s, 1, "7", "ann")))
	must(t, err)
	_, err = x.Apply(t.Context(), child)
	must(t, err)
	exec(t, l.dsn, "REVOKE INSERT ON people FROM "+role)
	_, err = x.Apply(t.Context(), sinktest.Batch(tabs[0], 2, sinktest.Put(s, 3, "8", "bob")))
	wantCode(t, err, sink.CodePrivilege)
	if fault.Retryable(err) || !strings.Contains(err.Error(), "people") {
		t.Fatalf("error %v", err)
	}
}

// TestReplicaRole: with the right, triggers and foreign keys are out of the way,
// and a table that others point to can be emptied.
func TestReplicaRole(t *testing.T) {
	l := newLab(t, postgres.Options{})
	exec(t, l.dsn, "CREATE TABLE people (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text, extra text DEFAULT 'mine')",
		"CREATE TABLE pets (id int PRIMARY KEY, owner int REFERENCES people)",
		"CREATE FUNCTION fires() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'trigger'; END $$",
		"CREATE TRIGGER fires BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION fires()")
	s := people()
	pets := sinktest.Schema("pets", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("owner", sinktest.Int4))
	ts, tp := l.add(s, sink.TableOptions{}, 0), l.add(pets, sink.TableOptions{}, 0)
	x := l.claim()
	b := sinktest.Batch(tp, 1, sinktest.Put(pets, 1, "1", "7"))
	b.Tables = append(b.Tables, sinktest.Batch(ts, 1, sinktest.Put(s, 2, "1", "ann")).Tables...)
	_, err := x.Apply(t.Context(), b)
	must(t, err)
	l.want("SELECT * FROM people", "1 ann mine")
	done, err := x.Truncate(t.Context(), sink.Watermark{Partition: sink.Partition{Table: s.Table}, Pos: sinktest.Pos(5), Offset: 5}, 1)
	if err != nil || !done {
		t.Fatalf("%t, %v", done, err)
	}
	l.want("SELECT * FROM people")
}
