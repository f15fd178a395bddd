package shaped

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/deliver"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/tiers/shape"
)

func definition(full bool) *change.Schema {
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base, Mod: -1}}
	}
	return &change.Schema{Table: change.TableID{Schema: "public", Name: "t"}, Key: []int{0}, Full: full, Columns: []change.Column{col("id", "int4"), col("a", "text"), col("b", "text")}}
}

var rules = []shape.Rule{
	{Of: "r", Do: shape.Withhold, Where: "a = 'secret'", InLog: true},
	{Of: "m", Do: shape.Mask, Columns: []string{"b"}, Key: "k", InLog: true},
	{Of: "s", Do: shape.Sample, Columns: []string{"id"}, Rate: 1_000_000},
}

func of(stage shape.Stage) Of {
	return func(s *change.Schema) (*shape.Shape, error) {
		sh, err := shape.Compile(s, rules, shape.Keys{"k": []byte("0123456789abcdef")}, stage)
		if err != nil {
			return nil, Misfit(err)
		}
		return sh, nil
	}
}

func insert(s *change.Schema, id, a, b string) *change.Change {
	row := change.Row{change.TextValue(id), change.TextValue(a), change.TextValue(b)}
	k, err := change.MakeKey(s, row)
	if err != nil {
		panic(err)
	}
	return &change.Change{Table: s.Table, Schema: s.Version(), Op: change.Insert, Key: k, New: row, Pos: change.Position{Epoch: 1, Commit: 1}}
}

// kept is a log that keeps what it is given.
type kept struct {
	capture.Log
	schemas []*change.Schema
	changes []*change.Change
}

func (k *kept) PutSchema(_ context.Context, s *change.Schema) error {
	k.schemas = append(k.schemas, s)
	return nil
}

func (k *kept) Append(_ context.Context, c *change.Change) (uint64, error) {
	k.changes = append(k.changes, c)
	return uint64(len(k.changes)), nil
}

// What is withheld does not come to the log, and has nothing that is waited for.
func TestCapture(t *testing.T) {
	ctx, log, s := t.Context(), &kept{}, definition(true)
	c := NewCapture(log, of(shape.ToLog))
	if _, err := c.Append(ctx, insert(s, "1", "open", "b")); !fault.Is(err, shape.CodeMisfit) {
		t.Errorf("a change without a definition: %v", err)
	}
	if err := c.PutSchema(ctx, s); err != nil {
		t.Fatal(err)
	}
	var seqs []uint64
	for _, ch := range []*change.Change{insert(s, "1", "secret", "b"), insert(s, "2", "open", "planted"), insert(s, "3", "secret", "b"), {Table: s.Table, Op: change.Truncate}} {
		seq, err := c.Append(ctx, ch)
		if err != nil {
			t.Fatal(err)
		}
		seqs = append(seqs, seq)
	}
	if !slices.Equal(seqs, []uint64{0, 1, 1, 2}) || len(log.changes) != 2 {
		t.Errorf("sequence numbers %v, %d changes", seqs, len(log.changes))
	}
	first := log.changes[0]
	if first.Schema != log.schemas[0].Version() || !log.schemas[0].Columns[2].Masked || string(first.New[2].Data) == "planted" || len(first.New) != 3 {
		t.Errorf("%+v with %+v", first, log.schemas[0])
	}
	if err := NewCapture(log, of(shape.ToLog)).PutSchema(ctx, definition(false)); !fault.Is(err, shape.CodeMisfit) || len(log.schemas) != 1 {
		t.Errorf("a definition that the rules do not fit: %v", err)
	}
}

// held is a log of some records in one partition.
type held struct {
	Under
	schemas map[change.Version]*change.Schema
	recs    []deliver.Record
}

func (h *held) Schema(_ context.Context, v change.Version) (*change.Schema, error) {
	if s := h.schemas[v]; s != nil {
		return s, nil
	}
	return nil, errors.New("not yet")
}

func (h *held) Open(context.Context, sink.Partition, int64) (deliver.Reader, error) {
	return &heldReader{h: h}, nil
}

