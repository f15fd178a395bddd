package advise

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/pipeline"
	"syncline/tiers/simulate"
)

const base = `version: 1
name: shop
source: {type: postgres, dsn: env:SOURCE}
kafka: {brokers: ["127.0.0.1:9092"], partitions: 2, retention: 8h}
sinks:
  - {name: warehouse, type: postgres, dsn: env:SINK}
  - {name: analytics, type: clickhouse, dsn: env:CH, max_batch_rows: 7}
tables: ["shop.*"]
`

func declaration(t *testing.T, more string) *pipeline.Spec {
	t.Helper()
	s, err := pipeline.Parse("shop.yaml", []byte(base+more), os.LookupEnv)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

var tables = []change.TableID{{Schema: "shop", Name: "metrics"}, {Schema: "shop", Name: "orders"}, {Schema: "shop", Name: "quiet"}}

func status(s *pipeline.Spec) *contract.PipelineStatus {
	st := &contract.PipelineStatus{Name: s.Name, Spec: *s, Phase: contract.Streaming}
	for _, id := range tables {
		st.Tables = append(st.Tables, contract.TableStatus{Table: id, Sinks: map[string]sink.State{"warehouse": sink.Streaming, "analytics": sink.Streaming}})
	}
	return st
}

func row(vs ...any) (out change.Row) {
	for _, v := range vs {
		out = append(out, change.TextValue(fmt.Sprint(v)))
	}
	return out
}

// day records an hour of metrics, of which most updates change hits alone, and of orders.
func day(t *testing.T, p *Plan) {
	t.Helper()
	col := func(name string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: "text", Kind: change.Base, Base: "text"}}
	}
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for n, id := range tables[:2] {
		s := &change.Schema{Table: id, Key: []int{0}, Full: n == 0, Columns: []change.Column{col("id"), col("severity"), col("hits")}}
		for i := range 3600 {
			k := int(simulate.Mix(uint64(i)) % 40)
			severity := "info"
			if i%11 == 0 {
				severity = "critical"
			}
			old, now := row(k, "info", i), row(k, severity, i+1)
			key, err := change.MakeKey(s, now)
			if err != nil {
				t.Fatal(err)
			}
			c := &change.Change{Table: id, Schema: s.Version(), Op: change.Update, Key: key, New: now, CommitTime: at.Add(time.Duration(i) * time.Second),
				Pos: change.Position{Epoch: 1, Commit: change.LSN(100 + i), Ordinal: uint32(n + 1)}}
			if n == 0 {
				c.Old = old
			}
			if err := p.Table(id).Add(s, c, key.Partition(2), 100*(2-n)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func advise(t *testing.T, more string, with ...contract.Declared) contract.AdviseResult {
	t.Helper()
	p, err := New(status(declaration(t, more)), &contract.AdviseInput{With: with})
	if err != nil {
		t.Fatal(err)
	}
	day(t, p)
	return p.Result()
}

const hourly = `tiers: [{name: hourly, every: 1h, jitter: 2m}]
classify:
  - {match: shop.metrics, where: "severity in ('critical')", tier: stream}
  - {match: "shop.m*", tier: hourly}
`

// Each candidate can be declared, and does as declared what it says.
func TestCandidatesAreWhatTheyDeclare(t *testing.T) {
	for _, more := range []string{"", hourly} {
		first := advise(t, more)
		var with []contract.Declared
		kinds := map[string]int{}
		for _, c := range first.Candidates[1:] {
			kinds[c.Kind]++
			s := declaration(t, c.YAML())
			with = append(with, contract.Declared{Name: "again: " + c.Name, Tiers: s.Tiers, Classify: s.Classify})
		}
		want := map[string]int{contract.CandidateTable: 8, contract.CandidateColumns: 4, contract.CandidateAll: 4}
		if more != "" {
			want[contract.CandidatePeriod] = 2
		}
		if !reflect.DeepEqual(kinds, want) {
			t.Errorf("candidates %v, want %v", kinds, want)
		}
		for part := range slices.Chunk(with, simulate.MaxGiven-1) {
			second := advise(t, more, part...)
			for _, c := range second.Candidates {
				if c.Kind != contract.CandidateGiven {
					continue
				}
				i := slices.IndexFunc(first.Candidates, func(f contract.AdviseCandidate) bool { return "again: "+f.Name == c.Name })
				if f := first.Candidates[i]; !reflect.DeepEqual(f.AdviseFigures, c.AdviseFigures) {
					t.Errorf("%s:\n%+v\nas declared:\n%+v", f.Name, f.AdviseFigures, c.AdviseFigures)
				}
			}
		}
	}
}

func TestResult(t *testing.T) {
	r := advise(t, "")
	now := r.Candidates[0]
	if now.Kind != contract.CandidateNow || now.Changes != 7200 || now.Rows != 14_400 || now.Waited != 0 || now.Bytes != 2*3600*300 || now.LogBytes != now.Bytes || len(now.ByTier) != 0 {
		t.Errorf("%+v", now)
	}
	if len(r.Tables) != 2 || r.Tables[0].Table != tables[0] || !slices.Equal(r.Tables[0].Volatile, []string{"hits"}) || !r.Tables[1].Blind || r.To.Sub(r.From) != 3599*time.Second {
		t.Errorf("%+v", r)
	}
	find := func(name string) contract.AdviseCandidate {
		i := slices.IndexFunc(r.Candidates, func(c contract.AdviseCandidate) bool { return c.Name == name })
		if i < 0 {
			t.Fatalf("no candidate is called %s", name)
		}
		return r.Candidates[i]
	}
	hits := find("shop.metrics: only hits, every 15m")
	// Forty keys, four runs; the critical ones stream, and what they overtake is not written.
	if w := hits.Sinks[0]; w.Streamed != 3600+328 || w.Swept > 4*40 || w.Swept < 4*30 || hits.Max > 900 || hits.P50 < 300 || hits.Promise != 900 || len(hits.ByTier) != 1 || hits.ByTier[0].Changes != 3272 {
		t.Errorf("%+v", hits)
	}
	// Small batches merge less.
	if hits.Sinks[1].Swept <= hits.Sinks[0].Swept {
		t.Errorf("%+v", hits.Sinks)
	}
	if all := find("all tables, every 1h"); all.Sinks[0].Swept != 2*40 || all.Waited != 7200 {
		t.Errorf("%+v", all)
	}
	// A declared tier of another period.
	r = advise(t, hourly)
	if c := find("tier hourly every 15m"); c.ByTier[0].Tier != "hourly" || c.Promise != 900+120 {
		t.Errorf("%+v", c)
	}
	if strings.Contains(fmt.Sprintf("%+v", r), "critical'") != true || strings.Contains(fmt.Sprintf("%+v", r.Tables), "info") {
		t.Error("values of rows are told of, or the rules are not")
	}
}

func TestAClassificationThatIsNone(t *testing.T) {
	_, err := New(status(declaration(t, "")), &contract.AdviseInput{With: []contract.Declared{{Name: "x", Classify: []pipeline.Class{{Match: "shop.*", Tier: "daily"}}}}})
	if err == nil || !strings.Contains(err.Error(), `classify[0].tier is "daily"`) {
		t.Error(err)
	}
}

// However many tables there are, a result stays small.
func TestManyTables(t *testing.T) {
	st := status(declaration(t, ""))
	st.Tables = nil
	for i := range maxTables + 1 {
		st.Tables = append(st.Tables, contract.TableStatus{Table: change.TableID{Schema: "shop", Name: fmt.Sprint("t", i)}, Sinks: map[string]sink.State{"warehouse": sink.Streaming}})
	}
	p, err := New(st, &contract.AdviseInput{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range st.Tables {
		s := &change.Schema{Table: st.Tables[i].Table, Key: []int{0}, Columns: []change.Column{{Name: "id", Type: change.Type{Base: "text"}}}}
		key, err := change.MakeKey(s, row(1))
		if err == nil {
			err = p.Table(s.Table).Add(s, &change.Change{Op: change.Insert, Key: key, New: row(1), Pos: change.Position{Epoch: 1, Commit: 1}, CommitTime: time.Unix(1000, 0)}, 0, 10)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	r := p.Result()
	if len(r.Tables) != maxTables || len(r.Notes) != 1 || r.Candidates[0].Changes != maxTables+1 || r.Candidates[0].Rows != maxTables+1 {
		t.Errorf("%d tables, %q, %+v", len(r.Tables), r.Notes, r.Candidates[0])
	}
	for _, c := range r.Candidates {
		if c.Kind == contract.CandidateAll || len(c.Classify) > 1 {
			t.Errorf("%s has %d entries", c.Name, len(c.Classify))
		}
	}
}

// A tier that keeps aggregates is declared whole, and what is shown of it is named for what
// it is: more than would be written.
func TestAggregatingTiersAreNamed(t *testing.T) {
	const more = `tiers: [{name: hourly, every: 1h, aggregate: {group: [site], values: [{column: hits, functions: [sum, p99]}]}}]
classify: [{match: shop.metrics, tier: hourly}]
`
	s := declaration(t, more)
	d := contract.Declared{Name: "as it is", Tiers: s.Tiers, Classify: s.Classify}
	if notes := (&Plan{given: []contract.Declared{d}}).aggregating(); len(notes) != 1 || !strings.Contains(notes[0], "tier hourly keeps aggregates") {
		t.Errorf("%q", notes)
	}
	if again := declaration(t, d.YAML()); !reflect.DeepEqual(again.Tiers, d.Tiers) || d.Tiers[0].Aggregate == nil {
		t.Errorf("%s\nis declared as\n%+v", d.YAML(), again.Tiers)
	}
}
