package postgres

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/login/pglogin"
	"syncline/dataplane/sink"
)

// session is one lane's hold on the sink. Its connection is its own, so that
// prepared statements stay; it is opened when first needed and after a loss.
type session struct {
	s           *Sink
	lane, lanes int
	token       int64

	stop func() // following the login; nil: there is none

	mu         sync.Mutex
	conn       *pgx.Conn
	generation int64             // of the login that conn was opened with
	prepared   map[string]string // statement text to name, on conn
	serial     int               // of prepared statements
	targets    map[*change.Schema]*target
	epochs     map[change.TableID]uint32 // of each load that the session has been told of
	params     []textArray               // scratch

	seq   int64 // commits since the claim
	doubt *doubt
	lost  error // set once the session cannot go on
}

// doubt is a batch whose commit was under way when the connection broke.
type doubt struct {
	marks   []sink.Watermark
	applied sink.Applied
}

var _ sink.Session = (*session)(nil)

// Claim takes a lane of lanes under a new, higher fencing token. It waits for a
// commit that is under way; if that does not end in time (its worker may be
// stopped in the middle), it ends the backend that holds the lane.
func (s *Sink) Claim(ctx context.Context, lane, lanes int) (sink.Session, error) {
	if lane < 0 || lane >= lanes {
		return nil, fault.Permanent(CodeConfig, nil, "count lanes from 0", "lane %d of %d", lane, lanes)
	}
	out := &session{s: s, lane: lane, lanes: lanes, epochs: map[change.TableID]uint32{}}
	err := pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('syncline claim ' || $1, 5971))", s.pipeline); err != nil {
			return err
		}
		defer s.endBlockers(ctx, tx.Conn().PgConn().PID())()
		if _, err := tx.Exec(ctx, "DELETE FROM syncline.lanes WHERE pipeline = $1 AND lanes <> $2", s.pipeline, lanes); err != nil {
			return err
		}
		return tx.QueryRow(ctx, `INSERT INTO syncline.lanes (pipeline, lane, lanes, token) VALUES ($1, $2, $3, nextval('syncline.tokens'))
			ON CONFLICT (pipeline, lane) DO UPDATE SET lanes = EXCLUDED.lanes, token = EXCLUDED.token, seq = 0, claimed_at = now()
			RETURNING token`, s.pipeline, lane, lanes).Scan(&out.token)
	})
	if err != nil {
		return nil, s.wrap(ctx, err, "claim lane %d of %d", lane, lanes)
	}
	if s.follows {
		watch, cancel := context.WithCancel(context.Background())
		done := make(chan struct{})
		go func() {
			defer close(done)
			out.follow(watch)
		}()
		out.stop = func() {
			cancel()
			<-done
		}
	}
	return out, nil
}

