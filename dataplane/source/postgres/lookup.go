package postgres

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/source/postgres/pgoutput"
)

// lookup answers what assembling asks the source.
type lookup struct {
	s           *Server
	catalog     *catalog
	publication string
}

func (l *lookup) resolve(ctx context.Context, r *pgoutput.Relation, xid uint32) (*change.Schema, error) {
	// The transaction may be the one that altered the table, and not be visible yet.
	if err := l.visible(ctx, xid); err != nil {
		return nil, classify(ctx, err, "look up table %s.%s", r.Schema, r.Name)
	}
	var appendOnly bool
	err := l.s.pool.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
		WHERE p.pubname = $1 AND r.prrelid = $2)`, appendPublication(l.publication), r.ID).Scan(&appendOnly)
	if err != nil {
		return nil, classify(ctx, err, "look up table %s.%s", r.Schema, r.Name)
	}
	s, err := l.catalog.schema(ctx, r, appendOnly)
	return s, classify(ctx, err, "look up table %s.%s", r.Schema, r.Name)
}

func (l *lookup) fill(ctx context.Context, s *change.Schema, row change.Row, xid uint32) error {
	var cols, where []string
	var at []int
	for i, v := range row {
		if v.Kind == change.Unchanged {
			cols, at = append(cols, quoteIdent(s.Columns[i].Name)), append(at, i)
		}
	}
	var params [][]byte
	for n, k := range s.Key {
		where = append(where, fmt.Sprintf("%s = $%d::%s", quoteIdent(s.Columns[k].Name), n+1, s.Columns[k].Type.Name))
		params = append(params, row[k].Data)
	}
	sql := "SELECT " + strings.Join(cols, ", ") + " FROM " + quoteTable(s.Table) + " WHERE " + strings.Join(where, " AND ")
	for {
		var seen bool
		err := l.s.inTx(ctx, "", func(tx pgx.Tx) error {
			snap, err := currentSnapshot(ctx, tx)
			if err != nil {
				return err
			}
			// A commit is in the log a moment before readers see it (longer with synchronous standbys).
			if seen = snap.Sees(xid); !seen {
				return nil
			}
			// The text format is the output function's, as in the stream; a cast would strip char(n).
			res := tx.Conn().PgConn().ExecParams(ctx, sql, params, nil, nil, nil).Read()
			if res.Err != nil {
				return res.Err
			}
			for n, i := range at {
				switch {
				case len(res.Rows) == 0:
					row[i] = placeholder(&s.Columns[i])
				case res.Rows[0][n] == nil:
					row[i] = change.Value{}
				default:
					row[i] = change.Value{Kind: change.Text, Data: res.Rows[0][n]}
				}
			}
			return nil
		})
		if err != nil || seen {
			return classify(ctx, err, "read unchanged columns of table %s", s.Table)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

// visible waits until readers see a transaction whose commit is in the log.
func (l *lookup) visible(ctx context.Context, xid uint32) error {
	for xid != 0 {
		snap, err := currentSnapshot(ctx, l.s.pool)
		if err != nil || snap.Sees(xid) {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
	return nil
}

func currentSnapshot(ctx context.Context, q querier) (change.Snapshot, error) {
	var text string
	if err := q.QueryRow(ctx, "SELECT pg_current_snapshot()::text").Scan(&text); err != nil {
		return change.Snapshot{}, err
	}
	return change.ParseSnapshot(text)
}

// placeholder stands for a value of a row that a later change in the stream
// removes: any value that the column takes.
func placeholder(c *change.Column) change.Value {
	if !c.NotNull {
		return change.Value{}
	}
	t := c.Type.Root()
	switch {
	case t.Kind == change.Array || t.Kind == change.MultiRange:
		return change.TextValue("{}")
	case t.Kind == change.Range:
		return change.TextValue("empty")
	case t.Base == "json" || t.Base == "jsonb":
		return change.TextValue("null")
	case t.Base == "numeric":
		return change.TextValue("0")
	case t.Base == "bytea":
		return change.TextValue(`\x`)
	case t.Base == "path" || t.Base == "polygon":
		return change.TextValue("((0,0))")
	}
	return change.TextValue("")
}
