package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.temporal.io/sdk/client"
	"golang.org/x/term"

	"syncline/activities/codec"
	"syncline/activities/contract"
	"syncline/activities/frontend"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/starter/view"
)

// tool is one invocation.
type tool struct {
	in          io.Reader
	out, err    io.Writer
	getenv      func(string) string
	lookup      func(string) (string, bool)
	environ     func() []string
	terminal    bool // out is one
	errTerminal bool
	interactive bool // somebody can be asked
	size        func() (width, height int)

	address, namespace, queue string
	json                      bool

	dialBound   time.Duration // how long to wait for Temporal
	workerBound time.Duration // how long to wait for a worker to appear

	at      frontend.Config // once dialled
	secrets *secrets.Resolver
	client  client.Client
}

func newTool(in, out, errw *os.File) *tool {
	is := func(f *os.File) bool { return term.IsTerminal(int(f.Fd())) }
	return &tool{
		in: in, out: out, err: errw, getenv: os.Getenv, lookup: os.LookupEnv, environ: os.Environ,
		terminal: is(out), errTerminal: is(errw), interactive: is(in) && is(errw),
		size: func() (int, int) {
			w, h, err := term.GetSize(int(out.Fd()))
			if err != nil {
				return 100, 40
			}
			return w, h
		},
		dialBound: 10 * time.Second, workerBound: 10 * time.Second,
	}
}

func (t *tool) style() view.Style {
	fancy := t.terminal && t.getenv("NO_COLOR") == ""
	s := view.Style{Color: fancy, Bars: fancy}
	if t.terminal {
		s.Width, s.Height = t.size()
	}
	return s
}

func (t *tool) errStyle() view.Style {
	return view.Style{Color: t.errTerminal && t.getenv("NO_COLOR") == ""}
}

