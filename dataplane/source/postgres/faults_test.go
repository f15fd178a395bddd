package postgres

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

func wantFault(t *testing.T, err error, code fault.Code, retry bool) {
	t.Helper()
	var f *fault.Error
	if !errors.As(err, &f) || f.Code != code || fault.Retryable(err) != retry {
		t.Errorf("error %v, want %s with retry %v", err, code, retry)
		return
	}
	if !f.Retry && f.Fix == "" && code != CodeSnapshotGone {
		t.Errorf("%s says no fix", code)
	}
}

func TestSlotFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE t (id int PRIMARY KEY)")
	open := func(o StreamOptions) error {
		o.SpillDir, o.HeartbeatInterval = t.TempDir(), -1
		if o.Slot == "" {
			o.Slot = r.slot
		}
		o.Publication = testPublication
		st, err := r.s.NewStream(o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = st.Close() }()
		_, err = st.Start(r.ctx())
		return err
	}
	wantFault(t, open(StreamOptions{}), CodeSlotMissing, false)
	if _, err := r.s.CreateSlot(r.ctx(), r.slot); err != nil {
		t.Fatal(err)
	}
	wantFault(t, open(StreamOptions{}), CodePublicationMissing, false)
	if err := r.s.DropSlot(r.ctx(), r.slot); err != nil {
		t.Fatal(err)
	}
	r.publish(table("t"))
	info, err := r.s.CreateSlot(r.ctx(), r.slot)
	if err != nil || info.CreatedNow || info.Confirmed == 0 {
		t.Errorf("a second creation: %+v %v", info, err)
	}
	holder := r.stream(StreamOptions{})
	wantFault(t, open(StreamOptions{}), CodeSlotInUse, true)
	wantFault(t, open(StreamOptions{TakeOver: true, SystemID: "1"}), CodeSourceChanged, false)
	if err := open(StreamOptions{TakeOver: true}); err != nil {
		t.Errorf("taking over: %v", err)
	}
	for err == nil {
		_, err = holder.Next(r.ctx())
	}
	wantFault(t, err, CodeUnreachable, true)

	// A reader that is not ours is left alone.
	other, err := NewServer(ServerOptions{DSN: r.dsn, Pipeline: "another"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close() }()
	r.stream(StreamOptions{TakeOver: true}) // the one before may not have let go yet
	wantFault(t, other.TerminateStale(r.ctx(), r.slot), CodeSlotInUse, true)
	if err := r.s.DropSlot(r.ctx(), r.slot); err != nil {
		t.Error(err)
	}
	if err := r.s.DropSlot(r.ctx(), r.slot); err != nil {
		t.Errorf("dropping twice: %v", err)
	}
	if err := r.s.DropPublication(r.ctx(), testPublication); err != nil {
		t.Error(err)
	}
	if err := r.s.DropPublication(r.ctx(), testPublication); err != nil {
		t.Errorf("dropping twice: %v", err)
	}
}

func TestPublicationThatGoesAwayUnderTheStream(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE t (id int PRIMARY KEY)")
	r.publish(table("t"))
	st := r.stream(StreamOptions{})
	if err := r.s.DropPublication(r.ctx(), testPublication); err != nil {
		t.Fatal(err)
	}
	r.exec("INSERT INTO t VALUES (1)")
	ctx := r.ctx()
	for {
		if _, err := st.Next(ctx); err != nil {
			wantFault(t, err, CodePublicationMissing, false)
			return
		}
	}
}

func TestNextEndsWithItsContext(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE t (id int PRIMARY KEY)")
	r.publish(table("t"))
	st := r.stream(StreamOptions{})
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	for {
		if _, err := st.Next(ctx); err != nil {
			if !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%v", err)
			}
			return
		}
	}
}

