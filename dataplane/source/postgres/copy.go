package postgres

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/shape"
)

// CopyChunk returns a function that copies the rows of one chunk, as they are
// in the snapshot ("" for a snapshot of its own). where is the table's row
// filter, "" for none; sh is what the sink is to hold of the rows, nil for all of them.
func (s *Server) CopyChunk(snapshot string, schema *change.Schema, chunk sink.Chunk, where string, sh *shape.Shape) sink.CopyFunc {
	columns := columnList(schema)
	if sh != nil {
		where = sh.Where(where)
		list := make([]string, len(schema.Columns))
		for i := range list {
			list[i] = sh.Column(i)
		}
		columns = strings.Join(list, ", ")
	}
	return func(ctx context.Context, w io.Writer, binary bool) (int64, error) {
		var rows int64
		var out outWriter
		err := s.inTx(ctx, snapshot, func(tx pgx.Tx) error {
			from, err := fromClause(ctx, tx, schema.Table)
			if err != nil {
				return err
			}
			ranges, ok := chunk.Ranges(schema)
			if !ok && len(chunk.By) > 0 {
				return fault.Permanent(sink.CodeSchemaGate, nil, fixGate, "table %s lost a column of (%s) while it was being loaded", schema.Table, strings.Join(chunk.By, ", "))
			}
			format := "text"
			if binary {
				format = "binary"
			}
			sql := fmt.Sprintf("COPY (SELECT %s FROM %s%s) TO STDOUT (FORMAT %s)",
				columns, from, whereClause(ranges, chunk, where), format)
			out.w = w
			var finish io.Closer
			if sh != nil && len(sh.Masked()) > 0 {
				f := sh.Finisher(w, binary)
				out.w, finish = f, f
			}
			tag, err := tx.Conn().PgConn().CopyTo(ctx, &out, sql)
			rows = tag.RowsAffected()
			if err == nil && finish != nil {
				out.err = finish.Close()
			}
			return err
		})
		if out.err != nil { // the reader of the copy failed, not the source
			return rows, out.err
		}
		return rows, classify(ctx, err, "copy chunk %d of table %s", chunk.N, schema.Table)
	}
}

// SameColumns reports CodeSchemaGate if the table has other columns in the snapshot
// than in the definition that it is loaded with. The values of a column that only
// the snapshot has would be in neither chunk nor stream: delivery takes a change
// that the snapshot saw as contained in the chunk.
func (s *Server) SameColumns(ctx context.Context, snapshot string, schema *change.Schema) error {
	schema = shape.Own(schema)
	var added, gone []string
	names := make([]string, len(schema.Columns))
	for i := range schema.Columns {
		names[i] = schema.Columns[i].Name
	}
	err := s.inTx(ctx, snapshot, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `WITH have AS (SELECT a.attname::text AS name FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
				WHERE n.nspname = $1 AND c.relname = $2 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '')
			SELECT coalesce((SELECT array_agg(name ORDER BY name) FROM have WHERE name <> ALL ($3::text[])), '{}'),
				coalesce((SELECT array_agg(name ORDER BY name) FROM unnest($3::text[]) name WHERE name NOT IN (SELECT name FROM have)), '{}')`,
			schema.Table.Schema, schema.Table.Name, names).Scan(&added, &gone)
	})
	switch {
	case err != nil:
		return classify(ctx, err, "look up table %s", schema.Table)
	case len(added) > 0:
		return fault.Permanent(sink.CodeSchemaGate, nil, fixGate, "table %s was given column %q while it was being loaded", schema.Table, added[0])
	case len(gone) > 0:
		return fault.Permanent(sink.CodeSchemaGate, nil, fixGate, "table %s lost column %q while it was being loaded", schema.Table, gone[0])
	}
	return nil
}

type outWriter struct {
	w   io.Writer
	err error
}

func (o *outWriter) Write(b []byte) (int, error) {
	n, err := o.w.Write(b)
	if err != nil {
		o.err = err
	}
	return n, err
}

// fromClause names the table without its inheritance children, but with its partitions.
func fromClause(ctx context.Context, q querier, t change.TableID) (string, error) {
	var kind string
	err := q.QueryRow(ctx, `SELECT coalesce((SELECT c.relkind::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2), '')`, t.Schema, t.Name).Scan(&kind)
	switch {
	case err != nil:
		return "", err
	case kind == "":
		return "", fault.Permanent(CodeTableMissing, nil, "remove the table from the pipeline", "table %s does not exist", t)
	case kind == "r":
		return "ONLY " + quoteTable(t), nil
	}
	return quoteTable(t), nil
}

func columnList(s *change.Schema) string {
	cols := make([]string, len(s.Columns))
	for i := range s.Columns {
		cols[i] = quoteIdent(s.Columns[i].Name)
	}
	return strings.Join(cols, ", ")
}

func keyList(s *change.Schema) string {
	cols := make([]string, len(s.Key))
	for i, k := range s.Key {
		cols[i] = quoteIdent(s.Columns[k].Name)
	}
	return strings.Join(cols, ", ")
}

func whereClause(s *change.Schema, c sink.Chunk, filter string) string {
	var and []string
	if len(c.After) > 0 {
		and = append(and, "ROW("+keyList(s)+") > "+bound(s, c.After))
	}
	if len(c.UpTo) > 0 {
		and = append(and, "ROW("+keyList(s)+") <= "+bound(s, c.UpTo))
	}
	if filter != "" {
		and = append(and, "("+filter+"\n)") // a comment at its end must not swallow the rest
	}
	if len(and) == 0 {
		return ""
	}
	return " WHERE " + strings.Join(and, " AND ")
}

func bound(s *change.Schema, values []string) string {
	lits := make([]string, len(values))
	for i, v := range values {
		lits[i] = quoteLiteral(v) + "::" + s.Columns[s.Key[i]].Type.Name
	}
	return "ROW(" + strings.Join(lits, ", ") + ")"
}
