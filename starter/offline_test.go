package main

import (
	"context"
	"encoding/json"
	"net"
	"strings"
	"testing"
	"time"

	"syncline/pipeline"
)

const mistakes = `version: 2
name: Shop
source: {type: postgres, dsn: secret-in-the-file}
kafka: {brokres: ["127.0.0.1:9092"]}
sinks: []
tables: ["shop.*"]
`

// Every kind of invalid input has exit code 2, names what is wrong and how to
// repair it, and does so as one JSON object when asked.
func TestInvalidInput(t *testing.T) {
	for _, c := range []struct {
		args string
		says []string
	}{
		{"valdate x", []string{`"valdate" is not a command`, `did you mean "validate"?`, "starter help"}},
		{"frobnicate", []string{`"frobnicate" is not a command (fix: starter help lists them)`}},
		{"help frobnicate", []string{`"frobnicate" is not a command`}},
		{"status shop --wach", []string{"unknown flag: --wach", `did you mean "--watch"?`, "starter status --help"}},
		{"--bogus", []string{"unknown flag: --bogus (fix: starter --help"}},
		{"status shop --every often", []string{`invalid argument "often"`, "starter status --help"}},
		{"status shop --watch --every 0s", []string{`invalid argument "0s"`, "want at least 100ms"}},
		{"pause shop --timeout -1s", []string{`invalid argument "-1s"`, "want at least 1s"}},
		{"status shop --address localhost", []string{`--address is "localhost", not host:port (fix:`}},
		{"validate", []string{"validate takes one declaration, not 0 arguments (fix: starter validate FILE)"}},
		{"status a b", []string{"status takes one pipeline name, not 2 arguments (fix: starter status NAME)"}},
		{"add-table shop", []string{"(fix: starter add-table NAME TABLE…)"}},
		{"version 1", []string{"version takes no argument"}},
		{"validate nowhere.yaml", []string{"nowhere.yaml", "fix: name a file"}},
		{"apply nowhere.yaml", []string{"nowhere.yaml"}},
		{"add-table shop orders", []string{"orders", "fix: name tables as schema.name"}},
		{"completion fsh", []string{`"fsh" is not a shell`, `did you mean "zsh"?`, "bash, zsh, fish, powershell"}},
		{"destroy shop", []string{"nobody can be asked here (fix: add --yes"}},
		{"audit-trail", []string{"audit-trail takes a command (fix: starter audit-trail verify NAME)"}},
		{"audit-trail show shop", []string{`"show" is not a command of audit-trail (fix: starter audit-trail verify NAME)`}},
		{"audit-trail verify", []string{"verify takes one pipeline name, not 0 arguments (fix: starter audit-trail verify NAME)"}},
		{"payload-keys", []string{"payload-keys takes a command", "fix:"}},
		{"payload-keys show", []string{`"show" is not a command of payload-keys`}},
		{"payload-keys add", []string{"no keyring on standard input"}},
		{"payload-keys new --id a/b", []string{`"a/b" is not an id`}},
		{"payload-keys use", []string{"use takes the id of one key"}},
		{"snapshot DECLARATION --sink warehose", []string{`declares no sink "warehose" (fix:`}},
	} {
		t.Run(c.args, func(t *testing.T) {
			args := strings.Fields(strings.ReplaceAll(c.args, "DECLARATION", write(t, "shop.yaml", declaration("shop"))))
			r := starter(t, args...).exits(exitInvalid).says(c.says...)
			if r.out != "" || !strings.HasPrefix(r.err, "starter: ") {
				t.Errorf("an error belongs on standard error: out %q, err %q", r.out, r.err)
			}
			var f failure
			starter(t, append(args, "--json")...).exits(exitInvalid).object(&f)
			if f.Exit != exitInvalid || !strings.Contains(f.Error, c.says[0]) {
				t.Errorf("%+v", f)
			}
		})
	}
}

// All mistakes of a declaration come at once, with their places.
func TestInvalidDeclaration(t *testing.T) {
	file := write(t, "bad.yaml", mistakes)
	for _, command := range []string{"validate", "plan", "apply", "snapshot"} {
		r := starter(t, command, file).exits(exitInvalid).says("bad.yaml:1:", "bad.yaml:2:", "bad.yaml:3:", "brokres", `"brokers"`, "mistakes in the declaration")
		if strings.Contains(r.err, "secret-in-the-file") {
			t.Errorf("what may be a secret is repeated: %s", r.err)
		}
		var f struct {
			Problems pipeline.Problems `json:"problems"`
		}
		starter(t, command, file, "--json").exits(exitInvalid).object(&f)
		if len(f.Problems) < 5 || f.Problems[0].Line != 1 || f.Problems[0].File == "" {
			t.Errorf("problems %+v", f.Problems)
		}
	}
	starter(t, "validate", "../examples/shop.yaml").exits(exitInvalid).says("SYNCLINE_KAFKA_BROKERS")
}

