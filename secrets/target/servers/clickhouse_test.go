package servers

import (
	"context"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/dataplane/login"
	"syncline/dataplane/wire"
	"syncline/secrets"
	"syncline/secrets/target"
	"syncline/testsuite/stack"
)

// clickhouseAt describes the stack's server by one of its protocols.
func clickhouseAt(t *testing.T, protocol string) (target.Spec, driver.Conn) {
	t.Helper()
	address := stack.ClickHouseNative(t)
	if protocol == "http" {
		address = stack.ClickHouse(t)
	}
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(u.Port())
	o, err := ch.ParseDSN(stack.ClickHouseNative(t))
	if err != nil {
		t.Fatal(err)
	}
	conn, err := ch.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return target.Spec{Name: "lake", Type: target.ClickHouse, Host: u.Hostname(), Port: port, Protocol: protocol}, conn
}

func TestClickHouse(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"native", "http"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			spec, conn := clickhouseAt(t, protocol)
			ctx := inTime(t)
			name := stack.Name(t)
			bossName, meekName, app := name+"_boss", name+"_meek", name+"_app"
			odd := name + " o'x`\\ö"
			do := func(sql string) {
				t.Helper()
				if err := conn.Exec(ctx, sql); err != nil {
					t.Fatalf("%s: %v", sql, err)
				}
			}
			if err := conn.Exec(ctx, "CREATE USER "+app); code(err) == 497 {
				t.Skip("the stack's ClickHouse is an engine without logins; against a server that has them, its default user needs access_management")
			}
			do("DROP USER IF EXISTS " + app)
			for _, u := range []string{bossName, meekName, app, odd} {
				do("CREATE USER " + chIdent(u) + " IDENTIFIED WITH sha256_password BY 'boss'")
				t.Cleanup(func() { _ = conn.Exec(context.Background(), "DROP USER IF EXISTS "+chIdent(u)) })
			}
			do("GRANT SHOW USERS, ALTER USER, KILL QUERY ON *.* TO " + bossName)
			do("GRANT SELECT ON system.* TO " + bossName)
			boss := open(t, spec, bossName, "boss")
			life(t, boss, app)
			life(t, boss, odd)
			anyPassword(t, boss, app)

			p := target.NewPassword(40)
			if err := boss.Set(ctx, app, p); err != nil {
				t.Fatal(err)
			}
			t.Run("sessions", func(t *testing.T) {
				o, err := ch.ParseDSN(stack.ClickHouseNative(t))
				if err != nil {
					t.Fatal(err)
				}
				o.Auth.Username, o.Auth.Password, o.Auth.Database = app, p.Reveal(), "default"
				o.ClientInfo.Products = append(o.ClientInfo.Products, struct{ Name, Version string }{"mine", "1"})
				got, ended := clickhouseQuery(t, boss, app, o)
				if got.Known || len(got.Open) != 1 || !strings.Contains(got.Open[0].Application, "mine") || got.Open[0].Address != "127.0.0.1" || time.Since(got.Open[0].Since) > time.Hour {
					t.Errorf("%+v", got)
				}
				_, err = open(t, spec, meekName, "boss").End(ctx, app)
				if err != nil {
					wantFault(t, err, target.CodePrivilege, "KILL QUERY")
				}
				if n, err := boss.End(ctx, app); err != nil || n != 1 {
					t.Errorf("%d ended, %v", n, err)
				}
				if err := <-ended; code(err) != 394 {
					t.Errorf("the query ended with %v", err)
				}
			})
			t.Run("nothing in the log", func(t *testing.T) {
				do("SYSTEM FLUSH LOGS")
				var statements, shown uint64
				if err := conn.QueryRow(ctx, "SELECT countIf(query LIKE 'ALTER USER%'), countIf(position(query, "+chText(p.Reveal())+") > 0 AND query NOT LIKE '%query_log%') FROM system.query_log WHERE user = "+chText(bossName)).Scan(&statements, &shown); err != nil {
					t.Fatal(err)
				}
				if statements == 0 || shown != 0 {
					t.Errorf("%d statements in the log, %d with the password", statements, shown)
				}
				got, err := boss.Sessions(ctx, app)
				if err != nil || time.Since(got.Used) > time.Hour {
					t.Errorf("%+v, %v", got, err)
				}
			})
			t.Run("faults", func(t *testing.T) {
				wantFault(t, boss.Check(ctx, "default"), target.CodeReadOnly, "users.xml")
				wantFault(t, boss.Set(ctx, "default", p), target.CodeReadOnly, "users.xml")
				meek := open(t, spec, meekName, "boss")
				wantFault(t, meek.Check(ctx, app), target.CodePrivilege, "SHOW USERS")
				do("GRANT SHOW USERS ON *.* TO " + meekName)
				clickhouseFaults(t, app, boss, meek, open(t, spec, bossName, "wrong-77"))
				nowhere := spec
				nowhere.Cluster = "nowhere"
				wantFault(t, open(t, nowhere, bossName, "boss").Set(ctx, app, p), target.CodeRefused)
				gone := spec
				gone.Port = closedPort(t)
				unreachable(t, open(t, gone, bossName, "boss"))
			})
		})
	}
}

