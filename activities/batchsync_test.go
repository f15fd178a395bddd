package activities

import (
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/pipeline"
)

func TestRangeOfABatchSync(t *testing.T) {
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base}}
	}
	s := &change.Schema{Table: change.TableID{Schema: "s", Name: "t"}, Columns: []change.Column{col(`at "q"`, "timestamptz"), col("day", "date"), col("n", "int8")}}
	since := time.Date(2026, 1, 2, 3, 4, 5, 678_900_000, time.FixedZone("", 3600))
	where, err := between(s, `at "q"`, since, since.Add(time.Hour))
	if want := `"at ""q""" >= timestamptz '2026-01-02 02:04:05.6789Z' AND "at ""q""" < timestamptz '2026-01-02 03:04:05.6789Z'`; err != nil || where != want {
		t.Errorf("%s, %v", where, err)
	}
	for column, want := range map[string]string{"day": "", "n": "is no time", "none": "has no column"} {
		if _, err := between(s, column, since, since.Add(time.Hour)); want == "" && err != nil || want != "" && (!fault.Is(err, CodeBatchSyncInput) || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", column, err)
		}
	}
	spec := pipeline.Spec{Tables: pipeline.Tables{Include: []string{"s.*"}, Options: []pipeline.TableOption{{Match: "s.*", Where: "n > 1 OR n < -1"}}}}
	out := spec.Narrowed(s.Table, "x")
	if w := out.Options(s.Table).Where; w != "(n > 1 OR n < -1) AND (x)" || spec.Options(s.Table).Where != "n > 1 OR n < -1" {
		t.Error(w)
	}
	if w := out.Options(change.TableID{Schema: "s", Name: "u"}).Where; w != "n > 1 OR n < -1" {
		t.Error("of another table", w)
	}

	ok := contract.BatchSyncInput{Column: "a", Since: since, Until: since.Add(1), Sinks: []string{"w"}, Spec: pipeline.Spec{Sinks: []pipeline.Sink{{Name: "w"}}}}
	if err := checkBatchSync(&ok); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(*contract.BatchSyncInput){
		"no column": func(in *contract.BatchSyncInput) { in.Column = "" },
		"no end":    func(in *contract.BatchSyncInput) { in.Until = time.Time{} },
		"empty":     func(in *contract.BatchSyncInput) { in.Until = in.Since },
		"no sink":   func(in *contract.BatchSyncInput) { in.Sinks = []string{"x"} },
	} {
		in := ok
		edit(&in)
		if err := checkBatchSync(&in); !fault.Is(err, CodeBatchSyncInput) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
