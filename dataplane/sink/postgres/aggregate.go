package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/pgtext"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// MakePartials makes what the load of a table needs for its aggregates.
func (s *Sink) MakePartials(ctx context.Context, id change.TableID, plans []*aggregate.Plan) error {
	t, err := s.Table(ctx, id)
	if err == nil {
		err = inState(id, t.State, sink.Loading)
	}
	for _, p := range plans {
		if err == nil {
			err = s.makePartials(ctx, p, sink.PartialsOptions(p, t.Options), sink.Loading)
		}
	}
	return err
}

func inState(id change.TableID, is, want sink.State) error {
	if is == want {
		return nil
	}
	return fault.Permanent(sink.CodeNotStreaming, nil, "read the tables again", "table %s is %s, not %s", id, is, want)
}

// makePartials makes the table of partial aggregates, and its view, unless they are there.
// Their table has to be in a state, in which it is not emptied meanwhile.
func (s *Sink) makePartials(ctx context.Context, p *aggregate.Plan, o sink.TableOptions, state sink.State) error {
	at := name(p.Table, o)
	if len(at.Name) > longestName {
		return fault.Permanent(sink.CodeTableMismatch, nil, "give the tier a shorter name", "the table for aggregates of %s would be called %s, which is longer than %d bytes", p.Table, at.Name, longestName)
	}
	want, err := sink.PartialsComment(s.pipeline, p)
	if err != nil {
		return err
	}
	err = pgx.BeginFunc(ctx, s.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock(hashtextextended('syncline add table', 5971))"); err != nil {
			return err
		}
		var have *string
		err := tx.QueryRow(ctx, "SELECT obj_description(c.oid, 'pg_class') FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = $2",
			at.Schema, at.Name).Scan(&have)
		switch {
		case err == pgx.ErrNoRows:
		case err != nil:
			return err
		case have != nil && *have == want:
			return nil
		default:
			var old *aggregate.Plan
			if have != nil {
				old, err = sink.ParsePartials(s.pipeline, p.Table, *have)
			}
			if have == nil || err != nil {
				return sink.PartialsTaken(p, at.String(), false)
			}
			if old.Merges(p) { // more functions of the same
				if _, err := tx.Exec(ctx, "DROP VIEW IF EXISTS "+quoted(viewOf(at, p))); err != nil {
					return err
				}
				return describePartials(ctx, tx, partials{at, p}, want)
			}
			if rows, err := hasRows(ctx, tx, at); err != nil {
				return err
			} else if rows {
				return sink.PartialsTaken(p, at.String(), true)
			}
			if err := s.dropPartials(ctx, tx, partials{at, p}); err != nil {
				return err
			}
		}
		// Whoever removes the table waits for this, or finds what was made.
		if err := s.lockTable(ctx, tx, p.Table); err != nil {
			return err
		}
		if t, err := s.table(ctx, tx, p.Table); err != nil {
			return err
		} else if err := inState(p.Table, t.State, state); err != nil {
			return err
		}
		if err := s.createTable(ctx, tx, sink.Table{ID: p.Table, Schema: p.Schema(), Options: o}, at); err != nil {
			return err
		}
		if p.Time.Name != "" {
			if _, err := tx.Exec(ctx, fmt.Sprintf("CREATE INDEX ON %s (%s)", quoted(at), ident(p.Time.Name))); err != nil {
				return err
			}
		}
		return describePartials(ctx, tx, partials{at, p}, want)
	})
	return s.wrap(ctx, err, "make the table for aggregates of %s by tier %s", p.Table, p.Tier)
}

// copyPartials writes what a load brings for a table's aggregates.
func (s *Sink) copyPartials(ctx context.Context, tx pgx.Tx, t record, pipe *pipe, p *aggregate.Plan, rows []change.Row) error {
	var text []byte
	for _, row := range rows {
		for i, v := range row {
			if i > 0 {
				text = append(text, '\t')
			}
			if v.Kind == change.Null {
				text = append(text, `\N`...)
			} else {
				text = pgtext.AppendCopyField(text, v.Data)
			}
		}
		text = append(text, '\n')
	}
	to := name(p.Table, sink.PartialsOptions(p, t.Options))
	_, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(text), fmt.Sprintf("COPY %s (%s) FROM STDIN", quoted(to), columnList(p.Schema())))
	if pe, ok := rejects(err); ok {
		return sink.PartialsRejected(p, errors.New(describe(pe)))
	}
	pipe.count(len(text))
	return err
}

