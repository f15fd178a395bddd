package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"syncline/devstack/internal/problem"
)

// SocketPath is where a stack takes commands. Paths of sockets are short, so a
// deep data folder has its socket elsewhere.
func SocketPath(data string) string {
	p := filepath.Join(data, "control.sock")
	if len(p) > 100 {
		p = filepath.Join(os.TempDir(), "syncline-"+shortHash(data)+".sock")
	}
	return p
}

type command struct {
	Service string `json:"service"`
}

type answer struct {
	Error    string   `json:"error,omitempty"`
	Services []Health `json:"services,omitempty"`
	Env      string   `json:"env,omitempty"`
}

// control serves the commands: POST kill, stop, start and restart with a
// service, GET status.
func (s *Stack) control() (stop func(), err error) {
	path := SocketPath(s.cfg.Data)
	_ = os.Remove(path) // we hold the data folder, so it is nobody's
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("control socket: %w", err)
	}
	_ = os.Chmod(path, 0o600)
	mux := http.NewServeMux()
	for verb, do := range map[string]func(context.Context, *service) error{
		"kill":  func(_ context.Context, v *service) error { v.end(true); return nil },
		"stop":  func(_ context.Context, v *service) error { v.end(false); return nil },
		"start": func(ctx context.Context, v *service) error { return v.start(ctx, s.ended) },
		"restart": func(ctx context.Context, v *service) error {
			v.end(false)
			return v.start(ctx, s.ended)
		},
	} {
		mux.HandleFunc("POST /"+verb, func(w http.ResponseWriter, r *http.Request) {
			var c command
			err := json.NewDecoder(r.Body).Decode(&c)
			var v *service
			if err == nil {
				v, err = s.find(c.Service)
			}
			if err == nil {
				// A caller that gives up must not leave a service half started.
				err = do(context.WithoutCancel(r.Context()), v)
			}
			reply(w, answer{Error: text(err)})
		})
	}
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, r *http.Request) {
		reply(w, answer{Services: s.Health(r.Context()), Env: s.Exports()})
	})
	server := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = server.Serve(l) }()
	return func() { _ = server.Close() }, nil
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func reply(w http.ResponseWriter, a answer) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(a)
}

// Client sends commands to a running stack.
type Client struct {
	data string
	http *http.Client
}

// NewClient talks to the stack of a data folder.
func NewClient(data string) (*Client, error) {
	abs, err := filepath.Abs(data)
	if err != nil {
		return nil, fmt.Errorf("data folder: %w", err)
	}
	return &Client{data: abs, http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", SocketPath(abs))
		},
	}}}, nil
}

func (c *Client) call(ctx context.Context, method, path string, in any) (answer, error) {
	var a answer
	b, err := json.Marshal(in)
	if err != nil {
		return a, fmt.Errorf("encode: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://devstack"+path, bytes.NewReader(b))
	if err != nil {
		return a, fmt.Errorf("request: %w", err)
	}
	res, err := c.http.Do(req)
	if err != nil {
		return a, problem.New("start one with `devstack up`, or name its folder with --data", "no devstack runs in %s", c.data)
	}
	defer func() { _ = res.Body.Close() }()
	if err := json.NewDecoder(res.Body).Decode(&a); err != nil {
		return a, fmt.Errorf("decode the answer: %w", err)
	}
	if a.Error != "" {
		return a, errors.New(a.Error)
	}
	return a, nil
}

// Do runs kill, stop, start or restart for a service.
func (c *Client) Do(ctx context.Context, verb, service string) error {
	_, err := c.call(ctx, http.MethodPost, "/"+verb, command{Service: service})
	return err
}

// Status asks for the health of all services and the environment.
func (c *Client) Status(ctx context.Context) ([]Health, string, error) {
	a, err := c.call(ctx, http.MethodGet, "/status", nil)
	return a.Services, a.Env, err
}
