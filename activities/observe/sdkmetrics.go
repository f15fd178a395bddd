package observe

import (
	"fmt"
	"io"
	"time"

	"github.com/uber-go/tally/v4"
	tallyprom "github.com/uber-go/tally/v4/prometheus"
	"go.temporal.io/sdk/client"
	contribtally "go.temporal.io/sdk/contrib/tally"
	"go.uber.org/zap"
)

// sdkBuckets reach from a fast poll to an activity of an hour, in seconds.
var sdkBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 3600}

// SDK gives the handler by which the Temporal SDK reports into the same
// registry. Close it last, to report what is pending.
func (m *Metrics) SDK(z *zap.Logger) (client.MetricsHandler, io.Closer, error) {
	cfg := tallyprom.Configuration{TimerType: "histogram"}
	for _, b := range sdkBuckets {
		cfg.DefaultHistogramBuckets = append(cfg.DefaultHistogramBuckets, tallyprom.HistogramObjective{Upper: b})
	}
	reporter, err := cfg.NewReporter(tallyprom.ConfigurationOptions{
		Registry: m.Registry,
		OnError:  func(err error) { z.Debug("a metric of the Temporal SDK was not registered", zap.Error(err)) },
	})
	if err != nil {
		return nil, nil, fmt.Errorf("metrics of the Temporal SDK: %w", err)
	}
	sanitize := contribtally.PrometheusSanitizeOptions
	scope, closer := tally.NewRootScope(tally.ScopeOptions{
		CachedReporter:         reporter,
		Separator:              tallyprom.DefaultSeparator,
		SanitizeOptions:        &sanitize,
		OmitCardinalityMetrics: true,
	}, time.Second)
	return contribtally.NewMetricsHandler(contribtally.NewPrometheusNamingScope(scope)), closer, nil
}
