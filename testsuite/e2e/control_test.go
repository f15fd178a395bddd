package e2e

import (
	"fmt"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/transport/kafka"
)

func ids(names ...string) (out []change.TableID) {
	for _, n := range names {
		out = append(out, id(n))
	}
	return out
}

// traces lists what the pipeline has outside of Temporal: at the source, in
// Kafka and in the sinks.
func (p *pipe) traces() (out []string) {
	p.r.t.Helper()
	add := func(what, sql, dsn string, args ...any) {
		if v := p.r.one(dsn, "SELECT string_agg(x::text, ' ') FROM ("+sql+") q(x)", args...); v != "" {
			out = append(out, what+" "+v)
		}
	}
	add("slot", "SELECT slot_name FROM pg_replication_slots WHERE slot_name = $1", p.r.source, p.spec.SlotName())
	add("publication", "SELECT pubname FROM pg_publication WHERE starts_with(pubname, $1)", p.r.source, p.spec.PublicationName())
	add("table at pg:", "SELECT format('%s.%s', schemaname, relname) FROM pg_stat_user_tables WHERE schemaname <> 'syncline' ORDER BY 1", p.r.sinkDSN)
	a, err := kafka.OpenAdmin(p.kafka())
	if err != nil {
		p.r.t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	topics, err := a.Topics(p.r.t.Context())
	if err != nil {
		p.r.t.Fatal(err)
	}
	for _, t := range topics {
		out = append(out, "topic "+t.Name)
	}
	for name, k := range p.sinks() {
		ts, err := k.Tables(p.r.t.Context())
		if err != nil && !strings.Contains(err.Error(), "42P01") && !strings.Contains(err.Error(), "does not exist") { // no ledger at all is the least trace
			p.r.t.Fatal(err)
		}
		for _, t := range ts {
			out = append(out, fmt.Sprintf("ledger of %s: %s %s", name, t.ID, t.State))
		}
		ws, err := k.Watermarks(p.r.t.Context())
		if err == nil && len(ws) > 0 {
			out = append(out, fmt.Sprintf("ledger of %s: %d watermarks", name, len(ws)))
		}
		_ = k.Close()
	}
	for t := range strings.FieldsSeq(p.r.click("SELECT name FROM system.tables WHERE database = '" + p.r.clickDB + "'")) {
		out = append(out, "table at ch: "+t)
	}
	return out
}

// TestSteering adds, removes and reloads tables of a pipeline under load, pauses
// and resumes it, and destroys it.
func TestSteering(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	sizes := r.seedShop(0.005)
	r.start()
	r.start(contract.Deliver, contract.Snapshot)
	p := r.pipe("  include: [shop.accounts, shop.transfers, shop.customers, shop.inventory, shop.Products]\n" + smallChunks)
	endLoad := r.load(40)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	endWatch := p.watch("version", "shop.accounts", "shop.inventory")

	var res contract.TablesResult
	p.mustUpdate(contract.AddTableUpdate, contract.TablesInput{Tables: ids("shop.orders", "shop.order_items", "shop.addresses")}, &res)
	if len(res.Tables) != 3 || res.Bootstrap == "" {
		t.Errorf("add-table: %+v", res)
	}
	p.awaitPhase(bound, contract.Streaming)
	p.converged()

	// What older rows have in this column is in no log; a reload brings it.
	r.exec("ALTER TABLE shop.orders ADD drawn float8 DEFAULT random()")
	p.awaitPhase(bound, contract.Degraded)
	p.mustUpdate(contract.ResyncTableUpdate, contract.TablesInput{Tables: ids("shop.orders", "shop.accounts")}, nil)
	p.awaitPhase(bound, contract.Streaming)
	p.mustUpdate(contract.ResyncTableUpdate, contract.TablesInput{Tables: ids("shop.transfers"), Sinks: []string{"ch"}}, nil)
	p.awaitPhase(bound, contract.Streaming)

	// The rows of a table that is removed stay, as they are.
	p.mustUpdate(contract.RemoveTableUpdate, contract.TablesInput{Tables: ids("shop.customers")}, nil)
	p.converged()
	frozen := func() string {
		return r.one(r.sinkDSN, "SELECT md5(string_agg(c::text, '' ORDER BY id)) FROM shop.customers c") + r.click("SELECT count(), sum(version) FROM "+r.clickDB+".customers_live")
	}
	was := frozen()
	p.converged() // more of the load has passed
	if now := frozen(); now != was {
		t.Error("rows of a removed table still change")
	}
	for name, in := range map[string]contract.TablesInput{
		"is not in the pipeline":        {Tables: ids("shop.customers")},
		"did you mean shop.order_items": {Tables: ids("shop.order_item")},
		"no sink is called":             {Tables: ids("shop.orders"), Sinks: []string{"elsewhere"}},
	} {
		if err := p.update(contract.ResyncTableUpdate, in, nil); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("resync of %v: %v, want %q", in.Tables, err, name)
		}
	}
	if err := p.update(contract.AddTableUpdate, contract.TablesInput{Tables: ids("shop.orders")}, nil); err == nil || !strings.Contains(err.Error(), "already") {
		t.Errorf("a table twice: %v", err)
	}
	if err := p.update(contract.AddTableUpdate, contract.TablesInput{Tables: ids("shop.customers")}, nil); err == nil || !strings.Contains(err.Error(), "has rows") {
		t.Errorf("a table whose rows are still at the sink: %v", err)
	}

	p.mustUpdate(contract.PauseUpdate, nil, nil)
	if v, err := p.view(t.Context()); err != nil || v.Status.Phase != contract.Paused {
		t.Errorf("after pause: %v, %v", v, err)
	}
	marks := p.marks()
	r.exec("UPDATE shop.inventory SET version = version + 1, quantity = -1 WHERE warehouse = 1")
	if now := p.marks(); now != marks {
		t.Errorf("a paused pipeline moves on: %s, then %s", marks, now)
	}
	if err := p.update(contract.PauseUpdate, nil, nil); err == nil || !strings.Contains(err.Error(), "paused already") {
		t.Errorf("pause twice: %v", err)
	}
	p.mustUpdate(contract.ResumeUpdate, nil, nil)
	p.awaitPhase(bound, contract.Streaming)
	endLoad()
	p.equal(7)
	p.totals("shop.accounts", "balance", sizes.Total())
	endWatch()

	rows := r.one(r.sinkDSN, "SELECT count(*)::text FROM shop.orders")
	var gone contract.DestroyResult
	p.mustUpdate(contract.DestroyUpdate, contract.DestroyInput{}, &gone)
	for _, x := range p.traces() {
		if !strings.HasPrefix(x, "table at ") {
			t.Errorf("after destroy there is still: %s", x)
		}
	}
	if now := r.one(r.sinkDSN, "SELECT count(*)::text FROM shop.orders"); now != rows || rows == "0" {
		t.Errorf("orders at pg: %s rows, after destroy %s", rows, now)
	}
	if n := strings.TrimSpace(r.click("SELECT count() FROM " + r.clickDB + ".orders_live")); n != rows {
		t.Errorf("orders at ch: %s rows after destroy, want %s", n, rows)
	}
}

