package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
	"go.temporal.io/sdk/client"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/starter/view"
)

// proof is what is left of an erasure: what was found where before and after, and the
// salt, with which who knows a key can tell that it is meant.
type proof struct {
	Salt string `json:"salt,omitempty"`
	contract.EraseResult
}

// erasure is a command line of erase.
type erasure struct {
	contract.EraseInput
	table   string
	key     []string
	file    string
	proof   string
	verify  string
	keysRef string
}

func (t *tool) eraseCommand() *cobra.Command {
	var in erasure
	wait := time.Hour
	cmd := &cobra.Command{
		Use:   "erase NAME --table TABLE --key COLUMN=VALUE --reason TEXT",
		Short: "remove every trace of one subject's rows from all sinks, and prove it",
		Long: `erase removes rows, named by their primary keys, from every sink for good: older versions
and tombstones too, and what Syncline's ledgers have of them (changes set aside, findings,
repairs). The rows have to be gone at the source first, or they would come back. Then the
log is searched: its records are not removed, and it is said until when they stay. Rows of
an append-only table are named by any columns, and go from aggregates that are by these.

Keys are encrypted before they leave this program; Temporal's history has nothing that tells
them, and once the erasure is over nothing that could decrypt them is left. --file names
more rows, of any tables: a YAML list of {table: schema.name, key: {column: value}}. With
--keys the workers read keys and salt themselves, from Vault, a file or a variable of theirs.

The proof is written to a file: what was searched how, what was found before and after, and
keyed digests in place of keys. --verify PROOF, with the same rows, searches again: when the
log's retention has passed, nothing is to be left. --dry-run only says what is where.

The exit code is 4 if something is left which does not go by itself.`,
		Args: args(1, 1, "one pipeline name"),
		RunE: func(cmd *cobra.Command, a []string) error {
			in.Pipeline = a[0]
			keys, before, err := in.read()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), wait)
			defer cancel()
			res, err := t.erase(ctx, &in, keys)
			if err != nil {
				return err
			}
			out := &proof{keys.Salt, *res}
			if before != nil {
				if err := sameSubject(before, out); err != nil {
					return err
				}
			}
			if !in.Search {
				if err := out.write(in.proof); err != nil {
					return err
				}
			}
			err = t.print(out, func() { t.drawErased(out, &in) })
			if err == nil && !in.Search && out.stays() > 0 || err == nil && before != nil && out.Left > 0 {
				return &exitError{exitDifferent, errSilent}
			}
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&in.table, "table", "", "the table, `schema.name` as at the source")
	f.StringArrayVar(&in.key, "key", nil, "a column of its primary key and the row's value in it, as `COLUMN=VALUE`; once for each column. Of an append-only table any columns")
	f.StringVar(&in.file, "file", "", "read the rows from a YAML `FILE`")
	f.StringVar(&in.keysRef, "keys", "", "where the workers find rows and salt, as a `REFERENCE` such as vault:secret/erase#keys")
	f.StringVar(&in.Reason, "reason", "", "why, for the record: a `TEXT` without personal data, such as a ticket's number")
	f.StringVar(&in.Who, "who", whoami(), "who asks for it, for the record")
	f.Lookup("who").DefValue = "you, at this machine"
	f.StringVar(&in.proof, "proof", "", "write the proof to `FILE` (default: erase-NAME-TIME.json here)")
	f.StringVar(&in.verify, "verify", "", "search again for what the proof in `FILE` is of")
	f.BoolVar(&in.Search, "dry-run", false, "only say where something is")
	timeoutFlag(cmd, &wait, "the erasure; it goes on after it")
	return cmd
}