func TestValidate(t *testing.T) {
	file := write(t, "shop.yaml", declaration("shop"))
	starter(t, "validate", file).exits(exitOK).says("pipeline shop is valid: postgres to 2 sinks")
	var out struct{ Spec pipeline.Spec }
	starter(t, "validate", file, "--json").exits(exitOK).object(&out)
	if out.Spec.Name != "shop" || out.Spec.Kafka.Partitions == 0 {
		t.Errorf("defaults are not filled in: %+v", out.Spec)
	}
	call{args: []string{"validate", "-"}, stdin: declaration("piped")}.run(t).exits(exitOK).says("standard input: pipeline piped is valid")
	for _, e := range []string{"minimal", "shop", "full"} {
		call{args: []string{"validate", "../examples/" + e + ".yaml"}, env: map[string]string{"SYNCLINE_KAFKA_BROKERS": "k:9092"}}.run(t).exits(exitOK)
	}
}

func TestWhatNeedsNoServer(t *testing.T) {
	starter(t).exits(exitOK).says("Exit codes: 0 ok, 1 failed, 2 invalid input, 3 environment unreachable", "4 different, 5 inconclusive; repair and audit-trail verify also 4", "resync-table")
	starter(t, "help", "apply").exits(exitOK).says("starter apply FILE", "--timeout")
	starter(t, "apply", "--help", "--json").exits(exitOK).object(nil)
	starter(t, "version").exits(exitOK).says("syncline starter", "go1.")
	var v struct{ Version, Go string }
	starter(t, "version", "--json").exits(exitOK).object(&v)
	if v.Version == "" || v.Go == "" {
		t.Errorf("%+v", v)
	}
	for _, sh := range shells {
		starter(t, "completion", sh).exits(exitOK).says("starter")
		starter(t, "completion", sh, "--json").exits(exitOK).object(nil)
	}
	r := starter(t, "schema").exits(exitOK)
	if !json.Valid([]byte(r.out)) {
		t.Error("the schema is not JSON")
	}
}

// Colour, bars and prompts are for terminals, and NO_COLOR is obeyed.
func TestColourOnTerminalsOnly(t *testing.T) {
	bad := write(t, "bad.yaml", mistakes)
	for _, c := range []struct {
		terminal bool
		env      map[string]string
		want     bool
	}{{true, nil, true}, {false, nil, false}, {true, map[string]string{"NO_COLOR": "1"}, false}} {
		r := call{args: []string{"validate", bad}, terminal: c.terminal, env: c.env}.run(t).exits(exitInvalid)
		if got := strings.Contains(r.err, "\x1b["); got != c.want {
			t.Errorf("terminal %v, environment %v: colour %v", c.terminal, c.env, got)
		}
		tl := &tool{terminal: c.terminal, getenv: func(n string) string { return c.env[n] }, size: func() (int, int) { return 77, 20 }}
		if s := tl.style(); s.Bars != c.want || s.Color != c.want || (s.Width == 77) != c.terminal {
			t.Errorf("terminal %v, environment %v: %+v", c.terminal, c.env, s)
		}
	}
}

// Every command that needs Temporal says within its bound that it is not there.
func TestTemporalUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close()
	file := write(t, "shop.yaml", declaration("shop"))
	for _, args := range [][]string{
		{"plan", file}, {"apply", file}, {"snapshot", file}, {"status", "shop"}, {"status", "shop", "--watch"}, {"pause", "shop"}, {"resume", "shop"},
		{"add-table", "shop", "a.b"}, {"remove-table", "shop", "a.b"}, {"resync-table", "shop", "a.b"}, {"destroy", "shop", "--yes"}, {"verify", "shop"},
		{"repair", "shop", "--plan"}, {"repair", "shop", "--approve", "--hash", "h"}, {"audit-trail", "verify", "shop"},
	} {
		args = append(args, "--address", closed)
		starter(t, args...).exits(exitUnreachable).says("Temporal at "+closed+" does not answer", "fix: start it, or say where it is with --address")
		var f failure
		starter(t, append(args, "--json")...).exits(exitUnreachable).object(&f)
		if f.Exit != exitUnreachable || f.Error == "" {
			t.Errorf("%v: %+v", args, f)
		}
	}
}

// A port that takes connections and never answers is no different.
func TestTemporalSilent(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	call{args: []string{"status", "shop", "--address", l.Addr().String()}, edit: func(tl *tool) { tl.dialBound = 300 * time.Millisecond }}.run(t).
		exits(exitUnreachable).says("does not answer")
}

func TestInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	r := call{args: []string{"status", "shop", "--address", "127.0.0.1:1"}, ctx: ctx}.run(t)
	if r.code == exitOK {
		t.Errorf("%+v", r)
	}
}
