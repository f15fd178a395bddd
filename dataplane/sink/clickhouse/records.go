package clickhouse

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// definition is the aspect "def" of a table in the ledger.
type definition struct {
	Partitions int               `json:"partitions"`
	Epoch      uint32            `json:"epoch"`
	Schema     *change.Schema    `json:"schema"`
	Options    sink.TableOptions `json:"options"`
	// Base is where rows of the load stand in the epoch: above every row that the
	// table held when the load was declared, below every change that follows it.
	Base change.LSN `json:"base,omitempty"`
}

// state is the aspect "state".
type state struct {
	State  sink.State `json:"state"`
	Reason string     `json:"reason,omitempty"`
	// Epoch that a gate is of. A lane may write it after it was overtaken by a reset:
	// it is void then, since the table is being loaded again for just that reason.
	Epoch uint32 `json:"epoch,omitempty"`
}

// Names of aspects.
const (
	aspectDef   = "def"
	aspectState = "state"
	// Its version is Table.Holds.
	aspectHolds = "holds"
	// What is due: one aspect per epoch, or epoch and tier, whose version is the commit's
	// LSN and whose body the position, so that what is written never goes back.
	aspectDue = "due "
	// Schemas that Evolve took: one aspect per load and position, so that of lanes that
	// evolve at the same time the one further on wins, whoever writes last.
	aspectSchemas = "schema "
)

func schemaAspect(epoch uint32, at change.Position) string {
	return fmt.Sprintf("%s%d %s", aspectSchemas, epoch, at)
}

// evolved is a schema that Evolve took.
type evolved struct {
	epoch  uint32 // of the table
	at     change.Position
	schema *change.Schema
}

func parseEvolved(aspect, body string) (evolved, error) {
	epoch, at, _ := strings.Cut(strings.TrimPrefix(aspect, aspectSchemas), " ")
	n, err1 := strconv.ParseUint(epoch, 10, 32)
	pos, err2 := change.ParsePosition(at)
	e := evolved{epoch: uint32(n), at: pos}
	return e, errors.Join(err1, err2, json.Unmarshal([]byte(body), &e.schema))
}

// record is what the ledger holds of a table.
type record struct {
	id     change.TableID
	def    definition
	state  state
	schema *change.Schema  // evolved, or the definition's
	at     change.Position // of the change that brought it; zero if it is the definition's
	ver    uint64          // of the definition
	holds  int64
	due    map[string]change.Position // by tier
}

