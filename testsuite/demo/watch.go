package main

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/client"
	"golang.org/x/term"

	"syncline/activities/contract"
	"syncline/dataplane/sink"
	"syncline/pipeline"
	"syncline/starter/view"
)

// loadBound is how long the load may take before the demo gives up.
const loadBound = 10 * time.Minute

func ready(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/readyz", port), nil)
		if err != nil {
			return err
		}
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			_ = res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return nil
			}
			err = fmt.Errorf("/readyz answers %s", res.Status)
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (d *demo) style() view.Style {
	s := view.Style{Color: d.terminal, Bars: true, Width: 100}
	if w, _, err := term.GetSize(int(os.Stdout.Fd())); err == nil && d.terminal {
		s.Width = w
	}
	return s
}

// watchLoad shows a bar per table and sink until everything is delivered.
func (d *demo) watchLoad(ctx context.Context, tc client.Client, name string) error {
	deadline := time.Now().Add(loadBound)
	lines, last := 0, time.Time{}
	for {
		v, err := view.Gather(ctx, tc, name)
		if err != nil {
			return err
		}
		if st := v.Status; st.Phase == contract.Degraded || st.Phase == contract.SetupFailed || failedTable(&st) {
			v.Draw(os.Stdout, d.style())
			return fmt.Errorf("the pipeline is %s", st.Phase)
		}
		// On a terminal the bars are drawn in place, elsewhere now and then.
		if d.terminal || time.Since(last) > 3*time.Second || v.Settled() {
			var b bytes.Buffer
			v.DrawLoads(&b, d.style())
			if d.terminal && lines > 0 {
				fmt.Printf("\x1b[%dA\x1b[J", lines)
			}
			fmt.Print(b.String())
			lines, last = strings.Count(b.String(), "\n"), time.Now()
		}
		if v.Settled() {
			return nil
		}
		if time.Now().After(deadline) {
			v.Draw(os.Stdout, d.style())
			return fmt.Errorf("the load is not done after %s", loadBound)
		}
		if err := pause(ctx, 500*time.Millisecond); err != nil {
			return err
		}
	}
}

func failedTable(st *contract.PipelineStatus) bool {
	for _, t := range st.Tables {
		for _, s := range t.Sinks {
			if s == sink.Gated || s == contract.LoadFailed {
				return true
			}
		}
	}
	return false
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// watchStream shows one line a second; with span 0 until ctx ends.
func (d *demo) watchStream(ctx context.Context, tc client.Client, name string, span time.Duration, changed *atomic.Int64) error {
	begun := time.Now()
	for n := 0; span == 0 || time.Since(begun) < span; n++ {
		if err := pause(ctx, time.Second); err != nil {
			return err
		}
		v, err := view.Gather(ctx, tc, name)
		if err != nil {
			return err
		}
		if v.Status.Phase == contract.Degraded {
			v.Draw(os.Stdout, d.style())
			return fmt.Errorf("the pipeline is %s", v.Status.Phase)
		}
		if d.terminal || n%5 == 4 {
			line := streamLine(v, changed.Load())
			if d.terminal {
				fmt.Print("\r\x1b[K" + line)
			} else {
				fmt.Println(line)
			}
		}
	}
	if d.terminal {
		fmt.Println()
	}
	return nil
}

func streamLine(v *view.View, changed int64) string {
	var b strings.Builder
	fmt.Fprintf(&b, "    %s changes at the source", view.Count(float64(changed)))
	if v.Flow != nil {
		fmt.Fprintf(&b, " · captured %s/s", view.Count(v.Flow.Rate))
	}
	for _, s := range v.Sinks {
		fmt.Fprintf(&b, " · %s %s/s, lag p50 %s p99 %s, backlog %s", s.Name, view.Count(s.Rate), view.Millis(s.LagP50), view.Millis(s.LagP99), view.Count(float64(s.Backlog)))
	}
	return b.String()
}

// next says where to look.
func (d *demo) next(spec *pipeline.Spec, took time.Duration) {
	fmt.Printf("\nDone in %s. Where to look next:\n", took.Round(time.Second))
	fmt.Printf("  Web UI       %s/namespaces/default/workflows/%s\n", d.get("SYNCLINE_TEMPORAL_UI"), strings.ReplaceAll(contract.PipelineID(spec.Name), "/", "%2F"))
	fmt.Printf("  status       source %s/env && %s status %s --watch\n", d.o.data, d.program("starter"), spec.Name)
	fmt.Printf("  metrics      http://127.0.0.1:%d/metrics   health: /healthz\n", workerPorts[0])
	fmt.Printf("  ClickHouse   curl '%s' --data-binary \"SELECT status, count(), sum(total) FROM shop.orders_live GROUP BY status ORDER BY status FORMAT PrettyCompact\"\n", httpAddress(d.get("SYNCLINE_CLICKHOUSE_URL")))
	fmt.Printf("  Postgres     psql '%s' -c 'SELECT * FROM syncline.watermarks LIMIT 5'\n", d.get("SYNCLINE_SINK_DSN"))
	fmt.Printf("  logs         %s/logs\n", d.o.data)
}

// httpAddress leaves the user out of the address: curl needs none here.
func httpAddress(dsn string) string {
	scheme, rest, _ := strings.Cut(dsn, "://")
	if _, after, ok := strings.Cut(rest, "@"); ok {
		rest = after
	}
	host, _, _ := strings.Cut(rest, "/")
	return scheme + "://" + host + "/"
}
