package stack

import (
	"context"
	"net"
	"net/http"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

func TestNamesAreLegalEverywhereAndDiffer(t *testing.T) {
	legal := regexp.MustCompile(`^[a-z][a-z0-9_]{0,40}$`)
	seen := map[string]bool{}
	for range 1000 {
		n := Name(t)
		if !legal.MatchString(n) || seen[n] {
			t.Fatalf("bad or repeated name %q", n)
		}
		seen[n] = true
	}
	for _, c := range [][2]string{{"Test", "t"}, {"Test1/a b", "ab"}, {"TestÄrger/_x", "rger_x"}} {
		if got := shorten(c[0]); got != c[1] {
			t.Errorf("shorten(%q) = %q, want %q", c[0], got, c[1])
		}
	}
}

func TestDatabaseGoesWithItsActiveSlots(t *testing.T) {
	server := Postgres(t)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	admin, err := pgx.Connect(ctx, server)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = admin.Close(ctx) }()
	slot := Name(t)
	var name string
	t.Run("use", func(t *testing.T) {
		dsn := Database(t, server)
		c, err := pgx.Connect(ctx, dsn+"?replication=database")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close(ctx) })
		name = c.Config().Database
		if _, err := c.Exec(ctx, "CREATE_REPLICATION_SLOT "+slot+" LOGICAL pgoutput", pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	})
	var left int
	err = admin.QueryRow(ctx, `SELECT (SELECT count(*) FROM pg_replication_slots WHERE slot_name = $1)
		+ (SELECT count(*) FROM pg_database WHERE datname = $2)`, slot, name).Scan(&left)
	if err != nil || left != 0 {
		t.Fatalf("%d objects left, %v", left, err)
	}
}

func TestClickHouseDatabase(t *testing.T) {
	url := ClickHouseDatabase(t)
	if err := clickhouse(ClickHouse(t), "SELECT nonsense"); err == nil {
		t.Error("an exception passes for success")
	}
	if url == ClickHouse(t) {
		t.Error("the URL does not name the new database")
	}
}

func TestControlReportsRefusals(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/kill", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{"error":"no such service"}`)) })
	mux.HandleFunc("/start", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(`{}`)) })
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	go func() { _ = srv.Serve(l) }()
	t.Cleanup(func() { _ = srv.Close() })
	t.Setenv(EnvSocket, socket)
	c := Control(t)
	if err := c.do("kill", "nobody"); err == nil {
		t.Error("refusal passes for success")
	}
	if err := c.do("start", KafkaService); err != nil {
		t.Error(err)
	}
}
