package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/MicahParks/jwkset"
	"github.com/golang-jwt/jwt/v5"
	vaultapi "github.com/hashicorp/vault/api"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/proxy"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	sdk "go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"google.golang.org/protobuf/proto"

	"syncline/activities/codec"
	"syncline/activities/observe"
	"syncline/dataplane/fault"
	"syncline/secrets"
	"syncline/testsuite/stack"
	"syncline/worker/config"
)

const secretText = "canary-4be1f07a"

// safe holds a keyring in a real Vault.
type safe struct {
	t    *testing.T
	kv   *vaultapi.KVv2
	env  []string
	ring codec.Keyring
}

func newSafe(t *testing.T) *safe {
	t.Helper()
	addr, file := stack.Vault(t)
	token, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	conf := vaultapi.DefaultConfig()
	conf.Address = addr
	c, err := vaultapi.NewClient(conf)
	if err != nil {
		t.Fatal(err)
	}
	c.SetToken(strings.TrimSpace(string(token)))
	mount := stack.Name(t)
	if err := c.Sys().Mount(mount, &vaultapi.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Sys().Unmount(mount) })
	s := &safe{t: t, kv: c.KVv2(mount), env: []string{
		"SYNCLINE_TEMPORAL_ADDRESS=" + stack.Temporal(t), "SYNCLINE_VAULT_ADDR=" + addr, "SYNCLINE_VAULT_TOKEN_FILE=" + file,
		"SYNCLINE_PAYLOAD_KEYS=vault:" + mount + "/payload-keys#keyring",
	}}
	s.ring, err = codec.NewKeyring("a")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "a fresh engine takes writes", func() bool {
		_, err := s.kv.Put(t.Context(), "payload-keys", map[string]any{"keyring": s.ring.Reveal()})
		return err == nil
	})
	return s
}

// alter puts another keyring in the place of the one there.
func (s *safe) alter(f func(codec.Keyring) (codec.Keyring, error)) {
	s.t.Helper()
	ring, err := f(s.ring)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.kv.Put(s.t.Context(), "payload-keys", map[string]any{"keyring": ring.Reveal()}); err != nil {
		s.t.Fatal(err)
	}
	s.ring = ring
}

// dial connects as a worker or the tool does that starts now.
func (s *safe) dial() codec.Client {
	s.t.Helper()
	c, err := config.Load(s.env)
	if err != nil {
		s.t.Fatal(err)
	}
	resolver, err := secrets.New(c.Secrets())
	if err != nil {
		s.t.Fatal(err)
	}
	o, err := c.Temporal.Options(s.t.Context(), resolver, func(err error) { s.t.Error(err) })
	if err != nil {
		s.t.Fatal(err)
	}
	o.Logger = observe.TemporalLogger(observe.NewLogger(io.Discard, 2))
	tc, err := client.Dial(o)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { tc.Close(); resolver.Close() })
	return codec.Client{Client: tc, Converter: o.DataConverter}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(90 * time.Second); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("does not come about: %s", what)
		}
	}
}

// gossip tells what it is given in every way there is.
func gossip(ctx workflow.Context, text string) (string, error) {
	workflow.SetCurrentDetails(ctx, text)
	if err := workflow.UpsertMemo(ctx, map[string]any{"upserted": text}); err != nil {
		return "", err
	}
	if err := workflow.SetQueryHandler(ctx, "ask", func() (string, error) { return text, nil }); err != nil {
		return "", err
	}
	if err := workflow.SetUpdateHandler(ctx, "tell", func(_ workflow.Context, more string) (string, error) { return text + more, nil }); err != nil {
		return "", err
	}
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 5 * time.Minute, Summary: text,
		RetryPolicy: &sdk.RetryPolicy{InitialInterval: 50 * time.Millisecond, NonRetryableErrorTypes: []string{"Final"}},
	})
	err := workflow.ExecuteActivity(ctx, "fail", text).Get(ctx, nil)
	var app *sdk.ApplicationError
	var detail string
	if !errors.As(err, &app) || app.Type() != "Final" || app.Message() != "final "+text || app.Details(&detail) != nil || detail != text {
		return "", fmt.Errorf("the failure came as %w", err)
	}
	var signal string
	workflow.GetSignalChannel(ctx, "go").Receive(ctx, &signal)
	return signal + app.Message(), nil
}

