package clickhouse

import (
	"context"
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/aggregate"
)

// MakePartials makes what the load of a table needs for its aggregates.
func (s *Sink) MakePartials(ctx context.Context, id change.TableID, plans []*aggregate.Plan) error {
	r, err := s.record(ctx, id)
	if err != nil {
		return err
	}
	return s.makeLoaded(ctx, r, plans)
}

func (s *Sink) makeLoaded(ctx context.Context, r *record, plans []*aggregate.Plan) error {
	if r.state.State != sink.Loading {
		return fault.Permanent(sink.CodeNotStreaming, nil, "read the tables again", "table %s is %s, not loading", r.id, r.state.State)
	}
	for _, p := range plans {
		if err := s.makePartials(ctx, p, sink.PartialsOptions(p, r.def.Options)); err != nil {
			return err
		}
	}
	return nil
}

// makePartials makes the table of partial aggregates, and its view, unless they are there.
func (s *Sink) makePartials(ctx context.Context, p *aggregate.Plan, o sink.TableOptions) error {
	l, problem := s.newLayout(p.Schema(), o)
	if problem != "" {
		return fault.Permanent(sink.CodeTableMismatch, nil, "change the declaration of the tier", "aggregates of table %s by tier %s: %s", p.Table, p.Tier, problem)
	}
	want, err := sink.PartialsComment(s.pipeline, p)
	if err != nil {
		return err
	}
	have, there, err := s.comment(ctx, l.at)
	if err != nil || there && have == want {
		return err
	}
	what := "create table " + l.at.String()
	if there {
		old, err := sink.ParsePartials(s.pipeline, p.Table, have)
		if err != nil {
			return sink.PartialsTaken(p, l.at.String(), false)
		}
		if old.Merges(p) { // more functions of the same
			if _, err := s.conn.exec(ctx, what, fmt.Sprintf("ALTER TABLE %s MODIFY COMMENT %s", l.at, lit(want))); err != nil {
				return err
			}
			return s.refreshPartials(ctx, p.Table.String())
		}
		if rows, err := s.hasRows(ctx, l); err != nil {
			return err
		} else if rows {
			return sink.PartialsTaken(p, l.at.String(), true)
		}
		if err := s.dropPartials(ctx, partials{l.at, p}); err != nil {
			return err
		}
	}
	for _, q := range []string{"CREATE DATABASE IF NOT EXISTS " + ident(l.at.db), l.create() + " COMMENT " + lit(want)} {
		if _, err := s.conn.exec(ctx, what, q); err != nil {
			return err
		}
	}
	return s.refreshPartials(ctx, p.Table.String())
}

// comment returns that of a table.
func (s *Sink) comment(ctx context.Context, t target) (text string, there bool, err error) {
	q := fmt.Sprintf("SELECT comment FROM system.tables WHERE database = %s AND name = %s", lit(t.db), lit(t.table))
	err = s.conn.query(ctx, "SELECT the definition of "+t.String(), q, func(scan func(...any) error) error {
		there = true
		return scan(&text)
	})
	return text, there, err
}

// partials is a table of partial aggregates that is there.
type partials struct {
	at   target
	plan *aggregate.Plan
}

func (p *partials) view() target {
	return target{p.at.db, strings.TrimSuffix(p.at.table, strings.TrimPrefix(p.plan.Partials(""), p.plan.View("")))}
}

// partialsOf returns those of a table.
func (s *Sink) partialsOf(ctx context.Context, tab string) (out []partials, err error) {
	id, err := change.ParseTableID(tab)
	if err != nil {
		return nil, err
	}
	q := fmt.Sprintf("SELECT database, name, comment FROM system.tables WHERE startsWith(comment, %s) ORDER BY database, name", lit(sink.PartialsMark(s.pipeline, id)))
	err = s.conn.query(ctx, "SELECT the aggregates of table "+tab, q, func(scan func(...any) error) error {
		var p partials
		var comment string
		err := scan(&p.at.db, &p.at.table, &comment)
		if err == nil {
			p.plan, err = sink.ParsePartials(s.pipeline, id, comment)
		}
		out = append(out, p)
		return err
	})
	return out, err
}

