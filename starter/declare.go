package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"

	"syncline/pipeline"
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
				fmt.Fprintf(t.out, "%s: pipeline %s is valid: %s to %d sinks\n", a[0], spec.Name, spec.Source.Type, len(spec.Sinks))
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
				fmt.Fprintf(t.out, "syncline starter %s %s %s\n", v.Version, v.Commit, v.Go)
			})
		},
	}
}