// failing fails, is tried again, waits, and fails for good.
func failing(release <-chan struct{}) func(context.Context, string) error {
	return func(ctx context.Context, text string) error {
		if activity.GetInfo(ctx).Attempt == 1 {
			activity.RecordHeartbeat(ctx, text)
			return sdk.NewApplicationError("first "+text, "Passing", text)
		}
		var last string
		if err := activity.GetHeartbeatDetails(ctx, &last); err != nil || last != text {
			return sdk.NewNonRetryableApplicationError(fmt.Sprintf("heartbeat %q, %v", last, err), "Heartbeat", nil)
		}
		select {
		case <-release:
		case <-ctx.Done():
			return ctx.Err()
		}
		return sdk.NewApplicationErrorWithOptions("final "+text, "Final", sdk.ApplicationErrorOptions{Cause: errors.New("cause " + text), Details: []any{text}})
	}
}

// plainHistory reads a history without any key.
func plainHistory(t *testing.T, raw client.Client, id string) *historypb.History {
	t.Helper()
	h := &historypb.History{}
	for it := raw.GetWorkflowHistory(t.Context(), id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT); it.HasNext(); {
		e, err := it.Next()
		if err != nil {
			t.Fatal(err)
		}
		h.Events = append(h.Events, e)
	}
	return h
}

// secret checks that a message from Temporal shows nothing, and returns the ids of
// the keys that it is encrypted with.
func secret(t *testing.T, what string, m proto.Message) map[string]int {
	t.Helper()
	b, err := proto.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(b, []byte(secretText)) {
		t.Errorf("%s shows the text: %v", what, m)
	}
	ids := map[string]int{}
	visit(t, m, func(p *commonpb.Payload) {
		if enc := string(p.Metadata["encoding"]); enc != codec.Encoding {
			t.Errorf("%s has a payload as %s: %s", what, enc, p.Data)
		}
		ids[string(p.Metadata[codec.MetadataID])]++
	})
	return ids
}

func visit(t *testing.T, m proto.Message, f func(*commonpb.Payload)) {
	t.Helper()
	err := proxy.VisitPayloads(t.Context(), proto.Clone(m), proxy.VisitPayloadsOptions{SkipSearchAttributes: true,
		Visitor: func(_ *proxy.VisitPayloadsContext, ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
			for _, p := range ps {
				f(p)
			}
			return ps, nil
		}})
	if err != nil {
		t.Fatal(err)
	}
}

