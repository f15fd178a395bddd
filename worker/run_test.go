package main

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"syncline/activities/observe"
)

type temporal struct{ down atomic.Bool }

func (f *temporal) CheckHealth(context.Context, *client.CheckHealthRequest) (*client.CheckHealthResponse, error) {
	if f.down.Load() {
		return nil, errors.New("no connection")
	}
	return &client.CheckHealthResponse{}, nil
}

// A worker that has lost Temporal has no activities, and is not idle but cut off.
func TestHealthWithoutTemporal(t *testing.T) {
	var f temporal
	h := observe.NewHealth()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		watchTemporal(ctx, &f, h, 2*time.Millisecond, 200*time.Millisecond)
	}()
	until := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not %s", what)
			}
		}
	}
	f.down.Store(true)
	until("red while Temporal is away", func() bool { return len(h.Stalled()) == 1 })
	f.down.Store(false)
	until("green again", func() bool { return len(h.Stalled()) == 0 })
	f.down.Store(true)
	until("watched again", func() bool { return h.Loops() == 1 })
	cancel()
	<-ended
	if h.Loops() != 0 {
		t.Error("still watched")
	}
}
