package deliver

import (
	"context"
	"slices"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// question to the source about the new columns of a schema version.
type question struct {
	answer chan error
	ok     bool // answered: the log has all that they hold
}

// carried lets a schema version pass once it is known that rows from before its
// new columns have nothing in them that the log lacks.
func (l *lane) carried(ctx context.Context, p *partition, v change.Version) (outcome, error) {
	const what = "ask what new columns hold"
	t := p.t
	q := t.asked[v]
	if q == nil {
		s, err := l.log.Schema(ctx, v)
		if err != nil {
			return l.setback(ctx, p, "evolve", err)
		}
		q = &question{answer: make(chan error, 1), ok: len(unexplained(t.info.Schema, s)) == 0}
		t.asked[v] = q
		if !q.ok {
			id, known, asking := t.info.ID, t.info.Schema, t.ctx
			l.readers.Go(func() { q.answer <- l.ask(asking, id, known, s) })
		}
	}
	if q.ok {
		return taken, nil
	}
	select {
	case err := <-q.answer:
		if err != nil {
			delete(t.asked, v)
			return l.setback(ctx, p, what, err)
		}
		q.ok = true
		return taken, nil
	default:
		p.retryAt = time.Now().Add(l.o.tick)
		return later, nil
	}
}

// ask asks about the columns that are new to this lane and to the ledger, where
// another lane may have been first.
func (l *lane) ask(ctx context.Context, id change.TableID, known, s *change.Schema) error {
	tables, err := l.ses.tables(ctx)
	if err != nil {
		return err
	}
	columns := unexplained(known, s)
	if i := slices.IndexFunc(tables, func(t sink.Table) bool { return t.ID == id }); i >= 0 && tables[i].Schema != nil {
		columns = slices.DeleteFunc(columns, func(c string) bool { return tables[i].Schema.Column(c) >= 0 })
	}
	if len(columns) == 0 {
		return nil
	}
	if l.src == nil {
		return fault.Permanent(sink.CodeSchemaGate, nil, "resync the table", "table %s: nobody can tell what rows from before the new column %q have in it", id, columns[0])
	}
	chunks, err := l.ses.chunks(ctx, id)
	if err != nil {
		return err
	}
	return l.src.Carried(ctx, s, columns, chunks)
}

// unexplained returns the columns that are new and of which the definition does
// not say what older rows have in them.
func unexplained(known, s *change.Schema) []string {
	var out []string
	for i := range s.Columns {
		if c := &s.Columns[i]; known != nil && c.Missing == nil && known.Column(c.Name) < 0 {
			out = append(out, c.Name)
		}
	}
	return out
}
