package postgres_test

import (
	"context"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/postgres"
	"syncline/testsuite/stack"
)

// Each right that a login lacks is named, with the statement that grants it, and tables
// that another login alone owns; nothing is left behind.
func TestRights(t *testing.T) {
	l := newLab(t, postgres.Options{})
	conn, err := pgx.Connect(t.Context(), l.dsn)
	must(t, err)
	defer func() { _ = conn.Close(t.Context()) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(t.Context(), sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	one, owner, database := stack.Name(t), stack.Name(t), conn.Config().Database
	exec("CREATE ROLE " + one + " LOGIN; CREATE ROLE " + owner + `; CREATE SCHEMA "S s"; CREATE TABLE "S s"."T t" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, v text, w text GENERATED ALWAYS AS (v) STORED)`)
	t.Cleanup(func() {
		ctx := context.Background() // that of the test has ended
		conn, err := pgx.Connect(ctx, l.dsn)
		must(t, err)
		_, err = conn.Exec(ctx, "DROP OWNED BY "+one+", "+owner+" CASCADE; DROP ROLE "+one+", "+owner, pgx.QueryExecModeSimpleProtocol)
		must(t, err)
		_ = conn.Close(ctx)
	})
	u, err := url.Parse(l.dsn)
	must(t, err)
	u.User = url.User(one)
	id := change.TableID{Schema: "S s", Name: "T t"}
	rights := func() error {
		t.Helper()
		k := open(t, u.String(), "lab", postgres.Options{})
		defer func() { _ = k.Close() }()
		return k.Rights(t.Context(), id, change.TableID{Schema: "not", Name: "there"})
	}
	lacks := func(says ...string) {
		t.Helper()
		err := rights()
		if !fault.Is(err, sink.CodePrivilege) || fault.Retryable(err) {
			t.Fatalf("want %q: %v", says, err)
		}
		for _, s := range says {
			if !strings.Contains(err.Error(), s) {
				t.Errorf("want %q: %v", s, err)
			}
		}
	}
	lacks("GRANT CREATE ON DATABASE", `GRANT USAGE ON SCHEMA "syncline"`, `GRANT USAGE ON SCHEMA "S s"`)
	exec("GRANT CREATE ON DATABASE " + database + " TO " + one + `; GRANT USAGE ON SCHEMA "S s", syncline TO ` + one)
	lacks(`GRANT CREATE ON SCHEMA "S s"`, `GRANT CREATE ON SCHEMA "syncline"`, `GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON "S s"."T t"`,
		`GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON "syncline"."lanes"`, "that postgres alone owns", `"S s"."T t"`)
	exec(`GRANT ALL ON "S s"."T t" TO ` + one + `; REVOKE DELETE ON "S s"."T t" FROM ` + one)
	lacks(`GRANT DELETE ON "S s"."T t"`)
	exec(`GRANT ALL ON SCHEMA "S s", syncline TO ` + one + `; GRANT ALL ON ALL TABLES IN SCHEMA "S s", syncline TO ` + one)
	exec("REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA syncline FROM PUBLIC")
	lacks("that postgres alone owns", "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA syncline")
	// All of one role that the login is a member of.
	exec(`DO $$ DECLARE r record; BEGIN
		FOR r IN SELECT format('ALTER TABLE %s OWNER TO ` + owner + `', c.oid::regclass) AS q FROM pg_class c WHERE relkind = 'r' AND relnamespace IN ('syncline'::regnamespace, '"S s"'::regnamespace)
			UNION ALL SELECT format('ALTER FUNCTION %s OWNER TO ` + owner + `', p.oid::regprocedure) FROM pg_proc p WHERE pronamespace = 'syncline'::regnamespace LOOP EXECUTE r.q; END LOOP; END $$`)
	exec("GRANT " + owner + " TO " + one)
	if err := rights(); err != nil {
		t.Error(err)
	}
	var left int
	must(t, conn.QueryRow(t.Context(), "SELECT count(*) FROM pg_class WHERE relname LIKE 'syncline_rights%'").Scan(&left))
	if left != 0 {
		t.Errorf("%d tables left", left)
	}
}
