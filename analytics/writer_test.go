package analytics

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"syncline/dataplane/fault"
)

// meter counts what an Observer is told.
type meter struct{ written, dropped, segments atomic.Int64 }

func (m *meter) observer() Observer {
	return Observer{
		Written: func(n int) { m.written.Add(int64(n)) },
		Dropped: func(n int) { m.dropped.Add(int64(n)) },
		Waiting: func(n int, _ int64) { m.segments.Store(int64(n)) },
	}
}

func retries(n int) []Row {
	at := time.Now().UTC().Truncate(Window)
	out := make([]Row, n)
	for i := range out {
		out[i] = &Retries{Time: at, Pipeline: "p", Component: fmt.Sprint(i % 3), Code: "X", Count: 1}
	}
	return out
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("in vain: ", what)
		}
	}
}

var errAway = fault.Transient(CodeStore, nil, "the store is away")

func (w *Writer) empty() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.n == 0
}

// While the store is away rows go to disk; afterwards each is there once, also
// those of a process that ended meanwhile.
func TestOutage(t *testing.T) {
	s := testStore(t)
	dir := t.TempDir()
	var away atomic.Bool
	open := func(context.Context) (*Store, error) {
		if away.Load() {
			return nil, errAway
		}
		return &Store{conn: s.conn, database: s.database}, nil
	}
	start := func(m *meter) *Writer {
		w, err := NewWriter(Options{Open: open, Dir: dir, Every: 5 * time.Millisecond, Observer: m.observer()})
		if err != nil {
			t.Fatal(err)
		}
		return w
	}
	away.Store(true)
	var m1, m2 meter
	w := start(&m1)
	w.Put(retries(10)...)
	await(t, "a segment on disk", func() bool { return m1.segments.Load() == 1 })
	w.Put(retries(7)...)
	await(t, "both on disk", func() bool { return w.empty() })
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Close(ended); err != nil {
		t.Fatal(err)
	}
	w.Put(retries(1)...)
	if n := m1.dropped.Load(); n != 1 {
		t.Errorf("%d rows dropped after the end, want 1", n)
	}

	w = start(&m2)
	w.Put(retries(5)...)
	await(t, "all segments", func() bool { return w.empty() && m2.segments.Load() >= 2 })
	away.Store(false)
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"retries", "retries_hourly"} {
		if n := scan[uint64](t, s, "SELECT sum(retries) FROM {db}."+table); n != 22 {
			t.Errorf("%d in %s, want 22", n, table)
		}
	}
	if n := m2.written.Load(); n != 22 {
		t.Errorf("%d rows said to be written, want 22", n)
	}
	_ = w.spill.close() // not Close, which would close the connections of the test
	left, err := filepath.Glob(filepath.Join(dir, "*", "*"+segment))
	if err != nil || len(left) != 0 {
		t.Errorf("left on disk: %v %v", left, err)
	}
}

// A segment that was inserted, but is still on disk, as after a kill between the
// two, does not count twice.
func TestKilledBetweenInsertAndRemove(t *testing.T) {
	s := testStore(t)
	dir := t.TempDir()
	if err := s.Migrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	sp, err := openSpill(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := sp.put(map[string][]Row{"retries": retries(4)}); err != nil {
		t.Fatal(err)
	}
	path, _ := sp.oldest()
	b, err := sp.read(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Insert(t.Context(), b.name+"/retries", b.rows["retries"]); err != nil {
		t.Fatal(err)
	}
	if err := sp.close(); err != nil {
		t.Fatal(err)
	}
	var m meter
	w, err := NewWriter(Options{Open: func(context.Context) (*Store, error) { return &Store{conn: s.conn, database: s.database}, nil }, Dir: dir, Observer: m.observer()})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, table := range []string{"retries", "retries_hourly"} {
		if n := scan[uint64](t, s, "SELECT sum(retries) FROM {db}."+table); n != 4 {
			t.Errorf("%d in %s, want 4", n, table)
		}
	}
}

// Beyond its bounds the writer drops and counts, and never waits.
func TestBounds(t *testing.T) {
	var m meter
	w, err := NewWriter(Options{
		Open: func(context.Context) (*Store, error) { return nil, errAway }, Dir: t.TempDir(),
		QueueRows: 10, SpillBytes: 1, Every: time.Hour, Observer: m.observer(),
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Put(retries(13)...)
	if n := m.dropped.Load(); n != 3 {
		t.Errorf("%d rows dropped for want of memory, want 3", n)
	}
	w.save()
	w.Put(retries(2)...)
	w.save()
	if n := m.dropped.Load(); n != 5 {
		t.Errorf("%d rows dropped for want of disk, want 5", n)
	}
	if n, bytes := w.spill.waiting(); n != 1 || bytes == 0 {
		t.Errorf("%d segments of %d bytes wait", n, bytes)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Close(ended); err != nil {
		t.Fatal(err)
	}
}

// What comes while a segment waits joins it, until somebody looks at it.
func TestSegmentsGrow(t *testing.T) {
	s, err := openSpill(t.TempDir(), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.close() }()
	put := func() {
		if err := s.put(map[string][]Row{"retries": retries(2)}); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		put()
	}
	path, _ := s.oldest()
	put()
	if n, _ := s.waiting(); n != 2 {
		t.Errorf("%d segments, want 2", n)
	}
	for range 2 { // the same each time
		if b, err := s.read(path); err != nil || b.size() != 6 {
			t.Errorf("%d rows: %v", b.size(), err)
		}
	}
	if err := os.Chmod(s.dir, 0o500); err != nil || os.Getuid() == 0 {
		return // root writes everywhere
	}
	if err := s.put(map[string][]Row{"retries": retries(1)}); !fault.Is(err, CodeSpill) {
		t.Errorf("into a folder that takes nothing: %v", err)
	}
}

// What cannot be read steps aside; a folder of a process that lives is left alone.
func TestSegments(t *testing.T) {
	dir := t.TempDir()
	alive, err := openSpill(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if err := alive.put(map[string][]Row{"retries": retries(2)}); err != nil {
		t.Fatal(err)
	}
	other, err := openSpill(dir, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	if n, _ := other.waiting(); n != 0 {
		t.Errorf("%d segments taken from a process that is alive", n)
	}
	if err := other.close(); err != nil {
		t.Fatal(err)
	}
	path, _ := alive.oldest()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) {
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		if b, err := alive.read(path); !errors.Is(err, errTorn) || b.size() > 1 {
			t.Errorf("%d of %d bytes of a segment read as %d rows: %v", n, len(data), b.size(), err)
		}
	}
	if err := alive.setAside(path); err != nil {
		t.Fatal(err)
	}
	if n, bytes := alive.waiting(); n != 0 || bytes != 0 {
		t.Errorf("%d segments, %d bytes after setting aside", n, bytes)
	}
	if _, err := os.Stat(strings.TrimSuffix(path, segment) + damaged); err != nil {
		t.Error(err)
	}
	if err := alive.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := openSpill("/proc/nowhere", 1); !fault.Is(err, CodeSpill) || errors.Is(err, errAway) {
		t.Errorf("a folder that cannot be made: %v", err)
	}
}
