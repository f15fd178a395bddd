package activities

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
)

// Conditions that a BatchSync cannot begin in.
const (
	// CodeBatchSyncInput: the request contradicts itself, or names what there is not.
	CodeBatchSyncInput fault.Code = "BatchSyncInput"
	// CodeBatchSyncLive: a pipeline keeps a table current, whose newer rows would be
	// written over.
	CodeBatchSyncLive fault.Code = "BatchSyncLive"
)

// PlanBatchSync narrows a declaration to rows of a range of time, to be loaded over what
// is there.
func (a *Activities) PlanBatchSync(ctx context.Context, in contract.BatchSyncInput) (out contract.BatchSyncPlan, err error) {
	err = beating(ctx, func(ctx context.Context) error {
		if err := checkBatchSync(&in); err != nil {
			return err
		}
		srv, err := a.source(ctx, in.Spec.Name, in.Spec.Source)
		if err != nil {
			return err
		}
		defer srv.Close()
		sel, err := choose(ctx, srv, &in.Spec, in.Tables)
		if err != nil {
			return err
		}
		if len(sel.tables) == 0 {
			return fault.Permanent(CodeNoTables, nil, "check tables.include; starter plan lists what it selects", "the declaration selects no table of the source")
		}
		out = contract.BatchSyncPlan{Spec: in.Spec}
		var ask []source.PublishedTable
		for _, t := range sel.tables {
			if t.AppendOnly || len(sel.infos[t.Table].Key) == 0 {
				return fault.Permanent(CodeBatchSyncInput, nil, "name the other tables, or exclude it", "table %s is append-only, or has no primary key: rows that are brought twice would be there twice", t.Table)
			}
			ask = append(ask, source.PublishedTable{ID: t.Table})
			out.Tables = append(out.Tables, t.Table)
		}
		if err := a.notLive(ctx, in.Spec.Name, out.Tables); err != nil {
			return err
		}
		schemas, err := srv.Describe(ctx, ask)
		if err != nil {
			return err
		}
		for _, s := range schemas {
			where, err := between(s, in.Column, in.Since, in.Until)
			if err != nil {
				return err
			}
			out.Spec = out.Spec.Narrowed(s.Table, where)
		}
		out.Spec.Sinks = slices.Clone(out.Spec.Sinks)
		for i := range out.Spec.Sinks {
			out.Spec.Sinks[i].OnExisting = string(sink.KeepRows)
		}
		return nil
	})
	return out, err
}

func checkBatchSync(in *contract.BatchSyncInput) error {
	bad := func(fix, format string, args ...any) error {
		return fault.Permanent(CodeBatchSyncInput, nil, fix, format, args...)
	}
	switch {
	case in.Column == "":
		return bad("name the column that says when a row was changed last", "the sync names no column")
	case in.Since.IsZero() || in.Until.IsZero():
		return bad(`give "since" and "until" as RFC 3339`, "the sync does not say between which times")
	case !in.Since.Before(in.Until):
		return bad("exchange them", "since %s is not before until %s", in.Since.Format(time.RFC3339Nano), in.Until.Format(time.RFC3339Nano))
	}
	for _, n := range in.Sinks {
		if in.Spec.Sink(n) == nil {
			return bad("name one of the declaration's sinks", "the declaration has no sink %q", n)
		}
	}
	return nil
}

// notLive makes sure that the pipeline of the name does not keep one of the tables current.
func (a *Activities) notLive(ctx context.Context, name string, tables []change.TableID) error {
	st, err := a.statusOf(ctx, name)
	if fault.Is(err, CodePipelineMissing) {
		return nil
	}
	if err != nil {
		return err
	}
	if st.Phase == contract.Destroyed || st.Phase == contract.SetupFailed {
		return nil
	}
	for i := range st.Tables {
		if id := st.Tables[i].Table; slices.Contains(tables, id) {
			return fault.Permanent(CodeBatchSyncLive, nil, "nothing need be brought; starter verify tells whether all is there, and starter replay makes another table of a range of the log", "pipeline %s keeps table %s current", name, id)
		}
	}
	return nil
}

// timeTypes are those of a column that a range can be of.
var timeTypes = []string{"timestamptz", "timestamp", "date"}

// between is the condition of rows in a range of time. The source's session is in UTC,
// which a column without a zone is taken to be in.
func between(s *change.Schema, column string, since, until time.Time) (string, error) {
	i := s.Column(column)
	if i < 0 {
		return "", fault.Permanent(CodeBatchSyncInput, nil, "name the tables that have it", "table %s has no column %q", s.Table, column)
	}
	if base := s.Columns[i].Type.Root().Base; !slices.Contains(timeTypes, base) {
		return "", fault.Permanent(CodeBatchSyncInput, nil, "name a column of type "+strings.Join(timeTypes, ", "), "column %q of table %s is of type %s, which is no time", column, s.Table, s.Columns[i].Type.Name)
	}
	name := `"` + strings.ReplaceAll(column, `"`, `""`) + `"`
	const layout = "2006-01-02 15:04:05.999999Z07:00"
	return fmt.Sprintf("%s >= timestamptz '%s' AND %[1]s < timestamptz '%[3]s'", name, since.UTC().Format(layout), until.UTC().Format(layout)), nil
}
