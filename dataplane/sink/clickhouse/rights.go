package clickhouse

import (
	"context"
	"fmt"

	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

// Rights does with the sink's login what a pipeline needs it for, and leaves no trace: it
// reads the ledger and the pipeline's tables, and asks the server for the rights to write.
func (s *Sink) Rights(ctx context.Context) error {
	tables, err := s.Tables(ctx) // which reads the ledger
	if err != nil {
		return err
	}
	databases := map[string]bool{s.opts.Ledger: true}
	for i := range tables {
		o := &tables[i].Options
		to := target{o.Schema, o.Name}
		databases[o.Schema] = true
		if err := s.conn.query(ctx, "SELECT from "+to.String(), "SELECT 1 FROM "+to.String()+" LIMIT 0", func(func(...any) error) error { return nil }); err != nil && !fault.Is(err, CodeTableMissing) {
			return err
		}
	}
	for db := range databases {
		var granted uint8
		q := fmt.Sprintf("CHECK GRANT SELECT, INSERT, ALTER, CREATE TABLE, DROP TABLE, TRUNCATE ON %s.*", ident(db))
		if err := s.conn.query(ctx, "CHECK GRANT", q, func(scan func(...any) error) error { return scan(&granted) }); err != nil {
			return err
		}
		if granted == 0 {
			return fault.Permanent(sink.CodePrivilege, nil, fmt.Sprintf("GRANT SELECT, INSERT, ALTER, CREATE TABLE, DROP TABLE, TRUNCATE ON %s.* TO it", ident(db)),
				"the sink's user lacks a right on database %s", db)
		}
	}
	return nil
}