// describePartials says by which plan they are, and shows them by it.
func describePartials(ctx context.Context, tx pgx.Tx, p partials, comment string) error {
	for _, sql := range []string{
		fmt.Sprintf("COMMENT ON TABLE %s IS %s", quoted(p.at), literal(comment)),
		fmt.Sprintf("CREATE VIEW %s AS %s", quoted(viewOf(p.at, p.plan)), aggregatesSQL(p.plan, quoted(p.at))),
	} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// viewOf is the view of a table of partials.
func viewOf(at change.TableID, p *aggregate.Plan) change.TableID {
	at.Name = strings.TrimSuffix(at.Name, strings.TrimPrefix(p.Partials(""), p.View("")))
	return at
}

// partials is a table of partial aggregates that is there.
type partials struct {
	at   change.TableID
	plan *aggregate.Plan
}

// partialsOf returns those of a table.
func (s *Sink) partialsOf(ctx context.Context, q querier, id change.TableID) ([]partials, error) {
	rows, err := q.Query(ctx, `SELECT n.nspname, c.relname, d.description FROM pg_description d JOIN pg_class c ON c.oid = d.objoid JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE d.classoid = 'pg_class'::regclass AND d.objsubid = 0 AND c.relkind = 'r' AND starts_with(d.description, $1) ORDER BY 1, 2`, sink.PartialsMark(s.pipeline, id))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (p partials, err error) {
		var comment string
		if err = row.Scan(&p.at.Schema, &p.at.Name, &comment); err == nil {
			p.plan, err = sink.ParsePartials(s.pipeline, id, comment)
		}
		return p, err
	})
}

// emptyPartials empties them with their table.
func (s *Sink) emptyPartials(ctx context.Context, tx pgx.Tx, id change.TableID) error {
	ps, err := s.partialsOf(ctx, tx, id)
	for _, p := range ps {
		if _, err := tx.Exec(ctx, "TRUNCATE TABLE "+quoted(p.at)); err != nil {
			return err
		}
	}
	return err
}

func (s *Sink) dropPartials(ctx context.Context, tx pgx.Tx, p partials) error {
	for _, sql := range []string{"DROP VIEW IF EXISTS " + quoted(viewOf(p.at, p.plan)), "DROP TABLE " + quoted(p.at)} {
		if _, err := tx.Exec(ctx, sql); err != nil {
			return err
		}
	}
	return nil
}

// removePartials drops them all.
func (s *Sink) removePartials(ctx context.Context, tx pgx.Tx, id change.TableID) error {
	ps, err := s.partialsOf(ctx, tx, id)
	for _, p := range ps {
		if err := s.dropPartials(ctx, tx, p); err != nil {
			return err
		}
	}
	return err
}

// roomForPartials sees to what an earlier life of a table left.
func (s *Sink) roomForPartials(ctx context.Context, tx pgx.Tx, t sink.Table) error {
	if t.Options.Existing == sink.Clear {
		return s.removePartials(ctx, tx, t.ID)
	}
	ps, err := s.partialsOf(ctx, tx, t.ID)
	for _, p := range ps {
		if rows, err := hasRows(ctx, tx, p.at); err != nil {
			return err
		} else if rows {
			return sink.PartialsLeft(t.ID, p.at.String())
		}
	}
	return err
}

