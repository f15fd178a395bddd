package analytics

import (
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"context"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/testsuite/stack"
)

func testStore(t *testing.T) *Store {
	t.Helper()
	dsn := stack.ClickHouse(t)
	s, err := OpenStore(dsn, stack.Name(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		if err := s.exec(ctx, "DROP DATABASE IF EXISTS "+quoted(s.database)); err != nil {
			t.Error(err)
		}
		_ = s.Close() // the test is over
	})
	return s
}

func scan[T any](t *testing.T, s *Store, q string) T {
	t.Helper()
	var v T
	if err := s.conn.With(t.Context(), func(c driver.Conn) error {
		return c.QueryRow(t.Context(), strings.ReplaceAll(q, "{db}", quoted(s.database))).Scan(&v)
	}); err != nil {
		t.Fatal(q, err)
	}
	return v
}

// Every row type has exactly the columns of its table, and every table a row type.
func TestRowsFitTheirTables(t *testing.T) {
	s := testStore(t)
	for range 2 { // a repetition changes nothing
		if err := s.Migrate(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for name, empty := range kinds {
		var want []string
		for f := range reflect.TypeOf(empty()).Elem().Fields() {
			want = append(want, f.Tag.Get("ch"))
		}
		have := scan[[]string](t, s, "SELECT groupArray(name) FROM (SELECT name FROM system.columns WHERE database || '' = '"+s.database+"' AND table = '"+name+"' ORDER BY position)")
		slices.Sort(want)
		slices.Sort(have)
		if !slices.Equal(want, have) {
			t.Errorf("table %s has columns %v, its rows %v", name, have, want)
		}
		r := empty()
		if err := s.Insert(t.Context(), "one/"+name, []Row{r}); err != nil {
			t.Errorf("an empty row of %s: %v", name, err)
		}
	}
	all := scan[uint64](t, s, "SELECT count() FROM system.tables WHERE database = '"+s.database+"' AND engine = 'MergeTree' AND name != 'migrations'")
	if int(all) != len(kinds) {
		t.Errorf("%d tables for %d row types", all, len(kinds))
	}
}

// What is inserted again under the same name counts once, in the rollups too.
func TestInsertedOnce(t *testing.T) {
	s := testStore(t)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	at := time.Now().UTC().Truncate(time.Hour)
	rows := func(n uint64) []Row {
		return []Row{
			&Lag{Time: at, Pipeline: "p", Sink: "s", Tab: "t", Changes: n, Micros: 10 * n, Max: 20, Buckets: map[uint16]uint64{10: n}, SkewError: 3},
			&Lag{Time: at.Add(5 * time.Second), Pipeline: "p", Sink: "s", Tab: "t", Changes: 1, Micros: 7, Max: 30, Buckets: map[uint16]uint64{10: 1, 12: 1}},
		}
	}
	for _, name := range []string{"a", "a", "b", "a", "b"} {
		if err := s.Insert(t.Context(), name, rows(2)); err != nil {
			t.Fatal(err)
		}
	}
	if n := scan[uint64](t, s, "SELECT sum(changes) FROM {db}.lag"); n != 6 {
		t.Errorf("%d changes in the rows, want 6", n)
	}
	if n := scan[uint64](t, s, "SELECT sum(changes) FROM {db}.lag_hourly"); n != 6 {
		t.Errorf("%d changes by hour, want 6", n)
	}
	if n := scan[uint64](t, s, "SELECT sum(micros) FROM {db}.lag_hourly WHERE ts = toDateTime("+strconv.FormatInt(at.Unix(), 10)+")"); n != 54 {
		t.Errorf("%d µs by hour, want 54", n)
	}
	if m := scan[map[uint16]uint64](t, s, "SELECT sumMap(buckets) FROM {db}.lag_hourly"); m[10] != 6 || m[12] != 2 {
		t.Errorf("buckets by hour %v", m)
	}
}

func TestNewerTables(t *testing.T) {
	s := testStore(t)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.exec(t.Context(), "INSERT INTO "+quoted(s.database)+".migrations (version) VALUES (1000)"); err != nil {
		t.Fatal(err)
	}
	if err := s.Migrate(t.Context()); err == nil || !strings.Contains(err.Error(), "version 1000") {
		t.Errorf("tables of a newer release: %v", err)
	}
}

func TestBuckets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		us := rapid.Int64Range(0, int64(365*24*time.Hour/time.Microsecond)).Draw(t, "us")
		b := LagBucket(time.Duration(us) * time.Microsecond)
		top := int64(BucketMicros(b))
		if us > top || top-us > us/subBuckets {
			t.Fatalf("%d µs are in bucket %d, which ends at %d", us, b, top)
		}
		if b > 0 && int64(BucketMicros(b-1)) >= us {
			t.Fatalf("%d µs belong into an earlier bucket than %d", us, b)
		}
	})
	if LagBucket(-time.Second) != 0 {
		t.Error("a negative lag is not in the first bucket")
	}
	m := map[uint16]uint64{1: 50, 2: 49, 5: 1}
	for p, want := range map[float64]uint64{50: 1, 50.1: 2, 99: 2, 99.1: 5, 100: 5} {
		if got := Percentile(m, p); got != want {
			t.Errorf("percentile %v is %d, want %d", p, got, want)
		}
	}
	if Percentile(nil, 50) != 0 {
		t.Error("a percentile of nothing")
	}
}

// A right that a login lacks is named with the statement that grants it.
func TestRights(t *testing.T) {
	s := testStore(t)
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	users := stack.NewUsers(t, stack.ClickHouse(t), "boss", "boss")
	users.Put("a", "pw")
	as, err := OpenStore(users.URL, s.database, login.NewHeld(login.Login{User: "a", Password: "pw", Generation: 1}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = as.Close() }() // nothing is asked of it any more
	if err := as.Rights(t.Context()); err != nil {
		t.Error(err)
	}
	users.Deny("a", "INSERT")
	users.Deny("a", "ALTER TABLE")
	if err := as.Rights(t.Context()); !fault.Is(err, CodePrivilege) || fault.Retryable(err) || !strings.Contains(err.Error(), "GRANT INSERT ON "+quoted(s.database)+".* TO `a`") || !strings.Contains(err.Error(), "GRANT ALTER TABLE") {
		t.Errorf("without rights: %v", err)
	}
}
