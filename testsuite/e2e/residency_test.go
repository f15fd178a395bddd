package e2e

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/verify"
	"syncline/pipeline"
	"syncline/testsuite/stack"
)

// tap passes connections on to a server, and keeps what clients send.
type tap struct {
	mu   sync.Mutex
	sent bytes.Buffer
}

// newTap returns a tap before the server of a URL, and the URL by way of it.
func newTap(t *testing.T, server string) (*tap, string) {
	t.Helper()
	u, err := url.Parse(server)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	x, to := new(tap), u.Host
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s, err := net.Dial("tcp", to)
			if err != nil {
				_ = c.Close()
				continue
			}
			go relay(c, s, nil)
			go relay(s, readerConn{io.TeeReader(c, x), c}, nil)
		}
	}()
	t.Cleanup(func() { _ = l.Close() })
	u.Host = l.Addr().String()
	return x, u.String()
}

// readerConn is a connection whose reads go by another way.
type readerConn struct {
	io.Reader
	net.Conn
}

func (r readerConn) Read(b []byte) (int, error) { return r.Reader.Read(b) }

// Write implements io.Writer.
func (x *tap) Write(b []byte) (int, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sent.Write(b)
}

func (x *tap) bytes() []byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	return bytes.Clone(x.sent.Bytes())
}

// residency: Kafka and the sink pg are in us, the sink ch in ap, and the source in eu.
const residency = `version: 1
name: ${NAME}
source: {type: postgres, dsn: "env:E2E_SOURCE", region: eu}
kafka: {brokers: "${BROKERS}", topic_prefix: e2e., partitions: 2, retention: 2h, region: us, compression: none, format: debezium}
sinks:
  - {name: pg, type: postgres, dsn: "env:E2E_SINK", lanes: 2, region: us}
  - {name: ch, type: clickhouse, dsn: "env:E2E_CLICKHOUSE", lanes: 2, schema: "${DATABASE}", compression: none, region: ap}
tables: {include: [public.people*, public.metric, public.event, public.trail], options: [{match: public.trail, append_only: true}]}
snapshot: {chunk_bytes: 64KiB, parallelism: 2}
stream: {status_interval: 200ms, heartbeat_interval: 1s}
tiers:
  - {name: hourly, every: 30m}
  - {name: debug, every: 30m, omit: [payload], sample: {by: host, rate: 40%}, compression: zstd}
classify:
  - {match: public.metric, tier: hourly}
  - {match: public.event, where: value = 7, tier: hourly}
  - {match: "public.{event,trail}", where: severity = 'debug', tier: debug}
residency:
  - {name: mail, match: public.people*, columns: [email], regions: [eu], otherwise: mask, key: "env:E2E_MASK"}
  - {name: phones, match: public.people*, columns: [phone], where: country = 'DE', regions: [eu], otherwise: drop}
  - {name: secrets, match: public.people*, where: status = 'secret', regions: [eu], otherwise: withhold}
  - {name: notes, match: public.people*, columns: [note], regions: [eu, us], otherwise: drop}
  - {name: texts, match: public.people*, columns: [big], where: country = 'DE', regions: [eu, us], otherwise: mask, key: "env:E2E_MASK"}
  - {name: local, match: public.people*, where: status = 'local', regions: [eu, us], otherwise: withhold}
thin:
  - {match: public.metric, sinks: [ch], omit: [payload], sample: {by: [device], rate: 30%}}
`

