package main

import (
	"os"
	"strings"
	"testing"

	"syncline/testsuite/stack"
)

// The tool works with a frontend that wants TLS and a client certificate, by the
// variables of Temporal's own tool; each thing that is missing or wrong is one line.
func TestTemporalWithClientCertificates(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	sec := stack.SecuredTemporal(t, "")
	cert, key := sec.Authority.Sign("client")
	other, otherKey := stack.NewAuthority(t).Sign("client")
	env := map[string]string{
		"TEMPORAL_ADDRESS": sec.Address, "SYNCLINE_TASK_QUEUE_PREFIX": s.prefix, "TEMPORAL_TLS_SERVER_CA_CERT_PATH": sec.Authority.File,
		"TEMPORAL_TLS_CLIENT_CERT_PATH": cert, "TEMPORAL_TLS_CLIENT_KEY_PATH": key,
	}
	call{args: []string{"apply", s.file}, env: env}.run(t).exits(exitOK).says("pipeline " + s.name + " started")
	call{args: []string{"status", s.name}, env: env}.run(t).exits(exitOK)

	profile := write(t, "temporal.toml", "[profile.cloud]\naddress = \""+sec.Address+"\"\n[profile.cloud.tls]\nserver_ca_cert_path = \""+sec.Authority.File+
		"\"\nclient_cert_path = \""+cert+"\"\nclient_key_path = \""+key+"\"\n")
	call{args: []string{"status", s.name}, env: map[string]string{"TEMPORAL_CONFIG_FILE": profile, "TEMPORAL_PROFILE": "cloud"}}.run(t).exits(exitOK)
	call{args: []string{"status", s.name}, env: map[string]string{"TEMPORAL_CONFIG_FILE": profile, "TEMPORAL_PROFILE": "clod"}}.run(t).exits(exitInvalid).says("clod")
	call{args: []string{"status", s.name}, env: map[string]string{"TEMPORAL_CONFIG_FILE": profile + "x"}}.run(t).exits(exitInvalid).says("TEMPORAL_CONFIG_FILE")

	for name, c := range map[string]struct {
		change map[string]string
		code   int
		says   []string
	}{
		"another authority":       {map[string]string{"TEMPORAL_TLS_SERVER_CA_CERT_PATH": stack.NewAuthority(t).File}, exitUnreachable, []string{"is not trusted", "TEMPORAL_TLS_SERVER_CA_CERT_PATH"}},
		"another name":            {map[string]string{"TEMPORAL_TLS_SERVER_NAME": "elsewhere.example"}, exitUnreachable, []string{"is not trusted", "TEMPORAL_TLS_SERVER_NAME"}},
		"no client certificate":   {map[string]string{"TEMPORAL_TLS_CLIENT_CERT_PATH": "", "TEMPORAL_TLS_CLIENT_KEY_PATH": ""}, exitUnreachable, []string{"refuses the TLS connection", "TEMPORAL_TLS_CLIENT_CERT_PATH"}},
		"a stranger's":            {map[string]string{"TEMPORAL_TLS_CLIENT_CERT_PATH": other, "TEMPORAL_TLS_CLIENT_KEY_PATH": otherKey}, exitUnreachable, []string{"refuses the TLS connection"}},
		"no TLS":                  {map[string]string{"TEMPORAL_TLS": "false"}, exitUnreachable, []string{"may want TLS", "TEMPORAL_TLS=true"}},
		"TLS where there is none": {map[string]string{"SYNCLINE_TEMPORAL_ADDRESS": stack.Temporal(t)}, exitUnreachable, []string{"does not speak TLS", "TEMPORAL_TLS=false"}},
		"a file that is missing":  {map[string]string{"TEMPORAL_TLS_CLIENT_KEY_PATH": "/nowhere/key"}, exitInvalid, []string{"/nowhere/key"}},
		"a certificate alone":     {map[string]string{"TEMPORAL_TLS_CLIENT_KEY_PATH": ""}, exitInvalid, []string{"other must be present"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := call{args: []string{"status", s.name}, env: with(env, c.change)}.run(t).exits(c.code).says(c.says...)
			oneLine(t, r)
		})
	}
}

// An API key turns TLS on. Flags go before Syncline's variables, and these before
// Temporal's; no key shows.
func TestTemporalWithAPIKey(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	const right, wrong = "right-6f1c", "wrong-93ab"
	sec := stack.SecuredTemporal(t, right)
	ca, err := os.ReadFile(sec.Authority.File)
	if err != nil {
		t.Fatal(err)
	}
	env := map[string]string{
		"SYNCLINE_TEMPORAL_ADDRESS": sec.Address, "SYNCLINE_TASK_QUEUE_PREFIX": s.prefix, "TEMPORAL_ADDRESS": "127.0.0.1:1", "TEMPORAL_NAMESPACE": "default",
		"TEMPORAL_TLS_SERVER_CA_CERT_DATA": string(ca),
	}
	do := func(change map[string]string, args ...string) result {
		t.Helper()
		r := call{args: args, env: with(env, change)}.run(t)
		if strings.Contains(r.out+r.err, right) || strings.Contains(r.out+r.err, wrong) {
			t.Errorf("%v shows the key: %s%s", args, r.out, r.err)
		}
		return r
	}
	do(map[string]string{"TEMPORAL_API_KEY": right}, "apply", s.file).exits(exitOK).says("started")
	keyFile := write(t, "key", right+"\n")
	do(map[string]string{"SYNCLINE_TEMPORAL_API_KEY": "file:" + keyFile, "TEMPORAL_API_KEY": wrong}, "status", s.name).exits(exitOK)
	do(map[string]string{"SYNCLINE_TEMPORAL_API_KEY": "env:CLOUD_KEY", "CLOUD_KEY": right}, "status", s.name, "--address", sec.Address, "--namespace", "default").exits(exitOK)
	for _, change := range []map[string]string{
		{"TEMPORAL_API_KEY": wrong}, {}, {"SYNCLINE_TEMPORAL_API_KEY": "file:" + write(t, "key", wrong), "TEMPORAL_API_KEY": right},
	} {
		r := do(change, "status", s.name).exits(exitUnreachable).says("refuses access", "check the API key")
		oneLine(t, r)
	}
	do(map[string]string{"SYNCLINE_TEMPORAL_API_KEY": "file:/nowhere/key"}, "status", s.name).exits(exitInvalid).says("file:/nowhere/key")
	do(map[string]string{"SYNCLINE_TEMPORAL_API_KEY": right}, "status", s.name).exits(exitInvalid).says("is not a reference")
	do(map[string]string{"TEMPORAL_API_KEY": right}, "status", s.name, "--address", "127.0.0.1:1").exits(exitUnreachable).says("127.0.0.1:1 does not answer")
}

func with(env, change map[string]string) map[string]string {
	out := map[string]string{}
	for _, m := range []map[string]string{env, change} {
		for name, value := range m {
			out[name] = value
		}
	}
	return out
}

func oneLine(t *testing.T, r result) {
	t.Helper()
	if strings.Count(r.err, "\n") != 1 || r.out != "" {
		t.Errorf("not one line:\n%s%s", r.out, r.err)
	}
}