// marks are the watermarks of all sinks, as one text.
func (p *pipe) marks() string {
	p.r.t.Helper()
	var b strings.Builder
	for _, name := range []string{"pg", "ch"} {
		k := p.sinks()[name]
		ws, err := k.Watermarks(p.r.t.Context())
		if err != nil {
			p.r.t.Fatal(err)
		}
		_ = k.Close()
		for _, w := range ws {
			fmt.Fprintf(&b, "%s/%d=%s@%d ", w.Table, w.N, w.Pos, w.Offset)
		}
	}
	return b.String()
}

// TestFailedSetup: whichever step fails, what was made before it is gone again.
func TestFailedSetup(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE SCHEMA s", "CREATE TABLE s.a (id integer PRIMARY KEY, v text)", "CREATE TABLE s.b (id integer PRIMARY KEY)", "INSERT INTO s.a VALUES (1, 'x')")
	r.start()
	fail := func(name, want, text string, made ...string) {
		t.Run(name, func(t *testing.T) {
			p := r.pipe(text)
			if name == "slot exists" {
				r.exec("SELECT pg_create_logical_replication_slot('" + p.spec.SlotName() + "', 'pgoutput')")
				defer r.exec("SELECT pg_drop_replication_slot('" + p.spec.SlotName() + "')")
				made = append(made, "slot "+p.spec.SlotName())
			}
			if name == "publication exists" {
				r.exec("CREATE PUBLICATION " + p.spec.PublicationName() + " FOR TABLE s.b")
				defer r.exec("DROP PUBLICATION " + p.spec.PublicationName())
				made = append(made, "publication "+p.spec.PublicationName())
			}
			_, err := p.apply()
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Fatalf("apply: %v, want %q", err, want)
			}
			left := strings.Join(p.traces(), "\n")
			if left != strings.Join(made, "\n") {
				t.Errorf("left behind:\n%s\nwant only:\n%s", left, strings.Join(made, "\n"))
			}
			v, err := p.view(t.Context())
			if err == nil && v.Status.Phase != contract.SetupFailed {
				t.Errorf("the pipeline is %s", v.Status.Phase)
			}
		})
	}
	fail("slot exists", "SlotExists", "  include: [s.*]\n")
	fail("publication exists", "PublicationExists", "  include: [s.*]\n")
	fail("no table", "selects no table", "  include: [nothing.*]\n")
	fail("sink unreachable", "prepare sink ch", strings.Replace(declaration, `dsn: "env:E2E_CLICKHOUSE"`, "host: 127.0.0.1, port: 1, database: default, user: default", 1)+"  include: [s.*]\n")
	fail("brokers unreachable", "KafkaUnreachable", strings.Replace(declaration, "${BROKERS}", "127.0.0.1:1", 1)+"  include: [s.*]\n")
	fail("secret missing", "E2E_NOWHERE", strings.Replace(declaration, "E2E_SINK", "E2E_NOWHERE", 1)+"  include: [s.*]\n")
	r.click("CREATE TABLE " + r.clickDB + ".b (id Int32, _version UInt128) ENGINE = MergeTree ORDER BY id")
	fail("table does not fit", "s.b", "  include: [s.*]\n", "table at ch: b")
	r.click("DROP TABLE " + r.clickDB + ".b")

	// The same declaration works once the causes are gone.
	p := r.pipe("  include: [s.*]\n")
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	p.equal(2)
}

