package observe

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
)

type healthAnswer struct {
	Status  string
	Loops   int
	Stalled []Stalled
}

func get(t *testing.T, h http.Handler, path string) (int, healthAnswer) {
	t.Helper()
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	var a healthAnswer
	if err := json.Unmarshal(w.Body.Bytes(), &a); err != nil {
		t.Fatalf("%s: %v: %s", path, err, w.Body)
	}
	return w.Code, a
}

func TestHealthMeansProgress(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := NewHealth()
	h.now = func() time.Time { return now }
	srv := Handler(NewMetrics("b1"), h, false)

	if code, a := get(t, srv, "/healthz"); code != 200 || a.Status != "ok" {
		t.Fatalf("without loops: %d %+v", code, a)
	}
	doneCapture := h.Expect("capture shop", 30*time.Second)
	h.Expect("deliver shop/warehouse lane 0", time.Minute)
	h.Progress("capture shop", "0/16B3748")
	h.Progress("nobody", "x")

	now = now.Add(31 * time.Second)
	code, a := get(t, srv, "/healthz")
	if code != 503 || a.Status != "stalled" || a.Loops != 2 || len(a.Stalled) != 1 {
		t.Fatalf("one overdue: %d %+v", code, a)
	}
	s := a.Stalled[0]
	if s.Loop != "capture shop" || s.Position != "0/16B3748" || s.Seconds != 31 || s.Allowed != 30 || !s.Since.Equal(now.Add(-31*time.Second)) {
		t.Errorf("%+v", s)
	}

	h.Progress("capture shop", "")
	if code, _ := get(t, srv, "/healthz"); code != 200 {
		t.Errorf("after progress: %d", code)
	}
	now = now.Add(2 * time.Minute)
	if _, a := get(t, srv, "/healthz"); len(a.Stalled) != 2 || a.Stalled[0].Loop != "deliver shop/warehouse lane 0" {
		t.Errorf("longest is not first: %+v", a)
	}

	// An attempt that ends late must not end the watch over its successor.
	h.Expect("capture shop", 30*time.Second)
	doneCapture(true)
	now = now.Add(time.Minute)
	if _, a := get(t, srv, "/healthz"); len(a.Stalled) != 2 {
		t.Errorf("the successor is not watched: %+v", a)
	}
}

// Attempts that fail one after the other are one loop that does not progress.
func TestFailingAgainAndAgainIsNotHealth(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	h := NewHealth()
	h.now = func() time.Time { return now }
	attempt := func(took time.Duration, progress, failed bool) {
		done := h.Expect("capture shop", 30*time.Second)
		now = now.Add(took)
		if progress {
			h.Progress("capture shop", "0/1")
		}
		done(failed)
		now = now.Add(300 * time.Millisecond)
	}
	red := func() bool { return len(h.Stalled()) > 0 }
	for range 10 {
		attempt(2*time.Second, false, true)
	}
	if red() {
		t.Error("red before its time")
	}
	for range 10 {
		attempt(2*time.Second, false, true)
	}
	if !red() || h.Loops() != 0 {
		t.Errorf("green after 46 s of failures, or %d loops run", h.Loops())
	}
	attempt(2*time.Second, true, true)
	if red() {
		t.Error("red after progress")
	}
	// Another worker takes over, or the loop is told to stop: nothing is due here.
	now = now.Add(time.Minute)
	if red() {
		t.Error("red for what another worker does")
	}
	for range 20 {
		attempt(2*time.Second, false, true)
	}
	attempt(time.Second, false, false)
	if red() {
		t.Error("red after a clean end")
	}
}

func TestReadiness(t *testing.T) {
	h := NewHealth()
	srv := Handler(NewMetrics("b1"), h, false)
	for _, step := range []struct {
		do   func()
		code int
		say  string
	}{
		{func() {}, 503, "starting"},
		{h.Ready, 200, "ready"},
		{func() { h.NotReady("draining") }, 503, "draining"},
	} {
		step.do()
		if code, a := get(t, srv, "/readyz"); code != step.code || a.Status != step.say {
			t.Errorf("%d %s, want %d %s", code, a.Status, step.code, step.say)
		}
	}
}

func TestServerAndPprofFlag(t *testing.T) {
	for _, on := range []bool{false, true} {
		s, err := Serve("127.0.0.1:0", Handler(NewMetrics("b1"), NewHealth(), on), zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		r, err := http.Get("http://" + s.Addr() + "/debug/pprof/cmdline")
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if (r.StatusCode == http.StatusOK) != on {
			t.Errorf("pprof %v: %d", on, r.StatusCode)
		}
		if _, err := Serve(s.Addr(), http.NotFoundHandler(), zap.NewNop()); err == nil {
			t.Error("a taken port was not noticed")
		}
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
	}
}

func TestProbe(t *testing.T) {
	h := NewHealth()
	s, err := Serve(":0", Handler(NewMetrics("b1"), h, false), zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := Probe(t.Context(), s.Addr(), "/readyz"); err == nil || !strings.Contains(err.Error(), "starting") {
		t.Errorf("before Ready: %v", err)
	}
	h.Ready()
	if err := Probe(t.Context(), s.Addr(), "/readyz"); err != nil {
		t.Error(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if err := Probe(t.Context(), s.Addr(), "/healthz"); err == nil {
		t.Error("after Close the probe succeeds")
	}
}