// The same of what can be told without a server that has users of its own: statements,
// logins and refusals over HTTP.
func TestClickHouseLogins(t *testing.T) {
	t.Parallel()
	ctx := inTime(t)
	users := stack.NewUsers(t, stack.ClickHouse(t), "boss", "boss")
	users.Put("meek", "boss")
	u, err := url.Parse(users.URL)
	if err != nil {
		t.Fatal(err)
	}
	port, _ := strconv.Atoi(u.Port())
	spec := target.Spec{Name: "lake", Type: target.ClickHouse, Host: u.Hostname(), Port: port, Protocol: "http"}
	odd := "o'x`\\ö"
	boss := open(t, spec, "boss", "boss")
	for _, user := range []string{"app", odd} {
		users.Put(user, "first")
		life(t, boss, user)
	}
	anyPassword(t, boss, "app")
	p := target.NewPassword(40)
	if err := boss.Set(ctx, "app", p); err != nil {
		t.Fatal(err)
	}
	o := ch.Options{Protocol: ch.HTTP, Addr: []string{u.Host}, Auth: ch.Auth{Database: "default", Username: "app", Password: p.Reveal()}}
	got, ended := clickhouseQuery(t, boss, "app", &o)
	if got.Known || len(got.Open) != 1 || got.Open[0].Application == "" || time.Since(got.Open[0].Since) > time.Hour {
		t.Errorf("%+v", got)
	}
	if n, err := boss.End(ctx, "app"); err != nil || n != 1 {
		t.Errorf("%d ended, %v", n, err)
	}
	if err := <-ended; code(err) != 394 {
		t.Errorf("the query ended with %v", err)
	}
	clickhouseFaults(t, "app", boss, open(t, spec, "meek", "boss"), open(t, spec, "boss", "wrong-77"))
}

// clickhouseQuery begins a query that does not end by itself, and returns how it is shown
// and, once it has ended, with what.
func clickhouseQuery(t *testing.T, boss target.Target, app string, o *ch.Options) (got target.Sessions, ended <-chan error) {
	t.Helper()
	ctx := inTime(t)
	theirs, err := ch.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	end := make(chan error, 1)
	go func() {
		var n uint64
		end <- theirs.QueryRow(ctx, "SELECT count() FROM system.numbers WHERE NOT ignore(sleepEachRow(0.01)) SETTINGS max_block_size = 20").Scan(&n)
	}()
	for ctx.Err() == nil && len(got.Open) == 0 {
		if got, err = boss.Sessions(ctx, app); err != nil {
			t.Fatal(err)
		}
	}
	return got, end
}