// refreshPartials makes the views of a table's aggregates show partials from the highest
// floor on. Like refreshView, it looks again after it has written.
func (s *Sink) refreshPartials(ctx context.Context, tab string) error {
	ps, err := s.partialsOf(ctx, tab)
	if err != nil || len(ps) == 0 {
		return err
	}
	strays, err := s.straysOf(ctx, tab)
	if err != nil {
		return err
	}
	floor, err := s.floor(ctx, tab)
	for err == nil {
		for _, p := range ps {
			view := p.view()
			have, err := s.inspect(ctx, view)
			if err != nil {
				return err
			}
			if have != nil && have.engine != "View" {
				return sink.PartialsTaken(p.plan, view.String(), false)
			}
			q := fmt.Sprintf("CREATE OR REPLACE VIEW %s AS %s", view, aggregatesSQL(p.plan, p.at, floor, strays))
			if _, err := s.conn.exec(ctx, "create the view of aggregates of table "+tab, q); err != nil {
				return err
			}
		}
		var now change.Position
		if now, err = s.floor(ctx, tab); err == nil && now == floor {
			return nil
		}
		floor = now
	}
	return err
}

// straysOf are the places of a table's load that its aggregates leave out: what an attempt
// wrote that did not count, it may have written after it was looked for.
func (s *Sink) straysOf(ctx context.Context, tab string) ([]string, error) {
	rs, err := s.records(ctx, tab)
	if err != nil || len(rs) == 0 {
		return nil, err
	}
	p, err := s.plan(ctx, &rs[0])
	if err != nil {
		return nil, err
	}
	return s.strays(ctx, &rs[0], p)
}

// cutPartials removes what is below a floor; the views do not show it any more.
func (s *Sink) cutPartials(ctx context.Context, tab string, floor change.Position) error {
	ps, err := s.partialsOf(ctx, tab)
	for _, p := range ps {
		if err := s.deleteRows(ctx, p.at, colVersion+" < "+versionLit(floor)); err != nil {
			return err
		}
	}
	return err
}

func (s *Sink) dropPartials(ctx context.Context, p partials) error {
	for _, q := range []string{"DROP VIEW IF EXISTS " + p.view().String(), "DROP TABLE IF EXISTS " + p.at.String() + " SYNC"} {
		if _, err := s.conn.exec(ctx, "drop "+p.at.String(), q); err != nil {
			return err
		}
	}
	return nil
}

// removePartials drops them all.
func (s *Sink) removePartials(ctx context.Context, tab string) error {
	ps, err := s.partialsOf(ctx, tab)
	for _, p := range ps {
		if err := s.dropPartials(ctx, p); err != nil {
			return err
		}
	}
	return err
}

// roomForPartials sees to what an earlier life of a table left.
func (s *Sink) roomForPartials(ctx context.Context, t sink.Table) error {
	if t.Options.Existing == sink.Clear {
		return s.removePartials(ctx, t.ID.String())
	}
	ps, err := s.partialsOf(ctx, t.ID.String())
	for _, p := range ps {
		if rows, err := s.hasRows(ctx, &layout{at: p.at}); err != nil {
			return err
		} else if rows {
			return sink.PartialsLeft(t.ID, p.at.String())
		}
	}
	return err
}

// runsSQL are the attempts at runs that count. An attempt that went on from a place of its
// partition's log does away with all that an older one wrote from there on: these were cut
// short before the watermark, or superseded. Of a load's chunk it is the last attempt; where
// leaves those out that were not accepted, and what is below the floor.
func runsSQL(from target, where string) string {
	run := idents([]string{aggregate.PartColumn, aggregate.FromColumn, aggregate.TokenColumn, aggregate.AttemptColumn})
	newer := fmt.Sprintf("OVER (PARTITION BY %s ORDER BY %s DESC, %s DESC ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING)",
		ident(aggregate.PartColumn), ident(aggregate.TokenColumn), ident(aggregate.AttemptColumn))
	return fmt.Sprintf("(%[1]s) IN (SELECT %[1]s FROM (SELECT %[1]s, count() %[2]s AS newer, min(%[3]s) %[2]s AS cut FROM (SELECT DISTINCT %[1]s FROM %[4]s%[5]s)) WHERE newer = 0 OR %[3]s < cut)",
		run, newer, ident(aggregate.FromColumn), from, where)
}

