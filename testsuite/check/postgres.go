package check

import (
	"context"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"syncline/dataplane/change"
	"syncline/dataplane/pgtext"
)

// maxRow bounds one row of a Postgres side, in text form.
const maxRow = 1 << 30

// Postgres is a side that is a Postgres database: the source, or a sink.
type Postgres struct {
	DSN    string
	Source bool   // tables are under the source's names, and their filters apply
	Label  string // for reports; default "source" or "postgres"
}

// Name implements Side.
func (p *Postgres) Name() string {
	switch {
	case p.Label != "":
		return p.Label
	case p.Source:
		return "source"
	}
	return "postgres"
}

func (p *Postgres) from(t *Table) string {
	id := t.ID()
	if p.Source {
		s := quote(id.Schema) + "." + quote(id.Name)
		if t.Where != "" {
			s += " WHERE (" + t.Where + ")"
		}
		return s
	}
	if t.Options.Schema != "" {
		id.Schema = t.Options.Schema
	}
	if t.Options.Name != "" {
		id.Name = t.Options.Name
	}
	return quote(id.Schema) + "." + quote(id.Name)
}

func quote(name string) string { return pgx.Identifier{name}.Sanitize() }

// connect opens a session whose texts do not depend on the server's settings.
func (p *Postgres) connect(ctx context.Context) (*pgconn.PgConn, error) {
	c, err := pgconn.ParseConfig(p.DSN)
	if err != nil {
		return nil, fmt.Errorf("%s: connection string: %w", p.Name(), err)
	}
	for k, v := range map[string]string{
		"TimeZone": "UTC", "DateStyle": "ISO, MDY", "IntervalStyle": "postgres", "extra_float_digits": "1",
		"bytea_output": "hex", "client_encoding": "UTF8", "xmlbinary": "base64", "lc_monetary": "C",
	} {
		c.RuntimeParams[k] = v
	}
	conn, err := pgconn.ConnectConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("%s: connect: %w", p.Name(), err)
	}
	return conn, nil
}

// Rows implements Side.
func (p *Postgres) Rows(ctx context.Context, t *Table, f func([]Value) error) error {
	conn, err := p.connect(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	cols := make([]string, len(t.Schema.Columns))
	for i, c := range t.Schema.Columns {
		cols[i] = quote(c.Name)
	}
	row := make([]Value, len(cols))
	w := pgtext.NewCopyWriter(len(cols), maxRow, func(r change.Row) error {
		for i, v := range r {
			row[i] = Value{Null: v.Kind != change.Text}
			if v.Kind == change.Text {
				c := &t.Schema.Columns[i]
				if row[i].Text, err = canonical(&c.Type, string(v.Data)); err != nil {
					return fmt.Errorf("column %q: %w", c.Name, err)
				}
			}
		}
		return f(row)
	})
	// COPY of a query, not of a name: a partitioned table has no rows of its own.
	sql := "COPY (SELECT " + strings.Join(cols, ", ") + " FROM " + p.from(t) + ") TO STDOUT"
	if _, err := conn.CopyTo(ctx, w, sql); err != nil {
		return fmt.Errorf("%s: read table %s: %w", p.Name(), t.ID(), err)
	}
	if err := w.Close(); err != nil {
		return fmt.Errorf("%s: read table %s: %w", p.Name(), t.ID(), err)
	}
	return nil
}

// Sum implements Side.
func (p *Postgres) Sum(ctx context.Context, t *Table, column string) (string, error) {
	return p.scalar(ctx, "SELECT coalesce(sum("+quote(column)+"), 0)::text FROM "+p.from(t))
}

func (p *Postgres) scalar(ctx context.Context, sql string) (string, error) {
	conn, err := p.connect(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = conn.Close(context.WithoutCancel(ctx)) }()
	res := conn.ExecParams(ctx, sql, nil, nil, nil, nil).Read()
	if res.Err != nil {
		return "", fmt.Errorf("%s: %w", p.Name(), res.Err)
	}
	if len(res.Rows) != 1 {
		return "", fmt.Errorf("%s: %d rows for one value", p.Name(), len(res.Rows))
	}
	return string(res.Rows[0][0]), nil
}

// Position returns where the source's log is: every commit that was visible
// before the call lies before it. It also writes a message to the log, so that
// capture gets past the position though nobody writes.
func (p *Postgres) Position(ctx context.Context) (change.LSN, error) {
	s, err := p.scalar(ctx, "SELECT pg_current_wal_insert_lsn()::text")
	if err != nil {
		return 0, err
	}
	if _, err := p.scalar(ctx, "SELECT pg_logical_emit_message(true, 'syncline.check', '')::text"); err != nil {
		return 0, err
	}
	return change.ParseLSN(s)
}
