package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"syncline/devstack/internal/components"
	"syncline/devstack/internal/stack"
)

// The test binary is devstack when it is told so.
func TestMain(m *testing.M) {
	if os.Getenv("DEVSTACK_AS_COMMAND") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestExitCodes(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		args []string
		code int
		says string
	}{
		{nil, exitUsage, "say what to do"},
		{[]string{"dance"}, exitUsage, "unknown command"},
		{[]string{"up", "--no-such"}, exitUsage, "no-such"},
		{[]string{"up", "extra"}, exitUsage, "extra"},
		{[]string{"up", "--kafka", "rabbit", "--postgres", "9"}, exitUsage, "--postgres is 9"},
		{[]string{"kill", "--data", dir}, exitUsage, "name of one service"},
		{[]string{"kill", "kafka", "--data", dir}, exitEnvironment, "no devstack runs"},
		{[]string{"status", "--data", dir}, exitEnvironment, "devstack up"},
		{[]string{"down", "--data", dir}, exitOK, ""},
		{[]string{"up", "--data", dir, "--min-free-gb", "99999999"}, exitEnvironment, "free "},
		{[]string{"help"}, exitOK, ""},
	} {
		var out, errs bytes.Buffer
		if code := execute(context.Background(), c.args, &out, &errs); code != c.code || !strings.Contains(errs.String(), c.says) {
			t.Errorf("%v: code %d, %q", c.args, code, errs.String())
		}
	}
}

func TestPortsComeFromTheBaseUnlessGiven(t *testing.T) {
	cfg, detach, err := upFlags("up", []string{"--ports-base", "31000", "--kafka-port", "9092", "--detach"})
	if err != nil || !detach || cfg.Ports.Source != 31002 || cfg.Ports.Kafka != 9092 || cfg.Ports.ClickHouse != 31005 {
		t.Errorf("%+v, %v", cfg, err)
	}
}

// running is a stack that a test has started.
type running struct {
	t         *testing.T
	base      int
	dir, env  string
	startArgs []string
}

// startStack starts the whole stack, if its programs are at hand.
func startStack(t *testing.T) *running {
	t.Helper()
	if testing.Short() {
		t.Skip("starts servers")
	}
	parts, err := stack.OpenComponents(nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{"temporal-" + components.TemporalVersion + "-*", "chdb-" + components.ChDBVersion + "-*"} {
		if found, _ := filepath.Glob(parts.Cache.Path(part)); len(found) == 0 {
			t.Skipf("%s is not in the cache; `go run . prepare` puts it there", part)
		}
	}
	s := &running{t: t, base: freeBlock(t), dir: filepath.Join(t.TempDir(), "with space")}
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		t.Fatal(err)
	}
	openUp(t, s.dir)
	s.env = filepath.Join(s.dir, "env")
	s.startArgs = []string{"up", "--detach", "--data", s.dir, "--ports-base", fmt.Sprint(s.base), "--env-file", s.env, "--fsync=false"}
	t.Cleanup(func() { _ = execute(context.Background(), []string{"down", "--data", s.dir}, os.Stderr, os.Stderr) })
	s.say(exitOK, s.startArgs...)
	return s
}

// say runs devstack with arguments and wants an exit code.
func (s *running) say(code int, args ...string) string {
	s.t.Helper()
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "DEVSTACK_AS_COMMAND=1")
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil || cmd.ProcessState.ExitCode() != code {
		s.t.Fatalf("%v: %v, want code %d: %s", args, err, code, out)
	}
	return string(out)
}

func TestUpAndDown(t *testing.T) {
	s := startStack(t)
	say, dir, base := s.say, s.dir, s.base
	env, err := os.ReadFile(s.env)
	if err != nil {
		t.Error(err)
	}
	for _, v := range []string{"TEMPORAL_ADDRESS", "TEMPORAL_UI", "TEMPORAL_CLI", "SOURCE_DSN", "SINK_DSN", "KAFKA_BROKERS", "CLICKHOUSE_URL", "CLICKHOUSE_NATIVE_URL", "DEVSTACK_SOCKET", "PG_BINDIR"} {
		if strings.Count(string(env), "export SYNCLINE_"+v+"=") != 1 {
			t.Errorf("environment without SYNCLINE_%s: %q", v, env)
		}
	}
	say(exitEnvironment, s.startArgs...)
	say(exitEnvironment, "up", "--data", t.TempDir(), "--ports-base", fmt.Sprint(base))
	if mode, err := journal(filepath.Join(dir, "temporal", "temporal.db")); mode != "wal" {
		t.Errorf("Temporal's journal is %s, %v", mode, err)
	}
	clickhouse := fmt.Sprintf("http://127.0.0.1:%d/", base+5)
	dsn := fmt.Sprintf("postgres://postgres@127.0.0.1:%d/postgres", base+2)
	post(t, clickhouse, "CREATE TABLE kept (a UInt8) ENGINE = MergeTree ORDER BY a")
	post(t, clickhouse, "INSERT INTO kept VALUES (1), (2)")
	sql(t, dsn, "CREATE TABLE kept AS SELECT 3 AS n")
	for _, s := range []string{"kafka", "clickhouse", "sink"} {
		say(exitOK, "kill", s, "--data", dir)
	}
	var all []stack.Health
	out := say(exitFailed, "status", "--json", "--data", dir)
	if err := json.NewDecoder(strings.NewReader(out)).Decode(&all); err != nil || len(all) != 5 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, s := range []string{"kafka", "clickhouse", "sink"} {
		say(exitOK, "start", s, "--data", dir)
	}
	say(exitOK, "status", "--data", dir)
	say(exitOK, "down", "--data", dir)
	for p := base; p < base+10; p++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			t.Errorf("port %d is still in use", p)
			continue
		}
		_ = l.Close()
	}
	say(exitOK, s.startArgs...)
	if got := post(t, clickhouse, "SELECT sum(a) FROM kept"); got != "3\n" {
		t.Errorf("ClickHouse kept %q", got)
	}
	if got := sql(t, dsn, "SELECT n FROM kept"); got != "3" {
		t.Errorf("Postgres kept %q", got)
	}
	say(exitOK, "down", "--data", dir)
}

