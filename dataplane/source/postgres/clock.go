package postgres

import (
	"context"
	"time"
)

// clockLooks are made per comparison; the quickest counts.
const clockLooks = 5

// ClockAhead compares the server's clock with ours: how much it is ahead, and
// within what error. The server read its clock between question and answer, so the
// middle of the two is off by half of their distance at most.
func (s *Server) ClockAhead(ctx context.Context) (ahead, within time.Duration, err error) {
	c, err := s.pool.Acquire(ctx)
	if err != nil {
		return 0, 0, classify(ctx, err, "compare clocks")
	}
	defer c.Release()
	for i := range clockLooks {
		var theirs time.Time
		began := time.Now()
		if err := c.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&theirs); err != nil {
			return 0, 0, classify(ctx, err, "compare clocks")
		}
		took := time.Since(began)
		if e := took/2 + time.Microsecond; i == 0 || e < within { // its clock counts microseconds
			ahead, within = theirs.Sub(began.Add(took/2)), e
		}
	}
	return ahead, within, nil
}
