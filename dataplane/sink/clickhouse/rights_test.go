package clickhouse

import (
	"strings"
	"testing"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Everything that is asked for is known to the server, and nothing is left in the
// ledger. The stack's ClickHouse has no logins; what its only one may not is to make some.
func TestRights(t *testing.T) {
	t.Parallel()
	for _, protocol := range []string{"http", "native"} {
		t.Run(protocol, func(t *testing.T) {
			t.Parallel()
			s := openTest(t, protocol, Options{}, "")
			count := func() (n uint64) {
				t.Helper()
				if err := s.one(t.Context(), "SELECT count() FROM system.parts WHERE database = "+lit(s.opts.Ledger), &n); err != nil {
					t.Fatal(err)
				}
				return n
			}
			before := count()
			if err := s.Rights(t.Context(), s.opts.Database, `odd "name' `); err != nil {
				t.Error(err)
			}
			if after := count(); after != before {
				t.Errorf("%d parts, then %d", before, after)
			}
			var missing []error
			if err := s.rights(t.Context(), &missing, []grant{{"SELECT", "`a`.*"}, {"CREATE USER", "*.*"}}); err != nil || len(missing) != 1 ||
				!fault.Is(missing[0], sink.CodePrivilege) || fault.Retryable(missing[0]) || !strings.Contains(missing[0].Error(), "GRANT CREATE USER ON *.* TO `default`") {
				t.Errorf("%v, %v", missing, err)
			}
		})
	}
}
