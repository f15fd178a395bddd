package postgres

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/source/postgres/pgoutput"
)

// Inspection is what a plan says of a source.
type Inspection struct {
	Version     int              `json:"version"` // server_version_num
	VersionText string           `json:"version_text"`
	WALLevel    string           `json:"wal_level"`
	SystemID    string           `json:"system_id"`
	Timeline    int32            `json:"timeline"`
	InRecovery  bool             `json:"in_recovery"`
	Database    string           `json:"database"`
	Encoding    string           `json:"encoding"`
	Slots       Used             `json:"slots"`
	Senders     Used             `json:"senders"`
	Keep        string           `json:"max_slot_wal_keep_size"`
	DecodingMem string           `json:"logical_decoding_work_mem"`
	Role        Role             `json:"role"`
	Slot        *SlotInfo        `json:"slot,omitempty"` // nil: there is none of that name
	Publication *PublicationInfo `json:"publication,omitempty"`
	Tables      []TableInfo      `json:"tables"`
	Problems    []*fault.Error   `json:"-"` // what keeps a pipeline from running, of the server and role
}

// Used is how much of a limit is taken.
type Used struct {
	Used int `json:"used"`
	Max  int `json:"max"`
}

// Role is who we are at the source.
type Role struct {
	Name           string `json:"name"`
	Superuser      bool   `json:"superuser"`
	Replication    bool   `json:"replication"`
	CreateDatabase bool   `json:"create"` // may create publications in the database
}

// PublicationInfo is a publication as it is.
type PublicationInfo struct {
	Name       string           `json:"name"`
	AllTables  bool             `json:"all_tables"`
	ViaRoot    bool             `json:"via_root"`
	Operations string           `json:"operations"` // letters of c, u, d, t
	Tables     []change.TableID `json:"tables"`     // with those of the append-only part
}

// TableInfo is a table that could be part of a pipeline: ordinary or a
// partitioned root, not a partition.
type TableInfo struct {
	ID          change.TableID `json:"id"`
	Partitioned bool           `json:"partitioned"`
	Partitions  int            `json:"partitions"`
	Bytes       int64          `json:"bytes"`
	Rows        int64          `json:"rows"`     // estimate; -1: never analysed
	Key         []string       `json:"key"`      // primary key columns
	Identity    string         `json:"identity"` // d, n, f or i
	Unlogged    bool           `json:"unlogged"` // not in the WAL: cannot be streamed
	Owned       bool           `json:"owned"`    // may be added to a publication
	Readable    bool           `json:"readable"`
	RowSecurity bool           `json:"row_security"` // policies hide rows from us
}

// Inspect looks at the source. Slot and publication may be "".
func (s *Server) Inspect(ctx context.Context, slot, publication string) (*Inspection, error) {
	i, err := s.inspect(ctx, slot, publication)
	return i, classify(ctx, err, "inspect the source")
}