// TestResidency plants values of every class, lets a pipeline load, stream, let changes
// wait, set aside, verify, repair and replay, and looks for them where they must not be:
// in the log, on the wire to each sink, in its tables and its ledger, in workers' logs and
// in histories. What is there, is there.
func TestResidency(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.fast = true
	pgTap, pgDSN := newTap(t, r.sinkDSN)
	chTap, chURL := newTap(t, r.clickURL)
	tag := strings.ReplaceAll(stack.Name(t), "_", "")
	secret := "maskkey0123456789" + tag
	r.env = append(r.env, "E2E_SINK="+pgDSN, "E2E_CLICKHOUSE="+chURL, "E2E_MASK="+secret)
	mark := func(class string) string { return "PLANTED" + class + tag }

	// A row of a status and a country, with values of the classes that it is of.
	insert := func(table, from, to, status, country string) string {
		body, phone, big := "body", "free", "'open' || repeat('x', 3000)"
		switch status {
		case "secret":
			body = mark("SECRET")
		case "local":
			body = mark("LOCAL")
		}
		if country == "DE" {
			phone, big = mark("PHONE"), "repeat('"+mark("BIG")+"', 60)"
		}
		return fmt.Sprintf("INSERT INTO %s SELECT i, '%s', '%s', '%s' || i, '%s' || i, '%s' || i, %s || i, '%s' || i FROM generate_series(%s, %s) i",
			table, status, country, mark("MAIL"), phone, mark("NOTE"), big, body, from, to)
	}
	r.exec("CREATE TABLE people (id bigint PRIMARY KEY, status text, country text, email text, phone text, note text NOT NULL, big text, body text)",
		"ALTER TABLE people ALTER big SET STORAGE EXTERNAL", "CREATE TABLE people_refused (LIKE people INCLUDING ALL)",
		"ALTER TABLE people REPLICA IDENTITY FULL", "ALTER TABLE people_refused REPLICA IDENTITY FULL",
		"CREATE TABLE metric (device int, id int, payload text, value int, PRIMARY KEY (device, id))",
		"INSERT INTO metric SELECT i % 40, i, 'p', 0 FROM generate_series(1, 1000) i",
		"CREATE TABLE event (id bigint PRIMARY KEY, host int, severity text, payload text, value int)", "ALTER TABLE event ALTER payload SET STORAGE EXTERNAL",
		"ALTER TABLE event REPLICA IDENTITY FULL", "CREATE TABLE trail (LIKE event INCLUDING ALL)")
	// Half of the rows are of a tier that leaves a large column out and keeps a sample.
	events := func(table string, from, to int) string {
		return fmt.Sprintf("INSERT INTO %s SELECT i, i %% 40, (ARRAY['debug', 'debug', 'info', 'critical'])[1 + i / 40 %% 4], repeat('p', 3000) || i, 0 FROM generate_series(%d, %d) i", table, from, to)
	}
	r.exec(events("event", 1, 1000), events("trail", 1, 1000))
	n := 0
	for _, status := range []string{"open", "secret", "local"} {
		for _, country := range []string{"DE", "US"} {
			r.exec(insert("people", fmt.Sprint(n+1), fmt.Sprint(n+100), status, country))
			n += 100
		}
	}
	r.fleet()
	p := r.pipe(residency)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	if _, err := scalar(t.Context(), r.sinkDSN, "ALTER TABLE people_refused ADD CHECK (status IS DISTINCT FROM 'refused')"); err != nil {
		t.Fatal(err)
	}

	// Across the boundaries and back, by updates that leave the large value alone, by
	// changes of keys, and by deletions.
	r.exec(insert("people", "1001", "1010", "open", "DE"), insert("people", "1011", "1020", "secret", "DE"), insert("people", "1021", "1030", "local", "US"),
		"UPDATE people SET status = 'secret', body = '"+mark("SECRET")+"' || id WHERE id BETWEEN 1 AND 20",
		"UPDATE people SET status = 'local', body = '"+mark("LOCAL")+"' || id WHERE id BETWEEN 21 AND 40",
		"UPDATE people SET status = 'open', body = 'open' WHERE id BETWEEN 201 AND 220",
		"UPDATE people SET status = NULL, body = 'open' WHERE id BETWEEN 401 AND 420",
		"UPDATE people SET status = 'local', body = '"+mark("LOCAL")+"' || id WHERE id BETWEEN 221 AND 230",
		"UPDATE people SET country = 'DE', phone = '"+mark("PHONE")+"' || id, big = '"+mark("BIG")+"' || id WHERE id BETWEEN 101 AND 120",
		"UPDATE people SET country = 'FR', phone = 'free', big = 'open' WHERE id BETWEEN 41 AND 60",
		"UPDATE people SET status = 'open', body = 'open' WHERE id BETWEEN 1 AND 10",
		"UPDATE people SET id = id + 5000 WHERE id BETWEEN 61 AND 70 OR id BETWEEN 231 AND 240",
		"UPDATE people SET id = id + 6000, status = 'secret', body = '"+mark("SECRET")+"' || id WHERE id BETWEEN 71 AND 80",
		"UPDATE people SET email = email || 'new' WHERE id % 3 = 0", "DELETE FROM people WHERE id % 11 = 0",
		insert("people_refused", "1", "3", "refused", "DE"),
		"UPDATE people_refused SET body = 'again' WHERE id = 1",
		// Rows of event come to be of another tier, of another entity, and of another key.
		events("event", 1001, 1200), events("trail", 1001, 1200),
		"UPDATE event SET severity = 'info' WHERE severity = 'debug' AND id <= 300", "UPDATE event SET severity = 'debug' WHERE severity = 'critical' AND id <= 700",
		"UPDATE event SET host = host + 1 WHERE id BETWEEN 500 AND 800", "UPDATE event SET value = 7 WHERE id % 10 = 3", "UPDATE event SET value = 0 WHERE id % 30 = 3",
		"UPDATE event SET id = id + 5000 WHERE id BETWEEN 801 AND 840", "UPDATE event SET id = id + 6000, severity = 'debug' WHERE id BETWEEN 841 AND 880", "DELETE FROM event WHERE id % 9 = 0",
		"UPDATE metric SET value = id WHERE id % 2 = 0", "INSERT INTO metric SELECT i % 40, i, 'p', 0 FROM generate_series(1001, 1200) i", "DELETE FROM metric WHERE id % 7 = 0")
	p.converged(id("public.people"))
	tables := ids("public.people", "public.metric", "public.event")
	equal := func(in contract.AuditInput) {
		t.Helper()
		in.Tables = tables
		for _, v := range p.verdicts(p.startAudit(in), len(tables)).Tables {
			if v.Verdict != verify.Equal {
				t.Errorf("%s at %s: %s, %+v", v.Table, v.Sink, v.Verdict, v)
			}
		}
	}
	equal(contract.AuditInput{})
	held := func() {
		t.Helper()
		p.tier("debug") // of trail, which has no key, no audit lets it take effect
		r.heldOfTier()
		hash := hmac.New(sha256.New, []byte(secret))
		_, _ = hash.Write([]byte(r.one(r.source, "SELECT email FROM people WHERE id = 5001+60")))
		for _, x := range []struct{ what, source, sink, click string }{
			{"rows", "count(*) FROM people WHERE status IS DISTINCT FROM 'secret'", "count(*) FROM people", ""},
			{"rows", "count(*) FROM people WHERE status IS NULL OR status NOT IN ('secret', 'local')", "", "count() FROM %s.people FINAL WHERE _deleted = 0"},
			{"masks", "count(*) FROM people WHERE status IS DISTINCT FROM 'secret'", `count(*) FROM people WHERE email ~ '^[0-9a-f]{64}$'`, ""},
			{"masks", "count(*) FROM people WHERE status IS NULL OR status NOT IN ('secret', 'local')", "", `count() FROM %s.people FINAL WHERE _deleted = 0 AND match(email, '^[0-9a-f]{64}$')`},
			{"a mask", "'" + hex.EncodeToString(hash.Sum(nil)) + "'", "email FROM people WHERE id = 5061", "email FROM %s.people FINAL WHERE id = 5061"},
			{"phones", "count(phone) FROM people WHERE status IS DISTINCT FROM 'secret' AND country <> 'DE'", "count(phone) FROM people", ""},
			{"notes", "count(*) FROM people WHERE status IS DISTINCT FROM 'secret'", "count(note) FROM people", ""},
			{"notes", "0", "", "count(note) FROM %s.people FINAL"},
			{"texts", "count(*) FROM people WHERE (status IS NULL OR status NOT IN ('secret', 'local')) AND country = 'DE'", "", `count() FROM %s.people FINAL WHERE _deleted = 0 AND match(big, '^[0-9a-f]{64}$')`},
			{"devices", "true", "", "count(DISTINCT device) BETWEEN 4 AND 24 AND min(_syncline_sample_rate) = 0.3 AND max(_syncline_sample_rate) = 0.3 AND count(payload) = 0 FROM %s.metric FINAL WHERE _deleted = 0"},
			{"metrics", "count(payload) FROM metric", "count(payload) FROM metric", ""},
		} {
			want := r.one(r.source, "SELECT ("+strings.Replace("SELECT "+x.source, "SELECT SELECT", "SELECT", 1)+")::text")
			if x.sink != "" {
				if got := r.one(r.sinkDSN, "SELECT (SELECT "+x.sink+")::text"); got != want {
					t.Errorf("%s at pg: %s, want %s", x.what, got, want)
				}
			}
			if x.click != "" {
				want = strings.Replace(want, "true", "1", 1)
				if got := strings.TrimSpace(r.click("SELECT " + fmt.Sprintf(x.click, r.clickDB))); got != want {
					t.Errorf("%s at ch: %s, want %s", x.what, got, want)
				}
			}
		}
	}
	held()

	// What is not as the shape says is found: also in columns that are left out or masked,
	// and rows that should not be there.
	for _, q := range []string{"DELETE FROM people WHERE id = 101", "UPDATE people SET email = repeat('0', 64) WHERE id = 102", "UPDATE people SET phone = 'known' WHERE id = 82",
		"INSERT INTO people (id, status, note) VALUES (301, 'secret', 'n')",
		"UPDATE event SET payload = 'known' WHERE id = (SELECT min(id) FROM event WHERE payload IS NULL)", "UPDATE event SET payload = NULL WHERE id = (SELECT min(id) FROM event WHERE payload IS NOT NULL)"} {
		r.one(r.sinkDSN, q)
	}
	for _, q := range []string{"DELETE FROM %s.people WHERE id = 101", "ALTER TABLE %s.people UPDATE note = 'known' WHERE id = 102 SETTINGS mutations_sync = 1",
		"ALTER TABLE %s.people UPDATE big = 'known' WHERE id = 82 SETTINGS mutations_sync = 1", "ALTER TABLE %s.metric UPDATE _syncline_sample_rate = 1 WHERE id = (SELECT min(id) FROM %[1]s.metric FINAL WHERE _deleted = 0) SETTINGS mutations_sync = 1",
		"ALTER TABLE %s.event UPDATE _syncline_sample_rate = 1 WHERE id = (SELECT min(id) FROM %[1]s.event FINAL WHERE _deleted = 0 AND _syncline_sample_rate < 1) SETTINGS mutations_sync = 1"} {
		r.click(fmt.Sprintf(q, r.clickDB))
	}
	for _, v := range p.verdicts(p.startAudit(contract.AuditInput{Tables: tables}), len(tables)).Tables {
		want := map[string]int{"pg/public.people": 4, "ch/public.people": 3, "ch/public.metric": 1, "pg/public.metric": 0, "pg/public.event": 2, "ch/public.event": 1}[v.Sink+"/"+v.Table.String()]
		if v.Findings() != want {
			t.Errorf("%s at %s: %d findings, want %d: %+v", v.Table, v.Sink, v.Findings(), want, v)
		}
	}
	plan := p.repaired(p.startRepair("repair/"+p.name+"/plan", contract.RepairInput{}))
	res := p.repaired(p.startRepair("repair/"+p.name, contract.RepairInput{Plan: plan.Name, Hash: plan.Hash}))
	if !res.Applied || res.Failed() > 0 {
		t.Errorf("repair: %+v", res)
	}
	r.exec("UPDATE people SET status = 'open', body = 'open' WHERE id BETWEEN 241 AND 250", "UPDATE people SET status = 'secret', body = '"+mark("SECRET")+"' WHERE id BETWEEN 121 AND 125",
		"UPDATE metric SET value = 1")
	p.converged(id("public.people"))
	equal(contract.AuditInput{Changed: true})
	equal(contract.AuditInput{})
	held()

	// Another class, while it runs: for changes from then on, and by a load for all rows.
	p.spec.Residency = append(p.spec.Residency, pipeline.Residency{Name: "bodies", Match: "public.people*", Columns: []string{"body"}, Regions: []string{"eu", "us"}, Otherwise: pipeline.OtherwiseDrop})
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	r.exec("UPDATE people SET body = 'changed' WHERE id = 102")
	p.converged(id("public.people"))
	if got := r.click("SELECT count() FROM " + r.clickDB + ".people FINAL WHERE id = 102 AND body IS NULL"); strings.TrimSpace(got) != "1" {
		t.Error("a change after the class was declared is not by it")
	}
	inspected := func(spec pipeline.Spec) (rep contract.Report) {
		t.Helper()
		run, err := r.tc.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{TaskQueue: contract.Queue(r.queue, contract.Control)}, contract.PlanWorkflow, contract.PlanInput{Spec: spec, Running: p.spec})
		if err == nil {
			err = run.Get(t.Context(), &rep)
		}
		if err != nil {
			t.Fatal(err)
		}
		return rep
	}
	rep := inspected(*p.spec)
	said := fmt.Sprint(rep.Tables)
	for _, line := range []string{"kafka (us): residency[0]: email masked, before Kafka (class mail)", "ch (ap): residency[3]: note left out (class notes)", "ch (ap): thin[0]: a sample of 30% of (device)",
		"pg (us): tiers[1]: payload left out of rows of tier debug", "ch (ap): tiers[1]: a sample of 40% of (host) of rows of tier debug"} {
		if !rep.OK || !strings.Contains(said, line) {
			t.Errorf("the plan lacks %q: %v", line, rep.Tables)
		}
	}
	if said := fmt.Sprint(rep.Sinks); strings.Count(said, "tiers[debug].compression: no effect here") != 1 {
		t.Errorf("the plan does not say that pg gets no compressed batches: %s", said)
	}
	wrong := *p.spec
	wrong.Classify = append([]pipeline.Class{{Match: "public.metric", Where: "value = 7", Tier: "debug"}}, wrong.Classify...)
	if rep := inspected(wrong); rep.OK || !strings.Contains(fmt.Sprint(rep.Tables), `classify[0].where: table public.metric: it asks for column "value", which the log does not tell`) {
		t.Errorf("a plan by what the log does not tell of rows before a change: %v", rep.Tables)
	}
	wrong = *p.spec
	wrong.Residency = append(slices.Clone(wrong.Residency), pipeline.Residency{Name: "keys", Match: "public.people", Columns: []string{"id"}, Regions: []string{"eu"}, Otherwise: pipeline.OtherwiseDrop})
	if rep := inspected(wrong); rep.OK || !strings.Contains(fmt.Sprint(rep.Tables), `column "id" is of the primary key`) {
		t.Errorf("a plan with a class of the key: %v", rep.Tables)
	}
	p.mustUpdate(contract.ResyncTableUpdate, contract.TablesInput{Tables: ids("public.people"), Sinks: []string{"ch"}}, nil)
	p.awaitPhase(bound, contract.Streaming)
	equal(contract.AuditInput{})
	held()
	if got := r.click("SELECT count(body) FROM " + r.clickDB + ".people FINAL WHERE _deleted = 0"); strings.TrimSpace(got) != "0" {
		t.Errorf("%s rows have what a class forbids that was declared before their load", got)
	}
	for _, s := range []string{"pg", "ch"} {
		if _, err := p.replayed(contract.ReplayInput{Table: id("public.people"), Sink: s, To: "people_again", NoVerify: true}); err != nil {
			t.Errorf("replay at %s: %v", s, err)
		}
	}
	if n := r.one(r.sinkDSN, "SELECT count(DISTINCT key)::text FROM syncline.dead_letters WHERE source_table LIKE '%people_refused'"); n != "3" {
		t.Errorf("dead letters of %s keys of people_refused, want 3", n)
	}
	histories := p.histories()
	time.Sleep(100 * time.Millisecond) // for what is on the wire still, of which nothing is waited for
	for _, w := range r.workers {
		w.stop()
	}

	all := []string{"MAIL", "PHONE", "SECRET", "NOTE", "BIG", "LOCAL"}
	find := func(where string, text []byte, not ...string) {
		t.Helper()
		if len(text) == 0 {
			t.Errorf("%s is empty", where)
		}
		for _, class := range all {
			planted, found := mark(class), bytes.Index(text, []byte(mark(class)))
			for _, n := range not {
				if n == class && found >= 0 {
					t.Errorf("%s holds %q: …%s…", where, planted, bytes.ToValidUTF8(text[max(0, found-150):min(len(text), found+60)], []byte(".")))
				}
			}
			if len(not) < len(all) && !strings.Contains(strings.Join(not, " "), class) && found < 0 {
				t.Errorf("%s lacks %q: nothing was looked for", where, planted)
			}
		}
		if bytes.Contains(text, []byte(secret)) {
			t.Errorf("%s holds the secret of masks", where)
		}
	}
	var log []byte
	for _, text := range p.records() {
		log = append(log, text...)
	}
	find("the log", log, "MAIL", "PHONE", "SECRET")
	find("the wire to pg", pgTap.bytes(), "MAIL", "PHONE", "SECRET")
	find("the wire to ch", chTap.bytes(), all...)
	if !bytes.Contains(chTap.bytes(), []byte("free101")) {
		t.Error("what goes over the wire to ch cannot be read: nothing was looked for")
	}
	pg, ch := []byte{}, []byte{}
	for table := range strings.FieldsSeq(r.one(r.sinkDSN, "SELECT string_agg(quote_ident(schemaname) || '.' || quote_ident(relname), ' ') FROM pg_stat_user_tables")) {
		pg = append(pg, r.one(r.sinkDSN, "SELECT string_agg(t::text, E'\\n') || (SELECT coalesce(string_agg(encode(payload, 'escape'), ''), '') FROM syncline.dead_letters) FROM "+table+" t")...)
	}
	for table := range strings.FieldsSeq(r.click("SELECT name FROM system.tables WHERE database = '" + r.clickDB + "'")) {
		ch = append(ch, r.click("SELECT * FROM "+r.clickDB+"."+table+" FORMAT TSVRaw")...)
	}
	for name, text := range p.ledgers() {
		if strings.HasPrefix(name, "ch.") {
			ch = append(ch, text...)
		}
	}
	find("the tables of pg", pg, "MAIL", "PHONE", "SECRET")
	find("the tables of ch", ch, all...)
	for name, text := range histories {
		find("history of "+name, text, all...)
	}
	for _, w := range r.workers {
		b, err := os.ReadFile(w.log)
		if err != nil {
			t.Error(err)
		}
		find("log of "+w.name, b, all...)
	}
}

