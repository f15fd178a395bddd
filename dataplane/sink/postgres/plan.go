package postgres

import (
	"context"
	"fmt"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

type opKind byte

const (
	opDelete opKind = iota
	opPartial
	opUpsert
	opAppend
)

// op is one statement over some rows of one table of a batch.
type op struct {
	kind    opKind
	table   int // index into Batch.Tables
	rows    []int
	sql     string
	present []int // opPartial: columns that are written
	t       *target
}

// maxOpBytes bounds a statement's parameters, far below the server's limit.
const maxOpBytes = 32 << 20

// plan sorts the batch's rows into statements: per table deletes, then updates
// of rows whose values are not all there, then upserts.
func (x *session) plan(ctx context.Context, b *sink.Batch) (ops []op, rejects []rejected, err error) {
	for ti := range b.Tables {
		tb := &b.Tables[ti]
		t, err := x.target(ctx, tb)
		if err != nil {
			return nil, nil, err
		}
		for ri := range tb.Rows {
			if r := &tb.Rows[ri]; r.Op != change.Delete && len(r.New) != len(tb.Schema.Columns) {
				return nil, nil, fmt.Errorf("table %s: a row has %d values, its schema %d columns", tb.Schema.Table, len(r.New), len(tb.Schema.Columns))
			}
		}
		if t.append {
			var rows []int
			for ri := range tb.Rows {
				switch r := &tb.Rows[ri]; {
				case r.Op == change.Delete: // an append-only table keeps what it was given
				case shapeOf(r) != "":
					rejects = append(rejects, rejected{ti, ri, "a value that the change does not carry cannot be appended"})
				default:
					rows = append(rows, ri)
				}
			}
			ops = x.cut(ops, op{kind: opAppend, table: ti, sql: t.insert, t: t}, tb, rows)
			continue
		}
		var deletes, upserts []int
		groups := map[string][]int{}
		var order []string
		for ri := range tb.Rows {
			r := &tb.Rows[ri]
			switch shape := shapeOf(r); {
			case r.Op == change.Delete:
				deletes = append(deletes, ri)
			case shape == "":
				upserts = append(upserts, ri)
			default:
				if groups[shape] == nil {
					order = append(order, shape)
				}
				groups[shape] = append(groups[shape], ri)
			}
		}
		ops = x.cut(ops, op{kind: opDelete, table: ti, sql: t.delete, t: t}, tb, deletes)
		for _, shape := range order {
			o := op{kind: opPartial, table: ti, t: t}
			for i := range tb.Schema.Columns {
				if shape[i] == '1' && !tb.Schema.IsKey(i) {
					o.present = append(o.present, i)
				}
			}
			if len(o.present) > 0 { // else nothing of the row has changed
				o.sql = t.update(o.present)
				ops = x.cut(ops, o, tb, groups[shape])
			}
		}
		ops = x.cut(ops, op{kind: opUpsert, table: ti, sql: t.upsert, t: t}, tb, upserts)
	}
	return ops, rejects, nil
}

// rejected is a row that is set aside, and why.
type rejected struct {
	table, row int
	reason     string
}

// valueOf returns a row's value, from its old image where the change left it
// out and the old image is complete.
func valueOf(r *sink.Row, i int) change.Value {
	if r.New[i].Kind == change.Unchanged && len(r.Old) == len(r.New) && r.Old[i].Kind == change.Text {
		return r.Old[i]
	}
	return r.New[i]
}

// shapeOf returns which columns a row has, or "" if it has all.
func shapeOf(r *sink.Row) string {
	for i := range r.New {
		if valueOf(r, i).Kind == change.Unchanged {
			shape := make([]byte, len(r.New))
			for j := range r.New {
				shape[j] = '1'
				if valueOf(r, j).Kind == change.Unchanged {
					shape[j] = '0'
				}
			}
			return string(shape)
		}
	}
	return ""
}

// cut appends o as often as the limits of a statement make necessary.
func (x *session) cut(ops []op, o op, tb *sink.TableBatch, rows []int) []op {
	bytes, start := 0, 0
	for i, ri := range rows {
		for _, v := range tb.Rows[ri].New {
			bytes += len(v.Data)
		}
		if i-start+1 >= x.s.opts.ApplyRows || bytes >= maxOpBytes || i == len(rows)-1 {
			part := o
			part.rows = rows[start : i+1]
			ops = append(ops, part)
			bytes, start = 0, i+1
		}
	}
	return ops
}

// target returns the statements for a table batch, from the cache if possible.
func (x *session) target(ctx context.Context, tb *sink.TableBatch) (*target, error) {
	if t := x.targets[tb.Schema]; t != nil && t.append == appends(tb.Schema, tb.Options) && t.table == quoted(name(tb.Schema.Table, tb.Options)) {
		return t, nil
	}
	if tb.Partials != nil {
		if err := x.s.makePartials(ctx, tb.Partials, tb.Options, sink.Streaming); err != nil {
			return nil, err
		}
	}
	to := name(tb.Schema.Table, tb.Options)
	r, err := x.s.relation(ctx, x.conn, to)
	if err != nil {
		return nil, x.s.wrap(ctx, err, "read the definition of table %s", to)
	}
	if err := checkTarget(tb.Schema, to, r); err != nil {
		return nil, err
	}
	if len(x.targets) > 1000 { // schemas that come as new copies each time
		clear(x.targets)
	}
	t := newTarget(tb.Schema, tb.Options, r)
	x.targets[tb.Schema] = t
	return t, nil
}

// bind fills the parameters of o for some of its rows.
func (x *session) bind(o *op, tb *sink.TableBatch, rows []int) (params [][]byte, err error) {
	key := o.t.schema.Key
	n := len(o.t.names)
	switch o.kind {
	case opDelete:
		n = len(key)
	case opPartial:
		n = len(o.present) + len(key)
	}
	for len(x.params) < n {
		x.params = append(x.params, textArray{})
	}
	ps := x.params[:n]
	for i := range ps {
		ps[i].reset()
	}
	for _, ri := range rows {
		r := &tb.Rows[ri]
		switch o.kind {
		case opUpsert, opAppend:
			for i := range r.New {
				ps[i].add(valueOf(r, i))
			}
			continue
		case opPartial:
			for i, c := range o.present {
				ps[i].add(valueOf(r, c))
			}
		}
		vs, err := r.Key.Values()
		if err != nil || len(vs) != len(key) {
			return nil, fmt.Errorf("table %s: a row's key does not have %d values", tb.Schema.Table, len(key))
		}
		for i, v := range vs {
			ps[n-len(key)+i].addString(v)
		}
	}
	params = make([][]byte, n)
	for i := range ps {
		params[i] = ps[i].bytes()
	}
	return params, nil
}
