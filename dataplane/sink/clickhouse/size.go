package clickhouse

import (
	"context"
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// Sizes sums up the parts that are in use, on the server that is asked, as compressed on
// disk. The ledger's tables are partitioned by pipeline.
func (s *Sink) Sizes(ctx context.Context) ([]sink.Size, error) {
	rs, err := s.records(ctx, "")
	if err != nil {
		return nil, err
	}
	of := make(map[target][]change.TableID, len(rs))
	which := []string{fmt.Sprintf("(database = %s AND partition = %s)", lit(s.opts.Ledger), lit(s.pipeline))}
	for i := range rs {
		at := s.target(rs[i].id, rs[i].def.Options)
		of[at] = append(of[at], rs[i].id)
		which = append(which, fmt.Sprintf("(database = %s AND table = %s)", lit(at.db), lit(at.table)))
	}
	var out []sink.Size
	ledger := int64(0)
	q := "SELECT database, table, toInt64(sum(bytes_on_disk)) FROM system.parts WHERE active AND (" + strings.Join(which, " OR ") + ") GROUP BY database, table"
	err = s.conn.query(ctx, "SELECT the sizes of the tables", q, func(scan func(...any) error) error {
		var at target
		var bytes int64
		if err := scan(&at.db, &at.table, &bytes); err != nil {
			return err
		}
		if at.db == s.opts.Ledger && len(of[at]) == 0 {
			ledger += bytes
		}
		for _, id := range of[at] {
			out = append(out, sink.Size{Table: id, Bytes: bytes})
		}
		return nil
	})
	return append(out, sink.Size{Bytes: ledger}), err
}
