package analytics

import (
	"context"
	"errors"
	"net/url"
	"strings"
	"time"

	ch "github.com/ClickHouse/clickhouse-go/v2"
	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/dataplane/login/chlogin"
)

// DefaultDatabase holds the tables unless a worker is told otherwise.
const DefaultDatabase = "syncline_analytics"

// Store is the database with the tables.
type Store struct {
	conn     *chlogin.Pools
	database string
}

// OpenStore takes a connection string such as https://user:password@host:8443 or
// clickhouse://user:password@host:9000; with a login, which may change meanwhile, its user
// and password do not count. It does not connect yet.
func OpenStore(dsn, database string, as login.Source) (*Store, error) {
	u, err := url.Parse(dsn)
	if err != nil { // not repeated: it holds a password
		return nil, fault.Permanent(CodeStore, nil, "use http(s)://user:password@host:8123 or clickhouse://user:password@host:9000", "the connection string of analytics cannot be read")
	}
	if u.Scheme == "https" && !u.Query().Has("secure") { // the client library refuses it otherwise
		q := u.Query()
		q.Set("secure", "true")
		u.RawQuery = q.Encode()
	}
	o, err := ch.ParseDSN(u.String())
	if err != nil {
		return nil, fault.Permanent(CodeStore, nil, "use http(s)://user:password@host:8123 or clickhouse://user:password@host:9000", "the connection string of analytics cannot be used")
	}
	if o.Protocol == ch.HTTP {
		if o.Settings == nil {
			o.Settings = ch.Settings{}
		}
		o.Settings["wait_end_of_query"] = 1 // answered means done, and a failure is the answer
	}
	o.Auth.Database = "" // statements name it: it may not exist yet
	o.DialTimeout, o.ReadTimeout = 5*time.Second, 30*time.Second
	o.MaxOpenConns, o.MaxIdleConns, o.ConnMaxLifetime = 4, 2, 10*time.Minute
	if o.Compression == nil {
		o.Compression = &ch.Compression{Method: ch.CompressionLZ4}
	}
	conn, err := chlogin.Open(context.Background(), chlogin.Options{Client: o, Login: as, Certs: certs.Fixed(o.TLS)})
	if err != nil {
		return nil, fault.Permanent(CodeStore, nil, "correct the connection string of analytics", "analytics cannot be opened")
	}
	return &Store{conn: conn, database: database}, nil
}

// Close ends the connections.
func (s *Store) Close() error {
	s.conn.Close()
	return nil
}

// Database is the name of the database with the tables.
func (s *Store) Database() string { return s.database }

// Query runs a SELECT in which {db} stands for the database.
func (s *Store) Query(ctx context.Context, query string, args ...any) (driver.Rows, error) {
	rows, err := s.conn.Query(ctx, strings.ReplaceAll(query, "{db}", quoted(s.database)), args...)
	if err != nil {
		return nil, s.failed(err, "query analytics")
	}
	return rows, nil
}

// Insert writes rows of one table as one block under a name: a repetition under
// the same name adds nothing, to the rollups neither.
func (s *Store) Insert(ctx context.Context, name string, rows []Row) error {
	if len(rows) == 0 {
		return nil
	}
	ctx = ch.Context(ctx, ch.WithSettings(ch.Settings{
		"async_insert": 0, "insert_deduplicate": 1, "insert_deduplication_token": name,
		"deduplicate_blocks_in_dependent_materialized_views": 1,
		// One block: the name is that of a block, and every block of an INSERT would have it.
		"min_insert_block_size_rows": 1 << 24, "min_insert_block_size_bytes": 1 << 30, "max_insert_block_size": 1 << 24,
	}))
	what := "insert into " + rows[0].Table()
	err := s.conn.With(ctx, func(c driver.Conn) error {
		b, err := c.PrepareBatch(ctx, "INSERT INTO "+quoted(s.database)+"."+quoted(rows[0].Table()))
		if err != nil {
			return err
		}
		for _, r := range rows {
			if err := b.AppendStruct(r); err != nil {
				what = "encode rows of " + r.Table()
				return errors.Join(err, b.Abort())
			}
		}
		return b.Send()
	})
	if err != nil {
		return s.failed(err, what)
	}
	return nil
}

// rights are what the store needs on its database.
var rights = []string{"SELECT", "INSERT", "CREATE TABLE", "CREATE VIEW", "ALTER TABLE"}

// Rights asks for what the store needs, and reads its tables. Servers older than 24.11
// cannot be asked, and there what was read has to do.
func (s *Store) Rights(ctx context.Context) error {
	var missing []error
	err := s.conn.With(ctx, func(c driver.Conn) error {
		var user string
		if err := c.QueryRow(ctx, "SELECT currentUser()").Scan(&user); err != nil {
			return err
		}
		for _, right := range rights {
			may, known, err := chlogin.May(func(query string, into any) error { return c.QueryRow(ctx, query).Scan(into) }, right, quoted(s.database)+".*")
			if err != nil {
				return err
			}
			if !known {
				break
			}
			if !may {
				missing = append(missing, fault.Permanent(CodePrivilege, nil, "GRANT "+right+" ON "+quoted(s.database)+".* TO "+quoted(user), "user %s may not %s on %s", user, right, s.database))
			}
		}
		if len(missing) > 0 {
			return nil
		}
		return c.Exec(ctx, "SELECT * FROM "+quoted(s.database)+".migrations LIMIT 0")
	})
	if err != nil {
		return s.failed(err, "see the rights on analytics")
	}
	return errors.Join(missing...)
}

func (s *Store) exec(ctx context.Context, q string) error {
	if err := s.conn.With(ctx, func(c driver.Conn) error { return c.Exec(ctx, q) }); err != nil {
		return s.failed(err, "prepare the analytics tables")
	}
	return nil
}

// failed names a failure. All can pass: a database can be started, a user be given
// rights and a table be made, and what is recorded waits on disk until then.
func (s *Store) failed(err error, what string) error {
	if errors.Is(err, context.Canceled) {
		return err
	}
	return fault.Transient(CodeStore, err, "%s", what)
}

// quoted is an identifier of ClickHouse's.
func quoted(name string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(name) + "`"
}
