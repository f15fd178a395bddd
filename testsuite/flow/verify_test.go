package flow

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/transport/kafka"
	"syncline/dataplane/verify"
)

// click runs a statement at the ClickHouse sink, in its database.
func (f *flow) click(sql string) {
	f.t.Helper()
	req, err := http.NewRequestWithContext(f.ctx, http.MethodPost, f.clickURL+"?mutations_sync=1&database="+f.clickDB, strings.NewReader(sql))
	f.ok(err)
	res, err := http.DefaultClient.Do(req)
	f.ok(err)
	defer func() { _ = res.Body.Close() }()
	if b, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
		f.t.Fatalf("%s: %s %s %v", sql, res.Status, b, err)
	}
}

// atSink runs statements at the Postgres sink.
func (f *flow) atSink(sql string) {
	f.t.Helper()
	conn, err := pgx.Connect(f.ctx, f.sinkDSN)
	f.ok(err)
	defer func() { _ = conn.Close(context.Background()) }()
	_, err = conn.Exec(f.ctx, sql, pgx.QueryExecModeSimpleProtocol)
	f.ok(err)
}

func (f *flow) verify(s sink.Sink, id change.TableID, o verify.Options) verify.Result {
	f.t.Helper()
	t, err := s.Table(f.ctx, id)
	f.ok(err)
	res, err := verify.Table(f.ctx, f.source, s.(verify.Sink), s, verify.Subject{Schema: t.Schema, Options: t.Options}, o)
	f.ok(err)
	return res
}

// verified are the tables of these tests: one that both sinks have in the source's
// order, and one that is taken by its keys' hashes.
const verified = `
	CREATE TABLE payments (id bigint PRIMARY KEY, order_id int NOT NULL, amount numeric(12,2), note text, at timestamptz, rate float8, tags text[], raw bytea);
	CREATE TABLE names (k text PRIMARY KEY, v text, n int);
	INSERT INTO payments SELECT i, i % 97, i / 7.0, CASE i % 3 WHEN 0 THEN NULL WHEN 1 THEN '' ELSE 'note ' || i END, '2024-01-01'::timestamptz + i * interval '1.000100 s',
		i / 3.0, ARRAY['a b', NULL, '"', '']::text[], decode(md5(i::text), 'hex') FROM generate_series(1, 6000) i;
	INSERT INTO names SELECT 'key ' || i || CASE i % 2 WHEN 0 THEN 'ä' ELSE 'Z' END, 'v' || i, i FROM generate_series(1, 2500) i;`

// stress changes rows of both tables from several connections, so many times a second
// each, until it is stopped; rows with a multiple of 1000 in their number are left
// alone. It returns the number of changes.
func (f *flow) stress(writers, rate int) (stop func() int) {
	ctx, cancel := context.WithCancel(f.ctx)
	var all sync.WaitGroup
	counts := make([]int, writers)
	for w := range writers {
		all.Go(func() {
			conn, err := pgx.Connect(ctx, f.dsn)
			if err != nil {
				f.t.Error(err)
				return
			}
			defer func() { _ = conn.Close(context.Background()) }()
			rnd := rand.New(rand.NewPCG(1, uint64(w)))
			row := func(of int) int { // of this writer alone: transactions must not wait for each other
				for {
					if n := w + writers*rnd.IntN(of/writers); n%1000 != 0 {
						return n
					}
				}
			}
			const batch = 20
			limit := rate / batch
			tick := time.NewTicker(time.Second / time.Duration(limit))
			defer tick.Stop()
			for {
				select {
				case <-tick.C:
				case <-ctx.Done():
					return
				}
				b := &pgx.Batch{}
				for range batch / 4 {
					b.Queue(`UPDATE payments SET amount = amount + 1, note = note || 'x', rate = -rate WHERE id = $1::int`, row(6000))
					b.Queue(`DELETE FROM payments WHERE id = $1::int`, row(6000))
					b.Queue(`INSERT INTO payments VALUES ($1::int, 5, 1.5, 'new', now(), 'NaN', '{}', NULL) ON CONFLICT (id) DO UPDATE SET at = now()`, row(6000))
					n := row(2500)
					b.Queue(`UPDATE names SET v = v || n WHERE k IN ($1::text, $2::text)`, fmt.Sprintf("key %dä", n), fmt.Sprintf("key %dZ", n))
				}
				if err := conn.SendBatch(ctx, b).Close(); err != nil {
					if ctx.Err() == nil {
						f.t.Errorf("load: %v", err)
					}
					return
				}
				counts[w] += batch
			}
		})
	}
	return func() (n int) {
		cancel()
		all.Wait()
		for _, c := range counts {
			n += c
		}
		return n
	}
}

