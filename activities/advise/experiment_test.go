package advise

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/pipeline"
	"syncline/tiers/simulate"
)

// devices records two hours of 600 devices' metrics, some with many changes.
func devices(t *testing.T, p *Plan) {
	t.Helper()
	col := func(name string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: "text", Kind: change.Base, Base: "text"}}
	}
	s := &change.Schema{Table: tables[0], Key: []int{0}, Full: true, Columns: []change.Column{col("id"), col("device"), col("hits")}}
	hits := map[int]int{}
	at := time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC)
	for i := range 20_000 {
		h := simulate.Mix(uint64(i))
		k := int(h % 1200 * (h >> 32 % 1200) / 1200)
		if _, ok := hits[k]; !ok {
			hits[k] = 100
		}
		old := row(k, k/2, hits[k])
		hits[k] += 5
		key, err := change.MakeKey(s, old)
		if err != nil {
			t.Fatal(err)
		}
		c := &change.Change{Table: s.Table, Schema: s.Version(), Op: change.Update, Key: key, Old: old, New: row(k, k/2, hits[k]),
			CommitTime: at.Add(time.Duration(i) * 360 * time.Millisecond), Pos: change.Position{Epoch: 1, Commit: change.LSN(100 + i), Ordinal: 1}}
		if err := p.Table(s.Table).Add(s, c, key.Partition(2), 100); err != nil {
			t.Fatal(err)
		}
	}
}

func experimented(t *testing.T, in contract.ExperimentInput) *contract.ExperimentResult {
	t.Helper()
	later := contract.Declared{Name: "later", Tiers: []pipeline.Tier{{Name: "later", Every: pipeline.Duration(30 * time.Minute)}}, Classify: []pipeline.Class{{Match: "shop.metrics", Tier: "later"}}}
	p, err := New(status(declaration(t, "")), &contract.AdviseInput{Experiment: &in, With: []contract.Declared{later}})
	if err != nil {
		t.Fatal(err)
	}
	devices(t, p)
	out, err := p.Experiment(&in)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestExperiment(t *testing.T) {
	in := contract.ExperimentInput{Table: tables[0], Entity: []string{"device"}, Sum: "hits", Salt: "one"}
	r := experimented(t, in)
	if len(r.Arms) != 3 || len(r.Off) != 0 || r.Unassigned != 0 || len(r.Differences) != 10 {
		t.Fatalf("%+v", r)
	}
	changes, entities := int64(0), 0
	for _, a := range r.Arms {
		changes, entities = changes+a.Changes, entities+a.Entities
		if a.Units < 100 || len(a.Measured) != 5 {
			t.Errorf("%+v", a)
		}
	}
	if changes != 20_000 || entities < 500 || entities > 600 {
		t.Errorf("%d changes of %d entities are in arms", changes, entities)
	}
	for _, d := range r.Differences {
		e := d.Estimate
		switch {
		case !e.Known:
			t.Errorf("%+v", d)
		case d.Arm == "A'" && !e.Covers(0):
			t.Errorf("arms of the same classification differ: %+v", d)
		case d.Arm == "B" && d.Quantity == contract.CountError:
			if e.Value != 0 {
				t.Errorf("rows that are there at both ends: %+v", d)
			}
		case d.Arm == "B" && (d.Quantity == contract.BytesPerChange || d.Quantity == contract.RowsPerChange):
			if e.High >= 0 {
				t.Errorf("less is written: %+v", d)
			}
		case d.Arm == "B" && d.Quantity == contract.WaitPerChange:
			if e.Low < 800 || e.High > 1000 {
				t.Errorf("half of half an hour: %+v", d)
			}
		case d.Arm == "B":
			if e.Low <= 0 || e.Value > 0.2 {
				t.Errorf("a reader's sum is behind: %+v", d)
			}
		}
	}
	if again := experimented(t, in); !reflect.DeepEqual(r, again) {
		t.Error("the same salt says something else")
	}
	in.Salt = "two"
	if other := experimented(t, in); other.Arms[0].Changes == r.Arms[0].Changes {
		t.Error("another salt makes the same arms")
	}
	in.Entity, in.Sum = nil, ""
	if byKey := experimented(t, in); byKey.Arms[0].Entities < 300 || len(byKey.Arms[0].Measured) != 4 {
		t.Errorf("%+v", byKey.Arms[0])
	}
}

// An arm whose entities are not like those of the others is told of.
func TestControlIsOff(t *testing.T) {
	in := contract.ExperimentInput{Table: tables[0], Salt: "one"}
	p, err := New(status(declaration(t, "")), &contract.AdviseInput{Experiment: &in})
	if err != nil {
		t.Fatal(err)
	}
	s := &change.Schema{Table: tables[0], Key: []int{0}, Full: true, Columns: []change.Column{{Name: "id", Type: change.Type{Base: "text"}}}}
	for i := range 2000 {
		r := row(i % 400)
		key, err := change.MakeKey(s, r)
		if err != nil {
			t.Fatal(err)
		}
		size := 100 + int(simulate.Hash("arm:one", key)%2)*20 + i%7
		if err := p.Table(s.Table).Add(s, &change.Change{Table: s.Table, Schema: s.Version(), Op: change.Update, Key: key, Old: r, New: r,
			CommitTime: time.Unix(int64(1_000_000+i), 0), Pos: change.Position{Epoch: 1, Commit: change.LSN(100 + i)}}, 0, size); err != nil {
			t.Fatal(err)
		}
	}
	r, err := p.Experiment(&in)
	if err != nil || fmt.Sprint(r.Off) != fmt.Sprint([]string{contract.BytesPerChange}) {
		t.Errorf("%+v, %v", r, err)
	}
}

func TestExperimentsThatCannotBe(t *testing.T) {
	for want, in := range map[string]contract.ExperimentInput{
		"is not one of the pipeline's":       {Table: change.TableID{Schema: "shop", Name: "other"}},
		`column "id2" has no number`:         {Table: tables[0], Sum: "id2"},
		"no change says which entity it is":  {Table: tables[0], Entity: []string{"owner"}},
		`columns ["owner" "device"] have to`: {Table: tables[0], Entity: []string{"owner", "device"}},
	} {
		p, err := New(status(declaration(t, "")), &contract.AdviseInput{Experiment: &in})
		if err == nil {
			devices(t, p)
			_, err = p.Experiment(&in)
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v", in, err)
		}
	}
}