// Nothing of what a workflow handles can be read in Temporal without the keys, and
// everything with them; keys are rotated under a workflow that runs, and one that is
// missing holds workflows up until it is back.
func TestPayloadsAreEncrypted(t *testing.T) {
	t.Parallel()
	s := newSafe(t)
	tc := s.dial()
	raw, err := client.Dial(client.Options{HostPort: stack.Temporal(t), Logger: observe.TemporalLogger(observe.NewLogger(io.Discard, 2))})
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	queue := stack.Name(t)
	release := make(chan struct{})
	w := worker.New(tc.Client, queue, worker.Options{MaxConcurrentWorkflowTaskPollers: 2})
	w.RegisterWorkflowWithOptions(gossip, workflow.RegisterOptions{Name: "gossip"})
	w.RegisterActivityWithOptions(failing(release), activity.RegisterOptions{Name: "fail"})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	start := func(c client.Client, id string) client.WorkflowRun {
		t.Helper()
		run, err := c.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: queue + id, TaskQueue: queue, StaticSummary: secretText, StaticDetails: secretText,
			Memo: map[string]any{"given": secretText}}, "gossip", secretText)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = raw.TerminateWorkflow(context.Background(), run.GetID(), "", "end of test") })
		return run
	}
	first := start(tc, "-first")

	// While an activity is tried again: heartbeats, the last failure, memo, summary.
	await(t, "the second attempt", func() bool {
		d, err := raw.DescribeWorkflowExecution(t.Context(), first.GetID(), "")
		return err == nil && len(d.PendingActivities) == 1 && d.PendingActivities[0].Attempt == 2 && d.PendingActivities[0].State == enumspb.PENDING_ACTIVITY_STATE_STARTED && d.PendingActivities[0].HeartbeatDetails != nil
	})
	d, err := raw.DescribeWorkflowExecution(t.Context(), first.GetID(), "")
	if err != nil {
		t.Fatal(err)
	}
	secret(t, "description", d)
	a := d.PendingActivities[0]
	var beat string
	if err := tc.Converter.FromPayloads(a.HeartbeatDetails, &beat); err != nil || beat != secretText {
		t.Errorf("heartbeat %q, %v", beat, err)
	}
	converter.DecodeCommonFailureAttributes(tc.Converter, a.LastFailure)
	if a.LastFailure.Message != "first "+secretText || a.LastFailure.GetApplicationFailureInfo().GetType() != "Passing" {
		t.Errorf("last failure %v", a.LastFailure)
	}
	var memo string
	for _, name := range []string{"given", "upserted"} {
		if err := tc.Converter.FromPayload(d.WorkflowExecutionInfo.Memo.GetFields()[name], &memo); err != nil || memo != secretText {
			t.Errorf("memo %s: %q, %v", name, memo, err)
		}
	}
	var answer string
	if v, err := tc.QueryWorkflow(t.Context(), first.GetID(), "", "ask"); err != nil || v.Get(&answer) != nil || answer != secretText {
		t.Errorf("query: %q, %v", answer, err)
	}
	if v, err := raw.QueryWorkflow(t.Context(), first.GetID(), "", "ask"); err != nil || v.Get(&answer) == nil {
		t.Errorf("a query is answered in clear text: %v", err)
	}

	// A new key comes. Whoever starts now uses it, and the worker of before reads it.
	s.alter(func(k codec.Keyring) (codec.Keyring, error) { return k.Add("b", true) })
	newer := s.dial()
	if err := newer.SignalWorkflow(t.Context(), first.GetID(), "", "go", "signal "+secretText+" "); err != nil {
		t.Fatal(err)
	}
	if h, err := newer.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: first.GetID(), UpdateName: "tell", Args: []any{" more"}, WaitForStage: client.WorkflowUpdateStageCompleted}); err != nil {
		t.Error(err)
	} else if err := h.Get(t.Context(), &answer); err != nil || answer != secretText+" more" {
		t.Errorf("update: %q, %v", answer, err)
	}
	close(release)
	var result string
	if err := newer.GetWorkflow(t.Context(), first.GetID(), "").Get(t.Context(), &result); err != nil || result != "signal "+secretText+" final "+secretText {
		t.Fatalf("result %q, %v", result, err)
	}
	h := plainHistory(t, raw, first.GetID())
	ids := secret(t, "history", h)
	if ids["a"] < 5 || ids["b"] < 3 || len(ids) != 2 {
		t.Errorf("keys %v", ids)
	}
	texts := 0
	visit(t, h, func(p *commonpb.Payload) {
		out, err := codec.New(held(t, s.ring)).Decode([]*commonpb.Payload{p})
		if err != nil {
			t.Error(err)
		} else if bytes.Contains(out[0].Data, []byte(secretText)) {
			texts++
		}
	})
	if texts < 12 {
		t.Errorf("the text is in %d payloads: the test looks in the wrong places", texts)
	}

	// The old key goes: what it encrypted is lost, and says of which key.
	s.alter(func(k codec.Keyring) (codec.Keyring, error) { return k.Retire("a") })
	late := s.dial()
	var again string
	await(t, "the last key reads the result", func() bool { return late.GetWorkflow(t.Context(), first.GetID(), "").Get(t.Context(), &again) == nil })
	ld, err := late.DescribeWorkflowExecution(t.Context(), first.GetID(), "")
	if err != nil {
		t.Fatal(err)
	}
	err = late.Converter.FromPayload(ld.WorkflowExecutionInfo.Memo.GetFields()["given"], &memo)
	if !fault.Is(err, codec.CodeKeyUnknown) || !strings.Contains(err.Error(), "key a") || !strings.Contains(err.Error(), "fix: put key a back") {
		t.Errorf("of a key that is gone: %v", err)
	}

	// A workflow by a key that the worker does not get yet waits; it does not fail.
	ahead := s.ring
	if ahead, err = ahead.Add("c", true); err != nil {
		t.Fatal(err)
	}
	o := client.Options{HostPort: stack.Temporal(t), Logger: observe.TemporalLogger(observe.NewLogger(io.Discard, 2))}
	codec.New(held(t, ahead)).Apply(&o)
	stranger, err := client.Dial(o)
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	second := start(stranger, "-second")
	await(t, "its task fails", func() bool {
		for _, e := range plainHistory(t, raw, second.GetID()).Events {
			if e.EventType == enumspb.EVENT_TYPE_WORKFLOW_TASK_FAILED {
				return true
			}
		}
		return false
	})
	s.alter(func(codec.Keyring) (codec.Keyring, error) { return ahead, nil })
	if err := stranger.SignalWorkflow(t.Context(), second.GetID(), "", "go", ""); err != nil {
		t.Fatal(err)
	}
	if err := second.Get(t.Context(), &result); err != nil || result != "final "+secretText {
		t.Errorf("result %q, %v", result, err)
	}
	// An update that cannot be read is refused, and holds nobody up.
	third := start(tc, "-third")
	foreign, err := codec.NewKeyring("z")
	if err != nil {
		t.Fatal(err)
	}
	codec.New(held(t, foreign)).Apply(&o)
	other, err := client.Dial(o)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if h, err := other.UpdateWorkflow(t.Context(), client.UpdateWorkflowOptions{WorkflowID: third.GetID(), UpdateName: "tell", Args: []any{"x"}, WaitForStage: client.WorkflowUpdateStageCompleted}); err == nil {
		if err = h.Get(t.Context(), nil); err == nil {
			t.Error("an update by an unknown key is taken")
		}
	}
	if err := tc.SignalWorkflow(t.Context(), third.GetID(), "", "go", ""); err != nil {
		t.Fatal(err)
	}
	if err := third.Get(t.Context(), &result); err != nil {
		t.Error(err)
	}
}