// aggregatesSQL merges partials as the view shows them.
func aggregatesSQL(p *aggregate.Plan, from string) string {
	var by, inner, outer, sketches []string
	for _, c := range p.Group {
		by = append(by, ident(c.Name))
	}
	if p.Time.Name != "" {
		by = append(by, ident(p.Time.Name))
	}
	for _, c := range by {
		inner, outer = append(inner, c), append(outer, "a."+c)
	}
	inner = append(inner, fmt.Sprintf("sum(%[1]s)::bigint AS %[1]s", ident(aggregate.RowsColumn)))
	outer = append(outer, "a."+ident(aggregate.RowsColumn))
	for i := range p.Values {
		k := &p.Values[i]
		col := func(what string) string { return ident(k.Name(what)) }
		counts := []string{aggregate.Count}
		if k.Special {
			counts = append(counts, aggregate.NaNs, aggregate.Highs, aggregate.Lows)
		}
		for _, c := range counts {
			inner = append(inner, fmt.Sprintf("sum(%[1]s)::bigint AS %[1]s", col(c)))
		}
		for _, f := range []struct {
			kept bool
			name string
		}{{k.Sum, aggregate.Sum}, {k.Min, aggregate.Min}, {k.Max, aggregate.Max}} {
			if f.kept {
				inner = append(inner, fmt.Sprintf("%s(%s) AS %[2]s", f.name, col(f.name)))
			}
		}
		var quantiles []string
		for _, f := range k.Functions {
			if q, ok := aggregate.Quantile(f); ok {
				quantiles = append(quantiles, fmt.Sprintf("min(w.v) FILTER (WHERE w.upto > %v * (w.n - 1)) AS %s", q, col(f)))
				outer = append(outer, fmt.Sprintf("s%d.%s", i, col(f)))
			} else {
				outer = append(outer, shownSQL(k, f, col))
			}
		}
		if k.Sketch {
			for _, c := range []string{aggregate.Keys, aggregate.Counts} {
				inner = append(inner, fmt.Sprintf("string_agg(nullif(array_to_string(%[1]s, ','), ''), ',') AS %[1]s", col(c)))
			}
			sketches = append(sketches, fmt.Sprintf(`
CROSS JOIN LATERAL (SELECT %s FROM (
	SELECT sign(u.k) * CASE WHEN u.k = 0 THEN 0 ELSE %v * power(%v::float8, abs(u.k) - %d) END AS v,
		sum(sum(u.c)) OVER (ORDER BY u.k) AS upto, sum(sum(u.c)) OVER () AS n
	FROM unnest(string_to_array(a.%s, ',')::int[], string_to_array(a.%s, ',')::bigint[]) AS u (k, c) GROUP BY u.k) w) s%d`,
				strings.Join(quantiles, ", "), 2/(aggregate.Gamma+1), aggregate.Gamma, aggregate.KeyOffset, col(aggregate.Keys), col(aggregate.Counts), i))
		}
	}
	return fmt.Sprintf("SELECT %s\nFROM (SELECT %s FROM %s GROUP BY %s) a%s", strings.Join(outer, ", "), strings.Join(inner, ", "), from, strings.Join(by, ", "), strings.Join(sketches, ""))
}

// shownSQL is a function of merged partials, with NaN and infinities as SQL has them.
func shownSQL(k *aggregate.Kept, f string, col func(string) string) string {
	a := func(what string) string { return "a." + col(what) }
	typ := "numeric"
	if k.Float {
		typ = "float8"
	}
	cases := func(finite string, whens ...string) string {
		if !k.Special {
			return finite
		}
		return "CASE " + strings.Join(whens, " ") + " ELSE " + finite + " END"
	}
	when := func(cond, value string) string { return fmt.Sprintf("WHEN %s THEN '%s'::%s", cond, value, typ) }
	nan, high, low := a(aggregate.NaNs)+" > 0", a(aggregate.Highs)+" > 0", a(aggregate.Lows)+" > 0"
	var out string
	switch f {
	case aggregate.Count:
		out = a(aggregate.Count)
	case aggregate.Sum, aggregate.Avg:
		finite := a(aggregate.Sum)
		if k.Open {
			finite = "trim_scale(" + finite + ")"
		}
		if f == aggregate.Avg {
			finite += " / nullif(" + a(aggregate.Count) + ", 0)"
		}
		if k.Float {
			finite = "(" + finite + ")::float8"
		}
		out = cases(finite, when(nan+" OR "+high+" AND "+low, "NaN"), when(high, "Infinity"), when(low, "-Infinity"))
	case aggregate.Min:
		m := a(aggregate.Min)
		out = cases("NULL", when(low, "-Infinity"), fmt.Sprintf("WHEN %[1]s IS NOT NULL THEN %[1]s", m), when(high, "Infinity"), when(nan, "NaN"))
		if !k.Special {
			out = m
		}
	case aggregate.Max:
		m := a(aggregate.Max)
		out = cases("NULL", when(nan, "NaN"), when(high, "Infinity"), fmt.Sprintf("WHEN %[1]s IS NOT NULL THEN %[1]s", m), when(low, "-Infinity"))
		if !k.Special {
			out = m
		}
	}
	return out + " AS " + col(f)
}
