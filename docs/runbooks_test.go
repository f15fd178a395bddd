package docs

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"syncline/analytics/board"
)

var (
	shell = regexp.MustCompile("(?s)(<!-- not run: [^>\n]+ -->\n)?```sh\n(.*?)\n```")
	// programs are those that README tells to install, and what its servers come with.
	programs = regexp.MustCompile(`^(starter|temporal|curl|psql|docker compose|export) `)
)

// Each alert has a runbook and each runbook an alert, with the same parts in the
// same order. What a block of commands may hold is checked here, its use of the tool
// beside the tool, and that it works by an end-to-end test.
func TestRunbooks(t *testing.T) {
	alerts := map[string]board.Alert{}
	for _, a := range board.Alerts(board.Default()) {
		alerts[a.Name] = a
	}
	files, err := filepath.Glob("runbooks/*.md")
	if err != nil {
		t.Fatal(err)
	}
	index := read(t, "runbooks/README.md")
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".md")
		if name == "README" {
			continue
		}
		a, ok := alerts[name]
		if !ok {
			t.Errorf("%s is of no alert", f)
			continue
		}
		text := read(t, f)
		if want := fmt.Sprintf("# %s\n\n*%s, cause %s.* ", a.Name, a.Severity, a.Cause); !strings.HasPrefix(text, want) {
			t.Errorf("%s does not begin with %q", f, want)
		}
		at := 0
		for _, part := range []string{"## What users see", "## Look", "## Fix", "## When it clears"} {
			next := strings.Index(text, "\n"+part+"\n\n")
			if next < at {
				t.Errorf("%s lacks %q, or has it elsewhere", f, part)
			}
			at = next
		}
		look, fix, _ := strings.Cut(text, "## Fix")
		for part, text := range map[string]string{"Look": look, "Fix": fix} {
			if !shell.MatchString(text) {
				t.Errorf("%s has no commands under %q", f, part)
			}
		}
		for _, m := range shell.FindAllStringSubmatch(look, -1) {
			if m[1] != "" || regexp.MustCompile(`(?m)^starter (?:[^st]|s[^t]|t[^i]|tiers [^l])`).MatchString(m[2]) {
				t.Errorf("%s: looking changes nothing, and can be tested:\n%s", f, m[2])
			}
		}
		if !strings.Contains(index, "("+name+".md)") {
			t.Errorf("runbooks/README.md does not list %s", name)
		}
	}
	for name := range alerts {
		if _, err := os.Stat(filepath.Join("runbooks", name+".md")); err != nil {
			t.Errorf("%s has no runbook: %v", name, err)
		}
	}
	for _, f := range files {
		for _, m := range shell.FindAllStringSubmatch(read(t, f), -1) {
			for line := range strings.SplitSeq(m[2], "\n") {
				if !strings.HasPrefix(line, "#") && !programs.MatchString(line) {
					t.Errorf("%s: a command is one line of a known program: %s", f, line)
				}
				if m[1] == "" && strings.HasPrefix(line, "docker ") {
					t.Errorf("%s: the test has no containers: %s", f, line)
				}
			}
		}
	}
}