// anew waits for a signal and begins again.
func anew(ctx workflow.Context, runs int, text string) error {
	var signal string // reading it, the worker meets the new key
	workflow.GetSignalChannel(ctx, "go").Receive(ctx, &signal)
	return workflow.NewContinueAsNewError(ctx, "anew", runs+1, text)
}

// A workflow that goes on for years needs only keys of its present run.
func TestContinuedAsNewNeedsNoOldKey(t *testing.T) {
	t.Parallel()
	s := newSafe(t)
	tc, queue := s.dial(), stack.Name(t)
	w := worker.New(tc.Client, queue, worker.Options{})
	w.RegisterWorkflowWithOptions(anew, workflow.RegisterOptions{Name: "anew"})
	if err := w.Start(); err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	run, err := tc.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: queue, TaskQueue: queue, StaticSummary: secretText}, "anew", 0, secretText)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tc.TerminateWorkflow(context.Background(), run.GetID(), "", "end of test") })
	s.alter(func(k codec.Keyring) (codec.Keyring, error) { return k.Add("b", true) })
	newer := s.dial()
	if err := newer.SignalWorkflow(t.Context(), run.GetID(), "", "go", "x"); err != nil {
		t.Fatal(err)
	}
	await(t, "the second run", func() bool {
		d, err := tc.DescribeWorkflowExecution(t.Context(), run.GetID(), "")
		return err == nil && d.WorkflowExecutionInfo.Execution.RunId != run.GetRunID()
	})
	if ids := secret(t, "the second run", plainHistory(t, newer, run.GetID())); ids["a"] != 0 || ids["b"] < 2 {
		t.Errorf("keys %v", ids)
	}
}

