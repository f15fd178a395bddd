package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"syncline/testsuite/stack"
)

// TestCLIReferenceIsFresh: docs/cli.md is printed from the commands themselves.
func TestCLIReferenceIsFresh(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# The command-line tool

Printed from the tool's own commands; do not edit. To write it again:
` + "`go test ./starter -run CLIReference -update`" + `.

` + "`starter` connects to Temporal only. Output is text for people; with `--json` it is\nexactly one JSON object on standard output, also when the command fails\n(`{\"error\": …, \"code\": …, \"exit\": …}`), and `status --watch --json` prints one a line.\nColour and bars appear on a terminal only, and not if `NO_COLOR` is set.\n\nTLS and API key are those of\n[the connection to Temporal](reference.md#the-connection-to-temporal).\n" + `
| Exit code | Meaning |
|---|---|
| 0 | it worked |
| 1 | it failed: the operation was refused, or ended with an error |
| 2 | invalid input: flags, arguments or the declaration |
| 3 | the environment cannot be reached: Temporal, or no worker answers |
| 4 | ` + "`verify`" + `: a table differs from the source; ` + "`replay`" + `: from the live one; ` + "`repair`" + `: a key could not be repaired; ` + "`audit-trail verify`" + `: a trail is broken |
| 5 | ` + "`verify`" + `: no table differs, and of some it could not be told |

`)
	tl := &tool{getenv: func(string) string { return "" }}
	root := tl.command()
	fmt.Fprintf(&b, "## Flags of all commands\n\n```\n%s```\n", root.PersistentFlags().FlagUsages())
	commands := root.Commands()
	for i := 0; i < len(commands); i++ {
		c := commands[i]
		commands = slices.Insert(commands, i+1, c.Commands()...)
		if !c.IsAvailableCommand() || c.HasSubCommands() || c.Name() == "help" {
			continue
		}
		about := c.Long
		if about == "" {
			about = strings.ToUpper(c.Short[:1]) + c.Short[1:] + "."
		} else if i := strings.Index(about, ":\n\n  "); i >= 0 { // indented lines are code
			about = about[:i+2] + "```\n" + strings.ReplaceAll(about[i+3:], "\n  ", "\n") + "\n```"
			about = strings.Replace(about, "```\n  ", "```\n", 1)
		}
		fmt.Fprintf(&b, "\n## %s\n\n```\n%s\n```\n\n%s\n", strings.TrimPrefix(c.CommandPath(), "starter "), usage(c), about)
		if flags := c.LocalNonPersistentFlags().FlagUsages(); flags != "" {
			fmt.Fprintf(&b, "\n```\n%s```\n", flags)
		}
	}
	golden(t, "../docs/cli.md", b.String())
}

func usage(c *cobra.Command) string { return strings.TrimSuffix(c.UseLine(), " [flags]") }

var (
	cliSection = regexp.MustCompile("(?s)<!-- temporal-cli -->\n+```sh\n(.*?)```")
	continued  = regexp.MustCompile(`\\\n\s*`)
)

// TestPlainTemporalCLI runs the command lines of README's section on the plain
// `temporal` program, as they stand there but for names, with the real program.
func TestPlainTemporalCLI(t *testing.T) {
	t.Parallel()
	cli := stack.TemporalCLI(t)
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	m := cliSection.FindSubmatch(text)
	if m == nil {
		t.Fatal("README has no section marked <!-- temporal-cli -->")
	}
	s := newServer(t)
	s.workers()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"temporal": cli, "starter": self} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	names := strings.NewReplacer(
		"examples/shop.yaml", s.file, "pipeline/shop", "pipeline/"+s.name, "snapshot/shop", "snapshot/"+s.name,
		"audit/shop", "audit/"+s.name, `{"pipeline": "shop"}`, `{"pipeline": "`+s.name+`"}`,
		"syncline-control", s.prefix+"-control")
	var outputs strings.Builder
	seen := map[string]bool{}
	for line := range strings.Lines(continued.ReplaceAllString(string(m[1]), "")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		for _, w := range []string{"workflow start --type Pipeline", "--name apply", "--name pause", "--name resume", "--type status", "workflow execute --type Audit", "workflow execute --type Snapshot", "--name destroy"} {
			seen[w] = seen[w] || strings.Contains(line, w)
		}
		if strings.Contains(line, "resync-table") { // refused while the first load is under way
			s.streams()
		}
		out := shell(t, dir, names.Replace(line))
		outputs.WriteString(out)
		if strings.Contains(line, "--name pause") {
			s.starter("status", s.name).exits(exitOK).says("paused for")
		}
	}
	for _, w := range []string{"workflow start --type Pipeline", "--name pause", "--name resume", "--type status", "workflow execute --type Audit", "workflow execute --type Snapshot", "--name destroy"} {
		if !seen[w] {
			t.Errorf("README shows no %s", w)
		}
	}
	for _, want := range []string{`"phase":"paused"`, `"phase":"`, `"convergence":1`, `"done":true`, `"rows":20`, "removed"} {
		if !strings.Contains(strings.ReplaceAll(outputs.String(), " ", ""), want) {
			t.Errorf("no output has %s:\n%s", want, outputs.String())
		}
	}
	s.until("the end", func(r result) bool { return strings.Contains(r.out, "destroyed") }, "status", s.name)
}

func shell(t *testing.T, dir, line string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "bash", "-euo", "pipefail", "-c", line)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), asStarter+"=1", "PATH="+dir+":"+os.Getenv("PATH"), "TEMPORAL_ADDRESS="+stack.Temporal(t))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", line, err, out)
	}
	return string(out)
}

// TestRunbooksUseTheTool: what runbooks say to type is what the tool takes.
func TestRunbooksUseTheTool(t *testing.T) {
	files, err := filepath.Glob("../docs/runbooks/*.md")
	if err != nil || len(files) < 10 {
		t.Fatalf("%d runbooks, %v", len(files), err)
	}
	values := strings.NewReplacer(`"$PIPELINE"`, "shop", `"$DECLARATION"`, "shop.yaml", `"$TABLE"`, "shop.orders")
	check := func(line string) error {
		root := (&tool{getenv: func(string) string { return "" }}).command()
		words := strings.Fields(values.Replace(line))[1:]
		cmd, rest, err := root.Find(words)
		if err != nil {
			return err
		}
		if cmd == root {
			return fmt.Errorf("no command in %q", line)
		}
		if err := cmd.ParseFlags(rest); err != nil {
			return err
		}
		return cmd.ValidateArgs(cmd.Flags().Args())
	}
	seen := 0
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range regexp.MustCompile(`(?m)^starter .*$`).FindAllString(string(text), -1) {
			seen++
			if err := check(line); err != nil {
				t.Errorf("%s: %s: %v", filepath.Base(f), line, err)
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d commands found", seen)
	}
	for _, wrong := range []string{"starter frobnicate x", "starter status", `starter resync-table "$PIPELINE" "$TABLE" --sinc x`} {
		if check(wrong) == nil {
			t.Errorf("%s is taken", wrong)
		}
	}
}
