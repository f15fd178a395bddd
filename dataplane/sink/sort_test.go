package sink

import (
	"errors"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/tiers/aggregate"
)

func bound(t testing.TB, s *change.Schema, tier string) *aggregate.Plan {
	spec := aggregate.Spec{Group: []string{"host"}, Values: []aggregate.Value{{Column: "n", Functions: []string{"sum"}}}}
	p, err := spec.Bind(s, tier)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

var sorts = &change.Schema{Table: change.TableID{Schema: "public", Name: "t"}, Columns: []change.Column{
	{Name: "host", Type: change.Type{Name: "text", Kind: change.Base, Base: "text"}}, {Name: "n", Type: change.Type{Name: "numeric", Kind: change.Base, Base: "numeric", Mod: -1}}}}

// However few groups are held at a time, each row is in the partials of its tier once, and no
// run has the place of another; rows of the table are in none.
func TestSorter(t *testing.T) {
	hosts, others := bound(t, sorts, "hosts"), bound(t, sorts, "others")
	rapid.Check(t, func(t *rapid.T) {
		s := &Sorting{Plans: []*aggregate.Plan{hosts, others}, Groups: rapid.IntRange(0, 4).Draw(t, "groups"), Bytes: rapid.SampledFrom([]int{0, 1, 2000}).Draw(t, "bytes"), Of: func(row change.Row) (*aggregate.Plan, error) {
			return map[byte]*aggregate.Plan{'h': hosts, 'o': others}[row[0].Data[0]], nil
		}}
		have, runs := map[string]int{}, map[string]bool{}
		x := s.Sorter(sorts.Table, 7, 3, func(p *aggregate.Plan, rows []change.Row) error {
			at := func(row change.Row, name string) string { return string(row[p.Schema().Column(name)].Data) }
			run := at(rows[0], aggregate.FromColumn)
			if runs[run] || len(rows) == 0 {
				t.Fatalf("run %s comes twice", run)
			}
			runs[run] = true
			for _, row := range rows {
				if at(row, aggregate.PartColumn) != "-8" || at(row, aggregate.TokenColumn) != "3" || at(row, aggregate.FromColumn) != run || at(row, aggregate.AttemptColumn) != run {
					t.Fatalf("%v", row)
				}
				if at(row, "host")[0] != p.Tier[0] {
					t.Fatalf("a row of %s in tier %s", at(row, "host"), p.Tier)
				}
				for _, name := range []string{aggregate.RowsColumn, "n_sum"} {
					n, err := strconv.Atoi(at(row, name))
					if err != nil {
						t.Fatal(err)
					}
					have[at(row, "host")+" "+name] += n
				}
			}
			return nil
		})
		want, kept := map[string]int{}, int64(0)
		for _, host := range rapid.SliceOf(rapid.SampledFrom([]string{"h1", "h2", "h3", "o1", "o2", "t"})).Draw(t, "rows") {
			n := rapid.IntRange(-5, 5).Draw(t, "n")
			taken, err := x.Take(change.Row{change.TextValue(host), change.TextValue(strconv.Itoa(n))})
			if err != nil || taken != (host != "t") {
				t.Fatal(host, taken, err)
			}
			if taken {
				kept++
				want[host+" "+aggregate.RowsColumn]++
				want[host+" n_sum"] += n
			}
		}
		if err := x.Close(); err != nil || x.Rows() != kept || len(have) != len(want) {
			t.Fatal(err, x.Rows(), kept, have, want)
		}
		for k, n := range want {
			if have[k] != n {
				t.Fatalf("%s is %d, want %d", k, have[k], n)
			}
		}
	})
}

func TestSorterFails(t *testing.T) {
	hosts, lost := bound(t, sorts, "hosts"), errors.New("lost")
	s := &Sorting{Plans: []*aggregate.Plan{hosts}, Groups: 1, Of: func(row change.Row) (*aggregate.Plan, error) {
		switch string(row[0].Data) {
		case "undecided":
			return nil, lost
		case "other":
			return bound(t, sorts, "hosts"), nil // equal, but not one that it was told of
		}
		return hosts, nil
	}}
	x := s.Sorter(sorts.Table, 0, 1, func(*aggregate.Plan, []change.Row) error { return lost })
	if _, err := x.Take(change.Row{change.TextValue("undecided"), {}}); err != lost {
		t.Error(err)
	}
	if _, err := x.Take(change.Row{change.TextValue("other"), {}}); !fault.Is(err, CodeTableMismatch) {
		t.Error(err)
	}
	if _, err := x.Take(change.Row{change.TextValue("a"), change.TextValue("1e-31")}); !fault.Is(err, CodeAggregateValue) || fault.Retryable(err) || x.Rows() != 0 {
		t.Error(err, x.Rows())
	}
	if _, err := x.Take(change.Row{change.TextValue("a"), change.TextValue("1")}); err != lost {
		t.Error(err)
	}
	if (*Sorting)(nil).Sorter(sorts.Table, 0, 1, nil).Rows() != 0 {
		t.Error("rows of none")
	}
}
