package main

import (
	"strings"
	"testing"

	"go.temporal.io/sdk/temporal"

	"syncline/activities/contract"
)

func TestSync(t *testing.T) {
	t.Parallel()
	s := newServer(t)
	s.workers()
	sync := append([]string{"sync", s.file}, strings.Fields("--column changed_at --since 2026-01-01 --until 2026-01-02T00:00 --table shop.orders --sink warehouse")...)
	s.starter(sync...).exits(exitOK).says("shop.orders → warehouse: 20 rows", "20 rows with changed_at from 2026-01-01T00:00:00Z until 2026-01-02T00:00:00Z")
	if !s.fakes.called(contract.PlanBatchSyncActivity + " 24h0m0s") {
		t.Error(s.fakes.calls)
	}
	var res contract.BatchSyncResult
	s.starter(append(sync, "--json")...).exits(exitOK).object(&res)
	if res.Rows != 20 || len(res.Tables) != 1 || res.Pipeline != s.name {
		t.Errorf("%+v", res)
	}
	s.fakes.set(contract.PlanBatchSyncActivity, temporal.NewNonRetryableApplicationError("it streams", "BatchSyncLive", nil))
	s.starter(sync...).exits(exitFailed).says("BatchSyncLive")
	for _, c := range []struct{ args, want string }{
		{"--since 1h", "by which column"},
		{"--column a", "since when"},
		{"--column a --since never", "which is no time"},
		{"--column a --since 1h --until 2h", "is not before --until"},
		{"--column a --since 1h --sink x", `declares no sink "x"`},
		{"--column a --since 1h --table x", "name a table as schema.name"},
	} {
		s.starter(append([]string{"sync", s.file}, strings.Fields(c.args)...)...).exits(exitInvalid).says(c.want)
	}
}