// clickhouseFaults are those of an administrator who may alter users, of one who may only
// see them, and of a login that is refused.
func clickhouseFaults(t *testing.T, app string, boss, meek, bad target.Target) {
	t.Helper()
	ctx, p := inTime(t), target.NewPassword(40)
	wantFault(t, boss.Check(ctx, app, "ghost"), target.CodeMissing, "ghost", "CREATE USER")
	wantFault(t, boss.Set(ctx, "ghost", p), target.CodeMissing)
	_, err := boss.Try(ctx, "ghost", secrets.NewSecret("x"))
	wantFault(t, err, target.CodeLogin)
	wantFault(t, meek.Check(ctx, app), target.CodePrivilege, "ALTER USER")
	wantFault(t, meek.Set(ctx, app, p), target.CodePrivilege, "ALTER USER")
	wantFault(t, bad.Check(ctx, app), target.CodeAdmin)
	wantFault(t, bad.Disable(ctx, app), target.CodeAdmin)
}

// What needs no logins, with the engine that the stack has.
func TestClickHouseEngine(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"native", "http"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			spec, conn := clickhouseAt(t, protocol)
			ctx := inTime(t)
			x := open(t, spec, "default", "")
			spec.Cluster = "all `of` 'them'"
			wide, err := newClickHouse(spec, login.Login{User: "default"}, nil, wire.Plain)
			if err != nil {
				t.Fatal(err)
			}
			narrow := x.(*clickhouse)
			const odd = "a `b` 'c' \\ ö"
			for _, sql := range []string{
				narrow.statement(odd, "x"), wide.statement(odd, "x"),
				"KILL QUERY" + wide.onCluster() + " WHERE user = " + chText(odd) + " ASYNC",
			} {
				var parsed string
				if err := conn.QueryRow(ctx, "SELECT formatQuerySingleLine("+chText(sql)+")").Scan(&parsed); err != nil || strings.HasPrefix(sql, "ALTER") && !strings.Contains(parsed, chIdent(odd)) {
					t.Errorf("%s is read as %s: %v", sql, parsed, err)
				}
			}
			var same string
			if err := conn.QueryRow(ctx, "SELECT "+chText(odd)).Scan(&same); err != nil || same != odd {
				t.Errorf("%q, %v", same, err)
			}
			// The engine's hash of password and salt is ours.
			sql := narrow.statement("u", "p'w")
			parts := strings.Split(sql, "'")
			var hash string
			if err := conn.QueryRow(ctx, "SELECT lower(hex(SHA256(concat("+chText("p'w")+", "+chText(parts[3])+"))))").Scan(&hash); err != nil || hash != parts[1] {
				t.Errorf("%s is not %s: %v", hash, parts[1], err)
			}
			wantFault(t, x.Check(ctx, "default"), target.CodePrivilege, "GRANT SHOW USERS ON *.* TO `default`")
			wantFault(t, x.Set(ctx, "default", target.NewPassword(30)), target.CodePrivilege, "GRANT ALTER USER ON *.* TO `default`")
			wantFault(t, x.Disable(ctx, "default"), target.CodePrivilege, "GRANT ALTER USER")
			var may uint8
			if err := conn.QueryRow(ctx, "CHECK GRANT ALTER USER ON *.*").Scan(&may); err != nil || may != 0 || narrow.mayAlter(ctx, conn, odd) {
				t.Errorf("may alter: %d, %v", may, err)
			}
			if got, err := x.Sessions(ctx, "default"); err != nil || got.Known || len(got.Open) == 0 || got.Open[0].ID == "" || got.Open[0].Application == "" || time.Since(got.Open[0].Since) > time.Hour {
				t.Errorf("%+v, %v", got, err)
			}
			if n, err := x.End(ctx, "nobody-there"); n != 0 || err != nil {
				t.Errorf("%d ended, %v", n, err)
			}
			gone := spec
			gone.Port = closedPort(t)
			unreachable(t, open(t, gone, "default", ""))
		})
	}
}
