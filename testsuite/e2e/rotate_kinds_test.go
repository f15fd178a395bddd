package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/login"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/secrets/target"
	"syncline/secrets/target/servers"
	"syncline/testsuite/stack"
)

// The login to Kafka rotates, too, while capture writes to it and deliveries read from it.
func TestKafkaLoginRotates(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	k := stack.KafkaSecured(t)
	v := r.vault()
	user := strings.ReplaceAll(r.queue, "-", "_")
	v.put("admin", map[string]any{"username": k.User, "password": k.Password})
	v.put("kafka", map[string]any{"username": user + "_a", "password": "first-password-of-a"})
	text := fmt.Sprintf("version: 1\nlogin: %s\npatience: 1m\ntargets:\n- {name: log, type: kafka, brokers: %q, tls: {ca_file: %q}, admin: %s}\n", v.ref("kafka"), strings.Join(k.Brokers, ","), k.CA, v.ref("admin"))
	rot, err := pipeline.ParseRotation("rotation.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	spec := target.Spec{Name: "log", Type: target.Kafka, Brokers: k.Brokers, Mechanism: "scram-sha-512"}
	pem, err := os.ReadFile(k.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	admin, err := servers.Open(spec, login.Login{User: k.User, Password: k.Password}, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := admin.Set(t.Context(), user+"_a", secrets.NewSecret("first-password-of-a")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, u := range []string{user + "_a", user + "_b"} {
			_ = admin.Disable(context.Background(), u)
		}
	})
	r.seedShop(0.05)
	r.start()
	p := r.pipe(strings.Replace(declaration, `kafka: {`, fmt.Sprintf(`kafka: {sasl: {mechanism: scram-sha-512, login: "%s"}, tls: {ca_file: %q}, `, v.ref("kafka"), k.CA), 1) + fewTables)
	p.spec.Kafka.Brokers = k.Brokers
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	before := r.attempts(p)
	stop := r.load(150)
	for n := range 3 {
		in := contract.RotateInput{Rotation: *rot, Who: "test"}
		if n == 0 {
			in.Init = user + "_b"
		}
		res := v.rotate(in)
		if res.Outcome != contract.RotatedOutcome || len(res.Uses) != 1 || res.Uses[0].End != "kafka" {
			t.Fatalf("%+v", res)
		}
		old := v.get("kafka/" + string(res.From.Slot))
		if _, err := admin.Try(t.Context(), old["username"].(string), secrets.NewSecret(old["password"].(string))); err == nil {
			t.Errorf("%s can still log in", old["username"])
		}
		t.Logf("rotation %d in %.1f s", n, res.Ended.Sub(res.Began).Seconds())
	}
	stop()
	p.equal(fewTablesIs)
	if after := r.attempts(p); after != before {
		t.Errorf("attempts of the stream before: %s, after: %s", before, after)
	}
	p.nowhere(v.values("kafka/a", "kafka/b"), contract.RotationID(rot.Login), contract.PipelineID(p.name), contract.StreamID(p.name))
}

// The login to ClickHouse rotates in two regions, of a sink and of analytics. One region fails
// while the password is set, and later is cut off: nothing is revoked anywhere until it is
// back, or an operator declares it gone.
func TestClickHouseLoginRotates(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	v := r.vault()
	rot := pipeline.Rotation{}
	var broken atomic.Pointer[func(phase contract.RotationPhase, statement string) int]
	regions := map[string]*stack.Users{}
	declared := fmt.Sprintf("version: 1\nlogin: %s\npatience: 20s\ntargets:\n", v.ref("lake"))
	for _, name := range []string{"here", "there"} {
		u := stack.NewUsers(t, r.clickURL, "boss", "boss-password")
		u.Put("a", "first-password-of-a")
		u.Put("b", "nobody-knows-it")
		regions[name] = u
		at := mustURL(t, u.URL)
		declared += fmt.Sprintf("- {name: %s, type: clickhouse, protocol: http, host: %s, port: %s, admin: %s}\n", name, at.Hostname(), at.Port(), v.ref("admin"))
	}
	here, there := regions["here"], regions["there"]
	there.Break = func(statement string) int {
		if f := broken.Load(); f != nil {
			return (*f)(v.known(rot.Login).Phase, statement)
		}
		return 0
	}
	parsed, err := pipeline.ParseRotation("rotation.yaml", []byte(declared))
	if err != nil {
		t.Fatal(err)
	}
	rot = *parsed
	v.put("admin", map[string]any{"username": "boss", "password": "boss-password"})
	v.put("lake", map[string]any{"username": "a", "password": "first-password-of-a"})
	at := mustURL(t, here.URL)
	at.Path = "/"
	r.env = append(r.env, "E2E_ANALYTICS="+at.String(), "SYNCLINE_ANALYTICS=env:E2E_ANALYTICS", "SYNCLINE_ANALYTICS_LOGIN="+v.ref("lake"), "SYNCLINE_ANALYTICS_DATABASE="+r.clickDB)
	r.seedShop(0.05)
	r.start()
	p := r.pipe(strings.Replace(declaration, `dsn: "env:E2E_CLICKHOUSE"`, fmt.Sprintf(`host: %s, port: %s, database: "${DATABASE}", login: "%s"`, at.Hostname(), at.Port(), v.ref("lake")), 1) + fewTables)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	before := r.attempts(p)
	stop := r.load(150)
	in := contract.RotateInput{Rotation: rot, Who: "test", Init: "b"}
	// force holds that a user is in force in a region, and who else can log in there.
	force := func(what, user string, generation int64, both ...string) {
		t.Helper()
		pointer := v.get("lake")
		if fmt.Sprint(pointer["generation"]) != fmt.Sprint(generation) || pointer["lock"] != nil && len(both) == 0 {
			t.Errorf("%s: the pointer is %v", what, pointer)
		}
		for region, u := range regions {
			for _, slot := range []string{"a", "b"} {
				s := v.get("lake/" + slot)
				name, password := s["username"].(string), s["password"].(string)
				if can := u.Allows(name, password); can != (name == user || slices.Contains(both, region)) {
					t.Errorf("%s: %s can log in %s: %v", what, name, region, can)
				}
			}
		}
	}
	if res := v.rotate(in); res.Outcome != contract.RotatedOutcome || len(res.Uses) != 2 {
		t.Fatalf("%+v", res)
	}
	force("rotated", "b", 2)

	// The new user lacks what analytics need.
	here.Deny("a", "CREATE VIEW")
	ctx, cancel := context.WithTimeout(t.Context(), bound)
	defer cancel()
	if err := v.begin(in).Get(ctx, nil); err == nil || !strings.Contains(err.Error(), contract.ConsumerFailedError) || !strings.Contains(err.Error(), "GRANT CREATE VIEW ON `"+r.clickDB+"`.* TO `a`") {
		t.Errorf("without a right it ended with %v", err)
	}
	here.Grant("a", "CREATE VIEW")
	force("a right is lacking", "b", 2)

	// The second region fails at the statement, when the first has the new password.
	set := func(phase contract.RotationPhase, statement string) int {
		if phase == contract.RotationSetting && strings.HasPrefix(statement, "ALTER USER") {
			return 243
		}
		return 0
	}
	broken.Store(&set)
	if err := v.begin(in).Get(ctx, nil); err == nil || !strings.Contains(err.Error(), contract.RotationFailedError) || !strings.Contains(err.Error(), "there") {
		t.Errorf("a partial setting ended with %v", err)
	}
	broken.Store(nil)
	force("set in part", "b", 2)

	// It is cut off once the pointer has moved.
	off := func(phase contract.RotationPhase, _ string) int {
		if phase == contract.RotationAdopting || phase == contract.RotationRevoking {
			return stack.Cut
		}
		return 0
	}
	waits := func(run client.WorkflowRun) {
		t.Helper()
		until(t, bound, "the rotation waits for the region", func(context.Context) error {
			if st := v.status(rot.Login); st.Run != run.GetRunID() || st.To.Generation == 0 || !strings.Contains(st.Held, "target there") {
				return fmt.Errorf("it is %s, held by %q: %v", st.Phase, st.Held, st.Failure)
			}
			return nil
		})
	}
	broken.Store(&off)
	run := v.begin(in)
	waits(run)
	force("cut off", "a", 3, "here", "there")
	broken.Store(nil)
	if err := run.Get(ctx, nil); err != nil {
		t.Errorf("back again: %v", err)
	}
	force("back again", "a", 3)

	broken.Store(&off)
	run = v.begin(in)
	waits(run)
	if err := v.update(rot.Login, contract.DeclareGoneUpdate, "target/there"); err != nil {
		t.Fatal(err)
	}
	var res contract.Rotated
	if err := run.Get(ctx, &res); err != nil || !strings.Contains(strings.Join(res.Left, " "), "target there") {
		t.Errorf("declared gone: %v, left is %v", err, res.Left)
	}
	force("declared gone", "b", 4, "there")
	broken.Store(nil)
	if res := v.rotate(in); res.Outcome != contract.RotatedOutcome {
		t.Errorf("%+v", res)
	}
	force("the one after", "a", 5)

	stop()
	p.equal(fewTablesIs)
	if after := r.attempts(p); after != before {
		t.Errorf("attempts of the stream before: %s, after: %s", before, after)
	}
	r.neverRefused()
	const ended = "SELECT count() FROM {db}.rotations WHERE step = 'end' AND result = 'ok'"
	until(t, bound, "the rotations are on record", r.recordedAtLeast(4, ended))
	if n := r.sum(ended); n != 4 {
		t.Errorf("%d rotations are on record, want 4", n)
	}
	p.nowhere(v.values("lake/a", "lake/b"), contract.RotationID(rot.Login), contract.PipelineID(p.name), contract.StreamID(p.name))
}
