package activities

import (
	"testing"
	"time"

	"syncline/pipeline"
)

// A tier that is slowed promises what it then can, also to what waits when that ends.
func TestPace(t *testing.T) {
	h := pipeline.Duration(time.Hour)
	p := &pace{spec: &pipeline.Spec{Kafka: pipeline.Kafka{Retention: 100 * h}, Tiers: []pipeline.Tier{{Name: "hourly", Every: h, Jitter: h / 60}, {Name: "daily", Every: 24 * h}}}}
	now := time.Now()
	expect := func(at time.Time, hourly, daily time.Duration) {
		t.Helper()
		if a, b, c := p.promise("hourly", at), p.promise("daily", at), p.promise("gone", at); a != hourly || b != daily || c != 0 {
			t.Errorf("promised %s, %s and %s, want %s and %s", a, b, c, hourly, daily)
		}
	}
	expect(now, 61*time.Minute, 24*time.Hour)
	p.saw(0, now)
	expect(now, 61*time.Minute, 24*time.Hour)
	p.saw(4, now)
	expect(now, 241*time.Minute, 50*time.Hour) // half of what the log keeps
	p.saw(0, now.Add(time.Minute))
	expect(now.Add(4*time.Hour), 241*time.Minute, 50*time.Hour)
	expect(now.Add(5*time.Hour), 61*time.Minute, 50*time.Hour)
	expect(now.Add(51*time.Hour), 61*time.Minute, 24*time.Hour)
}