func (h *held) Between(_ context.Context, _ sink.Partition, _, _ int64, each func(*change.Change) error) error {
	for _, r := range h.recs {
		if err := each(r.Change); err != nil {
			return err
		}
	}
	return nil
}

type heldReader struct {
	deliver.Reader
	h    *held
	done bool
}

func (r *heldReader) Read(ctx context.Context, _ int) ([]deliver.Record, error) {
	if r.done {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	r.done = true
	return slices.Clone(r.h.recs), nil
}

// A reader gives every record its place, and those before an error before the error; what
// it could not shape it shapes when it is asked again.
func TestLog(t *testing.T) {
	ctx, s := t.Context(), definition(true)
	later := definition(true)
	later.Columns = append(later.Columns, change.Column{Name: "c", Type: later.Columns[2].Type})
	last := insert(s, "4", "open", "b")
	last.Schema, last.New = later.Version(), append(last.New, change.Value{})
	h := &held{schemas: map[change.Version]*change.Schema{s.Version(): s}}
	for i, c := range []*change.Change{insert(s, "1", "secret", "b"), insert(s, "2", "open", "b"), last} {
		h.recs = append(h.recs, deliver.Record{Change: c, Offset: int64(i), Next: int64(i + 1)})
	}
	log := NewLog(h, of(shape.FromLog))
	r, err := log.Open(ctx, sink.Partition{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	recs, err := r.Read(ctx, 10)
	if err != nil || len(recs) != 2 || !recs[0].Withheld || recs[0].Change.New != nil || recs[1].Withheld || len(recs[1].Change.New[2].Data) != 64 {
		t.Fatalf("%+v, %v", recs, err)
	}
	if _, err := r.Read(ctx, 10); err == nil {
		t.Error("a definition that is not there yet")
	}
	h.schemas[later.Version()] = later
	if recs, err = r.Read(ctx, 10); err != nil || len(recs) != 1 || recs[0].Offset != 2 || len(recs[0].Change.New) != 5 {
		t.Errorf("%+v, %v", recs, err)
	}
	if d, err := log.Schema(ctx, later.Version()); err != nil || d.Column(shape.RateColumn) != 4 {
		t.Errorf("%+v, %v", d, err)
	}
	var keys []string
	err = log.Between(ctx, sink.Partition{}, 0, 3, func(c *change.Change) error {
		keys = append(keys, c.Key.String())
		return nil
	})
	if got := strings.Join(keys, " "); err != nil || got != `("2") ("4")` {
		t.Errorf("keys %s, %v", got, err)
	}
}

// asked is a source that notes what it is asked.
type asked struct {
	columns []string
	width   int
}

func (a *asked) Carried(_ context.Context, s *change.Schema, columns []string, _ []sink.Chunk) error {
	a.columns, a.width = columns, len(s.Columns)
	return nil
}

func (a *asked) Place(_ context.Context, s *change.Schema, _ []sink.Chunk, _ []change.Key) ([]int, error) {
	a.width = len(s.Columns)
	return nil, nil
}

func TestSource(t *testing.T) {
	a := &asked{}
	omit := func(s *change.Schema) (*shape.Shape, error) {
		return shape.Compile(s, []shape.Rule{{Of: "o", Do: shape.Omit, Columns: []string{"b"}}, {Of: "s", Do: shape.Sample, Columns: []string{"id"}, Rate: 1}}, nil, shape.FromLog)
	}
	sh, err := omit(definition(false))
	if err != nil {
		t.Fatal(err)
	}
	src := Source{a, omit}
	if err := src.Carried(t.Context(), sh.Schema(), []string{"a", "b"}, nil); err != nil || !slices.Equal(a.columns, []string{"a"}) || a.width != 3 {
		t.Errorf("%+v, %v", a, err)
	}
	a.columns = nil
	if err := src.Carried(t.Context(), sh.Schema(), []string{"b"}, nil); err != nil || a.columns != nil {
		t.Errorf("%+v, %v", a, err)
	}
	a.width = 0
	if _, err := src.Place(t.Context(), sh.Schema(), nil, nil); err != nil || a.width != 3 {
		t.Errorf("%+v, %v", a, err)
	}
}
