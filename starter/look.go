package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/starter/view"
)

func (t *tool) statusCommand() *cobra.Command {
	var watch bool
	every := time.Second
	cmd := &cobra.Command{
		Use: "status NAME", Short: "show what a pipeline does",
		Long: `status shows what a pipeline does: its phase, the tables that load, the changes
that flow, and what is wrong. It reads Temporal only. A pipeline that has ended
is shown as it ended.

With --watch it goes on until interrupted; while Temporal cannot be reached it
says so and tries again.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx := cmd.Context()
			c, err := t.dial(ctx)
			if err != nil {
				return err
			}
			s := t.screen()
			var last *view.View
			for {
				v, err := t.gather(ctx, c, a[0])
				switch {
				case watch && ctx.Err() != nil:
					return nil
				case err != nil && (last == nil || exitCode(t.explain(err)) != exitUnreachable):
					return err
				case err != nil: // it was there before: restarts are what one watches
					t.missed(s, last, t.explain(err))
				default:
					last = v
					if err := t.show(s, v, watch); err != nil {
						return err
					}
				}
				if !watch || last.Closed != "" {
					return nil
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(every):
				}
			}
		},
	}
	cmd.Flags().BoolVar(&watch, "watch", false, "go on until interrupted; with --json one object a line")
	cmd.Flags().Var(span{&every, 100 * time.Millisecond}, "every", "how often to look with --watch")
	return cmd
}

// gatherBound is how long one look may take.
const gatherBound = 15 * time.Second

func (t *tool) gather(ctx context.Context, c client.Client, name string) (*view.View, error) {
	ctx, cancel := context.WithTimeout(ctx, gatherBound)
	defer cancel()
	queue, err := view.Queue(ctx, c, name)
	if errors.Is(err, view.ErrNotFound) {
		return nil, t.unknown(ctx, c, name)
	}
	if err == nil {
		err = t.worker(ctx, c, queue)
	}
	if err != nil {
		return nil, err
	}
	return view.Gather(ctx, c, name)
}

func (t *tool) show(s *screen, v *view.View, watch bool) error {
	if t.json {
		return json.NewEncoder(t.out).Encode(v)
	}
	var b bytes.Buffer
	v.Draw(&b, t.style())
	if watch {
		return s.draw(b.String())
	}
	_, err := t.out.Write(b.Bytes())
	return err
}

// missed shows the last view with the reason why there is no newer one.
func (t *tool) missed(s *screen, last *view.View, err error) {
	if t.json {
		t.reportJSON(t.out, err)
		return
	}
	old := *last
	old.Notes = append([]string{"as of " + time.Since(last.At).Round(time.Second).String() + " ago: " + err.Error()}, old.Notes...)
	_ = t.show(s, &old, true)
}

// screen redraws a view in place. It moves up over what it drew, instead of
// clearing the terminal, so that what was printed before stays.
type screen struct {
	t     *tool
	lines int
}

func (t *tool) screen() *screen { return &screen{t: t} }

func (s *screen) draw(text string) error {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	var b bytes.Buffer
	if !s.t.terminal {
		b.WriteString(text + "\n")
	} else {
		if _, h := s.t.size(); len(lines) >= h {
			lines = lines[:max(h-1, 1)]
		}
		if s.lines > 0 {
			b.WriteString("\x1b[" + strconv.Itoa(s.lines) + "F")
		}
		for _, l := range lines {
			b.WriteString(l + "\x1b[K\n")
		}
		b.WriteString("\x1b[J")
		s.lines = len(lines)
	}
	_, err := s.t.out.Write(b.Bytes())
	return err
}

func (t *tool) pipelineOf(ctx context.Context, c client.Client, name string) (st contract.PipelineStatus, err error) {
	r, err := c.QueryWorkflow(ctx, contract.PipelineID(name), "", contract.StatusQuery)
	if err != nil {
		return st, err
	}
	return st, r.Get(&st)
}
