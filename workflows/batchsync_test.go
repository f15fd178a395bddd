package workflows

import (
	"testing"
	"time"

	"syncline/activities/contract"
)

func syncInput(t *testing.T) contract.BatchSyncInput {
	return contract.BatchSyncInput{Spec: shopSpec(t), Column: "changed_at", Since: time.Unix(1_800_000_000, 0).UTC(), Until: time.Unix(1_800_086_400, 0).UTC(), Sinks: []string{"warehouse"}}
}

func TestBatchSync(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	env.ExecuteWorkflow(BatchSync, syncInput(t))
	var r contract.BatchSyncResult
	if err := env.GetWorkflowResult(&r); err != nil || len(r.Tables) != 1 || r.Tables[0].Sink != "warehouse" || r.Tables[0].Table != w.tables[0] || r.Rows == 0 || r.Rows != r.Tables[0].Rows || r.Column != "changed_at" {
		t.Fatalf("%+v, %v after %v", r, err, w.names())
	}
	if w.count("PlanBatchSync changed_at") != 1 || calledAs(w, contract.ForgetSinkActivity) == 0 {
		t.Error(w.names())
	}
}

func TestBatchSyncFails(t *testing.T) {
	for name, code := range map[string]string{contract.PlanBatchSyncActivity: "BatchSyncLive", contract.CopyChunkActivity: "SourcePrivilege"} {
		w := newWorld()
		w.fail[name] = permanent(code)
		env := environment(t, w)
		env.ExecuteWorkflow(BatchSync, syncInput(t))
		if err := env.GetWorkflowError(); errorType(err) != code || calledAs(w, contract.ForgetSinkActivity) == 0 && name == contract.CopyChunkActivity {
			t.Errorf("%s: %v after %v", name, err, w.names())
		}
	}
}