// records reads the pipeline's tables; only the one named, if tab is not empty.
func (s *Sink) records(ctx context.Context, tab string) ([]record, error) {
	where := s.mine()
	if tab != "" {
		where = s.where(tab)
	}
	byName := map[string]*record{}
	taken := map[string][]evolved{}
	q := fmt.Sprintf("SELECT tab, aspect, body, ver FROM %s FINAL WHERE %s", s.ledger("tables"), where)
	err := s.conn.query(ctx, "SELECT the tables of the ledger", q, func(scan func(...any) error) error {
		var name, aspect, body string
		var ver uint64
		if err := scan(&name, &aspect, &body, &ver); err != nil {
			return err
		}
		r := byName[name]
		if r == nil {
			r = &record{}
			byName[name] = r
			var err error
			if r.id, err = change.ParseTableID(name); err != nil {
				return err
			}
		}
		var into any
		switch aspect {
		case aspectDef:
			into, r.ver = &r.def, ver
		case aspectState:
			into = &r.state
		case aspectHolds:
			r.holds = int64(ver)
			return nil
		default:
			if strings.HasPrefix(aspect, aspectDue) {
				due, err := change.ParsePosition(body)
				if err != nil {
					return fmt.Errorf("the ledger's record of what is due of table %s is damaged: %w", name, err)
				}
				_, tier, _ := strings.Cut(strings.TrimPrefix(aspect, aspectDue), " ")
				if r.due == nil {
					r.due = map[string]change.Position{}
				}
				if r.due[tier].Before(due) {
					r.due[tier] = due
				}
				return nil
			}
			if strings.HasPrefix(aspect, aspectSchemas) {
				e, err := parseEvolved(aspect, body)
				if err != nil {
					return fmt.Errorf("the ledger's schema of table %s is damaged: %w", name, err)
				}
				taken[name] = append(taken[name], e)
			}
			return nil
		}
		if err := json.Unmarshal([]byte(body), into); err != nil {
			return fmt.Errorf("the ledger's record of table %s is damaged", name)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var out []record
	for _, r := range byName {
		if r.state.State == "" || r.def.Schema == nil {
			continue // its AddTable has not finished
		}
		if r.state.State == sink.Gated && r.state.Epoch > 0 && r.state.Epoch < r.def.Epoch {
			r.state = state{State: sink.Loading}
		}
		r.schema = r.def.Schema
		for _, e := range taken[r.id.String()] {
			if e.epoch == r.def.Epoch && r.at.Before(e.at) {
				r.schema, r.at = e.schema, e.at
			}
		}
		out = append(out, *r)
	}
	slices.SortFunc(out, func(a, b record) int {
		return cmp.Or(cmp.Compare(a.id.Schema, b.id.Schema), cmp.Compare(a.id.Name, b.id.Name))
	})
	return out, nil
}

func (s *Sink) record(ctx context.Context, id change.TableID) (*record, error) {
	rs, err := s.records(ctx, id.String())
	if err != nil {
		return nil, err
	}
	if len(rs) == 0 {
		return nil, fault.Permanent(CodeTableMissing, nil, "add the table to the pipeline", "the ledger has no table %s in pipeline %s", id, s.pipeline)
	}
	return &rs[0], nil
}

// progress of a table's load.
type progress struct {
	ver          uint64 // of the definition that it belongs to
	chunks, done int
	rows, bytes  int64
	to           change.LSN
}

// Table returns one of the pipeline's tables with the progress of its load.
func (s *Sink) Table(ctx context.Context, id change.TableID) (sink.Table, error) {
	r, err := s.record(ctx, id)
	if err != nil {
		return sink.Table{}, err
	}
	ts, err := s.tables(ctx, []record{*r}, true)
	if err != nil {
		return sink.Table{}, err
	}
	return ts[0], nil
}

// Tables returns the pipeline's tables with the progress of their loads.
func (s *Sink) Tables(ctx context.Context) ([]sink.Table, error) {
	rs, err := s.records(ctx, "")
	if err != nil {
		return nil, err
	}
	return s.tables(ctx, rs, true)
}

// over reports whether the table's load is.
func over(r *record) bool { return r.state.State == sink.Streaming || r.state.State == sink.Gated }

// tables tells what became of the tables' loads; of those under way only if asked.
// Loads that are over are read once, since lanes ask often.
func (s *Sink) tables(ctx context.Context, rs []record, loading bool) ([]sink.Table, error) {
	var ask []string
	known := make(map[string]progress, len(rs))
	for i := range rs {
		r, tab := &rs[i], rs[i].id.String()
		p, ok := s.loads.Load(tab)
		switch {
		case ok && over(r) && p.(progress).ver == r.ver:
			known[tab] = p.(progress)
		case over(r) || loading:
			ask = append(ask, tab)
		default:
			known[tab] = progress{}
		}
	}
	plans := map[planKey]*plan{}
	if len(ask) > 0 {
		var err error
		if plans, err = s.plans(ctx, ask, everyChunk, false); err != nil {
			return nil, err
		}
	}
	out := make([]sink.Table, 0, len(rs))
	for i := range rs {
		r, tab := &rs[i], rs[i].id.String()
		p, ok := known[tab]
		if !ok {
			p = progress{ver: r.ver}
			if plan := plans[planKey{tab, r.def.Epoch}]; plan != nil {
				p.add(plan.chunks)
			}
			if over(r) {
				s.loads.Store(tab, p)
			}
		}
		out = append(out, sink.Table{ID: r.id, State: r.state.State, Reason: r.state.Reason, Partitions: r.def.Partitions, Epoch: r.def.Epoch,
			Schema: r.schema, Options: r.def.Options, Chunks: p.chunks, Done: p.done, Rows: p.rows, Bytes: p.bytes, LoadedTo: p.to, Holds: r.holds, Due: r.due})
	}
	return out, nil
}

func (p *progress) add(chunks []sink.Chunk) {
	for _, c := range chunks {
		p.chunks++
		if c.Done {
			p.done, p.rows, p.bytes, p.to = p.done+1, p.rows+c.Rows, p.bytes+c.Bytes, max(p.to, c.LSN)
		}
	}
}

// Watermarks returns all of the pipeline's.
func (s *Sink) Watermarks(ctx context.Context) ([]sink.Watermark, error) {
	var out []sink.Watermark
	q := fmt.Sprintf("SELECT tab, part, pos, offset, ahead FROM %s FINAL WHERE %s ORDER BY tab, part", s.ledger("watermarks"), s.mine())
	err := s.conn.query(ctx, "SELECT the watermarks", q, func(scan func(...any) error) error {
		var tab, pos, ahead string
		var n uint32
		var w sink.Watermark
		if err := scan(&tab, &n, &pos, &w.Offset, &ahead); err != nil {
			return err
		}
		var err error
		if w.Table, err = change.ParseTableID(tab); err != nil {
			return err
		}
		if w.Pos, err = change.ParsePosition(pos); err != nil {
			return err
		}
		if ahead != "" {
			if err := json.Unmarshal([]byte(ahead), &w.Ahead); err != nil {
				return fmt.Errorf("the ledger's watermarks of table %s are damaged: %w", tab, err)
			}
		}
		w.N = int(n)
		out = append(out, w)
		return nil
	})
	return out, err
}

// SetDue asks for what waits in a tier up to a position to be applied.
func (s *Sink) SetDue(ctx context.Context, id change.TableID, tier string, at change.Position) error {
	at.Ordinal = 0
	r, err := s.record(ctx, id)
	if err != nil || !r.due[tier].Before(at) {
		return err
	}
	aspect := fmt.Sprint(aspectDue, at.Epoch)
	if tier != sink.AllTiers {
		aspect += " " + tier
	}
	_, err = s.insert(ctx, s.ledger("tables"), 1, []part{strs("pipeline", s.pipeline), strs("tab", id.String()), dict("aspect", aspect),
		numbers("ver", 8, uint64(at.Commit)), strs("body", at.String())})
	return err
}

// floor is the version below which the table's rows are gone.
func (s *Sink) floor(ctx context.Context, tab string) (change.Position, error) {
	var text string
	q := fmt.Sprintf("SELECT argMax(pos, floor) FROM %s WHERE %s", s.ledger("floors"), s.where(tab))
	err := s.conn.query(ctx, "SELECT the floor of table "+tab, q, func(scan func(...any) error) error { return scan(&text) })
	if err != nil || text == "" {
		return change.Position{}, err
	}
	return change.ParsePosition(text)
}

func (s *Sink) raiseFloor(ctx context.Context, tab string, pos change.Position) error {
	_, err := s.insert(ctx, s.ledger("floors"), 1, []part{strs("pipeline", s.pipeline), strs("tab", tab), strs("pos", pos.String()), versions("floor", pos)})
	return err
}

// versions is a UInt128 column of positions.
func versions(name string, ps ...change.Position) part {
	e := &plain{}
	for _, p := range ps {
		e.data = appendVersion(e.data, p)
	}
	return part{name, "UInt128", e, false}
}

// refreshView makes the view show rows from the highest floor on. It looks again
// after it has written: of two that do this at once, the one with the higher
// floor may be overtaken.
func (s *Sink) refreshView(ctx context.Context, l *layout, tab string) error {
	floor, err := s.floor(ctx, tab)
	for err == nil {
		if _, err = s.conn.exec(ctx, "create the view of table "+tab, l.createView(floor)); err != nil {
			return err
		}
		var now change.Position
		if now, err = s.floor(ctx, tab); err == nil && now == floor {
			return s.refreshPartials(ctx, tab)
		}
		floor = now
	}
	return err
}
