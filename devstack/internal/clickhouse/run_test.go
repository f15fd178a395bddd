package clickhouse

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2"
)

// asServer makes this binary the server: an engine cannot be ended otherwise.
const asServer = "CLICKHOUSE_TEST_SERVER"

func TestMain(m *testing.M) {
	if args := strings.Split(os.Getenv(asServer), "|"); len(args) == 4 {
		http, _ := strconv.Atoi(args[0])
		native, _ := strconv.Atoi(args[1])
		err := Run(context.Background(), Options{Port: http, Native: native, Dir: args[2], Library: args[3], Log: os.Stderr})
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().(*net.TCPAddr).Port
}

// TestAcknowledgedInsertsSurviveAKill inserts over the native protocol into a
// server that is killed at any moment.
func TestAcknowledgedInsertsSurviveAKill(t *testing.T) {
	lib, dir := chdb(t), t.TempDir()
	http, native := freePort(t), freePort(t)
	address := fmt.Sprintf("127.0.0.1:%d", native)
	start := func() *exec.Cmd {
		t.Helper()
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), "TZ=UTC", fmt.Sprintf("%s=%d|%d|%s|%s", asServer, http, native, dir, lib))
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for begun := time.Now(); Ping(t.Context(), address) != nil; time.Sleep(50 * time.Millisecond) {
			if time.Since(begun) > time.Minute {
				t.Fatal("the server does not start")
			}
		}
		return cmd
	}
	kill := func(cmd *exec.Cmd) { _ = cmd.Process.Kill(); _ = cmd.Wait() }
	cmd := start()
	defer func() { kill(cmd) }()
	c := openNative(t, address, clickhouse.CompressionLZ4)
	execute(t, c, "CREATE TABLE kept (n UInt64) ENGINE = MergeTree ORDER BY n")
	acknowledged := 0
	for round := range 3 {
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			time.Sleep(time.Duration(300+round*177) * time.Millisecond)
			_ = cmd.Process.Kill()
		}()
		for {
			batch, err := c.PrepareBatch(t.Context(), "INSERT INTO kept")
			if err != nil {
				break
			}
			for i := range 100 {
				_ = batch.Append(uint64(acknowledged*100 + i))
			}
			if batch.Send() != nil {
				break
			}
			acknowledged++
		}
		<-ended
		kill(cmd)
		cmd = start()
	}
	var rows uint64
	if err := c.QueryRow(t.Context(), "SELECT uniqExact(n) FROM kept WHERE n < {n:UInt64}", clickhouse.Named("n", acknowledged*100)).Scan(&rows); err != nil ||
		acknowledged == 0 || rows != uint64(acknowledged*100) {
		t.Fatalf("%d INSERTs of 100 rows were acknowledged, %d rows are there: %v", acknowledged, rows, err)
	}
}
