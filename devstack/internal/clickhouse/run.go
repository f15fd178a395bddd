package clickhouse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"
)

// Options of the server process.
type Options struct {
	Port    int
	Dir     string
	Library string
	Log     io.Writer
}

// connections is how many statements run at once; more wait.
const connections = 6

// Run serves until ctx ends. The caller should exit then: the engine cannot be
// shut down cleanly inside a process that goes on.
func Run(ctx context.Context, o Options) error {
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return fmt.Errorf("clickhouse data folder: %w", err)
	}
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(o.Port)))
	if err != nil {
		return fmt.Errorf("clickhouse: %w", err)
	}
	engine, err := OpenEngine(EngineOptions{Library: o.Library, Dir: o.Dir, Connections: connections})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(o.Log, nil))
	server := &http.Server{
		Handler:           NewServer(engine, log),
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(grace)
	}()
	log.Info("listening", "address", listener.Addr().String())
	if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("clickhouse: %w", err)
	}
	return nil
}
