package shape

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/testsuite/stack"
)

// What Postgres reads of a shape is what the shape makes of the changes of its rows.
func TestPostgresReadsTheSame(t *testing.T) {
	ctx := context.Background()
	conn, err := pgx.Connect(ctx, stack.Database(t, stack.Postgres(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(ctx) }()
	exec := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql, pgx.QueryExecModeSimpleProtocol); err != nil {
			t.Fatal(err)
		}
	}
	exec(`CREATE TABLE people (id int PRIMARY KEY, country text, email text, note text NOT NULL, age int, device uuid)`)
	s := people(true)
	rapid.Check(t, func(t *rapid.T) {
		rules := genRules(t)
		sh := compiled(t, s, All, rules...)
		if sh == nil {
			return
		}
		sql := "TRUNCATE people"
		want := map[string]string{}
		for id := range 12 {
			row := genRow(t, id)
			vals := make([]string, len(row))
			for i, v := range row {
				vals[i] = "NULL"
				if v.Kind == change.Text {
					vals[i] = literal(string(v.Data))
				}
			}
			sql += "; INSERT INTO people VALUES (" + strings.Join(vals, ", ") + ")"
			out, ok, err := sh.Row(row)
			if err != nil {
				t.Fatal(err)
			}
			if ok {
				want[string(row[0].Data)] = fmt.Sprintf("%q", out)
			}
		}
		exec(sql)
		res, err := conn.PgConn().Exec(ctx, "SELECT r.* FROM "+sh.Relation("people", "id <> 5")+" r WHERE (id) > (-1)").ReadAll()
		if err != nil {
			t.Fatal(err)
		}
		delete(want, "5")
		have := map[string]string{}
		for _, r := range res[0].Rows {
			r = r[3:] // where the row is
			row := make(change.Row, len(r))
			for i, v := range r {
				if v != nil {
					row[i] = change.TextValue(string(v))
				}
			}
			sh.FinishRow(row)
			have[string(r[0])] = fmt.Sprintf("%q", row)
		}
		if fmt.Sprint(have) != fmt.Sprint(want) {
			t.Fatalf("%v:\nhave %v\nwant %v", rules, have, want)
		}
	})
}
