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
	Port    int // of the HTTP interface
	Native  int // port of the native protocol
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
	listener, err := listen(o.Port)
	if err != nil {
		return err
	}
	native, err := listen(o.Native)
	if err != nil {
		return err
	}
	engine, err := OpenEngine(EngineOptions{Library: o.Library, Dir: o.Dir, Connections: connections})
	if err != nil {
		return err
	}
	log := slog.New(slog.NewTextHandler(o.Log, nil))
	tcp, err := NewTCPServer(ctx, engine, log)
	if err != nil {
		return err
	}
	server := &http.Server{
		Handler:           NewServer(engine, log),
		ReadHeaderTimeout: 30 * time.Second,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	log.Info("listening", "http", listener.Addr().String(), "native", native.Addr().String())
	ended := make(chan error, 2)
	go func() { ended <- tcp.Serve(ctx, native) }()
	go func() {
		err := server.Serve(listener)
		if errors.Is(err, http.ErrServerClosed) {
			err = nil
		}
		ended <- err
	}()
	select {
	case err := <-ended:
		if ctx.Err() == nil { // none ends before its time but by a failure
			return fmt.Errorf("clickhouse: %w", err)
		}
		ended <- err
	case <-ctx.Done():
	}
	stop, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	_ = server.Shutdown(stop)
	return errors.Join(<-ended, <-ended)
}

func listen(port int) (net.Listener, error) {
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, fmt.Errorf("clickhouse: %w", err)
	}
	return l, nil
}
