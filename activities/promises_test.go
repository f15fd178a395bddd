package activities

import (
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"syncline/activities/observe"
	"syncline/analytics"
	"syncline/pipeline"
)

// Changes are judged by the objectives that they concern, and the target is shown as
// the share that burn rates are reckoned with.
func TestObjectivesAreCounted(t *testing.T) {
	var w *analytics.Writer // none is configured
	a := &Activities{Metrics: observe.NewMetrics("b1")}
	spec := &pipeline.Spec{Name: "shop", Objectives: []pipeline.Objective{
		{Name: "fresh", Indicator: pipeline.ObjectiveLag, Within: pipeline.Duration(time.Second), Target: 990_000},
		{Name: "taken", Indicator: pipeline.ObjectiveApplyErrors, Target: 999_900},
	}}
	tally := w.Tally(analytics.Labels{Pipeline: "shop"})
	defer tally.Close()
	p := a.promises(spec, tally)
	p.arrived(time.Millisecond, 8)
	p.arrived(2*time.Second, 2)
	p.taken(9)
	p.refused(1)
	want := `# HELP syncline_slo_events_total Events that met the objective or missed it.
# TYPE syncline_slo_events_total counter
syncline_slo_events_total{objective="fresh",pipeline="shop",result="bad"} 2
syncline_slo_events_total{objective="fresh",pipeline="shop",result="good"} 8
syncline_slo_events_total{objective="taken",pipeline="shop",result="bad"} 1
syncline_slo_events_total{objective="taken",pipeline="shop",result="good"} 9
# HELP syncline_slo_target_ratio Part of the events that should meet the objective.
# TYPE syncline_slo_target_ratio gauge
syncline_slo_target_ratio{objective="fresh",pipeline="shop"} 0.99
syncline_slo_target_ratio{objective="taken",pipeline="shop"} 0.9999
`
	if err := testutil.GatherAndCompare(a.Metrics.Registry, strings.NewReader(want), "syncline_slo_events_total", "syncline_slo_target_ratio"); err != nil {
		t.Error(err)
	}
}