func held(t *testing.T, ring codec.Keyring) *codec.Keys {
	t.Helper()
	k, err := codec.HoldKeys(t.Context(), func(context.Context) (string, error) { return ring.Reveal(), nil }, nil)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// output is what a process wrote so far.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// codecServer runs the worker's command, and returns where it is.
func codecServer(t *testing.T, env ...string) (url, metrics string, out *output, end func() int) {
	t.Helper()
	out = &output{}
	cmd := exec.Command(os.Args[0], "codec-server")
	cmd.Env = append([]string{asWorker + "=1", "PATH=" + os.Getenv("PATH"), "SYNCLINE_HTTP_ADDR=127.0.0.1:0", "SYNCLINE_CODEC_ADDR=127.0.0.1:0"}, env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() int {
		ended = true
		_ = cmd.Process.Signal(syscall.SIGTERM)
		return ends(t, cmd)
	}
	t.Cleanup(func() {
		if !ended {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	await(t, "the codec server runs", func() bool {
		if cmd.ProcessState != nil {
			t.Fatalf("ended:\n%s", out)
		}
		for line := range strings.Lines(out.String()) {
			var l struct{ Msg, At, Metrics string }
			if json.Unmarshal([]byte(line), &l) == nil && l.Msg == "codec server runs" {
				url, metrics = l.At, l.Metrics
			}
		}
		return url != ""
	})
	return url, metrics, out, end
}

// The temporal program shows what is encrypted through the codec server, to those who
// may, and encodes for those who may do that.
func TestCodecServerForTemporalCLI(t *testing.T) {
	t.Parallel()
	const reader, writer = "reader-0123456789abcdef0123456789", "writer-0123456789abcdef0123456789"
	cli := stack.TemporalCLI(t)
	s := newSafe(t)
	if _, err := s.kv.Put(t.Context(), "codec", map[string]any{"tokens": `{"tokens": [{"name": "ana", "role": "reader", "token": "` + reader + `"}, {"name": "ci", "role": "writer", "token": "` + writer + `"}]}`}); err != nil {
		t.Fatal(err)
	}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	jwk, err := jwkset.NewJWKFromKey(key.Public(), jwkset.JWKOptions{Metadata: jwkset.JWKMetadataOptions{KID: "k"}})
	if err != nil {
		t.Fatal(err)
	}
	set := jwkset.NewMemoryStorage()
	if err := set.KeyWrite(t.Context(), jwk); err != nil {
		t.Fatal(err)
	}
	public, err := set.JSONPublic(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	jwksFile := filepath.Join(t.TempDir(), "jwks.json")
	if err := os.WriteFile(jwksFile, public, 0o600); err != nil {
		t.Fatal(err)
	}
	login := func(lasts time.Duration, permission string) string {
		tok := jwt.NewWithClaims(jwt.SigningMethodEdDSA, jwt.MapClaims{"iss": "https://login.example/", "aud": "temporal", "sub": "ben", "exp": time.Now().Add(lasts).Unix(), "permissions": []string{permission}})
		tok.Header["kid"] = "k"
		text, err := tok.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	where, _, _ := strings.Cut(strings.TrimPrefix(s.env[3], "SYNCLINE_PAYLOAD_KEYS="), "/payload-keys")
	a := stack.NewAuthority(t)
	cert, certKey := a.Sign("codec.example")
	auth := append([]string{"SYNCLINE_CODEC_TOKENS=" + where + "/codec#tokens", "SYNCLINE_CODEC_JWKS=" + jwksFile, "SYNCLINE_CODEC_JWT_ISSUER=https://login.example/", "SYNCLINE_CODEC_JWT_AUDIENCE=temporal"}, s.env...)
	url, metrics, out, end := codecServer(t, auth...)
	elsewhere, _, _, _ := codecServer(t, append([]string{"SYNCLINE_TEMPORAL_NAMESPACE=elsewhere"}, auth...)...)
	secured, _, _, _ := codecServer(t, append([]string{"SYNCLINE_CODEC_TLS_CERT=" + cert, "SYNCLINE_CODEC_TLS_KEY=" + certKey}, auth...)...)

	// A workflow that nobody works on: its input is all there is.
	tc, id := s.dial(), stack.Name(t)
	run, err := tc.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{ID: id, TaskQueue: id}, "anything", secretText)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tc.TerminateWorkflow(context.Background(), run.GetID(), "", "end of test") })
	temporalCLI := func(args ...string) (string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, cli, append(args, "--address", stack.Temporal(t))...)
		cmd.Env = append(os.Environ(), "SSL_CERT_FILE="+a.File, "HOME="+t.TempDir())
		b, err := cmd.CombinedOutput()
		return string(b), err
	}
	for name, c := range map[string]struct {
		endpoint, auth string
		shows          bool
	}{
		"reader":            {url, "Bearer " + reader, true},
		"by TLS":            {secured, "Bearer " + reader, true},
		"JWT":               {url, "Bearer " + login(time.Hour, "default:read"), true},
		"no token":          {url, "", false},
		"unknown token":     {url, "Bearer " + reader + "x", false},
		"wrong namespace":   {elsewhere, "Bearer " + reader, false},
		"expired JWT":       {url, "Bearer " + login(-time.Hour, "default:read"), false},
		"JWT for another":   {url, "Bearer " + login(time.Hour, "other:admin"), false},
		"no codec endpoint": {"", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			args := []string{"workflow", "show", "--workflow-id", id, "-o", "json"}
			if name != "reader" { // who names none gets the server's
				args = append(args, "--namespace", "default")
			}
			if c.endpoint != "" {
				args = append(args, "--codec-endpoint", c.endpoint)
			}
			if c.auth != "" {
				args = append(args, "--codec-auth", c.auth)
			}
			if !c.shows { // a refusal is tried again until the time is up
				args = append(args, "--command-timeout", "2s")
			}
			text, err := temporalCLI(args...)
			shown := strings.Contains(text, secretText) || strings.Contains(text, base64.StdEncoding.EncodeToString([]byte(`"`+secretText+`"`)))
			if shown != c.shows || c.shows && err != nil {
				t.Errorf("%v:\n%s", err, text)
			}
		})
	}
	begin := func(id, token string) (string, error) {
		return temporalCLI("workflow", "start", "--type", "anything", "--task-queue", id, "--workflow-id", id, "--input", `"`+secretText+`"`, "--codec-endpoint", url, "--codec-auth", "Bearer "+token, "--command-timeout", "5s")
	}
	if text, err := begin(id+"-r", reader); err == nil {
		t.Errorf("a reader encodes: %s", text)
	}
	if text, err := begin(id+"-w", writer); err != nil {
		t.Errorf("%v: %s", err, text)
	} else {
		t.Cleanup(func() { _ = tc.TerminateWorkflow(context.Background(), id+"-w", "", "end of test") })
		secret(t, "what the CLI started", plainHistory(t, tc, id+"-w"))
	}
	res, err := http.Get(metrics)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var m bytes.Buffer
	if _, err := m.ReadFrom(res.Body); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`syncline_codec_requests_total{operation="encode",outcome="refused"} `, `syncline_codec_requests_total{operation="encode",outcome="allowed"} 1`} {
		if !strings.Contains(m.String(), want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if code := end(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	text := out.String()
	for _, s := range []string{secretText, reader, writer, "eyJ"} {
		if strings.Contains(text, s) {
			t.Errorf("the log shows %s:\n%s", s, text)
		}
	}
	for _, want := range []string{`"who":"ana"`, `"who":"ben"`, jwt.ErrTokenExpired.Error(), `"role":"writer"`} {
		if !strings.Contains(text, want) {
			t.Errorf("the log lacks %s:\n%s", want, text)
		}
	}
}

// What would let anybody decrypt keeps the server from starting.
func TestCodecServerRefusesToStart(t *testing.T) {
	ring, err := codec.NewKeyring("a")
	if err != nil {
		t.Fatal(err)
	}
	keys := "RING=" + ring.Reveal()
	for want, c := range map[string]struct {
		code int
		env  []string
	}{
		"SYNCLINE_PAYLOAD_KEYS is not set": {2, []string{"SYNCLINE_CODEC_WITHOUT_AUTH=true"}},
		"nothing says who may decrypt":     {1, []string{keys, "SYNCLINE_PAYLOAD_KEYS=env:RING"}},
		"for 127.0.0.1 alone":              {1, []string{keys, "SYNCLINE_PAYLOAD_KEYS=env:RING", "SYNCLINE_CODEC_WITHOUT_AUTH=true", "SYNCLINE_CODEC_ADDR=0.0.0.0:0"}},
		"PayloadKeyringInvalid":            {1, []string{"RING=nonsense", "SYNCLINE_PAYLOAD_KEYS=env:RING", "SYNCLINE_CODEC_WITHOUT_AUTH=true"}},
	} {
		var out output
		cmd := exec.Command(os.Args[0], "codec-server")
		cmd.Env = append([]string{asWorker + "=1", "SYNCLINE_HTTP_ADDR=127.0.0.1:0"}, c.env...)
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if code := ends(t, cmd); code != c.code || !strings.Contains(out.String(), want) {
			t.Errorf("exit code %d, want %d and %s:\n%s", code, c.code, want, &out)
		}
	}
}
