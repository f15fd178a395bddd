package stack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// Service names a part of the stack.
type Service string

// The services that a test may end and start again.
const (
	SourceService     Service = "source"
	SinkService       Service = "sink"
	KafkaService      Service = "kafka"
	ClickHouseService Service = "clickhouse"
	TemporalService   Service = "temporal"
	VaultService      Service = "vault"
)

// controlTimeout covers a start with crash recovery.
const controlTimeout = 2 * time.Minute

// Controller ends and starts services of the running stack. Their data stay.
type Controller struct {
	t      testing.TB
	client *http.Client
}

// Control talks to the devstack that started the servers. Tests that use it must
// not run beside others on the same stack.
func Control(t testing.TB) *Controller {
	t.Helper()
	socket := need(t, EnvSocket)
	return &Controller{t: t, client: &http.Client{
		Timeout: controlTimeout,
		Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}},
	}}
}

// Kill ends a service with SIGKILL and returns when it is gone.
func (c *Controller) Kill(s Service) { c.t.Helper(); c.must("kill", s) }

// Start starts a service that was ended and returns when it answers.
func (c *Controller) Start(s Service) { c.t.Helper(); c.must("start", s) }

// Restart stops a service in order, starts it and returns when it answers.
func (c *Controller) Restart(s Service) { c.t.Helper(); c.must("restart", s) }

func (c *Controller) must(verb string, s Service) {
	c.t.Helper()
	if err := c.do(verb, s); err != nil {
		c.t.Fatalf("%s %s: %v", verb, s, err)
	}
}

func (c *Controller) do(verb string, s Service) error {
	body, err := json.Marshal(map[string]string{"service": string(s)})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	res, err := c.client.Post("http://devstack/"+verb, "application/json", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("devstack does not answer: %w", err)
	}
	defer func() { _ = res.Body.Close() }()
	var answer struct {
		Error string `json:"error"`
	}
	if err := json.NewDecoder(res.Body).Decode(&answer); err != nil {
		return fmt.Errorf("decode answer: %w", err)
	}
	if answer.Error != "" {
		return fmt.Errorf("devstack: %s", answer.Error)
	}
	return nil
}
