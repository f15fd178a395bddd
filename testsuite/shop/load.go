package shop

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/time/rate"
)

// LoadOptions of a Load.
type LoadOptions struct {
	Rate     float64 // row changes per second; default 500
	Sessions int     // connections that share it; default 2
	Seed     uint64  // of what is chosen
	// Retry keeps on after the source was lost; otherwise Load returns the error.
	Retry bool
	// Progress, if set, is told the counts so far about once a second.
	Progress func(Counts)
}

// Counts of what a Load changed.
type Counts struct {
	Transactions, Inserts, Updates, Deletes, KeyUpdates int64
	Failed                                              int64 // transactions that were rolled back
}

// Changes returns the number of rows that were changed.
func (c Counts) Changes() int64 { return c.Inserts + c.Updates + c.Deletes + 2*c.KeyUpdates }

type counters struct{ tx, ins, upd, del, key, failed atomic.Int64 }

func (c *counters) read() Counts {
	return Counts{c.tx.Load(), c.ins.Load(), c.upd.Load(), c.del.Load(), c.key.Load(), c.failed.Load()}
}

// Load changes the shop at a steady rate until ctx ends, and returns what it did.
func Load(ctx context.Context, dsn string, o LoadOptions) (Counts, error) {
	if o.Rate == 0 {
		o.Rate = 500
	}
	if o.Sessions == 0 {
		o.Sessions = 2
	}
	if o.Rate < 0 || o.Sessions < 0 {
		return Counts{}, fmt.Errorf("rate %v, sessions %d: want positive numbers", o.Rate, o.Sessions)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var n counters
	limit := rate.NewLimiter(rate.Limit(o.Rate), max(50, int(o.Rate/20)))
	var wg sync.WaitGroup
	for i := range o.Sessions {
		wg.Go(func() {
			if err := session(ctx, dsn, o, rand.New(rand.NewPCG(o.Seed, uint64(i))), limit, &n); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	if o.Progress != nil {
		wg.Go(func() {
			t := time.NewTicker(time.Second)
			defer t.Stop()
			for {
				select {
				case <-t.C:
					o.Progress(n.read())
				case <-ctx.Done():
					return
				}
			}
		})
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil && !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded) {
		return n.read(), err
	}
	return n.read(), nil
}

// session runs transactions on one connection after the other.
func session(ctx context.Context, dsn string, o LoadOptions, r *rand.Rand, limit *rate.Limiter, n *counters) error {
	for {
		err := connected(ctx, dsn, r, limit, n)
		if ctx.Err() != nil {
			return nil
		}
		if !o.Retry {
			return err
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

func connected(ctx context.Context, dsn string, r *rand.Rand, limit *rate.Limiter, n *counters) error {
	conn, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return fmt.Errorf("connect to the shop: %w", err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	s := &shopper{r: r}
	if err := s.survey(ctx, conn); err != nil {
		return fmt.Errorf("survey the shop: %w", err)
	}
	for {
		b := s.next()
		if err := limit.WaitN(ctx, min(b.changes, limit.Burst())); err != nil {
			<-ctx.Done() // its turn would have come after ctx ends
			return nil
		}
		// Under way when ctx ends: let it finish, so that the counts are right.
		run, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		err := b.send(run, conn, n)
		cancel()
		var pe *pgconn.PgError
		if errors.As(err, &pe) && !conn.IsClosed() {
			switch pe.Code {
			case "40P01", "40001", "23503", "23505": // deadlock, serialization, a row that another session took or made
				n.failed.Add(1)
				continue
			}
		}
		if err != nil {
			return err
		}
	}
}

// kind of change a statement makes, for the counts.
type kind uint8

const (
	ins kind = iota
	upd
	del
	keyUpd
)

// work is one transaction: a batch that the server runs as a whole.
type work struct {
	batch   pgx.Batch
	kinds   []kind
	changes int
}

func (w *work) add(k kind, expect int, sql string, args ...any) {
	w.batch.Queue(sql, args...)
	w.kinds = append(w.kinds, k)
	w.changes += expect
}

func (w *work) send(ctx context.Context, conn *pgx.Conn, n *counters) error {
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }()
	res := tx.SendBatch(ctx, &w.batch)
	var rows [keyUpd + 1]int64
	for _, k := range w.kinds {
		tag, err := res.Exec()
		if err != nil {
			_ = res.Close()
			return err
		}
		rows[k] += tag.RowsAffected()
	}
	if err := res.Close(); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return err
	}
	n.tx.Add(1)
	n.ins.Add(rows[ins])
	n.upd.Add(rows[upd])
	n.del.Add(rows[del])
	n.key.Add(rows[keyUpd])
	return nil
}