// read checks what can be told without asking anybody, and reads the rows.
func (in *erasure) read() (keys contract.EraseKeys, before *proof, err error) {
	if in.verify != "" {
		in.Search = true
		b, err := os.ReadFile(in.verify)
		if err == nil {
			before = new(proof)
			err = json.Unmarshal(b, before)
		}
		if err != nil {
			return keys, nil, invalid("--verify %s cannot be read: %w (fix: name the file that an erasure has written)", in.verify, err)
		}
		if before.Pipeline != in.Pipeline {
			return keys, nil, invalid("the proof in %s is of pipeline %s, not %s (fix: name that pipeline)", in.verify, before.Pipeline, in.Pipeline)
		}
	}
	if !in.Search && strings.TrimSpace(in.Reason) == "" {
		return keys, nil, invalid("erase does not say why (fix: --reason TEXT, without personal data: it stays in the record)")
	}
	given := 0
	for _, is := range []bool{in.table != "" || len(in.key) > 0, in.file != "", in.keysRef != ""} {
		if is {
			given++
		}
	}
	if given != 1 {
		return keys, nil, invalid("erase takes rows in one of three ways (fix: --table TABLE --key COLUMN=VALUE, --file FILE, or --keys REFERENCE)")
	}
	if in.keysRef != "" {
		if err := in.Keys.UnmarshalText([]byte(in.keysRef)); err != nil {
			return keys, nil, invalid("--keys: %w", err)
		}
		return keys, before, nil
	}
	if keys.Salt = rand.Text(); before != nil {
		keys.Salt = before.Salt
	}
	if in.file != "" {
		b, err := os.ReadFile(in.file)
		if err != nil {
			return keys, nil, invalid("--file %s cannot be read: %w (fix: name a file that exists and that you may read)", in.file, err)
		}
		if err := yaml.UnmarshalWithOptions(b, &keys.Rows, yaml.Strict()); err != nil || len(keys.Rows) == 0 {
			// The error quotes the file.
			return keys, nil, invalid("--file %s is no list of rows (fix: - {table: schema.name, key: {column: \"value\"}})", in.file)
		}
		return keys, before, nil
	}
	id, err := change.ParseTableID(in.table)
	if err != nil {
		return keys, nil, invalid("--table: %w (fix: name a table as schema.name, with double quotes around parts that hold a dot)", err)
	}
	row := contract.EraseRow{Table: id, Key: map[string]string{}}
	for _, k := range in.key {
		column, value, ok := strings.Cut(k, "=")
		if _, twice := row.Key[column]; !ok || column == "" || twice {
			return keys, nil, invalid("--key is not COLUMN=VALUE, or names a column twice (fix: --key id=42, once for each column of the primary key)")
		}
		row.Key[column] = value
	}
	if len(row.Key) == 0 {
		return keys, nil, invalid("erase does not say which row (fix: --key COLUMN=VALUE, once for each column of the primary key)")
	}
	keys.Rows = []contract.EraseRow{row}
	return keys, before, nil
}

// erase runs the workflow, and hands it the keys when it asks for them.
func (t *tool) erase(ctx context.Context, in *erasure, keys contract.EraseKeys) (*contract.EraseResult, error) {
	c, err := t.find(ctx, in.Pipeline)
	if err != nil {
		return nil, err
	}
	queue, err := view.Queue(ctx, c, in.Pipeline)
	if err != nil {
		return nil, err
	}
	id := contract.EraseID(in.Pipeline, nonce())
	what := "erasure"
	if in.Search {
		what = "search for a subject"
	}
	run, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: id, TaskQueue: queue, StaticSummary: what + " in " + in.Pipeline}, contract.EraseWorkflow, in.EraseInput)
	if err != nil {
		return nil, err
	}
	if in.Keys.IsZero() {
		if err := hand(ctx, c, run, keys); err != nil {
			return nil, err
		}
	}
	var res contract.EraseResult
	err = t.await(ctx, run, &res, func(_ context.Context, b *bytes.Buffer) error {
		fmt.Fprintf(b, "workflow %s is at it\n", id)
		return nil
	})
	if err != nil {
		return nil, unended(ctx, ctx.Err() != nil, err, "erasure", "no proof", id, time.Hour)
	}
	return &res, nil
}

