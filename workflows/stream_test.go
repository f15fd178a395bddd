package workflows

import (
	"strings"
	"testing"
	"time"

	"syncline/activities/contract"
)

// One component failing for good does not touch the others, and cancelling ends
// every activity before the stream is over.
func TestStreamKeepsTheOthersRunning(t *testing.T) {
	w := newWorld()
	w.once[contract.CaptureActivity] = []error{permanent("SlotAhead")}
	env := environment(t, w)
	_ = Stream
	var st contract.StreamStatus
	env.RegisterDelayedCallback(func() {
		v, err := env.QueryWorkflow(contract.StatusQuery)
		if err == nil {
			err = v.Get(&st)
		}
		if err != nil {
			t.Error(err)
		}
		env.SignalWorkflow(contract.RetrySignal, nil)
	}, 300*time.Millisecond)
	env.RegisterDelayedCallback(env.CancelWorkflow, 600*time.Millisecond)
	env.ExecuteWorkflow(Stream, contract.StreamInput{Spec: shopSpec(t), SlotAt: 0x100})
	if err := env.GetWorkflowError(); err == nil || !strings.Contains(err.Error(), "cancel") {
		t.Errorf("ended with %v", err)
	}
	if len(st.Components) != 5 || !st.Components[0].Failed || st.Components[0].Failure.Code != "SlotAhead" {
		t.Errorf("status %+v", st)
	}
	for _, c := range st.Components[1:] {
		if c.Failed {
			t.Errorf("failed with it: %+v", c)
		}
	}
	if n := w.count("Capture 0/100"); n != 2 {
		t.Errorf("capture ran %d times, want 2: after the retry signal once more", n)
	}
}
