package debezium

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

// CodeUnencodable: a value does not have its type's text form.
const CodeUnencodable fault.Code = "DebeziumUnencodable"

// Decimal is how numeric is written: Debezium's decimal.handling.mode.
type Decimal string

// The modes of decimals.
const (
	DecimalPrecise Decimal = "precise" // bytes of the unscaled value
	DecimalString  Decimal = "string"
	DecimalDouble  Decimal = "double"
)

// Options choose among what Debezium lets its users choose.
type Options struct {
	Server       string  // topic.prefix: the logical name, in topic names, schema names and source.name
	Database     string  // source.db
	Version      string  // source.version; default "syncline"
	WithSchema   bool    // wrap keys and values in {schema, payload}
	Decimal      Decimal // default precise
	Truncate     bool    // write op t (Debezium's default is to skip it)
	NoTombstones bool    // tombstones.on.delete=false
	Unavailable  string  // unavailable.value.placeholder; default __debezium_unavailable_value
}

func (o *Options) validate() error {
	if o.Server == "" {
		return errors.New("debezium: no server name")
	}
	if o.Version == "" {
		o.Version = "syncline"
	}
	if o.Unavailable == "" {
		o.Unavailable = "__debezium_unavailable_value"
	}
	switch o.Decimal {
	case "":
		o.Decimal = DecimalPrecise
	case DecimalPrecise, DecimalString, DecimalDouble:
	default:
		return fmt.Errorf("debezium: decimal %q: want precise, string or double", o.Decimal)
	}
	return nil
}

// Header of a record.
type Header struct {
	Key   string
	Value []byte
}

// Record is one Kafka record. A nil Value is a tombstone; a nil Key means that
// the table has none.
type Record struct {
	Key, Value []byte
	Headers    []Header
}

// Encoder writes changes. It is not safe for concurrent use.
type Encoder struct {
	opts   Options
	tables map[change.Version]*table
}

// New returns an encoder.
func New(o Options) (*Encoder, error) {
	if err := o.validate(); err != nil {
		return nil, err
	}
	return &Encoder{opts: o, tables: map[change.Version]*table{}}, nil
}

// Topic returns the name of a table's topic, after Options.Server: characters
// that Kafka does not allow become underscores, as Debezium has it.
func (e *Encoder) Topic(t change.TableID) string { return Topic(e.opts.Server, t) }

// Topic is the same for a server name.
func Topic(server string, t change.TableID) string {
	return server + "." + sanitize(t.Schema) + "." + sanitize(t.Name)
}

func sanitize(s string) string {
	return strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '_' || r == '-' || r == '.' {
			return r
		}
		return '_'
	}, s)
}

// table is what a schema version comes to.
type table struct {
	schema   *change.Schema
	columns  []mapped
	names    [][]byte // `"name":`
	isKey    []bool
	missing  []string // by column: what stands for a value that the source did not send
	keyHead  []byte   // up to the payload
	head     []byte
	keyNames []int
}

// Headers of the two halves of a change of key.
const (
	headerNewKey = "__debezium.newkey"
	headerOldKey = "__debezium.oldkey"
)

func (e *Encoder) table(s *change.Schema, v change.Version) *table {
	if t := e.tables[v]; t != nil {
		return t
	}
	t := &table{schema: s, isKey: make([]bool, len(s.Columns)), keyNames: s.Key}
	for i := range s.Columns {
		t.columns = append(t.columns, e.mapType(&s.Columns[i].Type))
		t.names = append(t.names, append(appendString(nil, []byte(s.Columns[i].Name)), ':'))
		t.isKey[i] = s.IsKey(i)
		null := "null"
		if s.Columns[i].NotNull {
			null = t.columns[i].schema.zero()
		}
		t.missing = append(t.missing, null)
		if t.columns[i].toast == "null" {
			t.columns[i].toast = null
		}
	}
	if e.opts.WithSchema {
		t.keyHead = append(append([]byte(`{"schema":`), e.keySchema(t).json()...), `,"payload":`...)
		t.head = append(append([]byte(`{"schema":`), e.envelope(t).json()...), `,"payload":`...)
	}
	e.tables[v] = t
	return t
}

func (e *Encoder) name(t *table, suffix string) string { return e.Topic(t.schema.Table) + suffix }

