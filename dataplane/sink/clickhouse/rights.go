package clickhouse

import (
	"context"
	"errors"
	"slices"
	"strings"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/dataplane/fault"
	"syncline/dataplane/login/chlogin"
	"syncline/dataplane/sink"
)

// What the sink does in its databases, and in that of its ledger.
var (
	tableRights  = []string{"SELECT", "INSERT", "ALTER", "CREATE TABLE", "DROP TABLE", "TRUNCATE", "CREATE VIEW", "DROP VIEW"}
	ledgerRights = []string{"SELECT", "INSERT", "ALTER", "CREATE TABLE", "DROP TABLE", "TRUNCATE"}
)

// Rights asks for what the sink does in databases and in that of its ledger, reads from
// each table of the ledger and inserts no row into it, and names every right that is
// missing with the statement that grants it. There is no transaction to undo more in;
// servers older than 24.11 cannot be asked, and there what was exercised has to do.
func (s *Sink) Rights(ctx context.Context, databases ...string) error {
	asked := []grant{}
	for _, right := range ledgerRights {
		asked = append(asked, grant{right, ident(s.opts.Ledger) + ".*"})
	}
	for _, db := range databases {
		for _, right := range tableRights {
			if g := (grant{right, ident(db) + ".*"}); !slices.Contains(asked, g) {
				asked = append(asked, g)
			}
		}
	}
	var missing []error
	if err := s.rights(ctx, &missing, asked); err != nil {
		return err
	}
	return errors.Join(missing...)
}

type grant struct{ right, on string }

func (s *Sink) rights(ctx context.Context, missing *[]error, asked []grant) error {
	var user string
	if err := s.one(ctx, "SELECT currentUser()", &user); err != nil {
		return wrap(ctx, err, "SELECT currentUser()")
	}
	lacks := func(right, on string) {
		*missing = append(*missing, fault.Permanent(sink.CodePrivilege, nil, "GRANT "+right+" ON "+on+" TO "+ident(user), "user %s may not %s on %s", user, right, on))
	}
	var ex *ch.Exception
	try := func(right, on, sql string) error {
		in, cancel := s.conn.context(ctx, nil)
		defer cancel()
		err := s.conn.pools.With(in, func(pool driver.Conn) error { return pool.Exec(in, sql) })
		if errors.As(err, &ex) && ex.Code == codeAccessDenied {
			lacks(right, on)
			return nil
		}
		return wrap(ctx, err, right+" on "+on)
	}
	for _, table := range []string{"system.tables", "system.columns", "system.parts"} {
		if err := try("SELECT", table, "SELECT 1 FROM "+table+" LIMIT 0"); err != nil {
			return err
		}
	}
	for _, g := range asked {
		may, known, err := chlogin.May(func(query string, into any) error { return s.one(ctx, query, into) }, g.right, g.on)
		if err != nil {
			return wrap(ctx, err, "SELECT: CHECK GRANT "+g.right)
		}
		if !known {
			break
		}
		if !may {
			lacks(g.right, g.on)
		}
	}
	var tables []string
	if err := s.conn.query(ctx, "SELECT from system.tables", "SELECT name FROM system.tables WHERE database = "+lit(s.opts.Ledger)+" AND engine NOT LIKE '%View' ORDER BY name", func(scan func(...any) error) error {
		var name string
		err := scan(&name)
		tables = append(tables, name)
		return err
	}); err != nil {
		return err
	}
	for _, name := range tables {
		t := target{s.opts.Ledger, name}.String()
		for _, x := range []struct{ right, sql string }{{"SELECT", "SELECT * FROM " + t + " LIMIT 0"}, {"INSERT", "INSERT INTO " + t + " SELECT * FROM " + t + " WHERE 0"}} {
			if slices.ContainsFunc(*missing, func(err error) bool {
				return strings.Contains(err.Error(), "GRANT "+x.right+" ON "+ident(s.opts.Ledger)+".* ")
			}) {
				continue // said of the whole ledger
			}
			if err := try(x.right, t, x.sql); err != nil {
				return err
			}
		}
	}
	return nil
}

// one reads the one value of a statement's answer.
func (s *Sink) one(ctx context.Context, query string, into any) error {
	in, cancel := s.conn.context(ctx, nil)
	defer cancel()
	return s.conn.pools.With(in, func(pool driver.Conn) error { return pool.QueryRow(in, query).Scan(into) })
}
