package postgres

import (
	"context"
	"time"
)

// tend keeps the stream alive beside Next: it sends status while a slow log
// keeps Next from being called, makes a commit when there is none, and ends a
// connection on which nothing is heard.
func (t *Stream) tend(ctx context.Context) {
	defer close(t.tended)
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	lastStatus, lastBeat, lastHeard, heard := time.Now(), time.Now(), time.Now(), uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := time.Now()
		if now.Sub(lastStatus) >= statusEvery {
			lastStatus = now
			if t.sendStatus(true) != nil {
				t.interrupt() // Next reports it
				return
			}
		}
		if n := t.heard.Load(); n != heard || !t.reading.Load() {
			heard, lastHeard = n, now
		} else if now.Sub(lastHeard) > silenceLimit {
			t.interrupt()
			return
		}
		idle := now.Sub(time.Unix(0, t.lastTx.Load()))
		if every := t.o.HeartbeatInterval; every > 0 && idle >= every && now.Sub(lastBeat) >= every {
			lastBeat = now
			// Without it only the slot's advance is delayed; a broken source shows in the stream.
			_ = t.s.Heartbeat(ctx)
		}
	}
}

func (t *Stream) interrupt() { _ = t.conn.Conn().SetReadDeadline(time.Unix(1, 0)) }

// Heartbeat makes a commit that every pipeline's stream shows, without writing
// to a table.
func (s *Server) Heartbeat(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.o.ConnectTimeout)
	defer cancel()
	_, err := s.pool.Exec(ctx, "SELECT pg_logical_emit_message(true, $1::text, $2::text)", HeartbeatPrefix, s.o.Pipeline)
	return classify(ctx, err, "write a heartbeat to the source")
}
