package activities

import (
	"context"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	source "syncline/dataplane/source/postgres"
)

// clockEvery is how often the source's clock is compared with ours: clocks of
// machines drift by milliseconds a minute at worst.
const clockEvery = 30 * time.Second

// clock knows how much the source's clock is ahead of ours.
type clock struct{ last atomic.Pointer[reading] }

type reading struct{ ahead, within time.Duration }

// ahead returns the newest comparison; none before the first.
func (c *clock) read() (ahead, within time.Duration, known bool) {
	if r := c.last.Load(); r != nil {
		return r.ahead, r.within, true
	}
	return 0, 0, false
}

func (c *clock) ahead() time.Duration {
	ahead, _, _ := c.read()
	return ahead
}

// watch compares now and then until ctx ends. A source that does not answer
// leaves what was known.
func (c *clock) watch(ctx context.Context, srv *source.Server, log *zap.Logger) {
	told := false
	for {
		look, cancel := context.WithTimeout(ctx, clockEvery/2)
		ahead, within, err := srv.ClockAhead(look)
		cancel()
		switch {
		case err == nil:
			c.last.Store(&reading{ahead, within})
			if far := max(ahead, -ahead) > time.Second+within; far && !told {
				log.Warn("the source's clock and this machine's differ; lags are measured on the source's", zap.Duration("source_ahead", ahead), zap.Duration("within", within))
				told = true
			}
		case ctx.Err() == nil:
			log.Debug("the source's clock cannot be read", zap.Error(err))
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(clockEvery):
		}
	}
}