// TestVerifyUnderLoad: while rows change, verification finds the rows that are wrong
// at a sink, says what is wrong with them, and takes no other row for wrong.
func TestVerifyUnderLoad(t *testing.T) {
	f := newFlow(t)
	payments, names := change.TableID{Schema: "public", Name: "payments"}, change.TableID{Schema: "public", Name: "names"}
	f.exec(verified)
	f.load(4, payments, names)
	stop := f.stress(2, 400)
	begun := time.Now()
	small := verify.Options{FirstRows: 500, MaxRows: 2000} // several parts
	for name, s := range f.sinks {
		differing := 0
		for _, id := range []change.TableID{payments, names} {
			res := f.verify(s, id, small)
			t.Logf("%s %s: %s, %d rows in %d parts, %d of them differed at first, %d keys looked at, positions %s to %s", name, id.Name, res.Verdict, res.Rows, res.Parts, res.Differing, res.Suspects, res.From, res.To)
			if res.Verdict != verify.Equal || res.Rows < 2000 {
				t.Errorf("%s: a true copy of %s: %+v", name, id, res)
			}
			differing += res.Differing
		}
		if differing == 0 {
			t.Errorf("%s: nothing was written to while it was verified", name)
		}
	}
	f.atSink(`SET session_replication_role = replica; DELETE FROM payments WHERE id = 1000; UPDATE payments SET amount = amount + 0.01 WHERE id = 2000;
		UPDATE payments SET note = '' WHERE id = 3000; INSERT INTO payments SELECT 30000, order_id, amount, note, at, rate, tags, raw FROM payments WHERE id = 4000;
		UPDATE payments SET tags = '{x}', at = at + interval '1 us' WHERE id = 5000; DELETE FROM names WHERE n = 1000; UPDATE names SET v = 'V2000' WHERE n = 2000`)
	f.click("ALTER TABLE payments DELETE WHERE id = 1000")
	f.click("ALTER TABLE payments UPDATE amount = amount + toDecimal64('0.01', 2) WHERE id = 2000")
	f.click("ALTER TABLE payments UPDATE note = '' WHERE id = 3000")
	f.click("INSERT INTO payments (id, order_id, amount, note, at, rate, tags, raw, _version) SELECT 30000, order_id, amount, note, at, rate, tags, raw, _version FROM payments WHERE id = 4000")
	f.click("ALTER TABLE payments UPDATE tags = ['x'], at = at + toIntervalMicrosecond(1) WHERE id = 5000")
	f.click("ALTER TABLE names DELETE WHERE n = 1000")
	f.click("ALTER TABLE names UPDATE v = 'V2000' WHERE n = 2000")
	want := map[string][]string{
		"payments": {`("1000") missing []`, `("2000") changed [amount]`, `("3000") changed [note]`, `("30000") extra []`, `("5000") changed [at tags]`},
		"names":    {`("key 1000ä") missing []`, `("key 2000ä") changed [v]`},
	}
	for name, s := range f.sinks {
		for _, id := range []change.TableID{payments, names} {
			res := f.verify(s, id, small)
			var have []string
			for _, x := range res.Findings {
				have = append(have, fmt.Sprint(x.Key, " ", x.Kind, " ", x.Columns))
			}
			slices.Sort(have)
			if res.Verdict != verify.Different || !slices.Equal(have, want[id.Name]) {
				t.Errorf("%s: %s: %s, found %q, want %q", name, id, res.Verdict, have, want[id.Name])
			}
		}
	}
	t.Logf("about %.0f changes/s meanwhile", float64(stop())/time.Since(begun).Seconds())
}

// offsets are where a sink's delivery of a table is, by partition.
func (f *flow) offsets(s sink.Sink, id change.TableID) []int64 {
	f.t.Helper()
	marks, err := s.Watermarks(f.ctx)
	f.ok(err)
	var out []int64
	for _, m := range marks {
		if m.Table == id {
			out = append(out, make([]int64, max(0, m.N+1-len(out)))...)
			out[m.N] = m.Offset
		}
	}
	return out
}

