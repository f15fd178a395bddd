package e2e

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/verify"
)

// drillRows is how many rows TestDrills has: E2E_DRILLS_ROWS, or few.
func drillRows(t *testing.T) (rows int, asked bool) {
	const few = 3200
	text := os.Getenv("E2E_DRILLS_ROWS")
	if text == "" {
		return few, false
	}
	rows, err := strconv.Atoi(text)
	if err != nil || rows < few {
		t.Fatalf("E2E_DRILLS_ROWS is %q: use a number of rows from %d on", text, few)
	}
	return rows, true
}

// TestDrills makes a table diverge in every way that there is, one after the other,
// while it is written to: each time an audit finds just that, and a repair mends it. Of
// a table that was emptied, and is too large for that, the audit says so, and it is loaded
// anew. In the end Kafka removes what the log has of some keys. The times and the rows
// read are in the test's output.
func TestDrills(t *testing.T) {
	t.Parallel()
	rows, asked := drillRows(t)
	const small = 8 // so many drills are of a few rows
	r := newRig(t)
	r.fast = true
	if asked {
		r.patience = time.Hour
	}
	r.exec("CREATE TABLE drill (id bigint PRIMARY KEY, a text NOT NULL, b text, n bigint NOT NULL)",
		fmt.Sprintf("INSERT INTO drill SELECT i, 'row ' || i, CASE WHEN i %% 2 = 0 THEN '' END, i FROM generate_series(1, %d) AS i", rows))
	f := r.fleet()
	p := r.pipe("  include: [public.drill]\n" + fastStream)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	r.exec(fmt.Sprintf("UPDATE drill SET n = n + 1 WHERE id <= %d", rows/2)) // so that the log has some rows, and others only the load had
	p.converged()
	pg := func(q string) { t.Helper(); r.one(r.sinkDSN, q) }
	ch := func(q string) {
		t.Helper()
		r.click(strings.ReplaceAll(q, "drill", r.clickDB+".drill"))
	}
	const now = " SETTINGS mutations_sync = 1"
	both := func(set, where string) {
		pg("UPDATE drill SET " + set + " WHERE " + where)
		ch("ALTER TABLE drill UPDATE " + set + " WHERE " + where + now)
	}
	type drill struct {
		name  string
		plant func()
		want  map[string][4]int // missing, extra, changed, twice, by sink
		all   bool              // every row is gone
	}
	same := func(missing, extra, changed int) map[string][4]int {
		return map[string][4]int{"pg": {missing, extra, changed}, "ch": {missing, extra, changed}}
	}
	drills := []drill{
		{"rows missing", func() { pg("DELETE FROM drill WHERE id IN (10, 2010)"); ch("DELETE FROM drill WHERE id IN (10, 2010)") }, same(2, 0, 0), false},
		{"rows that the source never had", func() {
			pg("INSERT INTO drill VALUES (-1, 'x', NULL, 0)")
			ch("INSERT INTO drill (id, a, n, _version, _deleted) VALUES (-1, 'x', 0, 1, 0)")
		}, same(0, 1, 0), false},
		{"one column changed", func() { both("n = n - 7", "id IN (20, 2020)") }, same(0, 0, 2), false},
		{"changed to the same length", func() { both("a = 'row 3o'", "id = 30"); both("a = 'row 203o'", "id = 2030") }, same(0, 0, 2), false},
		{"NULL against empty", func() { both("b = ''", "id IN (41, 2041)"); both("b = NULL", "id IN (42, 2042)") }, same(0, 0, 4), false},
		{"stale by one version", func() {
			r.exec("UPDATE drill SET a = 'newer' WHERE id = 50")
			p.converged()
			pg("UPDATE drill SET a = 'row 50' WHERE id = 50")
			ch("DELETE FROM drill WHERE id = 50 AND a = 'newer'")
			// What was there before may have been merged away: it comes back as it was.
			ch("INSERT INTO drill (id, a, b, n, _version, _deleted) VALUES (50, 'row 50', '', 51, toUInt128(1) * bitShiftLeft(toUInt128(1), 96) + 5, 0)")
		}, same(0, 0, 1), false},
		{"deleted at the source, alive at the sink", func() {
			r.exec("DELETE FROM drill WHERE id IN (60, 2060)")
			p.converged()
			pg("INSERT INTO drill VALUES (60, 'row 60', '', 61), (2060, 'row 2060', '', 2060)")
			ch("DELETE FROM drill WHERE id IN (60, 2060)")
			ch("INSERT INTO drill (id, a, b, n, _version, _deleted) VALUES (60, 'row 60', '', 61, 7, 0), (2060, 'row 2060', '', 2060, 7, 0)")
		}, same(0, 2, 0), false},
		{"a version from the future", func() {
			ch("INSERT INTO drill (id, a, b, n, _version, _deleted) VALUES (70, 'future', NULL, 0, toUInt128('340282366920938463463374607431768211454'), 0)")
		}, map[string][4]int{"pg": {}, "ch": {0, 0, 1}}, false},
		{"a partition's changes passed over by an edited ledger", func() {
			var none struct{}
			p.mustUpdate(contract.PauseUpdate, none, nil)
			p.awaitPhase(bound, contract.Paused)
			r.exec("UPDATE drill SET n = n + 1000 WHERE id BETWEEN 2101 AND 2120 AND id % 10 <> 9")
			p.mustUpdate(contract.ResumeUpdate, none, nil)
			p.awaitPhase(bound, contract.Streaming)
			p.converged()
			pg("UPDATE drill SET n = n - 1000 WHERE id BETWEEN 2101 AND 2120 AND id % 10 <> 9")
		}, map[string][4]int{"pg": {0, 0, 18}, "ch": {}}, false},
		{"one row in a hundred", func() { both("n = 0 - n", "id % 100 = 1 AND id > 0") }, same(0, 0, rows/100), false},
		{"one row in ten", func() { both("a = concat(a, '!')", "id % 10 = 2 AND id > 0") }, same(0, 0, rows/10), false},
		{"TRUNCATE at the sinks", func() { pg("TRUNCATE drill"); ch("TRUNCATE TABLE drill") }, same(rows-2, 0, 0), true},
	}
	const large = small + 1 // from there on the drills grow with the table
	switch {
	case asked:
		drills = drills[large:]
	case os.Getenv("E2E_DRILLS") != "each":
		// What is small is made wrong at once; the large ones are for who has the time.
		all := drill{name: "one of each", want: same(0, 0, 0)}
		for _, d := range drills[:small] {
			for name, n := range d.want {
				sum := all.want[name]
				for i := range n {
					sum[i] += n[i]
				}
				all.want[name] = sum
			}
		}
		some := drills[:small]
		all.plant = func() {
			for _, d := range some {
				d.plant()
			}
		}
		drills = []drill{all, drills[small]}
	}
	// Rows that no drill touches are written to all along.
	stop := r.keep(50*time.Millisecond, func(n int) string {
		return fmt.Sprintf("UPDATE drill SET n = n + 1 WHERE id BETWEEN %d AND %d AND id %% 10 = 9", 1+n*40%rows, 40+n*40%rows)
	})
	for i, d := range drills {
		d.plant()
		begun := time.Now()
		res := p.verdicts(p.startAudit(contract.AuditInput{}), 1)
		found := time.Since(begun)
		total, more := 0, 0
		for _, v := range res.Tables {
			if v.More {
				more++
			}
			want := d.want[v.Sink]
			n := want[0] + want[1] + want[2] + want[3]
			total += n
			have := [4]int{v.Missing, v.Extra, v.Changed, v.Twice}
			if v.More && d.all {
				have, total = want, total-n+v.Findings()
			}
			if d.all && have[0] <= want[0] && have[0] >= want[0]-rows/10 {
				have = want // rows that are written to meanwhile come by themselves
			}
			if have != want || (v.Verdict == verify.Different) != (n > 0) {
				t.Errorf("%s at %s: found %v, want %v, %s", d.name, v.Sink, have, want, v.Verdict)
			}
		}
		if more > 0 {
			p.reload(d.name, res, total, found)
			continue
		}
		plan := p.repaired(p.startRepair(fmt.Sprintf("repair/%s/%d", p.name, i), contract.RepairInput{Audit: res.Run}))
		begun = time.Now()
		run := p.startRepair("repair/"+p.name, contract.RepairInput{Plan: plan.Name, Hash: plan.Hash, MaxKeys: 10 * rows, MaxPercent: 100, Why: d.name})
		if !asked && i%4 == 2 {
			f.kill(contract.Snapshot)
		}
		out := p.repaired(run)
		took, read := time.Since(begun), 0
		for j := range out.Tables {
			read += out.Tables[j].Read
		}
		if out.Failed() > 0 {
			t.Errorf("%s: %+v", d.name, out)
		}
		t.Logf("DRILL %s: %d keys, found in %.1f s, repaired in %.1f s, %.1f rows read a key", d.name, total, found.Seconds(), took.Seconds(), float64(read)/float64(max(1, total)))
		if after := p.verdicts(p.startAudit(contract.AuditInput{}), 1); after.Convergence != 1 {
			t.Fatalf("after the repair of %s: %+v", d.name, after)
		}
	}
	stop()
	if !asked {
		p.compacted(change.TableID{Schema: "public", Name: "drill"}, rows)
	}
	p.free()
	p.converged()
}

// reload: more differs than an audit counts. The plan of a repair says so, and the table
// is loaded anew, after which it is equal.
func (p *pipe) reload(name string, res contract.AuditResult, total int, found time.Duration) {
	t := p.r.t
	t.Helper()
	plan := p.repaired(p.startRepair("repair/"+p.name+"/more", contract.RepairInput{Audit: res.Run}))
	for i := range plan.Tables {
		if !plan.Tables[i].More {
			t.Errorf("the plan of %s at %s does not say that there is more", name, plan.Tables[i].Sink)
		}
	}
	begun := time.Now()
	p.mustUpdate(contract.ResyncTableUpdate, contract.TablesInput{Tables: []change.TableID{{Schema: "public", Name: "drill"}}}, nil)
	p.awaitPhase(bound, contract.Streaming)
	p.converged()
	t.Logf("DRILL %s: %d keys and more, found in %.1f s, loaded anew in %.1f s", name, total, found.Seconds(), time.Since(begun).Seconds())
	if after := p.verdicts(p.startAudit(contract.AuditInput{}), 1); after.Convergence != 1 {
		t.Fatalf("after the load of %s: %+v", name, after)
	}
}