// hand encrypts the keys for the erasure, once it waits for them.
func hand(ctx context.Context, c client.Client, run client.WorkflowRun, keys contract.EraseKeys) error {
	for {
		v, err := c.QueryWorkflow(ctx, run.GetID(), run.GetRunID(), contract.StatusQuery)
		if err != nil {
			return err
		}
		var st contract.EraseResult
		if err := v.Get(&st); err != nil {
			return err
		}
		if st.Waits {
			sealed, err := contract.SealKeys(st.Public, keys)
			if err != nil {
				return err
			}
			h, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{WorkflowID: run.GetID(), RunID: run.GetRunID(), UpdateName: contract.KeysUpdate,
				WaitForStage: client.WorkflowUpdateStageCompleted, Args: []any{sealed}})
			if err != nil {
				return err
			}
			return h.Get(ctx, nil)
		}
		d, err := c.DescribeWorkflowExecution(ctx, run.GetID(), run.GetRunID())
		if err != nil {
			return err
		}
		if d.WorkflowExecutionInfo.CloseTime != nil {
			return nil // it says why itself
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// sameSubject makes sure that a proof is of the rows that were searched for.
func sameSubject(was, is *proof) error {
	digests := func(p *proof) (out []string) {
		for _, t := range p.Plan.Tables {
			for _, d := range t.Digests {
				out = append(out, t.Table.String()+" "+d)
			}
		}
		slices.Sort(out)
		return out
	}
	if !slices.Equal(digests(was), digests(is)) {
		return failed("the proof is of other rows than those that were named (fix: name those that were erased)")
	}
	return nil
}

// stays counts what was found afterwards and has no end.
func (p *proof) stays() (n int64) {
	for _, pl := range p.Places {
		if pl.Until.IsZero() {
			n += pl.After
		}
	}
	return n
}

func (p *proof) write(file string) error {
	if file == "" {
		file = "erase-" + p.Pipeline + "-" + p.Began.Format("20060102T150405") + ".json"
	}
	b, err := json.MarshalIndent(p, "", "  ")
	if err == nil {
		err = os.WriteFile(file, append(b, '\n'), 0o600)
	}
	if err != nil {
		return failed("the erasure %s is done, and its proof cannot be written to %s: %w (fix: erase once more, with --proof FILE)", p.Erasure, file, err)
	}
	return nil
}

func (t *tool) drawErased(p *proof, in *erasure) {
	s := t.style()
	for _, tab := range p.Plan.Tables {
		text := fmt.Sprintf("%s: %s", tab.Table, view.Plural(tab.Keys, "key"))
		if tab.AtSource > 0 {
			text += ", " + s.Paint("31", fmt.Sprintf("%d still at the source: delete them there first", tab.AtSource))
		}
		fmt.Fprintln(t.out, text)
		for _, a := range tab.Aggregates {
			what := "their groups of the key are of the subject"
			if !a.ByKey {
				what = "they are by other columns than the key, and stay: the subject may be counted in sums, and no row of it is in them"
			}
			view.Wrapped(t.out, s, "  ", fmt.Sprintf("aggregates of tier %s: %s", a.Tier, what))
		}
	}
	for _, pl := range p.Places {
		if pl.Sums {
			view.Wrapped(t.out, s, "  "+pl.Sink+"  ", pl.Place+": "+pl.Stays)
			continue
		}
		if pl.Before == 0 && pl.After == 0 && pl.Newer == 0 {
			continue
		}
		at := pl.Sink
		if at == "" {
			at = "log"
		}
		text := fmt.Sprintf("%s: %d found", pl.Place, pl.Before)
		if !p.Search {
			text = fmt.Sprintf("%s: %d found, %d after it", pl.Place, pl.Before, pl.After)
		}
		if pl.Newer > 0 {
			text += fmt.Sprintf(", %d newer", pl.Newer)
		}
		if pl.Stays != "" && (pl.After > 0 || !pl.Until.IsZero()) {
			text += "; " + pl.Stays
		}
		if !pl.Until.IsZero() {
			text += ", until " + pl.Until.Format(time.RFC3339)
		}
		view.Wrapped(t.out, s, "  "+at+"  ", text)
	}
	searched := 0
	for _, pl := range p.Places {
		if pl.Before == 0 && pl.After == 0 && !pl.Sums {
			searched++
		}
	}
	fmt.Fprintf(t.out, "  %s searched and nothing found\n", view.Plural(searched, "other place"))
	fmt.Fprintf(t.out, "not reached: backups, standbys and logs of the servers\n")
	switch {
	case p.Left == 0:
		fmt.Fprintln(t.out, "nothing is left")
	case !p.Until.IsZero() && p.stays() == 0:
		fmt.Fprintf(t.out, "%s left, the last until %s\n", view.Plural(int(p.Left), "record"), p.Until.Format(time.RFC3339))
	default:
		fmt.Fprintf(t.out, "%s left\n", view.Plural(int(p.Left), "trace"))
	}
	if !p.Search {
		fmt.Fprintf(t.out, "search again then: starter erase %s --verify PROOF, with the same rows\n", in.Pipeline)
	}
}
