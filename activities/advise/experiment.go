package advise

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"syncline/activities/contract"
	"syncline/tiers/experiment"
	"syncline/tiers/simulate"
)

const (
	moments  = 24  // at which a reader computes aggregates
	maxUnits = 200 // of an arm: entities are grouped into so many
)

// ErrNoKey: the rows of an experiment's table cannot be told apart.
var ErrNoKey = errors.New("its rows have no key")

// watch prepares the table of an experiment.
func (p *Plan) watch(in *contract.ExperimentInput) error {
	t := p.table(in.Table)
	if t == nil {
		return fmt.Errorf("table %s is not one of the pipeline's", in.Table)
	}
	p.tables = []*table{t}
	t.x.Watch(in.Sum, in.Entity, "arm:"+in.Salt)
	return nil
}

// arm is one, while it is computed.
type arm struct {
	out   contract.ExperimentArm
	units map[string][]experiment.Unit // by quantity
}

// Experiment computes the arms. The error says what is wrong with the request.
func (p *Plan) Experiment(in *contract.ExperimentInput) (*contract.ExperimentResult, error) {
	t := p.tables[0]
	if t.x.Appends() {
		return nil, ErrNoKey
	}
	if in.Sum != "" && t.x.Numbers() == 0 {
		return nil, fmt.Errorf("column %q has no number in any change", in.Sum)
	}
	out := &contract.ExperimentResult{ExperimentInput: *in, Moments: moments, Off: []string{}, Differences: []contract.ExperimentDifference{}}
	entities := t.x.Entities()
	for _, e := range entities {
		if e == 0 {
			out.Unassigned++
		}
	}
	if out.Unassigned == len(entities) {
		return nil, fmt.Errorf("no change says which entity it is of: columns %q have to be in the log", in.Entity)
	}
	given := append([]int{0, 0}, seq(1, len(p.given))...)
	var arms []arm
	for i, g := range given {
		arms = append(arms, p.arm(i, len(given), g, in))
	}
	quantities := []string{contract.BytesPerChange, contract.RowsPerChange, contract.WaitPerChange, contract.CountError}
	if in.Sum != "" {
		quantities = append(quantities, contract.SumError)
	}
	seed := simulate.Hash(in.Salt, "seed")
	var control []experiment.Arm // A, by quantity
	for i := range arms {
		a := &arms[i]
		for n, q := range quantities {
			drawn := experiment.Draw(a.units[q], simulate.Mix(seed+uint64(n*len(arms)+i)))
			a.out.Measured = append(a.out.Measured, contract.ExperimentMeasured{Quantity: q, Estimate: drawn.Of(experiment.Level(1))})
			if i == 0 {
				control = append(control, drawn)
				continue
			}
			d := experiment.Difference(control[n], drawn, experiment.Level(1))
			out.Differences = append(out.Differences, contract.ExperimentDifference{Arm: a.out.Arm, ExperimentMeasured: contract.ExperimentMeasured{Quantity: q, Estimate: d}})
			if d = experiment.Difference(control[n], drawn, experiment.Level(len(quantities))); i == 1 && d.Known && !d.Covers(0) {
				out.Off = append(out.Off, q)
			}
		}
		out.Arms = append(out.Arms, a.out)
	}
	return out, nil
}

func seq(from, to int) (out []int) {
	for i := from; i < to; i++ {
		out = append(out, i)
	}
	return out
}

// arm follows the entities of one arm by the classification that it has.
func (p *Plan) arm(i, of, g int, in *contract.ExperimentInput) arm {
	t := p.tables[0]
	entities := t.x.Entities()
	a := arm{out: contract.ExperimentArm{Arm: armName(i), Classification: p.given[g].Name}, units: map[string][]experiment.Unit{}}
	mine := func(key uint32) bool { return entities[key] != 0 && entities[key]%uint64(of) == uint64(i) }
	number := map[uint64]int{} // of entities, in the order of their first changes
	for k := range entities {
		if e := entities[k]; mine(uint32(k)) {
			if _, ok := number[e]; !ok {
				number[e] = len(number)
			}
		}
	}
	a.out.Entities, a.out.Units = len(number), min(len(number), maxUnits)
	if len(number) == 0 {
		return a
	}
	unit := func(key uint32) int { return number[entities[key]] % a.out.Units }
	f := t.x.Follow(t.given[g], p.limits[0], mine)
	sums := make([]simulate.OfKey, a.out.Units)
	for k := range f.ByKey {
		if !mine(uint32(k)) {
			continue
		}
		s, x := &sums[unit(uint32(k))], &f.ByKey[k]
		s.Changes, s.Rows, s.Bytes, s.Wait = s.Changes+x.Changes, s.Rows+x.Rows, s.Bytes+x.Bytes, s.Wait+x.Wait
	}
	add := func(q string, u experiment.Unit) { a.units[q] = append(a.units[q], u) }
	for _, s := range sums {
		n := float64(s.Changes)
		a.out.Changes += s.Changes * int64(p.trace.One())
		add(contract.BytesPerChange, experiment.Unit{{Num: float64(s.Bytes), Den: n}})
		add(contract.RowsPerChange, experiment.Unit{{Num: float64(s.Rows), Den: n}})
		add(contract.WaitPerChange, experiment.Unit{{Num: (time.Duration(s.Wait) * time.Microsecond).Seconds(), Den: n}})
	}
	for _, ms := range f.Read(p.moments(in.Salt), a.out.Units, unit) {
		counts, values := make(experiment.Unit, len(ms)), make(experiment.Unit, len(ms))
		for j, m := range ms {
			counts[j] = experiment.Pair{Num: m.SinkCount - m.Count, Den: m.Count}
			values[j] = experiment.Pair{Num: m.SinkSum - m.Sum, Den: m.Sum}
		}
		add(contract.CountError, counts)
		add(contract.SumError, values)
	}
	return a
}

// armName is A, A', B, C …
func armName(i int) string {
	if i < 2 {
		return []string{"A", "A'"}[i]
	}
	return string(rune('B' + i - 2))
}

// moments are times between the first and the last change, at odds with any period.
func (p *Plan) moments(salt string) (out []int64) {
	first, last := p.trace.Span()
	step := float64(last-first) / moments
	h := simulate.Hash(salt, "moments")
	for j := range moments {
		h = simulate.Mix(h + 1)
		out = append(out, first+int64((float64(j)+float64(h>>40)/(1<<24))*step))
	}
	slices.Sort(out)
	return out
}
