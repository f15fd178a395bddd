package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	kgo "github.com/segmentio/kafka-go"

	"syncline/activities/contract"
	"syncline/analytics"
	"syncline/dataplane/change"
	"syncline/dataplane/transport/kafka"
)

// gateway passes connections on to a server, until it is shut.
type gateway struct {
	l    net.Listener
	to   string
	mu   sync.Mutex
	shut bool
	open map[net.Conn]bool
	slow atomic.Int64 // bytes a second that a server's answers may take; 0: any
}

func newGateway(t testing.TB, to string) *gateway {
	t.Helper()
	return newGatewayAt(t, to, func(l net.Listener) net.Listener { return l })
}

// newGatewayAt lets a test put something into the listener.
func newGatewayAt(t testing.TB, to string, wrap func(net.Listener) net.Listener) *gateway {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l = wrap(l)
	g := &gateway{l: l, to: to, open: map[net.Conn]bool{}}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go g.pass(c)
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		g.set(true)
	})
	return g
}

func (g *gateway) hold(c net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.shut {
		_ = c.Close()
		return false
	}
	g.open[c] = true
	return true
}

func (g *gateway) pass(c net.Conn) {
	if !g.hold(c) {
		return
	}
	s, err := net.Dial("tcp", g.to)
	if err != nil || !g.hold(s) {
		_ = c.Close()
		return
	}
	go relay(s, c, nil)
	relay(c, s, &g.slow)
}

func relay(to, from net.Conn, rate *atomic.Int64) {
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, werr := to.Write(buf[:n]); werr != nil {
				break
			}
		}
		if rate != nil && n > 0 {
			if r := rate.Load(); r > 0 {
				time.Sleep(time.Duration(n) * time.Second / time.Duration(r)) // the line's speed is what the test makes
			}
		}
		if err != nil {
			break
		}
	}
	_ = to.Close()
	_ = from.Close()
}

// set shuts the gateway, cutting what is under way, or opens it again.
func (g *gateway) set(shut bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.shut = shut
	for c := range g.open {
		_ = c.Close()
	}
	clear(g.open)
}

// recorded gives the workers of a rig an analytics database behind a gateway.
func (r *rig) recorded() *gateway {
	r.t.Helper()
	u, err := url.Parse(r.clickURL)
	if err != nil {
		r.t.Fatal(err)
	}
	g := newGateway(r.t, u.Host)
	u.Host, u.Path = g.l.Addr().String(), "/"
	r.env = append(r.env, "E2E_ANALYTICS="+u.String(), "SYNCLINE_ANALYTICS=env:E2E_ANALYTICS", "SYNCLINE_ANALYTICS_DATABASE="+r.clickDB)
	return g
}

// sum returns a number from the analytics tables; {db} is their database.
func (r *rig) sum(q string) int64 {
	r.t.Helper()
	text := strings.TrimSpace(r.click(strings.ReplaceAll(q, "{db}", r.clickDB)))
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		r.t.Fatalf("%s: %q", q, text)
	}
	return n
}

// tally is what a test itself did, by table and operation.
type tally map[string]map[string]int64

func (c tally) add(tab, op string, n int64) {
	if c[tab] == nil {
		c[tab] = map[string]int64{}
	}
	c[tab][op] += n
}

