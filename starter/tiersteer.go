package main

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/pipeline"
	"syncline/starter/view"
)

func (t *tool) listTiersCommand() *cobra.Command {
	wait := time.Minute
	cmd := &cobra.Command{
		Use:   "list NAME",
		Short: "show the tiers' next and last runs, and how well they keep what they promise",
		Long: `list shows of each batch tier of a pipeline when its Schedule runs it next, how its last
run ended, whether it is paused, and by sink what the last run brought: how many changes,
how long the one waited that waited longest, and how many waited for longer than the tier
promises (its period and its jitter). What waits now is shown by sink.`,
		Args: args(1, 1, "a pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			c, err := t.find(ctx, a[0])
			if err != nil {
				return err
			}
			return t.showTiers(ctx, c, a[0])
		},
	}
	timeoutFlag(cmd, &wait, "the answer")
	return cmd
}

func (t *tool) showTiers(ctx context.Context, c client.Client, name string) error {
	v, err := view.GatherTiers(ctx, c, name)
	if err != nil {
		return err
	}
	return t.print(v, func() { v.Draw(t.out, t.style()) })
}

func (t *tool) pauseTierCommand() *cobra.Command {
	reason := ""
	cmd := t.steerTierCommand("pause", "put a tier's runs off: what waits in it goes on waiting", func(ctx context.Context, h client.ScheduleHandle) error {
		note := "paused by " + whoami()
		if reason != "" {
			note += ": " + reason
		}
		return h.Pause(ctx, client.SchedulePauseOptions{Note: note})
	}, `pause puts the runs of a tier's Schedule off, until resume. Changes of the tier go on
waiting in the log, so mind kafka.retention: what expires there is lost to the sinks. A run
of another tier of a table, verification, repair and tiers run still let what waits of the
table take effect.`)
	cmd.Flags().StringVar(&reason, "reason", "", "why, for those who see it: a `TEXT`")
	return cmd
}

func (t *tool) resumeTierCommand() *cobra.Command {
	return t.steerTierCommand("resume", "let a tier's runs go on", func(ctx context.Context, h client.ScheduleHandle) error {
		return h.Unpause(ctx, client.ScheduleUnpauseOptions{Note: "resumed by " + whoami()})
	}, `resume lets the runs of a tier's Schedule go on. The next run brings all that has waited
meanwhile; tiers run brings it now.`)
}

func (t *tool) steerTierCommand(use, what string, do func(context.Context, client.ScheduleHandle) error, long string) *cobra.Command {
	wait := time.Minute
	cmd := &cobra.Command{
		Use: use + " NAME TIER", Short: what, Long: long, Args: args(2, 2, "a pipeline name and a tier"),
		RunE: func(cmd *cobra.Command, a []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			c, err := t.tierOf(ctx, a[0], a[1])
			if err != nil {
				return err
			}
			err = do(ctx, c.ScheduleClient().GetHandle(ctx, contract.TierScheduleID(a[0], a[1])))
			var missing *serviceerror.NotFound
			if errors.As(err, &missing) {
				return failed("tier %s of pipeline %s has no Schedule (fix: starter apply makes it again)", a[1], a[0])
			}
			if err != nil {
				return err
			}
			return t.showTiers(ctx, c, a[0])
		},
	}
	timeoutFlag(cmd, &wait, "the answer")
	return cmd
}

// tierOf makes sure that a pipeline runs and declares a tier.
func (t *tool) tierOf(ctx context.Context, name, tier string) (client.Client, error) {
	c, err := t.find(ctx, name)
	if err != nil {
		return nil, err
	}
	st, err := t.pipelineOf(ctx, c, name)
	if err != nil {
		return nil, err
	}
	if _, ok := st.Spec.Tier(tier); !ok {
		names := st.Spec.TierNames()[1:]
		if len(names) == 0 {
			return nil, failed("pipeline %s declares no tier, so nothing waits (fix: declare tiers and classify, and apply)", name)
		}
		return nil, failed("pipeline %s has no tier %q that waits%s (fix: name one of %s)", name, tier, maybe(pipeline.Nearest(tier, names)), few(names))
	}
	return c, nil
}
