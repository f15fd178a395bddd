package main

import (
	"context"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"google.golang.org/protobuf/types/known/durationpb"

	"syncline/activities/codec"
	"syncline/activities/contract"
	"syncline/testsuite/stack"
)

// A keyring is made and rotated through pipes; keys show only where they are asked for.
func TestPayloadKeys(t *testing.T) {
	t.Parallel()
	do := func(in string, args ...string) result {
		t.Helper()
		return call{args: append([]string{"payload-keys"}, args...), stdin: in}.run(t)
	}
	ring := func(r result) codec.Keyring {
		t.Helper()
		k, err := codec.ParseKeyring(r.exits(exitOK).out)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := do("", "new", "--id", "k1")
	if k := ring(first); k.Current() != "k1" || len(k.IDs()) != 1 {
		t.Errorf("%v", k)
	}
	if k := ring(do("", "new", "--json")); len(k.Current()) != len("2006-01-02-01234567") {
		t.Errorf("%v", k)
	}
	waits := do("", "new", "--id", "k1", "--later")
	if k := ring(waits); k.Current() != "" {
		t.Errorf("%v", k)
	}
	if k := ring(do(waits.out, "use", "k1")); k.Current() != "k1" {
		t.Errorf("%v", k)
	}
	if k := ring(do(first.out, "stop")); k.Current() != "" || len(k.IDs()) != 1 {
		t.Errorf("%v", k)
	}
	added := do(first.out, "add", "--id", "k2")
	if k := ring(added); k.Current() != "k2" || strings.Join(k.IDs(), " ") != "k1 k2" {
		t.Errorf("%v", k)
	}
	later := do(added.out, "add", "--id", "k3", "--later")
	if k := ring(later); k.Current() != "k2" {
		t.Errorf("%v", k)
	}
	used := do(later.out, "use", "k3")
	if k := ring(used); k.Current() != "k3" {
		t.Errorf("%v", k)
	}
	if k := ring(do(used.out, "retire", "k1")); strings.Join(k.IDs(), " ") != "k2 k3" {
		t.Errorf("%v", k)
	}
	list := do(used.out, "list").exits(exitOK)
	if list.out != "k1\nk2\nk3  current\n" {
		t.Error(list.out)
	}
	var out struct {
		Current string   `json:"current"`
		Keys    []string `json:"keys"`
	}
	do(used.out, "list", "--json").exits(exitOK).object(&out)
	if out.Current != "k3" || len(out.Keys) != 3 {
		t.Errorf("%+v", out)
	}
	do(used.out, "retire", "k3").exits(exitInvalid).says("the current one")
	do(used.out, "use", "k9").exits(exitInvalid).says(`no key "k9"`)
	do(used.out, "add", "--id", "k1").exits(exitInvalid).says("has a key k1 already")
	do("nonsense", "list").exits(exitInvalid).says("PayloadKeyringInvalid")

	r := call{args: []string{"payload-keys", "new"}, terminal: true}.run(t).exits(exitInvalid).says("would show on the terminal")
	if r.out != "" {
		t.Error(r.out)
	}
	ring(call{args: []string{"payload-keys", "new", "--show"}, terminal: true}.run(t))
	call{args: []string{"status", "x"}, env: map[string]string{"SYNCLINE_PAYLOAD_KEYS": "sekrit"}}.run(t).exits(exitInvalid).says("SYNCLINE_PAYLOAD_KEYS is not a reference")
	call{args: []string{"status", "x"}, env: map[string]string{"SYNCLINE_PAYLOAD_KEYS": "file:/nowhere"}}.run(t).exits(exitInvalid).says("SYNCLINE_PAYLOAD_KEYS", "/nowhere")
}

// Which keys are still needed is told of workflows that run and that have ended, and of
// Schedules; of a key that nothing needs, nothing is told.
func TestPayloadKeysUsed(t *testing.T) {
	t.Parallel()
	address := stack.Temporal(t)
	name := strings.ReplaceAll(stack.Name(t), "_", "-")
	// A namespace of its own: every history of it is read.
	admin, err := client.NewNamespaceClient(client.Options{HostPort: address, Logger: quiet{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(admin.Close)
	if err := admin.Register(t.Context(), &workflowservice.RegisterNamespaceRequest{Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour)}); err != nil {
		t.Fatal(err)
	}
	open := func(id string) client.Client {
		t.Helper()
		ring, err := codec.NewKeyring(id)
		if err != nil {
			t.Fatal(err)
		}
		keys, err := codec.HoldKeys(t.Context(), func(context.Context) (string, error) { return ring.Reveal(), nil }, nil)
		if err != nil {
			t.Fatal(err)
		}
		o := client.Options{HostPort: address, Namespace: name, Logger: quiet{}}
		codec.New(keys).Apply(&o)
		c, err := client.Dial(o)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	first, second, third := open(name+"-1"), open(name+"-2"), open(name+"-3")
	start := func(c client.Client, id string) {
		t.Helper()
		if _, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: name + id, TaskQueue: name}, "nothing", "x"); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.TerminateWorkflow(context.Background(), name+id, "", "end of test") })
	}
	for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) { // the server takes up a namespace after a while
		_, err := first.ListWorkflow(t.Context(), &workflowservice.ListWorkflowExecutionsRequest{Namespace: name})
		if err == nil {
			break
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	start(first, "/a")
	start(first, "/b")
	if err := second.SignalWorkflow(t.Context(), name+"/a", "", "s", "x"); err != nil {
		t.Fatal(err)
	}
	if err := first.TerminateWorkflow(t.Context(), name+"/b", "", "ended"); err != nil {
		t.Fatal(err)
	}
	s, err := third.ScheduleClient().Create(t.Context(), client.ScheduleOptions{ID: name, Paused: true, Action: &client.ScheduleWorkflowAction{ID: name, Workflow: "nothing", TaskQueue: name, Args: []any{"x"}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Delete(context.Background()) })
	env := map[string]string{"SYNCLINE_TEMPORAL_ADDRESS": address, "SYNCLINE_TEMPORAL_NAMESPACE": name}
	type uses struct{ Keys []keyUse }
	var got map[string]keyUse
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) { // lists come after what they list
		var all uses
		call{args: []string{"payload-keys", "used", "--json"}, env: env}.run(t).exits(exitOK).object(&all)
		got = map[string]keyUse{}
		for _, k := range all.Keys {
			if strings.HasPrefix(k.Key, name) {
				got[strings.TrimPrefix(k.Key, name)] = k
			}
		}
		if len(got) == 3 && got["-1"].Ended == 1 && len(got["-1"].Running) == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%+v", got)
		}
	}
	if k := got["-2"]; len(k.Running) != 1 || k.Running[0] != name+"/a" || k.Ended != 0 || len(k.Schedules) != 0 {
		t.Errorf("%+v", k)
	}
	if k := got["-3"]; len(k.Running) != 0 || k.Ended != 0 || len(k.Schedules) != 1 || k.Schedules[0] != name {
		t.Errorf("%+v", k)
	}
	r := call{args: []string{"payload-keys", "used"}, env: env}.run(t).exits(exitOK).says("key", "running", "schedules")
	if !regexp.MustCompile(`(?m)^` + name + `-1 +1 +1 +0$`).MatchString(r.out) {
		t.Error(r.out)
	}
}