// work changes two tables for a while: one of accounts in every way, one of
// entries that are only added.
func (r *rig) work(rnd *rand.Rand, done tally, next *int, span time.Duration) {
	r.t.Helper()
	for end := time.Now().Add(span); time.Now().Before(end); {
		tx, err := r.db.Begin(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		run := func(tab, op, sql string, args ...any) {
			tag, err := tx.Exec(r.t.Context(), sql, args...)
			if err != nil {
				r.t.Fatal(sql, err)
			}
			done.add(tab, op, tag.RowsAffected())
		}
		*next++
		run("public.account", "inserts", "INSERT INTO account VALUES ($1, 'new')", *next)
		run("public.account", "updates", "UPDATE account SET v = v || 'x' WHERE id % 50 = $1", rnd.IntN(50))
		run("public.account", "deletes", "DELETE FROM account WHERE id = $1", rnd.IntN(*next))
		run("public.entry", "inserts", "INSERT INTO entry SELECT $1 * 10 + i FROM generate_series(0, $2) i", *next, rnd.IntN(3))
		if err := tx.Commit(r.t.Context()); err != nil {
			r.t.Fatal(err)
		}
		time.Sleep(15 * time.Millisecond) // a steady load, not one that only measures the machine
	}
}

// Everything that was counted equals what the test did, what is in Kafka, and what
// the servers say of their commits, although the analytics database is away for a
// while and a worker ends meanwhile.
func TestAnalytics(t *testing.T) {
	t.Parallel()
	outage := 6 * time.Second
	if s := os.Getenv("E2E_OUTAGE"); s != "" {
		var err error
		if outage, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	r := newRig(t)
	gate := r.recorded()
	r.exec("CREATE TABLE account (id int PRIMARY KEY, v text)", "CREATE TABLE entry (id int PRIMARY KEY)",
		"INSERT INTO account SELECT i, 'old' FROM generate_series(1, 500) i")
	first := r.start()
	p := r.pipe("  include: [public.*]\n" + smallChunks)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	rnd, done, next := moments(t), tally{}, 500

	r.work(rnd, done, &next, 3*time.Second)
	p.converged()
	gate.set(true)
	r.work(rnd, done, &next, outage)
	p.converged() // nobody waits for analytics
	first.stop()
	second := r.start()
	r.work(rnd, done, &next, 2*time.Second)
	p.converged()
	gate.set(false)
	r.work(rnd, done, &next, 2*time.Second)
	p.converged()
	until(t, bound, "what waited on disk is recorded", func(context.Context) error {
		left, err := filepath.Glob(filepath.Join(r.dir, "spill", "analytics", "*", "*.segment"))
		if err == nil && len(left) > 0 {
			err = fmt.Errorf("%d segments are left", len(left))
		}
		return err
	})
	second.stop() // which hands over what it counted last

	var total int64
	for tab, ops := range done {
		for _, s := range p.spec.Sinks {
			for _, hourly := range []string{"", analytics.HourlySuffix} {
				for op, want := range ops {
					q := fmt.Sprintf("SELECT sum(%s) FROM {db}.applies%s WHERE sink = '%s' AND tab = '%s'", op, hourly, s.Name, tab)
					if have := r.sum(q); have != want {
						t.Errorf("%s: %d, want %d", q, have, want)
					}
				}
			}
			var changes int64
			for _, n := range ops {
				changes += n
			}
			q := fmt.Sprintf("SELECT sum(changes) FROM {db}.lag WHERE sink = '%s' AND tab = '%s'", s.Name, tab)
			if have := r.sum(q); have != changes {
				t.Errorf("lags of %d changes of %s at %s, want %d", have, tab, s.Name, changes)
			}
			r.gapless(p, s.Name, tab)
		}
		for _, n := range ops {
			total += n
		}
	}
	for q, want := range map[string]int64{
		"SELECT sum(changes) FROM {db}.throughput WHERE stage = 'capture'":                               total,
		"SELECT sum(changes) FROM {db}.throughput WHERE stage = 'deliver' AND sink = 'ch'":               total,
		"SELECT sum(rows) FROM {db}.throughput WHERE stage = 'snapshot' AND sink = 'pg'":                 500,
		"SELECT sum(rows) FROM {db}.throughput_hourly WHERE stage = 'snapshot' AND sink = 'ch'":          500,
		"SELECT sum(contained) FROM {db}.duplicates":                                                     0,
		"SELECT sum(letters) FROM {db}.dead_letters":                                                     0,
		"SELECT count() FROM {db}.security_events":                                                       0,
		"SELECT uniqExact(tab) FROM {db}.schema_versions":                                                2,
		"SELECT countIf(action = 'CreateSlot') FROM {db}.audit_trail":                                    1,
		"SELECT countIf(skew_error_micros < 0 OR abs(skew_micros) > 5000) FROM {db}.lag WHERE sink='ch'": 0,
	} {
		if have := r.sum(q); have != want {
			t.Errorf("%s: %d, want %d", q, have, want)
		}
	}
	for where, least := range map[string]int64{
		"component = 'Capture' AND peer = 'source'": total * 10, "component = 'Capture' AND peer = 'kafka'": total * 10, "component = 'CopyChunk' AND peer = 'source'": 500 * 5,
		"component = 'Deliver' AND peer = 'kafka'": total * 20, "component = 'Deliver' AND peer = 'sink:pg'": total * 10, "component = 'Deliver' AND peer = 'sink:ch'": total * 10,
	} {
		for _, hourly := range []string{"", analytics.HourlySuffix} {
			q := "SELECT sum(sent + received) FROM {db}.wire" + hourly + " WHERE " + where
			if have := r.sum(q); have < least {
				t.Errorf("%s: %d, want at least %d", q, have, least)
			}
		}
	}
	if n := r.sum("SELECT max(records) FROM {db}.backlog WHERE ts = (SELECT max(ts) FROM {db}.backlog)"); n < 0 {
		t.Error("no backlog was recorded")
	}
	r.lagAsTheServersSay()
}

// gapless checks the recorded offsets of a table against Kafka's own.
func (r *rig) gapless(p *pipe, sink, tab string) {
	r.t.Helper()
	id, err := change.ParseTableID(tab)
	if err != nil {
		r.t.Fatal(err)
	}
	topic, err := kafka.TopicName(p.spec.Kafka.TopicPrefix, p.name, id)
	if err != nil {
		r.t.Fatal(err)
	}
	var last int64
	for part := range p.spec.Kafka.Partitions {
		c, err := kgo.DialLeader(r.t.Context(), "tcp", r.brokers[0], topic, part)
		if err != nil {
			r.t.Fatal(err)
		}
		n, err := c.ReadLastOffset()
		_ = c.Close()
		if err != nil {
			r.t.Fatal(err)
		}
		last += n
	}
	where := fmt.Sprintf("FROM {db}.progress WHERE sink = '%s' AND tab = '%s'", sink, tab)
	if spans, ends := r.sum("SELECT sum(to_offset - from_offset) "+where), r.sum("SELECT sum(m) FROM (SELECT max(to_offset) AS m "+where+" GROUP BY part)"); spans != last || ends != last {
		r.t.Errorf("%s at %s: recorded offsets span %d records and end at %d; Kafka holds %d", tab, sink, spans, ends, last)
	}
}

// lagAsTheServersSay compares the recorded lags with the commit times that both
// Postgres servers, which share a clock here, keep of their transactions.
func (r *rig) lagAsTheServersSay() {
	r.t.Helper()
	times := func(dsn string) map[int]time.Time {
		conn, err := pgx.Connect(r.t.Context(), dsn)
		if err != nil {
			r.t.Fatal(err)
		}
		defer func() { _ = conn.Close(context.WithoutCancel(r.t.Context())) }()
		rows, err := conn.Query(r.t.Context(), "SELECT id, pg_xact_commit_timestamp(xmin) FROM entry")
		if err != nil {
			r.t.Fatal(err)
		}
		out := map[int]time.Time{}
		var id int
		var at time.Time
		if _, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error { out[id] = at; return nil }); err != nil {
			r.t.Fatal(err)
		}
		return out
	}
	source, sink := times(r.source), times(r.sinkDSN)
	var sum time.Duration
	for id, at := range source {
		sum += sink[id].Sub(at)
	}
	servers := sum / time.Duration(len(source))
	recorded := time.Duration(r.sum("SELECT intDiv(sum(micros), sum(changes)) FROM {db}.lag WHERE sink = 'pg' AND tab = 'public.entry'")) * time.Microsecond
	r.t.Logf("mean lag of %d rows: recorded %s, by the servers' commit times %s", len(source), recorded, servers)
	if d := recorded - servers; d < -10*time.Millisecond || d > 10*time.Millisecond {
		r.t.Errorf("recorded mean lag %s, by the servers' commit times %s", recorded, servers)
	}
}

// Refused rows, an unreachable sink and a refused login are recorded as what they
// are, as often as they were.
func TestAnalyticsOfFailures(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.recorded()
	u, err := url.Parse(r.sinkDSN)
	if err != nil {
		t.Fatal(err)
	}
	gate := newGateway(t, u.Host)
	u.Host = gate.l.Addr().String()
	right := u.String()
	u.User = url.User("nobody_of_that_name")
	wrong := u.String()
	secret := filepath.Join(r.dir, "sink.dsn")
	login := func(dsn string) {
		if err := os.WriteFile(secret+".new", []byte(dsn), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(secret+".new", secret); err != nil {
			t.Fatal(err)
		}
	}
	login(right)
	r.exec("CREATE TABLE account (id int PRIMARY KEY, v text)", "INSERT INTO account SELECT i, 'old' FROM generate_series(1, 100) i")
	w := r.start()
	p := r.pipe(strings.Replace(declaration, `{name: pg, type: postgres, dsn: "env:E2E_SINK", lanes: 2}`, `{name: pg, type: postgres, dsn: "file:`+secret+`", lanes: 2}`, 1) +
		"  include: [public.*]\nobjectives: [{indicator: apply-errors}, {name: fresh, indicator: lag, within: 1h}]\n" + smallChunks)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)

	if _, err := scalar(t.Context(), r.sinkDSN, "ALTER TABLE account ADD CONSTRAINT positive CHECK (id > 0)"); err != nil {
		t.Fatal(err)
	}
	r.exec("INSERT INTO account SELECT -i, 'refused' FROM generate_series(1, 7) i")
	p.converged() // so that what follows is not merged with it
	r.exec("UPDATE account SET v = 'behind' WHERE id IN (-1, -2)", "UPDATE account SET v = 'taken' WHERE id > 0")
	p.converged()
	letters, err := strconv.ParseInt(r.one(r.sinkDSN, "SELECT count(*)::text FROM syncline.dead_letters"), 10, 64)
	if err != nil || letters != 9 {
		t.Fatalf("%d dead letters in the ledger, want 9: %v", letters, err)
	}

	gate.set(true)
	r.exec("UPDATE account SET v = 'late' WHERE id > 0")
	// What is counted is handed over when its window has ended.
	until(t, bound, "retries are recorded", r.recordedAtLeast(1, "SELECT sum(retries) FROM {db}.retries WHERE component LIKE 'deliver/pg/%' AND code = 'SinkUnreachable'"))
	p.mustUpdate(contract.PauseUpdate, nil, nil)
	login(wrong)
	gate.set(false)
	p.mustUpdate(contract.ResumeUpdate, nil, nil)
	until(t, bound, "the refused login is recorded", r.recordedAtLeast(1, "SELECT count() FROM {db}.security_events WHERE kind = 'auth' AND code = 'SinkAuthFailed' AND component LIKE 'deliver/pg/%'"))
	login(right)
	p.converged()
	w.stop()

	for q, want := range map[string]int64{
		"SELECT sum(letters) FROM {db}.dead_letters WHERE sink = 'pg'":                           letters,
		"SELECT sum(letters) FROM {db}.dead_letters WHERE sink = 'pg' AND code = 'RowRejected'":  7,
		"SELECT sum(letters) FROM {db}.dead_letters WHERE sink = 'pg' AND code = 'ParkedBehind'": 2,
		"SELECT sum(letters) FROM {db}.dead_letters WHERE sink = 'ch'":                           0,
		"SELECT sum(updates) FROM {db}.applies WHERE sink = 'pg'":                                200,
		"SELECT sum(good) FROM {db}.objectives WHERE objective = 'apply-errors'":                 200 + 209,
		"SELECT sum(bad) FROM {db}.objectives WHERE objective = 'apply-errors'":                  letters,
		"SELECT sum(bad) FROM {db}.objectives WHERE objective = 'fresh'":                         0,
		"SELECT countIf(message LIKE '%nobody%' OR message = '') FROM {db}.security_events":      0,
	} {
		if have := r.sum(q); have != want {
			t.Errorf("%s: %d, want %d", q, have, want)
		}
	}
	if n := r.sum("SELECT count() FROM {db}.errors WHERE component LIKE 'deliver/pg/%' AND run != ''"); n < 1 {
		t.Error("no failed attempt is recorded")
	}
}

// recordedAtLeast looks whether analytics show a number.
func (r *rig) recordedAtLeast(n int64, q string) func(context.Context) error {
	return func(context.Context) error {
		if have := r.sum(q); have < n {
			return fmt.Errorf("%d so far", have)
		}
		return nil
	}
}