// What a broker or ClickHouse has acknowledged is there after kills.
func TestKillsLoseNothingAcknowledged(t *testing.T) {
	s := startStack(t)
	const kills = 4
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	broker, url := fmt.Sprintf("127.0.0.1:%d", s.base+4), fmt.Sprintf("http://127.0.0.1:%d/", s.base+5)
	client, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.DefaultProduceTopic("kept"), kgo.AllowAutoTopicCreation(), kgo.RetryBackoffFn(func(int) time.Duration { return 20 * time.Millisecond }))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	makeTopic(ctx, t, client, "kept")
	post(t, url, "CREATE TABLE acked (n UInt64) ENGINE = MergeTree ORDER BY n")
	stop := make(chan struct{})
	var produced, inserted int
	var wg sync.WaitGroup
	work := func(count *int, one func(n int) error) {
		wg.Go(func() {
			for n := 0; ; {
				select {
				case <-stop:
					return
				case <-ctx.Done():
					return
				default:
				}
				if one(n) == nil {
					n++
					*count = n
				}
			}
		})
	}
	work(&produced, func(n int) error {
		return client.ProduceSync(ctx, &kgo.Record{Value: fmt.Append(nil, n)}).FirstErr()
	})
	work(&inserted, func(n int) error {
		res, err := http.Post(url, "", strings.NewReader(fmt.Sprintf("INSERT INTO acked SELECT number + %d FROM numbers(100)", n*100)))
		if err != nil {
			return err
		}
		defer func() { _ = res.Body.Close() }()
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("status %d", res.StatusCode)
		}
		return nil
	})
	for range kills {
		for _, name := range []string{"kafka", "clickhouse"} {
			s.say(exitOK, "kill", name, "--data", s.dir)
			s.say(exitOK, "start", name, "--data", s.dir)
		}
	}
	close(stop)
	wg.Wait()
	if produced == 0 || inserted == 0 || ctx.Err() != nil {
		t.Fatalf("produced %d, inserted %d, %v", produced, inserted, ctx.Err())
	}
	if got, want := post(t, url, "SELECT uniqExact(n) >= "+fmt.Sprint(inserted*100)+" FROM acked"), "1\n"; got != want {
		t.Errorf("ClickHouse lost acknowledged rows: %s", post(t, url, "SELECT uniqExact(n) FROM acked"))
	}
	seen := map[string]bool{}
	reader, err := kgo.NewClient(kgo.SeedBrokers(broker), kgo.ConsumeTopics("kept"), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for len(seen) < produced && ctx.Err() == nil {
		reader.PollFetches(ctx).EachRecord(func(r *kgo.Record) { seen[string(r.Value)] = true })
	}
	if len(seen) < produced {
		t.Errorf("Kafka lost records: %d of %d are there", len(seen), produced)
	}
}

func makeTopic(ctx context.Context, t *testing.T, c *kgo.Client, name string) {
	t.Helper()
	req := kmsg.NewPtrCreateTopicsRequest()
	topic := kmsg.NewCreateTopicsRequestTopic()
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor = name, 2, 1
	req.Topics, req.TimeoutMillis = append(req.Topics, topic), 10_000
	if _, err := req.RequestWith(ctx, c); err != nil {
		t.Fatal(err)
	}
}

// openUp lets other accounts pass through a test's folders.
func openUp(t *testing.T, dir string) {
	t.Helper()
	for ; strings.HasPrefix(dir, os.TempDir()) && dir != os.TempDir(); dir = filepath.Dir(dir) {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// freeBlock finds ten ports in a row, below those that the system deals out.
func freeBlock(t *testing.T) int {
	t.Helper()
next:
	for base := 20000 + os.Getpid()%1000*10; base < 32000; base += 10 {
		for p := base; p < base+10; p++ {
			l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
			if err != nil {
				continue next
			}
			_ = l.Close()
		}
		return base
	}
	t.Skip("no ten free ports in a row")
	return 0
}

func post(t *testing.T, url, query string) string {
	t.Helper()
	res, err := http.Post(url, "", strings.NewReader(query))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	var b bytes.Buffer
	if _, err := b.ReadFrom(res.Body); err != nil || res.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v %s", query, err, b.String())
	}
	return b.String()
}

func sql(t *testing.T, dsn, query string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	c, err := pgconn.Connect(ctx, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close(ctx) }()
	res, err := c.Exec(ctx, query).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	if len(res) == 0 || len(res[0].Rows) == 0 {
		return ""
	}
	return string(res[0].Rows[0][0])
}

// journal is the kind of journal that the head of an SQLite file names.
func journal(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	var version [1]byte
	if _, err := f.ReadAt(version[:], 18); err != nil {
		return "", err
	}
	if version[0] == 2 {
		return "wal", nil
	}
	return "rollback", nil
}
