package main

import (
	"bytes"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"syncline/pipeline"
	"syncline/starter/view"
)

func (t *tool) validateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "validate FILE",
		Short: "check a declaration without connecting to anything",
		Long: `validate checks a declaration without connecting to anything and reports all
mistakes at once. With --json it prints the declaration with every default filled
in: {"spec": …}, the input of the Pipeline workflow.`,
		Args: args(1, 1, "one declaration"),
		RunE: func(_ *cobra.Command, a []string) error {
			spec, err := t.read(a[0])
			if err != nil {
				return err
			}
			return t.print(map[string]any{"spec": spec}, func() {
				fmt.Fprintf(t.out, "%s: pipeline %s is valid: %s to %s\n", called(a[0]), spec.Name, spec.Source.Type, view.Plural(len(spec.Sinks), "sink"))
			})
		},
	}
}

func (t *tool) schemaCommand() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "print the JSON Schema of declarations, for editors", Args: args(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(t.out, string(pipeline.JSONSchema()))
			return err
		},
	}
}

// version is set by the linker in releases; else the build's own information serves.
var version = ""

func (t *tool) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: args(0, 0, "no argument"),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version string `json:"version"`
				Commit  string `json:"commit,omitempty"`
				Go      string `json:"go"`
			}{Version: version}
			if info, ok := debug.ReadBuildInfo(); ok {
				v.Go = info.GoVersion
				for _, s := range info.Settings {
					if s.Key == "vcs.revision" {
						v.Commit = s.Value
					}
				}
				if v.Version == "" {
					v.Version = info.Main.Version
				}
			}
			return t.print(v, func() {
				fmt.Fprintln(t.out, strings.Join(slices.DeleteFunc([]string{"syncline starter", v.Version, v.Commit, v.Go}, func(s string) bool { return s == "" }), " "))
			})
		},
	}
}

var shells = []string{"bash", "zsh", "fish", "powershell"}

func (t *tool) completionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "completion SHELL",
		Short: "print a completion script for bash, zsh, fish or powershell",
		Long: `completion prints a completion script:

  bash        source <(starter completion bash)
  zsh         starter completion zsh > "${fpath[1]}/_starter"
  fish        starter completion fish | source
  powershell  starter completion powershell | Out-String | Invoke-Expression`,
		Args:      args(1, 1, "one shell: "+strings.Join(shells, ", ")),
		ValidArgs: shells,
		RunE: func(cmd *cobra.Command, a []string) (err error) {
			var b bytes.Buffer
			root := cmd.Root()
			switch a[0] {
			case "bash":
				err = root.GenBashCompletionV2(&b, true)
			case "zsh":
				err = root.GenZshCompletion(&b)
			case "fish":
				err = root.GenFishCompletion(&b, true)
			case "powershell":
				err = root.GenPowerShellCompletionWithDesc(&b)
			default:
				return invalid("%q is not a shell that completion knows%s (fix: use %s)", a[0], maybe(pipeline.Nearest(a[0], shells)), strings.Join(shells, ", "))
			}
			if err != nil {
				return err
			}
			return t.print(map[string]string{"shell": a[0], "script": b.String()}, func() { _, err = t.out.Write(b.Bytes()) })
		},
	}
}