func TestConnectionFaults(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	ping := func(change func(*url.URL)) error {
		u, err := url.Parse(r.dsn)
		if err != nil {
			t.Fatal(err)
		}
		change(u)
		s, err := NewServer(ServerOptions{DSN: u.String(), Pipeline: "p", ConnectTimeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		return s.Ping(r.ctx())
	}
	err := ping(func(u *url.URL) { u.Host = "127.0.0.1:1"; u.User = url.UserPassword("u", "s3cret") })
	wantFault(t, err, CodeUnreachable, true)
	if strings.Contains(err.Error(), "s3cret") {
		t.Error("the password is in the error")
	}
	wantFault(t, ping(func(u *url.URL) { u.User = url.User("nobody_" + r.slot) }), CodeAuth, true)
	r.exec("CREATE ROLE plain_" + r.slot + " LOGIN")
	t.Cleanup(func() { r.exec("DROP ROLE plain_" + r.slot) })
	u, err := url.Parse(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User("plain_" + r.slot)
	s, err := NewServer(ServerOptions{DSN: u.String(), Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	_, err = s.CreateSlot(r.ctx(), r.slot)
	wantFault(t, err, CodeNoReplication, false)
	i, err := s.Inspect(r.ctx(), r.slot, testPublication)
	if err != nil {
		t.Fatal(err)
	}
	codes := map[fault.Code]bool{}
	for _, p := range i.Problems {
		codes[p.Code] = true
	}
	if !codes[CodeNoReplication] || !codes[CodePrivilege] || len(codes) != 2 {
		t.Errorf("problems: %v", i.Problems)
	}
}

func TestClassify(t *testing.T) {
	for _, tc := range []struct {
		err   error
		code  fault.Code
		retry bool
	}{
		{errors.New("connection reset"), CodeUnreachable, true},
		{&pgconn.PgError{Code: "57P01", Message: "terminating connection due to administrator command"}, CodeUnreachable, true},
		{&pgconn.PgError{Code: "28P01", Message: "password authentication failed"}, CodeAuth, true},
		{&pgconn.PgError{Code: "42501", Message: "permission denied for table t"}, CodePrivilege, false},
		{&pgconn.PgError{Code: "55000", Message: "logical decoding requires wal_level >= logical"}, CodeWALLevel, false},
		{&pgconn.PgError{Code: "53400", Message: "all replication slots are in use"}, CodeSlotsExhausted, false},
		{&pgconn.PgError{Code: "42P01", Message: `relation "x" does not exist`}, CodeTableMissing, false},
		{&pgconn.PgError{Code: "22P02", Message: `invalid input syntax for type integer: "private"`}, "", true},
	} {
		err := classify(t.Context(), tc.err, "doing %s", "it")
		if fault.CodeOf(err) != tc.code || fault.Retryable(err) != tc.retry {
			t.Errorf("%v: %v", tc.err, err)
		}
		if strings.Contains(err.Error(), "private") {
			t.Errorf("a value is in the error: %v", err)
		}
	}
	if err := classify(t.Context(), context.Canceled, "x"); fault.Retryable(err) {
		t.Error("cancellation is no failure")
	}
}

// A context that has ended is the reason of whatever the server says then, and
// says nothing of a snapshot.
func TestClassifyAfterTheEnd(t *testing.T) {
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, stop := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer stop()
	for _, cause := range []error{
		errors.New("connection reset"), &pgconn.PgError{Code: "57014", Message: "canceling statement due to user request"},
		&pgconn.PgError{Code: "57P01"}, &pgconn.PgError{Code: "55006"},
	} {
		for _, err := range []error{classify(gone, cause, "doing it"), snapshotGone(gone, cause)} {
			if !errors.Is(err, context.Canceled) || fault.CodeOf(err) != "" || fault.Retryable(err) {
				t.Errorf("%v after it was cancelled: %v", cause, err)
			}
		}
		if err := classify(late, cause, "doing it"); !errors.Is(err, context.DeadlineExceeded) || fault.CodeOf(err) != CodeUnreachable || !fault.Retryable(err) {
			t.Errorf("%v after the time was over: %v", cause, err)
		}
	}
}

func TestInvalidatedSlotIsNotUsable(t *testing.T) {
	wantFault(t, SlotInfo{Plugin: "pgoutput", WALStatus: "lost"}.usable(), CodeSlotInvalidated, false)
	wantFault(t, SlotInfo{Plugin: "pgoutput", WALStatus: "reserved", Invalidation: "idle_timeout"}.usable(), CodeSlotInvalidated, false)
	wantFault(t, SlotInfo{Plugin: "wal2json"}.usable(), CodeSlotForeign, false)
	if err := (SlotInfo{Plugin: "pgoutput", WALStatus: "unreserved"}).usable(); err != nil {
		t.Error(err)
	}
	wantFault(t, CompareSystem("1", 1, "1", 2), CodeTimeline, false)
	if err := CompareSystem("", 0, "1", 2); err != nil {
		t.Error(err)
	}
}

func TestPublicationsThatWouldBreakTheSource(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE keyless (a int); CREATE TABLE nothing (id int PRIMARY KEY, a int); ALTER TABLE nothing REPLICA IDENTITY NOTHING;
		CREATE TABLE keyed (id int PRIMARY KEY, a int, "B b" text); CREATE TABLE full_t (id int PRIMARY KEY, a int); ALTER TABLE full_t REPLICA IDENTITY FULL;
		CREATE TABLE full_keyless (a int); ALTER TABLE full_keyless REPLICA IDENTITY FULL`)
	with := func(name string, columns []string, where string) PublishedTable {
		t := table(name)
		t.Columns, t.Where = columns, where
		return t
	}
	for _, tc := range []struct {
		t    PublishedTable
		code fault.Code
	}{
		{table("keyless"), CodeTableWithoutKey},
		{table("full_keyless"), CodeTableWithoutKey},
		{table("nothing"), CodeTableWithoutKey},
		{table("absent"), CodeTableMissing},
		{with("keyed", nil, "a > 1"), CodeIdentityColumns},
		{with("keyed", []string{"a", "B b"}, ""), CodeIdentityColumns},
		{with("full_t", []string{"id"}, ""), CodeIdentityColumns},
		{with("keyed", []string{"id", "no"}, ""), CodeFilter},
		{with("keyed", nil, "no = 1"), CodeFilter},
		{with("keyed", nil, "id >"), CodeFilter},
		{with("keyed", nil, "id > random()"), CodeFilter},
		{with("keyed", []string{"id", "B b"}, "id > 1 -- no 'a' here"), ""},
		{with("full_t", nil, "a > 1"), ""},
		{PublishedTable{ID: change.TableID{Schema: "public", Name: "keyless"}, AppendOnly: true, Where: "a > 1"}, ""},
	} {
		err := r.s.CheckPublication(r.ctx(), testPublication, []PublishedTable{table("keyed"), tc.t}[1:])
		if fault.CodeOf(err) != tc.code {
			t.Errorf("%+v: %v, want %q", tc.t, err, tc.code)
		}
		if err != nil && fault.Retryable(err) {
			t.Errorf("%+v: would be retried: %v", tc.t, err)
		}
	}
	i, err := r.s.Inspect(r.ctx(), r.slot, testPublication)
	if err != nil || i.Publication != nil || len(i.Problems) != 0 || len(i.Tables) != 5 {
		t.Errorf("a check left something behind: %+v %v", i, err)
	}
}

func TestInspect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec(`CREATE TABLE a (x text, y int, PRIMARY KEY (y, x)); INSERT INTO a SELECT 'v', g FROM generate_series(1, 1000) g; ANALYZE a;
		CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10); CREATE UNLOGGED TABLE u (id int)`)
	r.publish(table("a"), table("p"))
	i, err := r.s.Inspect(r.ctx(), r.slot, testPublication)
	if err != nil {
		t.Fatal(err)
	}
	if i.Version < 150000 || i.WALLevel != "logical" || i.SystemID == "" || i.Timeline == 0 || !i.Role.Superuser || i.Slots.Max == 0 || len(i.Problems) > 0 {
		t.Errorf("%+v", i)
	}
	if i.Slot == nil || i.Slot.Confirmed == 0 || i.Slot.WALStatus != "reserved" || i.Publication == nil || !i.Publication.ViaRoot ||
		i.Publication.Operations != "cudt" || len(i.Publication.Tables) != 2 {
		t.Errorf("%+v %+v", i.Slot, i.Publication)
	}
	if i.Slot.Failover != (i.Version >= 170000) {
		t.Errorf("failover %v on %d", i.Slot.Failover, i.Version)
	}
	if len(i.Tables) != 3 || i.Tables[0].Rows != 1000 || strings.Join(i.Tables[0].Key, ",") != "y,x" || i.Tables[0].Bytes == 0 ||
		!i.Tables[1].Partitioned || i.Tables[1].Partitions != 1 || !i.Tables[2].Unlogged {
		t.Errorf("%+v", i.Tables)
	}
	st := r.stream(StreamOptions{SystemID: i.SystemID, Timeline: i.Timeline})
	if id, tl := st.System(); id != i.SystemID || tl != i.Timeline {
		t.Errorf("%s %d", id, tl)
	}
	// Tables come and go; an empty publication is one.
	for _, tables := range [][]PublishedTable{{table("a")}, {}, {table("p"), table("a")}} {
		if err := r.s.EnsurePublication(r.ctx(), testPublication, tables); err != nil {
			t.Fatal(err)
		}
		i, err := r.s.Inspect(r.ctx(), "", testPublication)
		if err != nil || len(i.Publication.Tables) != len(tables) {
			t.Errorf("%v: %+v %v", tables, i.Publication, err)
		}
	}
}

// A transaction that wrote to a table before it was published is not in the
// stream: a snapshot that does not see it either would lose it.
func TestEnsurePublicationWaitsForWriters(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE TABLE w (id int PRIMARY KEY)")
	tx, exec := r.begin()
	exec("INSERT INTO w VALUES (1)")
	done := make(chan error, 1)
	go func() { done <- r.s.EnsurePublication(r.ctx(), testPublication, []PublishedTable{table("w")}) }()
	var found bool
	for !found {
		r.scan(&found, "SELECT EXISTS (SELECT FROM pg_publication_tables WHERE tablename = 'w')")
	}
	select {
	case err := <-done:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(300 * time.Millisecond):
	}
	r.commit(tx)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}