func (e *Encoder) keySchema(t *table) connectSchema {
	s := connectSchema{Type: "struct", Name: e.name(t, ".Key")}
	for _, i := range t.keyNames {
		s.Fields = append(s.Fields, t.columns[i].schema.as(t.schema.Columns[i].Name, false))
	}
	return s
}

func (e *Encoder) envelope(t *table) connectSchema {
	row := connectSchema{Type: "struct", Optional: true, Name: e.name(t, ".Value")}
	for i, c := range t.schema.Columns {
		row.Fields = append(row.Fields, t.columns[i].schema.as(c.Name, !c.NotNull && !t.isKey[i]))
	}
	field := func(typ, name string, optional bool) connectSchema {
		return connectSchema{Type: typ, Field: name, Optional: optional}
	}
	source := connectSchema{Type: "struct", Name: "io.debezium.connector.postgresql.Source", Version: 1, Field: "source", Fields: []connectSchema{
		field("string", "version", false), field("string", "connector", false), field("string", "name", false), field("int64", "ts_ms", false),
		{Type: "string", Optional: true, Name: "io.debezium.data.Enum", Version: 1, Default: "false", Field: "snapshot",
			Parameters: map[string]string{"allowed": "true,first,first_in_data_collection,last_in_data_collection,last,false,incremental"}},
		field("string", "db", false), field("string", "sequence", true), field("int64", "ts_us", true), field("int64", "ts_ns", true),
		field("string", "schema", false), field("string", "table", false), field("int64", "txId", true), field("int64", "lsn", true), field("int64", "xmin", true),
	}}
	transaction := connectSchema{Type: "struct", Optional: true, Name: "event.block", Version: 1, Field: "transaction", Fields: []connectSchema{
		field("string", "id", false), field("int64", "total_order", false), field("int64", "data_collection_order", false)}}
	return connectSchema{Type: "struct", Name: e.name(t, ".Envelope"), Version: 2, Fields: []connectSchema{
		row.as("before", true), row.as("after", true), source, transaction,
		field("string", "op", false), field("int64", "ts_ms", true), field("int64", "ts_us", true), field("int64", "ts_ns", true),
	}}
}

// Encode returns the records of a change of the schema: one, or two with a
// tombstone, or none for a truncation that is not asked for. at is when it is
// processed.
//
// The halves of a change of key get the headers that name the other key.
func (e *Encoder) Encode(s *change.Schema, c *change.Change, at time.Time) ([]Record, error) {
	if c.Op == change.Truncate && !e.opts.Truncate {
		return nil, nil
	}
	t := e.table(s, c.Schema)
	var rec Record
	var err error
	before, after := c.Old, c.New
	other := ""
	op := byte(c.Op)
	switch c.Op {
	case change.Insert:
		if c.Pos.Ordinal == 0 {
			op = 'r'
		}
		if rec.Key, err = t.key(c.New); err != nil {
			return nil, err
		}
		before, other = nil, headerOldKey
	case change.Update:
		if rec.Key, err = t.key(c.New); err != nil {
			return nil, err
		}
	case change.Delete:
		if rec.Key, err = t.key(c.Old); err != nil {
			return nil, err
		}
		after, other = nil, headerNewKey
	case change.Truncate:
		before, after = nil, nil
	}
	if other != "" && c.Moved != nil && rec.Key != nil {
		key, err := t.keyOf(c.Moved)
		if err != nil {
			return nil, err
		}
		rec.Headers = []Header{{other, key}}
	}
	dst := append(make([]byte, 0, len(t.head)+1024), t.head...)
	dst = append(dst, `{"before":`...)
	if dst, err = t.row(dst, before, c.Op == change.Delete && !s.Full); err != nil {
		return nil, err
	}
	dst = append(dst, `,"after":`...)
	if dst, err = t.row(dst, after, false); err != nil {
		return nil, err
	}
	dst = e.source(append(dst, `,"source":`...), c)
	dst = append(append(append(dst, `,"transaction":null,"op":"`...), op), '"')
	dst = appendTimes(dst, at)
	dst = append(dst, '}')
	if t.head != nil {
		dst = append(dst, '}')
	}
	rec.Value = dst
	out := []Record{rec}
	if c.Op == change.Delete && rec.Key != nil && !e.opts.NoTombstones {
		out = append(out, Record{Key: rec.Key})
	}
	return out, nil
}

