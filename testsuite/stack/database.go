package stack

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// cleanupTimeout bounds the clean-up of one test.
const cleanupTimeout = 30 * time.Second

// Database makes an empty database on the server of a connection string and
// returns a connection string for it. When the test ends, the database goes with
// its slots and whoever is still connected.
func Database(t testing.TB, dsn string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	name := Name(t)
	admin, err := pgx.Connect(ctx, dsn)
	if err != nil {
		t.Fatalf("connect to make a test database: %v", err)
	}
	defer func() { _ = admin.Close(ctx) }()
	if _, err := admin.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize()); err != nil {
		t.Fatalf("create test database: %v", err)
	}
	t.Cleanup(func() {
		if err := dropDatabase(dsn, name); err != nil {
			t.Errorf("drop test database %s: %v", name, err)
		}
	})
	u, err := url.Parse(dsn)
	if err != nil {
		t.Fatalf("connection string: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

func dropDatabase(dsn, name string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	admin, err := connectSoon(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer func() { _ = admin.Close(ctx) }()
	if err := dropSlots(ctx, admin, name); err != nil {
		return err
	}
	if _, err := admin.Exec(ctx, "DROP DATABASE IF EXISTS "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop: %w", err)
	}
	return nil
}

// connectSoon tries again for a while: a fault test may have just restarted the server.
func connectSoon(ctx context.Context, dsn string) (*pgx.Conn, error) {
	for {
		c, err := pgx.Connect(ctx, dsn)
		if err == nil {
			return c, nil
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// dropSlots ends the readers of a database's slots and drops these. A reader
// that reconnects at once can win the race, hence the repetition.
func dropSlots(ctx context.Context, admin *pgx.Conn, database string) error {
	for {
		var left int
		err := admin.QueryRow(ctx, "SELECT count(*) FROM pg_replication_slots WHERE database = $1", database).Scan(&left)
		if err != nil {
			return fmt.Errorf("list slots: %w", err)
		}
		if left == 0 {
			return nil
		}
		if _, err := admin.Exec(ctx, `SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active_pid IS NOT NULL`, database); err != nil {
			return fmt.Errorf("end slot readers: %w", err)
		}
		// An active slot refuses to be dropped: next round.
		_, _ = admin.Exec(ctx, `SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1 AND NOT active`, database)
		select {
		case <-ctx.Done():
			return fmt.Errorf("slots of %s stay active: %w", database, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// ClickHouseDatabase makes an empty ClickHouse database and returns the URL that
// names it. It is dropped when the test ends.
func ClickHouseDatabase(t testing.TB) string {
	t.Helper()
	base := ClickHouse(t)
	name := Name(t)
	if err := clickhouse(base, "CREATE DATABASE "+name); err != nil {
		t.Fatalf("create ClickHouse database: %v", err)
	}
	t.Cleanup(func() {
		// Not SYNC, which waits for whatever the server still does to the tables.
		if err := clickhouse(base, "DROP DATABASE IF EXISTS "+name); err != nil {
			t.Errorf("drop ClickHouse database %s: %v", name, err)
		}
	})
	u, err := url.Parse(base)
	if err != nil {
		t.Fatalf("ClickHouse URL: %v", err)
	}
	u.Path = "/" + name
	return u.String()
}

// Native turns the URL of a ClickHouse database into one that names the native protocol.
func Native(t testing.TB, database string) string {
	t.Helper()
	u, err := url.Parse(database)
	if err != nil {
		t.Fatalf("ClickHouse URL: %v", err)
	}
	n, err := url.Parse(ClickHouseNative(t))
	if err != nil {
		t.Fatalf("ClickHouse URL: %v", err)
	}
	n.Path, n.RawQuery = u.Path, u.RawQuery
	return n.String()
}

// clickhouse runs one statement over plain HTTP.
func clickhouse(base, sql string) error {
	u, err := url.Parse(base)
	if err != nil {
		return fmt.Errorf("parse URL: %w", err)
	}
	u.Path = "/"
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), strings.NewReader(sql))
	if err != nil {
		return fmt.Errorf("request: %w", err)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("send: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(res.Body, 4096))
	if err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d: %s", res.StatusCode, strings.TrimSpace(string(body)))
	}
	return nil
}