func (s *Server) inspect(ctx context.Context, slot, publication string) (*Inspection, error) {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer conn.Release()
	i := &Inspection{}
	err = conn.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, version(), current_setting('wal_level'),
		(SELECT system_identifier::text FROM pg_control_system()), (SELECT timeline_id FROM pg_control_checkpoint()), pg_is_in_recovery(),
		current_database()::text, pg_encoding_to_char((SELECT encoding FROM pg_database WHERE datname = current_database()))::text,
		(SELECT count(*) FROM pg_replication_slots)::int, current_setting('max_replication_slots')::int,
		(SELECT count(*) FROM pg_stat_replication)::int, current_setting('max_wal_senders')::int,
		current_setting('max_slot_wal_keep_size'), current_setting('logical_decoding_work_mem'),
		r.rolname::text, r.rolsuper,
		r.rolreplication OR EXISTS (SELECT FROM pg_roles g WHERE g.rolname = 'rds_replication' AND pg_has_role(g.oid, 'MEMBER')),
		has_database_privilege(current_database(), 'CREATE')
		FROM pg_roles r WHERE r.rolname = current_user`).Scan(&i.Version, &i.VersionText, &i.WALLevel, &i.SystemID, &i.Timeline, &i.InRecovery,
		&i.Database, &i.Encoding, &i.Slots.Used, &i.Slots.Max, &i.Senders.Used, &i.Senders.Max, &i.Keep, &i.DecodingMem,
		&i.Role.Name, &i.Role.Superuser, &i.Role.Replication, &i.Role.CreateDatabase)
	if err != nil {
		return nil, err
	}
	if slot != "" {
		found, err := readSlot(ctx, conn, slot)
		if err == nil {
			i.Slot = &found
		} else if !fault.Is(err, CodeSlotMissing) {
			return nil, err
		}
	}
	if publication != "" {
		if i.Publication, err = readPublication(ctx, conn, publication); err != nil {
			return nil, err
		}
	}
	if i.Tables, err = listTables(ctx, conn); err != nil {
		return nil, err
	}
	i.Problems = i.problems()
	return i, nil
}

func (i *Inspection) problems() (out []*fault.Error) {
	add := func(code fault.Code, fix, format string, args ...any) {
		out = append(out, fault.Permanent(code, nil, fix, format, args...))
	}
	if i.Version < 150000 {
		add(CodeVersion, "upgrade the source to Postgres 15 or later", "the source is %s", i.VersionText)
	}
	if i.WALLevel != "logical" {
		add(CodeWALLevel, "ALTER SYSTEM SET wal_level = logical, then restart the server", "wal_level is %s", i.WALLevel)
	}
	if !i.Role.Replication && !i.Role.Superuser {
		add(CodeNoReplication, "ALTER ROLE … REPLICATION (on RDS: GRANT rds_replication TO …)", "role %q may not replicate", i.Role.Name)
	}
	if i.Publication == nil && !i.Role.CreateDatabase {
		add(CodePrivilege, "GRANT CREATE ON DATABASE …", "role %q may not create a publication in database %q", i.Role.Name, i.Database)
	}
	if i.Slot == nil && i.Slots.Used >= i.Slots.Max {
		add(CodeSlotsExhausted, "raise max_replication_slots or drop unused slots", "all %d replication slots are taken", i.Slots.Max)
	}
	if (i.Slot == nil || i.Slot.ActivePID == 0) && i.Senders.Used >= i.Senders.Max {
		add(CodeSlotsExhausted, "raise max_wal_senders", "all %d WAL senders are taken", i.Senders.Max)
	}
	if i.Slot != nil {
		var f *fault.Error
		if errors.As(i.Slot.usable(), &f) {
			out = append(out, f)
		}
	}
	return out
}

func readPublication(ctx context.Context, q querier, name string) (*PublicationInfo, error) {
	p := &PublicationInfo{Name: name}
	err := q.QueryRow(ctx, `SELECT puballtables, pubviaroot, concat(CASE WHEN pubinsert THEN 'c' END, CASE WHEN pubupdate THEN 'u' END,
		CASE WHEN pubdelete THEN 'd' END, CASE WHEN pubtruncate THEN 't' END) FROM pg_publication WHERE pubname = $1`, name).
		Scan(&p.AllTables, &p.ViaRoot, &p.Operations)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	rows, err := q.Query(ctx, `SELECT DISTINCT schemaname::text, tablename::text FROM pg_publication_tables WHERE pubname IN ($1, $2) ORDER BY 1, 2`,
		name, appendPublication(name))
	if err != nil {
		return nil, err
	}
	p.Tables, err = pgx.CollectRows(rows, pgx.RowToStructByPos[change.TableID])
	return p, err
}

func listTables(ctx context.Context, q querier) ([]TableInfo, error) {
	rows, err := q.Query(ctx, `
		SELECT n.nspname::text, c.relname::text, c.relkind = 'p', coalesce(p.leaves, 0)::int,
			CASE WHEN c.relkind = 'p' THEN coalesce(p.bytes, 0) ELSE pg_table_size(c.oid) END::int8,
			CASE WHEN c.relkind = 'p' THEN coalesce(p.rows, 0) ELSE c.reltuples END::int8,
			coalesce((SELECT array_agg(a.attname::text ORDER BY k.n) FROM pg_index i CROSS JOIN LATERAL unnest(i.indkey::int2[]) WITH ORDINALITY k(attnum, n)
				JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.attnum WHERE i.indrelid = c.oid AND i.indisprimary AND k.n <= i.indnkeyatts), '{}'),
			c.relreplident::text, c.relpersistence = 'u', pg_has_role(c.relowner, 'USAGE'),
			has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), row_security_active(c.oid)
		FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		LEFT JOIN LATERAL (SELECT count(*) AS leaves, sum(pg_table_size(t.relid)) AS bytes, sum(greatest(l.reltuples, 0)) AS rows
			FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid WHERE t.isleaf) p ON c.relkind = 'p'
		WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence <> 't'
			AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname NOT LIKE 'pg\_toast%'
		ORDER BY 1, 2`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(r pgx.CollectableRow) (t TableInfo, err error) {
		err = r.Scan(&t.ID.Schema, &t.ID.Name, &t.Partitioned, &t.Partitions, &t.Bytes, &t.Rows, &t.Key, &t.Identity,
			&t.Unlogged, &t.Owned, &t.Readable, &t.RowSecurity)
		return t, err
	})
}

// Describe returns the definitions of tables as the stream will give them while
// they do not change: the versions are the same.
func (s *Server) Describe(ctx context.Context, tables []PublishedTable) ([]*change.Schema, error) {
	c := newCatalog(s.pool)
	out := make([]*change.Schema, 0, len(tables))
	for _, t := range tables {
		r, err := s.relation(ctx, t)
		if err != nil {
			return nil, classify(ctx, err, "look up table %s", t.ID)
		}
		schema, err := c.schema(ctx, r, t.AppendOnly)
		if err != nil {
			return nil, classify(ctx, err, "look up table %s", t.ID)
		}
		out = append(out, schema)
	}
	return out, nil
}

// relation makes of the catalog what the protocol would say of the table.
func (s *Server) relation(ctx context.Context, t PublishedTable) (*pgoutput.Relation, error) {
	r := &pgoutput.Relation{Schema: t.ID.Schema, Name: t.ID.Name}
	var identity string
	err := s.pool.QueryRow(ctx, `SELECT c.oid, c.relreplident::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
		WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p')`, t.ID.Schema, t.ID.Name).Scan(&r.ID, &identity)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, fault.Permanent(CodeTableMissing, nil, "correct the table's name or exclude it", "table %s does not exist", t.ID)
	}
	if err != nil {
		return nil, err
	}
	r.Identity = identity[0]
	rows, err := s.pool.Query(ctx, `SELECT a.attname::text, a.atttypid, a.atttypmod,
		$2 = 'f' OR EXISTS (SELECT FROM pg_index i WHERE i.indrelid = $1 AND a.attnum = ANY (i.indkey::int2[])
			AND CASE $2 WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END)
		FROM pg_attribute a WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		AND (cardinality($3::text[]) = 0 OR a.attname = ANY ($3)) ORDER BY a.attnum`, r.ID, identity, append([]string{}, t.Columns...))
	if err != nil {
		return nil, err
	}
	var c pgoutput.Column
	_, err = pgx.ForEachRow(rows, []any{&c.Name, &c.Type, &c.Mod, &c.Key}, func() error { r.Columns = append(r.Columns, c); return nil })
	if err != nil {
		return nil, err
	}
	for _, name := range t.Columns {
		if !hasColumn(r, name) {
			return nil, fault.Permanent(CodeTableMissing, nil, "correct the column list", "table %s has no column %q that is not generated", t.ID, name)
		}
	}
	return r, nil
}

func hasColumn(r *pgoutput.Relation, name string) bool {
	for _, c := range r.Columns {
		if c.Name == name {
			return true
		}
	}
	return false
}