// heldOfTier compares what sinks hold of a tier that leaves a column out and keeps a sample
// of hosts, and of all other rows, with the source: also of a table that no audit is of.
func (r *rig) heldOfTier() {
	r.t.Helper()
	for _, table := range []string{"event", "trail"} {
		for name, ask := range map[string]func(what, where string) string{
			"pg": func(what, where string) string {
				return r.one(r.sinkDSN, "SELECT "+what+" FROM "+table+" WHERE "+where)
			},
			"ch": func(what, where string) string {
				return strings.TrimSpace(r.click("SELECT " + what + " FROM " + r.clickDB + "." + table + "_live WHERE " + where))
			},
		} {
			const of, others = "severity = 'debug' AND value <> 7", "NOT (severity = 'debug' AND value <> 7)"
			if table == "trail" && ask("concat(count(*))", of) == "0" {
				r.t.Errorf("%s holds nothing of the tier: nothing is tested", name)
			}
			const whole = "concat(count(*), ' ', count(payload), ' ', sum(id), ' ', sum(length(payload)))"
			if have, want := ask(whole, others), r.one(r.source, "SELECT "+whole+" FROM "+table+" WHERE "+others); have != want {
				r.t.Errorf("%s at %s, rows that are whole: %s, want %s", table, name, have, want)
			}
			if rate := ask("concat(count(*) - sum(_syncline_sample_rate))", others); rate != "0" {
				r.t.Errorf("%s at %s: rates of whole rows differ from 1 by %s", table, name, rate)
			}
			hosts := map[string]string{"pg": "string_agg(DISTINCT host::text, ',')", "ch": "arrayStringConcat(groupUniqArray(host), ',')"}[name]
			in := of + " AND host IN (" + ask(hosts, of) + ")"
			const thin = "concat(count(*), ' ', sum(id))"
			if have, want := ask(thin, of), r.one(r.source, "SELECT "+thin+" FROM "+table+" WHERE "+in); have != want {
				r.t.Errorf("%s at %s, rows of a sample: %s, want %s", table, name, have, want)
			}
			if n, err := strconv.Atoi(ask("concat(count(DISTINCT host))", of)); err != nil || n < 6 || n > 28 {
				r.t.Errorf("%s at %s: %d of 40 hosts are in the sample, %v", table, name, n, err)
			}
			if left := ask("concat(count(payload), ' ', min(_syncline_sample_rate), ' ', max(_syncline_sample_rate))", of); left != "0 0.4 0.4" {
				r.t.Errorf("%s at %s, rows of a sample: %s", table, name, left)
			}
		}
	}
}
