package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"golang.org/x/term"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/starter/view"
)

// tool is one invocation.
type tool struct {
	out, err io.Writer
	getenv   func(string) string
	lookup   func(string) (string, bool)
	terminal bool // out is one
	width    int

	address, namespace, queue string
	json                      bool

	client client.Client
}

func newTool(out, errw *os.File) *tool {
	t := &tool{out: out, err: errw, getenv: os.Getenv, lookup: os.LookupEnv, width: 100}
	if term.IsTerminal(int(out.Fd())) {
		t.terminal = true
		if w, _, err := term.GetSize(int(out.Fd())); err == nil {
			t.width = w
		}
	}
	return t
}

func (t *tool) style() view.Style {
	fancy := t.terminal && t.getenv("NO_COLOR") == ""
	return view.Style{Color: fancy, Bars: fancy, Width: t.width}
}

func (t *tool) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "starter",
		Short: "declare, start, steer and watch Syncline pipelines",
		Long: `starter declares, starts, steers and watches Syncline pipelines.

Exit codes: 0 ok, 1 failed, 2 invalid input, 3 environment unreachable.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &exitError{exitInvalid, err} })
	f := root.PersistentFlags()
	f.StringVar(&t.address, "address", cmp.Or(t.getenv("SYNCLINE_TEMPORAL_ADDRESS"), "127.0.0.1:7233"), "Temporal frontend, host:port (SYNCLINE_TEMPORAL_ADDRESS)")
	f.StringVar(&t.namespace, "namespace", cmp.Or(t.getenv("SYNCLINE_TEMPORAL_NAMESPACE"), "default"), "Temporal namespace (SYNCLINE_TEMPORAL_NAMESPACE)")
	f.StringVar(&t.queue, "task-queue-prefix", cmp.Or(t.getenv("SYNCLINE_TASK_QUEUE_PREFIX"), "syncline"), "prefix of the workers' task queues (SYNCLINE_TASK_QUEUE_PREFIX)")
	f.BoolVar(&t.json, "json", false, "print one JSON object instead of text")
	root.AddCommand(
		t.validateCommand(), t.schemaCommand(), t.versionCommand(),
		t.planCommand(), t.applyCommand(), t.statusCommand(),
		t.pauseCommand(), t.resumeCommand(),
		t.tablesCommand("add-table", "load tables and deliver them", contract.AddTableUpdate),
		t.tablesCommand("remove-table", "stop delivering tables; their rows stay", contract.RemoveTableUpdate),
		t.tablesCommand("resync-table", "empty tables at the sinks and load them again", contract.ResyncTableUpdate),
		t.snapshotCommand(), t.destroyCommand(),
	)
	return root
}

// args checks the number of arguments with an error of the right exit code.
func args(lo, hi int, usage string) cobra.PositionalArgs {
	return func(_ *cobra.Command, a []string) error {
		if len(a) < lo || hi >= 0 && len(a) > hi {
			return invalid("want %s, have %d arguments", usage, len(a))
		}
		return nil
	}
}

// dialBound is how long the tool waits for Temporal.
const dialBound = 10 * time.Second

func (t *tool) dial(ctx context.Context) (client.Client, error) {
	if t.client != nil {
		return t.client, nil
	}
	ctx, cancel := context.WithTimeout(ctx, dialBound)
	defer cancel()
	c, err := client.DialContext(ctx, client.Options{HostPort: t.address, Namespace: t.namespace, Logger: quiet{}})
	if err != nil {
		return nil, unreachable("Temporal at %s: %w (fix: start it, or say where it is with --address or SYNCLINE_TEMPORAL_ADDRESS)", t.address, err)
	}
	t.client = c
	return c, nil
}

func (t *tool) close() {
	if t.client != nil {
		t.client.Close()
	}
}

// quiet keeps the SDK's log lines out of the tool's output.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

// read parses a declaration; "-" is standard input.
func (t *tool) read(file string) (*pipeline.Spec, error) {
	var data []byte
	var err error
	if file == "-" {
		file = "standard input"
		data, err = io.ReadAll(os.Stdin)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, invalid("declaration: %w", err)
	}
	return pipeline.Parse(file, data, t.lookup)
}

// print writes v as one JSON object, or calls text.
func (t *tool) print(v any, text func()) error {
	if !t.json {
		text()
		return nil
	}
	return json.NewEncoder(t.out).Encode(v)
}

// report prints an error the way the output is wanted, and returns the exit code.
func (t *tool) report(err error) int {
	err = t.explain(err)
	code := exitCode(err)
	if errors.Is(err, errSilent) {
		return code
	}
	if !t.json {
		var ps pipeline.Problems
		if errors.As(err, &ps) {
			fmt.Fprintln(t.err, ps.Error())
		} else {
			fmt.Fprintln(t.err, "starter:", err)
		}
		return code
	}
	out := struct {
		Error    string            `json:"error"`
		Code     string            `json:"code,omitempty"`
		Exit     int               `json:"exit"`
		Problems pipeline.Problems `json:"problems,omitempty"`
	}{Error: err.Error(), Exit: code}
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		out.Code = app.Type()
	}
	errors.As(err, &out.Problems)
	_ = json.NewEncoder(t.out).Encode(out)
	return code
}

// explain gives Temporal's errors the words and the exit code of the tool.
func (t *tool) explain(err error) error {
	var app *temporal.ApplicationError
	var missing *serviceerror.NotFound
	var down *serviceerror.Unavailable
	var late *serviceerror.DeadlineExceeded
	switch {
	case errors.As(err, &app):
		return fmt.Errorf("%s: %w", app.Type(), &plain{app.Message(), err})
	case errors.As(err, &missing):
		return fmt.Errorf("no running pipeline of that name (%w)", err)
	case errors.As(err, &down):
		return unreachable("Temporal at %s: %w", t.address, err)
	case errors.As(err, &late), errors.Is(err, context.DeadlineExceeded):
		return unreachable("no answer in time: %w (fix: is a worker with the control role running on task queue %s?)", err, contract.Queue(t.queue, contract.Control))
	}
	return err
}

// plain shows an application error without the SDK's decoration.
type plain struct {
	text string
	err  error
}

func (p *plain) Error() string { return p.text }
func (p *plain) Unwrap() error { return p.err }
