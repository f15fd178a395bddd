package observe

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.uber.org/zap"
)

// Handler serves /metrics, /healthz, /readyz and, if asked to, /debug/pprof/.
func Handler(m *Metrics, h *Health, withPprof bool) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.Registry, promhttp.HandlerOpts{
		// One bad collector must not hide all other metrics.
		ErrorHandling: promhttp.ContinueOnError,
		Timeout:       10 * time.Second,
	}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		stalled := h.Stalled()
		body := struct {
			Status  string    `json:"status"`
			Loops   int       `json:"loops"`
			Stalled []Stalled `json:"stalled,omitempty"`
		}{"ok", h.Loops(), stalled}
		if len(stalled) > 0 {
			body.Status = "stalled"
		}
		answer(w, len(stalled) == 0, body)
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		why := h.readiness()
		body := map[string]string{"status": "ready"}
		if why != "" {
			body["status"] = why
		}
		answer(w, why == "", body)
	})
	if withPprof {
		mux.HandleFunc("GET /debug/pprof/", pprof.Index)
		mux.HandleFunc("GET /debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	}
	return mux
}

func answer(w http.ResponseWriter, ok bool, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if !ok {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(body) // the prober has gone; nobody to tell
}

// Server is a running HTTP server.
type Server struct {
	srv  *http.Server
	addr net.Addr
	end  chan error
}

// Serve listens on addr and serves h until Close.
func Serve(addr string, h http.Handler, z *zap.Logger) (*Server, error) {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("cannot serve metrics and health on %s (SYNCLINE_HTTP_ADDR): %w", addr, err)
	}
	s := &Server{
		srv: &http.Server{
			Handler: h, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: 2 * time.Minute,
			ErrorLog: zap.NewStdLog(z.Named("http")),
		},
		addr: l.Addr(), end: make(chan error, 1),
	}
	go func() { s.end <- s.srv.Serve(l) }()
	return s, nil
}

// Addr is where the server listens, with the port that was chosen for :0.
func (s *Server) Addr() string { return s.addr.String() }

// Close ends the server, letting requests under way finish within the context.
func (s *Server) Close(ctx context.Context) error {
	err := s.srv.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.srv.Close())
	}
	if served := <-s.end; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// Probe asks a worker's own server, for images that have no other program to ask
// with. The address is the one that the worker was given to listen on.
func Probe(ctx context.Context, addr, path string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if ip := net.ParseIP(host); host == "" || ip != nil && ip.IsUnspecified() {
		host = "localhost"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		why, _ := io.ReadAll(io.LimitReader(res.Body, 4096))
		return fmt.Errorf("%s answered %d: %s", path, res.StatusCode, strings.TrimSpace(string(why)))
	}
	return nil
}