// endBlockers ends backends of Syncline that keep the backend pid waiting longer
// than Options.TakeoverWait, until the returned function is called.
func (s *Sink) endBlockers(ctx context.Context, pid uint32) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		t := time.NewTimer(s.opts.TakeoverWait)
		defer t.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			// Not by name of the user: it may be that of before a rotation.
			// An error here only leaves the claim waiting, and the next round tries again.
			_, _ = s.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
				WHERE pid = ANY (pg_blocking_pids($1)) AND application_name LIKE 'syncline%'`, int32(pid))
			t.Reset(time.Second)
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// Token returns the fencing token of the session.
func (x *session) Token() int64 { return x.token }

// Tables returns the pipeline's tables. The session remembers which load of each
// it has told of: rows for another load are refused.
func (x *session) Tables(ctx context.Context) ([]sink.Table, error) {
	ts, err := x.s.Tables(ctx)
	if err != nil {
		return nil, err
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, t := range ts {
		x.epochs[t.ID] = t.Epoch
	}
	return ts, nil
}

// Chunks returns the finished chunks of a table.
func (x *session) Chunks(ctx context.Context, id change.TableID) ([]sink.Chunk, error) {
	cs, err := x.s.chunks(ctx, x.s.pool, id, " AND done")
	return cs, x.s.wrap(ctx, err, "read the chunks of table %s", id)
}

// Watermarks returns those of the partitions.
func (x *session) Watermarks(ctx context.Context, ps []sink.Partition) ([]sink.Watermark, error) {
	ws, err := x.s.watermarks(ctx, x.s.pool, ps)
	return ws, x.s.wrap(ctx, err, "read the watermarks")
}

// Parked returns the keys of a table that have unresolved dead letters.
func (x *session) Parked(ctx context.Context, id change.TableID) ([]change.Key, error) {
	rows, err := x.s.pool.Query(ctx, `SELECT DISTINCT key FROM syncline.dead_letters
		WHERE pipeline = $1 AND source_table = $2 AND resolved_at IS NULL AND key <> '()' ORDER BY 1`, x.s.pipeline, id.String())
	if err != nil {
		return nil, x.s.wrap(ctx, err, "read the parked keys of table %s", id)
	}
	keys, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (change.Key, error) {
		var k string
		if err := row.Scan(&k); err != nil {
			return "", err
		}
		key, err := change.ParseKey(k)
		if err != nil {
			return "", errors.New("damaged key in syncline.dead_letters") // without the key, which is row data
		}
		return key, nil
	})
	return keys, x.s.wrap(ctx, err, "read the parked keys of table %s", id)
}

// hold fails the transaction unless the session still has its lane, and keeps a
// newer attempt waiting until the transaction ends.
func (x *session) hold(ctx context.Context, tx pgx.Tx) error {
	if x.lost != nil {
		return x.lost
	}
	err := tx.QueryRow(ctx, "SELECT 1 FROM syncline.lanes WHERE pipeline = $1 AND lane = $2 AND token = $3 FOR SHARE",
		x.s.pipeline, x.lane, x.token).Scan(new(int))
	if errors.Is(err, pgx.ErrNoRows) {
		return x.fenced()
	}
	return err
}

func (x *session) fenced() error {
	x.lost = fault.Permanent(sink.CodeFenced, nil, "stop this attempt; the newer one goes on",
		"lane %d of pipeline %s at the Postgres sink has a newer token than %d", x.lane, x.s.pipeline, x.token)
	return x.lost
}

// Gate takes a table out of delivery, with a reason.
func (x *session) Gate(ctx context.Context, id change.TableID, reason string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	err := pgx.BeginFunc(ctx, x.s.pool, func(tx pgx.Tx) error {
		if err := x.hold(ctx, tx); err != nil {
			return err
		}
		if err := x.s.lockTable(ctx, tx, id); err != nil {
			return err
		}
		tag, err := tx.Exec(ctx, `UPDATE syncline.tables SET state = 'gated', reason = $3, updated_at = now()
			WHERE pipeline = $1 AND source_table = $2 AND state IN ('streaming', 'gated')`, x.s.pipeline, id.String(), reason)
		if err == nil && tag.RowsAffected() == 0 {
			return fault.Permanent(sink.CodeNotStreaming, nil, "read the tables again", "table %s is not streaming", id)
		}
		return err
	})
	return x.s.wrap(ctx, err, "gate table %s", id)
}

// connect opens the session's connection if it has none, and settles a doubt.
func (x *session) connect(ctx context.Context) error {
	if x.conn != nil && x.conn.IsClosed() {
		x.conn = nil
	}
	select {
	case <-x.s.as.Moved(x.generation):
		x.leave(ctx)
	default:
	}
	if x.conn == nil {
		c := x.s.lane.Copy()
		conn, generation, err := pglogin.Connect(ctx, x.s.as, &c.Config, func(ctx context.Context) (*pgx.Conn, error) { return pgx.ConnectConfig(ctx, c) })
		if err != nil {
			return x.s.wrap(ctx, err, "connect")
		}
		x.generation = generation
		if err := x.s.setReplicaRole(ctx, conn); err != nil {
			_ = conn.Close(ctx)
			return x.s.wrap(ctx, err, "connect")
		}
		x.conn, x.prepared, x.targets = conn, map[string]string{}, map[*change.Schema]*target{}
	}
	return nil
}

// leave closes the connection, whose login is no longer in force. Nothing is in flight
// between two calls; what is in doubt stays so, and is settled by the next connection.
func (x *session) leave(ctx context.Context) {
	if x.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	_ = x.conn.Close(ctx) // a lost connection cannot be closed politely
	x.conn = nil
}

// follow leaves the connection of a session that has nothing to do when its login is no
// longer in force.
func (x *session) follow(ctx context.Context) {
	for generation := x.s.as.Generation(); ; generation = x.s.as.Generation() {
		x.mu.Lock()
		if x.conn != nil && x.generation != generation {
			x.leave(ctx)
		}
		x.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-x.s.as.Moved(generation):
		}
	}
}

// settle asks the ledger whether the batch that is in doubt was committed.
// The row lock waits for its backend, which may still be at work.
func (x *session) settle(ctx context.Context, marks []sink.Watermark) (done *sink.Applied, err error) {
	var token, seq int64
	err = x.conn.QueryRow(ctx, "SELECT token, seq FROM syncline.lanes WHERE pipeline = $1 AND lane = $2 FOR NO KEY UPDATE", x.s.pipeline, x.lane).Scan(&token, &seq)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil, x.fenced()
	case err != nil:
		return nil, x.s.wrap(ctx, err, "settle a batch in doubt")
	case token != x.token:
		return nil, x.fenced()
	case seq == x.seq: // it was not committed
		x.doubt = nil
		return nil, nil
	case seq == x.seq+1 && slices.EqualFunc(marks, x.doubt.marks, sink.Watermark.Equal): // it was, and comes again
		done, x.doubt = &x.doubt.applied, nil
		x.seq++
		return done, nil
	case seq == x.seq+1 && beyond(marks, x.doubt.marks): // it was, and the caller knows
		x.seq++
		x.doubt = nil
		return nil, nil
	}
	x.lost = fault.Transient(sink.CodeSessionLost, nil,
		"the ledger of the Postgres sink has %d commits of lane %d, the session %d: claim the lane again", seq, x.lane, x.seq)
	return nil, x.lost
}

// beyond reports whether marks go on where others end, in every partition of both.
func beyond(marks, others []sink.Watermark) bool {
	for _, m := range marks {
		for _, o := range others {
			if m.Partition == o.Partition && !m.Beyond(o) {
				return false
			}
		}
	}
	return true
}

// Close closes the session's connection.
func (x *session) Close() error {
	if x.stop != nil {
		x.stop()
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.conn == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := x.conn.Close(ctx)
	x.conn = nil
	return err
}