// The tool shows an encrypted pipeline, heartbeats and failures of attempts included, if it
// has the keys, and otherwise says that it has none.
func TestEncryptedPipeline(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	ring, err := codec.NewKeyring("k")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := codec.HoldKeys(t.Context(), func(context.Context) (string, error) { return ring.Reveal(), nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	o := client.Options{HostPort: s.env["SYNCLINE_TEMPORAL_ADDRESS"], Logger: quiet{}}
	codec.New(keys).Apply(&o)
	plain := s.c
	if s.c, err = client.Dial(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.c.Close)
	s.fakes.set(contract.CaptureActivity, temporal.NewApplicationError("SlotInUse: another reads it", "SlotInUse"))
	s.workers()
	without := s.env
	s.env = with(s.env, map[string]string{"SYNCLINE_PAYLOAD_KEYS": "file:" + write(t, "keys", ring.Reveal())})

	s.starter("apply", s.file).exits(exitOK).says("pipeline " + s.name + " started")
	s.until("why capture is tried again", func(r result) bool { return strings.Contains(r.out, "SlotInUse: another reads it") }, "status", s.name)
	s.fakes.set(contract.CaptureActivity, nil)
	s.streams()
	s.until("what heartbeats say", func(r result) bool { return strings.Contains(r.out, "2.0 KiB WAL") }, "status", s.name)
	s.starter("pause", s.name).exits(exitOK)
	s.starter("resume", s.name).exits(exitOK)
	r := s.starter("resync-table", s.name, "shop.nope").exits(exitFailed).says("shop.nope")
	if strings.Contains(r.err, "Encoded failure") {
		t.Error(r.err)
	}

	var f failure
	call{args: []string{"status", s.name, "--json"}, env: without}.run(t).exits(exitFailed).object(&f)
	if f.Code != string(codec.CodeKeysUnset) || !strings.Contains(f.Error, "SYNCLINE_PAYLOAD_KEYS") {
		t.Errorf("%+v", f)
	}
	d, err := plain.DescribeWorkflowExecution(t.Context(), contract.StreamID(s.name), "")
	if err != nil {
		t.Fatal(err)
	}
	if text := d.String(); strings.Contains(text, "another reads it") {
		t.Errorf("in clear text: %s", text)
	}
}