// aggregatesSQL merges partials as the view shows them.
func aggregatesSQL(p *aggregate.Plan, from target, floor change.Position, strays []string) string {
	var by, inner, outer []string
	for _, c := range p.Group {
		by = append(by, ident(c.Name))
	}
	if p.Time.Name != "" {
		by = append(by, ident(p.Time.Name))
	}
	// Within the inner query no name is that of a column, else aliases would be taken for them.
	alias := func(column string) string { return ident("merged " + column) }
	for _, c := range p.Group {
		inner, outer = append(inner, ident(c.Name)+" AS "+alias(c.Name)), append(outer, alias(c.Name)+" AS "+ident(c.Name))
	}
	if c := p.Time.Name; c != "" {
		inner, outer = append(inner, ident(c)+" AS "+alias(c)), append(outer, alias(c)+" AS "+ident(c))
	}
	sum := func(column string) { inner = append(inner, fmt.Sprintf("sum(%s) AS %s", ident(column), alias(column))) }
	sum(aggregate.RowsColumn)
	outer = append(outer, alias(aggregate.RowsColumn)+" AS "+ident(aggregate.RowsColumn))
	for i := range p.Values {
		k := &p.Values[i]
		sum(k.Name(aggregate.Count))
		if k.Special {
			sum(k.Name(aggregate.NaNs))
			sum(k.Name(aggregate.Highs))
			sum(k.Name(aggregate.Lows))
		}
		if k.Sum {
			sum(k.Name(aggregate.Sum))
		}
		if k.Min {
			inner = append(inner, fmt.Sprintf("min(%s) AS %s", ident(k.Name(aggregate.Min)), alias(k.Name(aggregate.Min))))
		}
		if k.Max {
			inner = append(inner, fmt.Sprintf("max(%s) AS %s", ident(k.Name(aggregate.Max)), alias(k.Name(aggregate.Max))))
		}
		if k.Sketch { // of keys in their order
			inner = append(inner, fmt.Sprintf("sumMap(CAST(%s, 'Array(Int32)'), CAST(%s, 'Array(Int64)')) AS %s",
				ident(k.Name(aggregate.Keys)), ident(k.Name(aggregate.Counts)), alias(k.Name(aggregate.Keys))))
		}
		for _, f := range k.Functions {
			outer = append(outer, shownSQL(k, f, alias)+" AS "+ident(k.Name(f)))
		}
	}
	var only []string
	if !floor.IsZero() {
		only = append(only, colVersion+" >= "+versionLit(floor))
	}
	if len(strays) > 0 {
		only = append(only, colVersion+" NOT IN ("+strings.Join(strays, ", ")+")")
	}
	where := runsSQL(from, "")
	if len(only) > 0 {
		these := strings.Join(only, " AND ")
		where = these + " AND " + runsSQL(from, " WHERE "+these)
	}
	return fmt.Sprintf("SELECT %s FROM (SELECT %s FROM %s FINAL WHERE %s GROUP BY %s)", strings.Join(outer, ", "), strings.Join(inner, ", "), from, where, strings.Join(by, ", "))
}

// shownSQL is a function of merged partials. A Decimal has no NaN and no infinity: where
// Postgres has these, it is NULL.
func shownSQL(k *aggregate.Kept, f string, alias func(string) string) string {
	a := func(what string) string { return alias(k.Name(what)) }
	nan, high, low := a(aggregate.NaNs)+" > 0", a(aggregate.Highs)+" > 0", a(aggregate.Lows)+" > 0"
	if q, ok := aggregate.Quantile(f); ok {
		keys, counts := "tupleElement("+a(aggregate.Keys)+", 1)", "tupleElement("+a(aggregate.Keys)+", 2)"
		return fmt.Sprintf("if(empty(%[1]s), NULL, arrayElement(arrayMap(k -> sign(k) * if(k = 0, 0, %[3]v * pow(%[4]v, toFloat64(abs(k)) - %[5]d)), %[1]s), arrayFirstIndex(c -> c > %[6]v * (arraySum(%[2]s) - 1), arrayCumSum(%[2]s))))",
			keys, counts, 2/(aggregate.Gamma+1), aggregate.Gamma, aggregate.KeyOffset, q)
	}
	special := func(finite string, whens ...string) string {
		if !k.Special {
			return finite
		}
		return "multiIf(" + strings.Join(whens, ", ") + ", " + finite + ")"
	}
	inf := func(cond, value string) string {
		if !k.Float {
			value = "NULL"
		}
		return cond + ", " + value
	}
	switch f {
	case aggregate.Sum:
		finite := a(aggregate.Sum)
		if k.Float {
			finite = "toFloat64(" + finite + ")"
		}
		return special(finite, inf(nan+" OR "+high+" AND "+low, "nan"), inf(high, "inf"), inf(low, "-inf"))
	case aggregate.Avg:
		return special(fmt.Sprintf("if(%[1]s = 0, NULL, toFloat64(%[2]s) / %[1]s)", a(aggregate.Count), a(aggregate.Sum)), inf(nan+" OR "+high+" AND "+low, "nan"), inf(high, "inf"), inf(low, "-inf"))
	case aggregate.Min:
		m := a(aggregate.Min)
		return special(m, inf(low, "-inf"), m+" IS NOT NULL, "+m, inf(high, "inf"), inf(nan, "nan"))
	case aggregate.Max:
		m := a(aggregate.Max)
		return special(m, inf(nan, "nan"), inf(high, "inf"), m+" IS NOT NULL, "+m, inf(low, "-inf"))
	}
	return a(aggregate.Count)
}
