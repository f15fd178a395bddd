package postgres

import (
	"context"
	"time"

	"github.com/jackc/pglogrepl"
	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// Rights does with the server's login what a pipeline needs it for, and leaves no trace: it
// opens a replication connection, reads the tables, and may change the publication. What is
// lacking is named.
func (s *Server) Rights(ctx context.Context, publication string, tables []change.TableID) error {
	conn, _, err := s.connectReplication(ctx)
	if err != nil {
		return err
	}
	_, err = pglogrepl.IdentifySystem(ctx, conn)
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Second)
	defer cancel()
	_ = conn.Close(end)
	if err != nil {
		return classify(ctx, err, "open a replication connection to the source")
	}
	err = s.inTx(ctx, "", func(tx pgx.Tx) error {
		for _, t := range tables {
			if _, err := tx.Exec(ctx, "SELECT FROM "+quoteTable(t)+" LIMIT 0"); err != nil {
				return err
			}
		}
		// Tables are added and removed by whoever owns it.
		var owner *string
		err := tx.QueryRow(ctx, `SELECT (SELECT pg_get_userbyid(pubowner) FROM pg_publication
			WHERE pubname = $1 AND NOT pg_has_role(pubowner, 'USAGE'))::text`, publication).Scan(&owner)
		if err == nil && owner != nil {
			err = fault.Permanent(CodePrivilege, nil, "let a role that both users are members of own the publication and the tables, and be what they act as: ALTER ROLE … SET role",
				"publication %q belongs to %s", publication, *owner)
		}
		return err
	})
	return classify(ctx, err, "read the tables")
}