// key returns the key of a row, nil if the table has none.
func (t *table) key(row change.Row) ([]byte, error) {
	if len(t.keyNames) == 0 {
		return nil, nil
	}
	var few [4]change.Value
	values := few[:0]
	for _, i := range t.keyNames {
		if i >= len(row) {
			return nil, t.bad(i, errors.New("the row ends before the key column"))
		}
		values = append(values, row[i])
	}
	return t.keyOf(values)
}

// keyOf writes the values of the key's columns, given in key order.
func (t *table) keyOf(values change.Row) ([]byte, error) {
	dst := append(append(make([]byte, 0, len(t.keyHead)+64), t.keyHead...), '{')
	for n, i := range t.keyNames {
		if n > 0 {
			dst = append(dst, ',')
		}
		if n >= len(values) || values[n].Kind != change.Text {
			return nil, t.bad(i, errors.New("the key column has no value"))
		}
		var err error
		dst = append(dst, t.names[i]...)
		if dst, err = t.columns[i].conv(dst, values[n].Data); err != nil {
			return nil, t.bad(i, err)
		}
	}
	dst = append(dst, '}')
	if t.keyHead != nil {
		dst = append(dst, '}')
	}
	return dst, nil
}

func (t *table) bad(i int, err error) error {
	return fault.Permanent(CodeUnencodable, err, "turn the Debezium format off, or exclude the column",
		"table %s column %q (%s)", t.schema.Table, t.schema.Columns[i].Name, t.schema.Columns[i].Type.Name)
}

// row writes an image. With keyOnly the source sent the key alone: what it left
// empty is not known, and null, or where the schema forbids that the type's zero.
func (t *table) row(dst []byte, row change.Row, keyOnly bool) ([]byte, error) {
	if row == nil {
		return append(dst, "null"...), nil
	}
	if len(row) != len(t.columns) {
		return dst, fault.Permanent(CodeUnencodable, nil, "restart capture, which reads definitions anew",
			"table %s: a row of %d columns, the definition has %d", t.schema.Table, len(row), len(t.columns))
	}
	dst = append(dst, '{')
	for i := range row {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, t.names[i]...)
		switch {
		case keyOnly && !t.isKey[i]:
			dst = append(dst, t.missing[i]...)
		case row[i].Kind == change.Null:
			dst = append(dst, "null"...)
		case row[i].Kind == change.Unchanged:
			dst = append(dst, t.columns[i].toast...)
		default:
			var err error
			if dst, err = t.columns[i].conv(dst, row[i].Data); err != nil {
				return dst, t.bad(i, err)
			}
		}
	}
	return append(dst, '}'), nil
}

func (e *Encoder) source(dst []byte, c *change.Change) []byte {
	lsn := strconv.FormatUint(uint64(c.Pos.Commit), 10)
	str := func(name, v string) {
		dst = appendString(append(append(append(dst, ',', '"'), name...), '"', ':'), []byte(v))
	}
	dst = appendString(append(dst, `{"version":`...), []byte(e.opts.Version))
	str("connector", "postgresql")
	str("name", e.opts.Server)
	dst = strconv.AppendInt(append(dst, `,"ts_ms":`...), c.CommitTime.UnixMilli(), 10)
	str("snapshot", strconv.FormatBool(c.Pos.Ordinal == 0))
	str("db", e.opts.Database)
	str("sequence", `["`+lsn+`","`+lsn+`"]`)
	dst = strconv.AppendInt(append(dst, `,"ts_us":`...), c.CommitTime.UnixMicro(), 10)
	dst = strconv.AppendInt(append(dst, `,"ts_ns":`...), c.CommitTime.UnixMicro()*1000, 10)
	str("schema", c.Table.Schema)
	str("table", c.Table.Name)
	dst = strconv.AppendUint(append(dst, `,"txId":`...), uint64(c.XID), 10)
	dst = append(append(dst, `,"lsn":`...), lsn...)
	return append(dst, `,"xmin":null}`...)
}

func appendTimes(dst []byte, at time.Time) []byte {
	dst = strconv.AppendInt(append(dst, `,"ts_ms":`...), at.UnixMilli(), 10)
	dst = strconv.AppendInt(append(dst, `,"ts_us":`...), at.UnixMicro(), 10)
	return strconv.AppendInt(append(dst, `,"ts_ns":`...), at.UnixNano(), 10)
}
