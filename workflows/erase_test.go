package workflows

import (
	"slices"
	"strings"
	"testing"
	"time"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
	"syncline/secrets"
)

var eraseInput = contract.EraseInput{Pipeline: "shop", Reason: "ticket 7", Who: "ann"}

func calledAs(w *world, activity string) (n int) {
	for _, c := range w.names() {
		if strings.HasPrefix(c, activity+" ") {
			n++
		}
	}
	return n
}

func TestErase(t *testing.T) {
	w := newWorld()
	w.once[contract.EraseAtActivity] = []error{temporal.NewApplicationError("away", "SinkUnreachable")}
	env := environment(t, w)
	early := ask(env, 0, contract.KeysUpdate, []byte(nil))
	var waits contract.EraseResult
	env.RegisterDelayedCallback(func() {
		if v, err := env.QueryWorkflow(contract.StatusQuery); err != nil || v.Get(&waits) != nil {
			t.Error("no status", err)
		}
	}, time.Minute)
	keys := ask(env, 2*time.Minute, contract.KeysUpdate, []byte("sealed"))
	again := ask(env, 2*time.Minute+time.Second, contract.KeysUpdate, []byte("others"))
	env.ExecuteWorkflow(Erase, eraseInput)
	var r contract.EraseResult
	if err := env.GetWorkflowResult(&r); err != nil || keys.err != nil || early.refused == nil || again.err == nil && again.refused == nil && slices.Contains(w.names(), "PlanErase others") {
		t.Fatalf("%+v, %v, %+v, %+v, %+v", r, err, keys, early, again)
	}
	if !waits.Waits || string(waits.Public) != "public" || r.Waits || r.Public != nil {
		t.Errorf("waiting it says %+v, in the end %+v", waits, r)
	}
	if len(r.Places) != 3 || r.Left != 3 || r.Until.Unix() != 1_900_000_000 || len(r.Plan.Tables) != 1 || r.Who != "ann" || r.Ended.IsZero() {
		t.Errorf("%+v", r)
	}
	calls := w.names()
	if calls[0] != "OpenErase ticket 7" || calls[1] != "PlanErase sealed" || calledAs(w, "EraseAt") != 3 || calls[len(calls)-2] != "NoteErase ann 3" || calls[len(calls)-1] != "ForgetErase shop" {
		t.Error(calls)
	}
}

// With a reference nobody hands over keys. A search notes nothing.
func TestEraseByReference(t *testing.T) {
	w := newWorld()
	env := environment(t, w)
	ref, err := secrets.ParseRef("vault:secret/erase#keys")
	if err != nil {
		t.Fatal(err)
	}
	env.ExecuteWorkflow(Erase, contract.EraseInput{Pipeline: "shop", Keys: ref, Search: true})
	if err := env.GetWorkflowError(); err != nil || w.count("PlanErase vault:secret/erase#keys") != 1 || calledAs(w, "NoteErase") != 0 || w.count("ForgetErase shop") != 1 {
		t.Errorf("%v after %v", err, w.names())
	}
}

// Whatever happens, what decrypts the keys is forgotten; a sink that fails holds up no
// other, and an erasure that is not whole is not recorded as one.
func TestEraseFails(t *testing.T) {
	for _, c := range []struct{ name, code, want string }{
		{contract.PlanEraseActivity, "EraseAtSource", "EraseAtSource"},
		{contract.EraseAtActivity, "TableNotStreaming", contract.EraseFailedError},
		{contract.SearchLogActivity, "KafkaRefused", contract.EraseFailedError},
		{contract.NoteEraseActivity, "SinkPrivilege", "SinkPrivilege"},
		{"", "", contract.EraseKeysError}, // no keys come
		{contract.ForgetEraseActivity, "SinkPrivilege", "SinkPrivilege"},
	} {
		w := newWorld()
		if c.name == contract.EraseAtActivity {
			w.once[c.name] = []error{permanent(c.code)}
		} else if c.name != "" {
			w.fail[c.name] = permanent(c.code)
		}
		env := environment(t, w)
		if c.name != "" {
			ask(env, time.Second, contract.KeysUpdate, []byte("sealed"))
		}
		env.ExecuteWorkflow(Erase, eraseInput)
		if err := env.GetWorkflowError(); errorType(err) != c.want || !strings.Contains(err.Error(), c.code) || w.count("ForgetErase shop") == 0 {
			t.Errorf("%s: %v after %v", c.name, err, w.names())
		}
		if c.name == contract.EraseAtActivity && (calledAs(w, "EraseAt") != 2 || calledAs(w, "NoteErase") != 0) {
			t.Error(w.names())
		}
	}
}