// TestVerifyChanged: what changed since a verification is verified, and costs what
// changed; the rest is left to a verification of all.
func TestVerifyChanged(t *testing.T) {
	f := newFlow(t)
	payments := change.TableID{Schema: "public", Name: "payments"}
	f.exec(verified)
	f.load(4, payments)
	from := map[string][]int64{}
	for name, s := range f.sinks {
		from[name] = f.offsets(s, payments)
		if res := f.verify(s, payments, verify.Options{}); res.Verdict != verify.Equal {
			t.Fatalf("%s: %+v", name, res)
		}
	}
	f.exec(`UPDATE payments SET note = 'new' WHERE id IN (1000, 1001, 1002); UPDATE payments SET rate = 1 WHERE id = 1001; DELETE FROM payments WHERE id = 1003; UPDATE payments SET id = 9000 WHERE id = 1004`)
	f.equal()
	f.atSink(`SET session_replication_role = replica; UPDATE payments SET note = 'odd' WHERE id IN (1000, 2000)`)
	f.click("ALTER TABLE payments UPDATE note = 'odd' WHERE id IN (1000, 2000)")
	for name, s := range f.sinks {
		log, err := kafka.OpenLog(f.ctx, f.kafka, kafka.LogOptions{})
		f.ok(err)
		tab, err := s.Table(f.ctx, payments)
		f.ok(err)
		to := f.offsets(s, payments)
		changed := func(from, to []int64) verify.Result {
			t.Helper()
			res, err := verify.Incremental(f.ctx, f.source, s.(verify.Sink), s, log, verify.Subject{Schema: tab.Schema, Options: tab.Options}, from, to, verify.Options{})
			f.ok(err)
			return res
		}
		// 1000 to 1004, and 9000.
		if res := changed(from[name], to); res.Verdict != verify.Different || len(res.Findings) != 1 || res.Findings[0].Key.String() != `("1000")` || res.Rows != 6 || res.Suspects != 1 {
			t.Errorf("%s: %+v", name, res)
		}
		if res := changed(to, to); res.Verdict != verify.Equal || res.Rows != 0 {
			t.Errorf("%s: nothing changed: %+v", name, res)
		}
		if res := f.verify(s, payments, verify.Options{}); res.Verdict != verify.Different || len(res.Findings) != 2 {
			t.Errorf("%s: all of it: %+v", name, res)
		}
		end := slices.Clone(to)
		end[0] += 1000
		err = log.Between(f.ctx, sink.Partition{Table: payments}, to[0], end[0], nil)
		if !fault.Is(err, deliver.CodeOffsetGone) {
			t.Errorf("%s: what the log does not hold: %v", name, err)
		}
		f.ok(log.Close())
	}
	n, err := f.source.ActiveSessions(f.ctx)
	f.ok(err)
	stop := make(chan error, 1)
	go func() {
		_, err := f.conn.Exec(f.ctx, "SELECT pg_sleep(3)")
		stop <- err
	}()
	for end := time.Now().Add(2 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if more, err := f.source.ActiveSessions(f.ctx); err != nil || more > n {
			f.ok(err)
			break
		}
		if time.Now().After(end) {
			t.Error("a session that sleeps is not seen")
			break
		}
	}
	f.ok(<-stop)
}

// TestVerifyBehind: a sink that does not follow is neither equal nor different.
func TestVerifyBehind(t *testing.T) {
	f := newFlow(t)
	names := change.TableID{Schema: "public", Name: "names"}
	f.exec(verified)
	schemas := f.prepare(4, published(names)...)
	f.add(4, schemas...)
	f.copyAll(schemas...)
	for name, s := range f.sinks {
		if res := f.verify(s, names, verify.Options{Fence: 300 * time.Millisecond}); res.Verdict != verify.Inconclusive || !strings.Contains(res.Reason, "partition") {
			t.Errorf("%s: without delivery: %+v", name, res)
		}
	}
	f.run()
	for name, s := range f.sinks {
		if res := f.verify(s, names, verify.Options{}); res.Verdict != verify.Equal || res.Differing > 0 || res.Suspects > 0 {
			t.Errorf("%s: at rest: %+v", name, res)
		}
	}
}