// TestPlan: a plan of a broken environment names each problem at once, and
// changes nothing.
func TestPlan(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE SCHEMA s", "CREATE TABLE s.good (id integer PRIMARY KEY, v numeric)", "CREATE TABLE s.keyless (v text)",
		"CREATE UNLOGGED TABLE s.unlogged (id integer PRIMARY KEY)", "CREATE TABLE s.nothing (id integer PRIMARY KEY)", "ALTER TABLE s.nothing REPLICA IDENTITY NOTHING")
	sinkDB := r.sinkDSN
	r.one(sinkDB, "SELECT 1::text")
	if _, err := scalar(t.Context(), sinkDB, "CREATE SCHEMA s"); err != nil {
		t.Fatal(err)
	}
	if _, err := scalar(t.Context(), sinkDB, "CREATE TABLE s.good (id integer PRIMARY KEY, v numeric)"); err != nil {
		t.Fatal(err)
	}
	if _, err := scalar(t.Context(), sinkDB, "INSERT INTO s.good VALUES (1, 2)"); err != nil {
		t.Fatal(err)
	}
	r.start(contract.Control)
	plan := func(p *pipe) contract.Report {
		t.Helper()
		run, err := r.tc.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: "plan/" + p.name, TaskQueue: contract.Queue(r.queue, contract.Control)},
			contract.PlanWorkflow, contract.PlanInput{Spec: *p.spec})
		if err != nil {
			t.Fatal(err)
		}
		var rep contract.Report
		if err := run.Get(t.Context(), &rep); err != nil {
			t.Fatal(err)
		}
		return rep
	}
	text := strings.Replace(strings.Replace(declaration, "${BROKERS}", "127.0.0.1:1", 1), `dsn: "env:E2E_CLICKHOUSE"`, "host: 127.0.0.1, port: 1, database: default, user: default", 1)
	p := r.pipe(text + "  include: [s.*, gone.*]\n")
	rep := plan(p)
	if rep.OK {
		t.Error("the plan is fine")
	}
	if rep.Kafka.OK || !strings.Contains(rep.Kafka.Detail, "KafkaUnreachable") {
		t.Errorf("kafka: %+v", rep.Kafka)
	}
	said := strings.Join(rep.Unused, " ")
	for _, tb := range rep.Tables {
		said += "\n" + tb.Table.String() + ": " + strings.Join(tb.Problems, "; ")
	}
	for _, s := range rep.Sinks {
		for _, c := range s.Checks {
			said += fmt.Sprintf("\n%s: %v %s", s.Sink, c.OK, c.Detail)
		}
	}
	for _, want := range []string{"s.keyless: TableWithoutKey", "Unlogged", "s.nothing: ReplicaIdentity", "gone.*", "ch: false SinkUnreachable", "pg: TableNotEmpty"} {
		if !strings.Contains(said, want) {
			t.Errorf("the plan does not say %q:\n%s", want, said)
		}
	}
	good := r.pipe("  include: [s.good]\n")
	good.spec.Sinks[0].OnExisting = "append"
	if rep := plan(good); !strings.Contains(fmt.Sprintf("%+v", rep), "s.good") || len(rep.Tables) != 1 || rep.Kafka.Detail == "" || !rep.Kafka.OK {
		t.Errorf("plan of what is there: %+v", rep)
	}
	for _, x := range good.traces() {
		if !strings.HasPrefix(x, "table at pg: s.good") {
			t.Errorf("a plan made something: %s", x)
		}
	}
}
