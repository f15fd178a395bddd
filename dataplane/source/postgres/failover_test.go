package postgres

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"syncline/dataplane/change"
)

// standby makes a standby of a cluster, which stops meanwhile, with the cluster's
// slots kept by a physical slot of its own.
func (c *cluster) standby() *cluster {
	c.t.Helper()
	c.stop("fast")
	s := &cluster{t: c.t, bin: c.bin, data: c.data + "-standby", port: freePort(c.t)}
	if out, err := exec.Command("cp", "-a", c.data, s.data).CombinedOutput(); err != nil {
		c.t.Fatalf("copy the cluster: %v: %s", err, out)
	}
	s.configure(fmt.Sprintf("port=%d", s.port), "hot_standby_feedback=on", "sync_replication_slots=on", "primary_slot_name='standby'",
		fmt.Sprintf("primary_conninfo='host=127.0.0.1 port=%d user=postgres dbname=postgres'", c.port))
	signal := filepath.Join(s.data, "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		c.t.Fatal(err)
	}
	if uid, gid, ok := postgresUser(); ok {
		if err := os.Chown(signal, uid, gid); err != nil {
			c.t.Fatal(err)
		}
	}
	c.start()
	s.start()
	c.t.Cleanup(s.end)
	return s
}

// From Postgres 17 on the slot is one that standbys keep: after a failover it is
// there, and changes that were not confirmed come from it.
func TestSlotOutlivesAFailover(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	r := c.rig()
	var version int
	r.scan(&version, "SELECT current_setting('server_version_num')::int")
	if version < 170000 {
		t.Skipf("slots follow a failover from Postgres 17 on; this is %d", version)
	}
	r.exec("SELECT pg_create_physical_replication_slot('standby', true)")
	sb := c.standby()
	r.reconnect()
	other := sb.rig()
	r.exec("CREATE TABLE t (id int PRIMARY KEY)")
	r.publish(table("t"))
	var failover bool
	r.scan(&failover, "SELECT failover FROM pg_replication_slots WHERE slot_name = $1", r.slot)
	if !failover {
		t.Fatal("the slot was not created with failover")
	}

	// A slot is kept once the standby has all that it needs, which takes some
	// confirmations and snapshots of running transactions.
	st := r.stream(StreamOptions{})
	for synced, n, end := false, 0, time.Now().Add(time.Minute); !synced; n++ {
		if time.Now().After(end) {
			log, _ := os.ReadFile(filepath.Join(sb.data, "log"))
			t.Fatalf("the standby does not keep the slot; its log ends\n%s", log[max(0, len(log)-2000):])
		}
		r.exec(fmt.Sprintf("INSERT INTO t VALUES (%d)", n))
		r.exec("SELECT pg_log_standby_snapshot()") // of no transaction, so not in one with the row
		r.drain(st)
		if err := st.Confirm(r.ctx(), st.through); err != nil {
			t.Fatal(err)
		}
		other.caughtUp(r)
		other.scan(&synced, "SELECT coalesce(bool_and(synced AND NOT temporary), false) FROM pg_replication_slots WHERE slot_name = $1", r.slot)
	}
	r.exec("INSERT INTO t VALUES (-1); INSERT INTO t VALUES (-2)")
	other.caughtUp(r)
	_ = st.Close()
	c.stop("immediate")
	other.exec("SELECT pg_promote()")

	i, err := other.s.Slot(other.ctx(), other.slot)
	if err != nil || !i.Failover || i.usable() != nil || i.InRecovery {
		t.Fatalf("slot after the failover: %+v, %v", i, err)
	}
	cs, _ := other.drain(other.stream(StreamOptions{}))
	if len(cs) < 2 || cs[len(cs)-2].Key.String() != `("-1")` || cs[len(cs)-1].Key.String() != `("-2")` {
		t.Errorf("changes after the failover: %q", texts(cs))
	}
}

// caughtUp waits until a standby has replayed all that its primary has written.
func (r *rig) caughtUp(primary *rig) {
	r.t.Helper()
	var text string
	primary.scan(&text, "SELECT pg_current_wal_flush_lsn()::text")
	want, err := change.ParseLSN(text)
	if err != nil {
		r.t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; {
		r.scan(&text, "SELECT coalesce(pg_last_wal_replay_lsn()::text, '0/0')")
		if got, err := change.ParseLSN(text); err == nil && got >= want {
			return
		}
		if time.Now().After(end) {
			r.t.Fatalf("the standby is at %s, its primary at %s", text, want)
		}
		time.Sleep(10 * time.Millisecond)
	}
}
