package postgres

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
)

// Blocker is a transaction at the source that something waits for.
type Blocker struct {
	PID         int32         // 0: a prepared transaction, which no process holds
	Age         time.Duration // since it began
	Application string        // application_name, or the name of a prepared transaction
	User        string
	State       string // of the process: active, idle in transaction, …
}

// String says who it is; it holds no row values and no statement.
func (b Blocker) String() string {
	age := b.Age.Round(time.Second)
	if b.PID == 0 {
		return fmt.Sprintf("prepared transaction %q of user %q, %s old", b.Application, b.User, age)
	}
	return fmt.Sprintf("process %d (%q, user %q, %s), in a transaction for %s", b.PID, b.Application, b.User, b.State, age)
}

const watchBlockersEvery = time.Second

// watchBlockers reports who blocks the process until the function that it returns
// is called. It reports an empty list once nobody does any more.
func (s *Server) watchBlockers(ctx context.Context, pid uint32, report func([]Blocker)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		told := false
		for pause(ctx, watchBlockersEvery) == nil {
			bs, err := s.blockers(ctx, pid)
			if err != nil || len(bs) == 0 && !told { // what waits finds out for itself if the server is gone
				continue
			}
			told = len(bs) > 0
			report(bs)
		}
	})
	return func() {
		cancel()
		watch.Wait()
	}
}

// blockers returns the oldest first. What waits for a transaction to end waits for
// its lock; pg_blocking_pids has 0 for a prepared one.
func (s *Server) blockers(ctx context.Context, pid uint32) ([]Blocker, error) {
	rows, err := s.pool.Query(ctx, `
		SELECT a.pid, greatest(extract(epoch FROM clock_timestamp() - a.xact_start), 0)::float8, coalesce(a.application_name, ''),
			coalesce(a.usename::text, ''), coalesce(a.state, '')
		FROM pg_stat_activity a WHERE a.pid = ANY (pg_blocking_pids($1::int))
		UNION ALL
		SELECT 0, greatest(extract(epoch FROM clock_timestamp() - p.prepared), 0)::float8, p.gid, p.owner::text, 'prepared'
		FROM pg_prepared_xacts p JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = p.transaction AND NOT l.granted
		WHERE l.pid = $1::int
		ORDER BY 2 DESC LIMIT 20`, int64(pid))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (b Blocker, err error) {
		var age *float64
		err = r.Scan(&b.PID, &age, &b.Application, &b.User, &b.State)
		if age != nil {
			b.Age = time.Duration(*age * float64(time.Second))
		}
		return b, err
	})
}
