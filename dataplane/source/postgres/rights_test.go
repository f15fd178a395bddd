package postgres

import (
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/testsuite/stack"
)

// Each right that a login lacks is named, with the statement that grants it; with all
// of them there is nothing to say, and nothing left behind.
func TestRights(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	login, owner := stack.Name(t), stack.Name(t)
	me := quoteIdent(login)
	r.exec(fmt.Sprintf(`CREATE ROLE %[1]s LOGIN; CREATE ROLE %[2]s; CREATE SCHEMA s; CREATE TABLE s.a (id int PRIMARY KEY, v text); CREATE TABLE s."B b" (id int PRIMARY KEY);
		ALTER TABLE s.a OWNER TO %[2]s; ALTER TABLE s."B b" OWNER TO %[2]s`, me, quoteIdent(owner)))
	t.Cleanup(func() {
		r.exec(fmt.Sprintf("DROP OWNED BY %[1]s, %[2]s CASCADE; DROP ROLE %[1]s, %[2]s", me, quoteIdent(owner)))
	})
	tables := []change.TableID{{Schema: "s", Name: "a"}, {Schema: "s", Name: "B b"}}
	r.publish(PublishedTable{ID: tables[0]}, PublishedTable{ID: tables[1]})
	u, err := url.Parse(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.User(login)
	rights := func() error {
		t.Helper()
		s, err := NewServer(ServerOptions{DSN: u.String(), Pipeline: "own"})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = s.Close() }()
		return s.Rights(r.ctx(), testPublication, r.slot, tables)
	}
	lacks := func(says ...string) {
		t.Helper()
		err := rights()
		if err == nil || fault.Retryable(err) {
			t.Fatalf("want %q: %v", says, err)
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("want %q: %v", s, err)
			}
		}
	}
	lacks("ALTER ROLE … REPLICATION", "ALTER PUBLICATION", "GRANT SELECT ON \"s\".\"a\"", "GRANT SELECT ON \"s\".\"B b\"", "GRANT "+quoteIdent(owner)+" TO "+me)
	r.exec("ALTER ROLE " + me + " REPLICATION")
	if err := rights(); fault.Is(err, CodeNoReplication) {
		t.Errorf("%v", err)
	}
	r.exec("GRANT " + quoteIdent(owner) + " TO " + me + "; GRANT USAGE ON SCHEMA s TO " + quoteIdent(owner))
	lacks("ALTER PUBLICATION")
	r.exec("ALTER PUBLICATION " + quoteIdent(testPublication) + " OWNER TO " + quoteIdent(r.user()))
	r.exec("GRANT CREATE ON DATABASE " + quoteIdent(r.conn.Config().Database) + " TO " + quoteIdent(owner) + "; ALTER PUBLICATION " + quoteIdent(testPublication) + " OWNER TO " + quoteIdent(owner))
	if err := rights(); err != nil {
		t.Error(err)
	}
	emit := func(verb string) { // whose arguments are others since 17
		r.exec(`DO $$ DECLARE f regprocedure; BEGIN
			SELECT oid INTO f FROM pg_proc WHERE proname = 'pg_logical_emit_message' AND proargtypes[2] = 'text'::regtype;
			EXECUTE format('` + verb + ` PUBLIC', f); END $$`)
	}
	emit("REVOKE EXECUTE ON FUNCTION %s FROM")
	lacks("GRANT EXECUTE ON FUNCTION pg_logical_emit_message")
	emit("GRANT EXECUTE ON FUNCTION %s TO")
	r.exec("ALTER TABLE s.a ENABLE ROW LEVEL SECURITY; ALTER TABLE s.a FORCE ROW LEVEL SECURITY")
	lacks("BYPASSRLS")
	r.exec("ALTER ROLE " + me + " BYPASSRLS")
	if err := rights(); err != nil {
		t.Error(err)
	}
	r.exec("ALTER TABLE s.a OWNER TO " + quoteIdent(r.user()) + "; REVOKE ALL ON s.a FROM " + me)
	lacks("GRANT SELECT ON \"s\".\"a\"", "GRANT "+quoteIdent(r.user())+" TO "+me)

	st := r.stream(StreamOptions{})
	if cs, _ := r.drain(st); len(cs) != 0 {
		t.Errorf("left in the stream: %q", texts(cs))
	}
	_ = st.Close()
	if err := func() error {
		s, err := NewServer(ServerOptions{DSN: r.dsn, Pipeline: "own"})
		if err != nil {
			return err
		}
		defer func() { _ = s.Close() }()
		return s.Rights(r.ctx(), testPublication, "no_slot", tables)
	}(); !fault.Is(err, CodeSlotMissing) {
		t.Error(err)
	}
}

func (r *rig) user() string {
	var name string
	if err := r.conn.QueryRow(r.ctx(), "SELECT current_user::text", pgx.QueryExecModeSimpleProtocol).Scan(&name); err != nil {
		r.t.Fatal(err)
	}
	return name
}
