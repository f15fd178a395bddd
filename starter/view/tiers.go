package view

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
)

// Tiers are a pipeline's batch tiers at one moment.
type Tiers struct {
	Pipeline string    `json:"pipeline"`
	Tiers    []TierAt  `json:"tiers"`
	Sinks    []SinkLag `json:"sinks"`
	At       time.Time `json:"at"`
}

// TierAt is a tier and its Schedule.
type TierAt struct {
	Name     string     `json:"name"`
	Schedule string     `json:"schedule"`
	Every    string     `json:"every"`
	Promise  string     `json:"promise"` // how long a change waits at most
	Missing  bool       `json:"missing,omitempty"`
	Paused   bool       `json:"paused,omitempty"`
	Note     string     `json:"note,omitempty"` // of the Schedule: who paused it, and why
	Next     time.Time  `json:"next,omitzero"`
	Last     time.Time  `json:"last,omitzero"` // when the last run began
	LastRun  string     `json:"last_run,omitempty"`
	Outcome  string     `json:"outcome,omitempty"` // of that
	Fresh    []TierSink `json:"fresh"`
}

// TierSink is how well a tier keeps its promise at a sink.
type TierSink struct {
	Sink string `json:"sink"`
	contract.TierWait
}

// SinkLag is what waits at a sink, in all tiers together.
type SinkLag struct {
	Sink  string    `json:"sink"`
	Waits int64     `json:"waits"`
	Since time.Time `json:"since,omitzero"`
}

// GatherTiers asks Temporal for a pipeline's tiers, their Schedules and what waits.
func GatherTiers(ctx context.Context, c client.Client, name string) (*Tiers, error) {
	v, err := Gather(ctx, c, name)
	if err != nil {
		return nil, err
	}
	out := &Tiers{Pipeline: name, Tiers: []TierAt{}, Sinks: []SinkLag{}, At: v.At}
	for _, t := range v.Status.Spec.Tiers {
		at := TierAt{Name: t.Name, Schedule: contract.TierScheduleID(name, t.Name), Every: t.Every.String(), Promise: (t.Every.Std() + t.Jitter.Std()).String(), Fresh: []TierSink{}}
		if err := at.scheduled(ctx, c); err != nil {
			return nil, err
		}
		for _, s := range v.Sinks {
			if w, ok := s.Tiers[t.Name]; ok {
				at.Fresh = append(at.Fresh, TierSink{s.Name, w})
			}
		}
		out.Tiers = append(out.Tiers, at)
	}
	for _, s := range v.Sinks {
		out.Sinks = append(out.Sinks, SinkLag{s.Name, s.Waits, s.WaitsSince})
	}
	return out, nil
}

func (t *TierAt) scheduled(ctx context.Context, c client.Client) error {
	d, err := c.ScheduleClient().GetHandle(ctx, t.Schedule).Describe(ctx)
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		t.Missing = true
		return nil
	}
	if err != nil {
		return err
	}
	t.Paused, t.Note = d.Schedule.State.Paused, d.Schedule.State.Note
	if len(d.Info.NextActionTimes) > 0 && !t.Paused {
		t.Next = d.Info.NextActionTimes[0].UTC()
	}
	if n := len(d.Info.RecentActions); n > 0 {
		last := d.Info.RecentActions[n-1]
		t.Last = last.ActualTime.UTC()
		if run := last.StartWorkflowResult; run != nil {
			t.LastRun = run.WorkflowID
			if w, err := c.DescribeWorkflowExecution(ctx, run.WorkflowID, run.FirstExecutionRunID); err == nil { // it may be forgotten
				t.Outcome = outcome(w.WorkflowExecutionInfo.Status)
			}
		}
	}
	return nil
}

func outcome(s enumspb.WorkflowExecutionStatus) string { return strings.ToLower(s.String()) }

// Draw writes the tiers for a person.
func (v *Tiers) Draw(w io.Writer, s Style) {
	c := canvas{w, s}
	if len(v.Tiers) == 0 {
		c.line("pipeline " + v.Pipeline + " declares no tier: nothing waits")
		return
	}
	var rows [][]string
	for _, t := range v.Tiers {
		row := []string{t.Name, t.Every, t.Promise, "", "never", ""}
		if !t.Next.IsZero() {
			row[3] = "in " + age(t.Next.Sub(v.At))
		}
		if !t.Last.IsZero() {
			row[4] = strings.TrimSpace(age(v.At.Sub(t.Last)) + " ago " + t.Outcome)
		}
		switch {
		case t.Missing:
			row[5] = s.Paint(red, "no schedule: starter apply makes it")
		case t.Paused:
			row[5] = s.Paint(yellow, "paused")
			if t.Note != "" {
				row[5] += ": " + t.Note
			}
		default:
			row[5] = s.Paint(green, "scheduled")
		}
		rows = append(rows, row)
	}
	table(c, []string{"tier", "every", "promise", "next run", "last run", "state"}, rows)
	rows = nil
	for _, t := range v.Tiers {
		for _, f := range t.Fresh {
			row := []string{t.Name, f.Sink, "", "", "", "", ""}
			if f.Waits > 0 {
				row[5] = fmt.Sprintf("%s, for %s", Count(float64(f.Waits)), age(v.At.Sub(f.Since)))
			}
			if !f.At.IsZero() {
				row[2], row[3], row[4] = Count(float64(f.Changes)), age(time.Duration(f.Longest*float64(time.Second))), Count(float64(f.Late))
				if f.Late > 0 {
					row[4] = s.Paint(yellow, row[4])
				}
			}
			if f.Overdue > 0 {
				row[6] = s.Paint(red, "late by "+age(time.Duration(f.Overdue*float64(time.Second))))
			}
			rows = append(rows, row)
		}
	}
	if len(rows) > 0 {
		c.line("")
		table(c, []string{"tier", "sink", "last brought", "waited at most", "too late", "waits", "now"}, rows)
	}
	c.line("")
	for _, k := range v.Sinks {
		text := "nothing waits"
		if k.Waits > 0 {
			text = fmt.Sprintf("%s, for %s", Plural(int(k.Waits), "change")+" waiting", age(v.At.Sub(k.Since)))
		}
		c.line("  " + k.Sink + ": " + text)
	}
}
