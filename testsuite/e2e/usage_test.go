package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"syncline/testsuite/stack"
)

// secured is a gateway to a server that speaks no TLS, for clients that do.
func secured(t *testing.T, ca *stack.Authority, to string) *gateway {
	t.Helper()
	cert, key := ca.Sign("clickhouse")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return newGatewayAt(t, to, func(l net.Listener) net.Listener {
		return tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12})
	})
}

func portOf(t *testing.T, addr string) uint16 {
	t.Helper()
	_, port, err := net.SplitHostPort(addr)
	n, err2 := strconv.ParseUint(port, 10, 16)
	if err != nil || err2 != nil {
		t.Fatalf("%s: %v %v", addr, err, err2)
	}
	return uint16(n)
}

// What usage has of each route is what the kernel has of the worker's sockets, with TLS
// and compression; it is told by table and tier, and each change once.
func TestUsageIsWhatTheKernelCounts(t *testing.T) {
	r := newRig(t)
	r.fast = true
	r.recorded()
	ca := stack.NewAuthority(t)
	u, err := url.Parse(r.clickURL)
	if err != nil {
		t.Fatal(err)
	}
	clickPort := portOf(t, secured(t, ca, u.Host).l.Addr().String())
	r.env = append(r.env, "SYNCLINE_REGION=here")
	r.exec("CREATE TABLE event (id bigint PRIMARY KEY, severity text NOT NULL, body text)", "CREATE TABLE note (id bigint PRIMARY KEY, body text)")
	w := r.start()
	kernel := sockets(t, w.cmd.Process.Pid)
	p := r.pipe(`version: 1
name: ${NAME}
source: {type: postgres, dsn: "env:E2E_SOURCE", region: at-source}
kafka: {brokers: "${BROKERS}", topic_prefix: e2e., partitions: 2, retention: 1h, region: at-log}
sinks:
  - {name: pg, type: postgres, dsn: "env:E2E_SINK", region: at-pg}
  - {name: ch, type: clickhouse, host: 127.0.0.1, port: ` + strconv.Itoa(int(clickPort)) + `, user: default, database: "${DATABASE}", schema: "${DATABASE}", region: at-ch, tls: {ca_file: "` + ca.File + `"}}
tables:
  include: [public.event, public.note]
` + fastStream + `tiers: [{name: hourly, every: 30m}]
classify:
  - {match: public.event, where: "severity in ('critical')", tier: stream}
  - {match: public.event, tier: hourly}
`)
	p.mustApply()
	p.awaitPhase(bound, "streaming")
	const batches, rows, size = 20, 500, 32 * 32
	body := "(SELECT string_agg(md5(concat(i, k, random())), '') FROM generate_series(1, 32) k)"
	for n := range batches {
		r.exec(fmt.Sprintf("INSERT INTO event SELECT i, CASE WHEN i %% 5 = 0 THEN 'critical' ELSE 'info' END, %s FROM generate_series(%d, %d) i", body, n*rows, (n+1)*rows-1),
			fmt.Sprintf("INSERT INTO note SELECT i, %s FROM generate_series(%d, %d) i", body, n*rows, (n+1)*rows-1))
	}
	const waits = batches * rows * 4 / 5
	until(t, bound, "what may wait does", func(ctx context.Context) error {
		v, err := p.view(ctx)
		if err != nil {
			return err
		}
		for _, s := range v.Sinks {
			if s.Waits != waits {
				return fmt.Errorf("%s: %d", s.Name, s.Waits)
			}
		}
		return nil
	})
	p.tier("hourly")
	p.converged()
	p.equal(2)
	w.stop() // its last windows are recorded then
	counted := kernel()

	source, err := pgx.ParseConfig(r.source)
	if err != nil {
		t.Fatal(err)
	}
	pg, err := pgx.ParseConfig(r.sinkDSN)
	if err != nil {
		t.Fatal(err)
	}
	near := func(what string, got, want int64) {
		t.Helper()
		t.Logf("%s: %d bytes, the kernel has %d (%+.3f %%)", what, got, want, 100*float64(got-want)/float64(want))
		if d := max(got-want, want-got); d > want/50 || want == 0 {
			t.Errorf("%s: usage has %d bytes, the kernel %d", what, got, want)
		}
	}
	var all, of int64
	for end, port := range map[string]uint16{"at-source": source.Port, "at-log": portOf(t, r.brokers[0]), "at-pg": pg.Port, "at-ch": clickPort} {
		k := counted[port]
		sent := r.sum("SELECT sum(wire) FROM {db}.usage WHERE origin = 'here' AND destination = '" + end + "'")
		received := r.sum("SELECT sum(wire) FROM {db}.usage WHERE origin = '" + end + "' AND destination = 'here'")
		if k.sent > batches*rows*size/2 {
			near("here → "+end, sent, k.sent)
		}
		if k.received > batches*rows*size/2 {
			near(end+" → here", received, k.received)
		}
		near(end, sent+received, k.sent+k.received)
		all, of = all+sent+received, of+k.sent+k.received
	}
	near("all", all, of)
	if usage, wire := r.sum("SELECT sum(wire) FROM {db}.usage"), r.sum("SELECT sum(sent) + sum(received) FROM {db}.wire"); usage != all || usage != wire {
		t.Errorf("usage has %d bytes, %d of them on routes; connections carried %d", usage, all, wire)
	}
	if none := r.sum("SELECT sum(wire) FROM {db}.usage WHERE tab = ''"); none > all/20 {
		t.Errorf("%d of %d bytes are of no table", none, all)
	}
	for what, want := range map[string]int64{
		"component = 'capture' AND tab = 'public.event'":                                                                batches * rows,
		"component = 'capture' AND tab = 'public.note' AND sink = ''":                                                   batches * rows,
		"component = 'deliver' AND tab = 'public.event' AND tier = 'hourly' AND sink = 'pg' AND destination = 'at-pg'":  waits,
		"component = 'deliver' AND tab = 'public.event' AND tier = 'stream' AND sink = 'pg' AND destination = 'at-pg'":  batches*rows - waits,
		"component = 'deliver' AND tab = 'public.event' AND tier = 'hourly' AND sink = 'ch' AND destination = 'at-ch'":  waits,
		"component = 'deliver' AND tab = 'public.note' AND tier = 'stream' AND sink = 'ch' AND destination = 'at-ch'":   batches * rows,
		"component = 'deliver' AND (tier = 'hourly' AND tab != 'public.event' OR tier NOT IN ('hourly', 'stream', ''))": 0,
	} {
		if got := r.sum("SELECT sum(changes) FROM {db}.usage_hourly WHERE " + what); got != want {
			t.Errorf("%s: %d changes, want %d", what, got, want)
		}
		if logical := r.sum("SELECT sum(logical) FROM {db}.usage_hourly WHERE " + what); logical < want*size || logical > want*(size+30) {
			t.Errorf("%s: %d bytes of values of %d rows with about %d", what, logical, want, size)
		}
	}
	if places := strings.Fields(r.click("SELECT DISTINCT place || ':' || region FROM " + r.clickDB + ".storage ORDER BY 1")); fmt.Sprint(places) != "[kafka:at-log sink:ch:at-ch sink:pg:at-pg]" {
		t.Errorf("stored at %v", places)
	}
}