func (t *tool) command() *cobra.Command {
	root := &cobra.Command{
		Use:   "starter",
		Short: "declare, start, steer and watch Syncline pipelines",
		Long: `starter declares, starts, steers and watches Syncline pipelines.

Exit codes: 0 ok, 1 failed, 2 invalid input, 3 environment unreachable;
verify and replay also 4 different, 5 inconclusive; repair and audit-trail verify also 4.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          func(root *cobra.Command, a []string) error { return unknownCommand(root, a) },
		RunE:          func(root *cobra.Command, _ []string) error { return root.Help() },
	}
	root.CompletionOptions.DisableDefaultCmd = true
	root.SetOut(t.out)
	root.SetErr(t.err)
	root.SetFlagErrorFunc(flagError)
	root.SetHelpCommand(&cobra.Command{
		Use: "help [COMMAND]", Short: "explain a command",
		RunE: func(c *cobra.Command, a []string) error {
			found, rest, err := c.Root().Find(a)
			if err != nil || found == nil || found == c.Root() && len(rest) > 0 {
				return unknownCommand(c.Root(), a)
			}
			return found.Help()
		},
	})
	help := root.HelpFunc()
	root.SetHelpFunc(func(c *cobra.Command, a []string) {
		if !t.json {
			help(c, a)
			return
		}
		var b bytes.Buffer
		c.Root().SetOut(&b)
		help(c, a)
		_ = json.NewEncoder(t.out).Encode(map[string]string{"help": b.String()})
	})
	f := root.PersistentFlags()
	f.StringVar(&t.address, "address", t.getenv("SYNCLINE_TEMPORAL_ADDRESS"), "Temporal frontend, `host:port` (SYNCLINE_TEMPORAL_ADDRESS, TEMPORAL_ADDRESS; else 127.0.0.1:7233)")
	f.StringVar(&t.namespace, "namespace", t.getenv("SYNCLINE_TEMPORAL_NAMESPACE"), "Temporal namespace (SYNCLINE_TEMPORAL_NAMESPACE, TEMPORAL_NAMESPACE; else default)")
	f.StringVar(&t.queue, "task-queue-prefix", cmp.Or(t.getenv("SYNCLINE_TASK_QUEUE_PREFIX"), "syncline"), "prefix of the workers' task queues (SYNCLINE_TASK_QUEUE_PREFIX)")
	f.BoolVar(&t.json, "json", t.json, "print one JSON object instead of text")
	root.AddCommand(
		t.validateCommand(), t.schemaCommand(), t.versionCommand(), t.completionCommand(),
		t.planCommand(), t.applyCommand(), t.statusCommand(), t.verifyCommand(), t.repairCommand(), t.trailCommand(), t.reportCommand(), t.costCommand(),
		t.pauseCommand(), t.resumeCommand(),
		t.tablesCommand("add-table", "load tables and deliver them", contract.AddTableUpdate),
		t.tablesCommand("remove-table", "stop delivering tables; their rows stay", contract.RemoveTableUpdate),
		t.tablesCommand("resync-table", "empty tables at the sinks and load them again", contract.ResyncTableUpdate),
		t.snapshotCommand(), t.replayCommand(), t.eraseCommand(), t.rotateCommand(), t.syncCommand(), t.tiersCommand(), t.destroyCommand(), t.payloadKeysCommand(),
	)
	return root
}

func unknownCommand(root *cobra.Command, a []string) error {
	if len(a) == 0 {
		return nil
	}
	var names []string
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() {
			names = append(names, c.Name())
		}
	}
	return invalid("%q is not a command%s (fix: starter help lists them)", a[0], maybe(pipeline.Nearest(a[0], names)))
}

func maybe(near string) string {
	if near == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", near)
}

func flagError(c *cobra.Command, err error) error {
	near := ""
	var unknown *pflag.NotExistError
	if errors.As(err, &unknown) && unknown.GetSpecifiedShortnames() == "" {
		var names []string
		c.Flags().VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near = pipeline.Nearest(unknown.GetSpecifiedName(), names); near != "" {
			near = maybe("--" + near)
		}
	}
	return invalid("%w%s (fix: %s --help lists the flags)", err, near, c.CommandPath())
}

// args checks the number of arguments with an error of the right exit code.
func args(lo, hi int, what string) cobra.PositionalArgs {
	return func(c *cobra.Command, a []string) error {
		if len(a) >= lo && (hi < 0 || len(a) <= hi) {
			return nil
		}
		return invalid("%s takes %s, not %s (fix: %s)", c.Name(), what, view.Plural(len(a), "argument"), strings.TrimSuffix(c.UseLine(), " [flags]"))
	}
}

// timeoutFlag adds --timeout, which bounds how long a command waits for its answer.
func timeoutFlag(cmd *cobra.Command, wait *time.Duration, what string) {
	cmd.Flags().Var(span{wait, time.Second}, "timeout", "how long to wait for "+what)
}

// span is a duration flag that must be above zero: a wait of nothing would fail
// for a reason that nobody gave, and a look without a pause would burden Temporal.
type span struct {
	d   *time.Duration
	low time.Duration
}

func (s span) String() string {
	if s.d == nil {
		return ""
	}
	return s.d.String()
}
func (span) Type() string { return "duration" }
func (s span) Set(v string) error {
	d, err := time.ParseDuration(v)
	if err != nil {
		return errors.New("want a duration such as 30s or 5m")
	}
	if d < s.low {
		return fmt.Errorf("want at least %s", s.low)
	}
	*s.d = d
	return nil
}

func (t *tool) dial(ctx context.Context) (client.Client, error) {
	if t.client != nil {
		return t.client, nil
	}
	if _, _, err := net.SplitHostPort(t.address); t.address != "" && err != nil {
		return nil, invalid("--address is %q, not host:port (fix: name Temporal's frontend, such as 127.0.0.1:7233, with --address or SYNCLINE_TEMPORAL_ADDRESS)", t.address)
	}
	ctx, cancel := context.WithTimeout(ctx, t.dialBound)
	defer cancel()
	options, err := t.options(ctx)
	if err != nil {
		return nil, err
	}
	c, err := client.DialContext(ctx, options)
	if err != nil {
		if text := t.at.Refusal(ctx, err); text != "" {
			return nil, &exitError{exitUnreachable, &plain{text, err}}
		}
		if text := t.away(err); text != "" && ctx.Err() == nil {
			return nil, &exitError{exitUnreachable, &plain{text, err}}
		}
		return nil, unreachable("Temporal at %s does not answer: %s (fix: start it, or say where it is with --address or SYNCLINE_TEMPORAL_ADDRESS)", t.address, short(err.Error()))
	}
	t.client = codec.Client{Client: c, Converter: options.DataConverter}
	return t.client, nil
}

// options finds out how to reach Temporal: flags, Syncline's variables, Temporal's.
func (t *tool) options(ctx context.Context) (client.Options, error) {
	given := frontend.Given{Address: t.address, Namespace: t.namespace}
	if v := t.getenv("SYNCLINE_TEMPORAL_API_KEY"); v != "" {
		var err error
		if given.APIKey, err = secrets.ParseRef(v); err != nil { // not repeated: it may be the key itself
			return client.Options{}, invalid("SYNCLINE_TEMPORAL_API_KEY is not a reference (fix: env:NAME, file:/path or vault:path#field; a key itself goes into TEMPORAL_API_KEY)")
		}
	}
	if v := t.getenv("SYNCLINE_PAYLOAD_KEYS"); v != "" {
		var err error
		if given.PayloadKeys, err = secrets.ParseRef(v); err != nil { // not repeated: it may be the keys themselves
			return client.Options{}, invalid("SYNCLINE_PAYLOAD_KEYS is not a reference (fix: env:NAME, file:/path or vault:path#field, as for the workers)")
		}
	}
	at, err := frontend.Load(t.environ(), given)
	if err != nil {
		return client.Options{}, invalid("%w (fix: correct the environment)", err)
	}
	t.at, t.address, t.namespace = at, at.Address, at.Namespace
	resolver, err := secrets.New(secrets.FromEnv(t.getenv))
	if err != nil {
		return client.Options{}, invalid("%w", err)
	}
	t.secrets = resolver
	options, err := at.Options(ctx, resolver, nil)
	if err != nil {
		return client.Options{}, invalid("%w", err)
	}
	options.Logger = quiet{}
	return options, nil
}

func (t *tool) close() {
	if t.secrets != nil {
		defer t.secrets.Close()
		t.secrets = nil
	}
	if t.client != nil {
		t.client.Close()
		t.client = nil
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
	data, err := t.text("declaration", file)
	if err != nil {
		return nil, err
	}
	return pipeline.Parse(called(file), data, t.lookup)
}

// text reads a file that is something; "-" is standard input.
func (t *tool) text(what, file string) (data []byte, err error) {
	if file == "-" {
		data, err = io.ReadAll(t.in)
	} else {
		data, err = os.ReadFile(file)
	}
	if err != nil {
		return nil, invalid("the %s cannot be read: %w (fix: name a file, or - for standard input)", what, err)
	}
	return data, nil
}

// called is a file's name in messages.
func called(file string) string {
	if file == "-" {
		return "standard input"
	}
	return file
}

// print writes v as one JSON object, or calls text.
func (t *tool) print(v any, text func()) error {
	if !t.json {
		text()
		return nil
	}
	return json.NewEncoder(t.out).Encode(v)
}
