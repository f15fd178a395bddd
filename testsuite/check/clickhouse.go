package check

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"syncline/dataplane/change"
)

// ClickHouse is a sink's side, read over HTTP.
type ClickHouse struct {
	URL      string // http(s)://user:password@host:port/…
	Database string // of tables that name none; default: the source's schema name
	Label    string // for reports; default "clickhouse"
}

// Name implements Side.
func (c *ClickHouse) Name() string {
	if c.Label != "" {
		return c.Label
	}
	return "clickhouse"
}

// exactNull is what _exact holds for a NULL that the column cannot.
const exactNull = "NULL"

func (c *ClickHouse) at(t *Table) (db, name string) {
	db, name = t.Options.Schema, t.Options.Name
	if db == "" {
		db = c.Database
	}
	if db == "" {
		db = t.ID().Schema
	}
	if name == "" {
		name = t.ID().Name
	}
	return db, name
}

func ident(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}

func literal(s string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "\\'").Replace(s) + "'"
}

// live returns what the view of live rows reads from: the table without
// tombstones, superseded versions and what a TRUNCATE left behind.
func (c *ClickHouse) live(ctx context.Context, t *Table) (string, error) {
	db, name := c.at(t)
	var def string
	err := c.query(ctx, fmt.Sprintf("SELECT as_select FROM system.tables WHERE database = %s AND name = %s", literal(db), literal(name+"_live")), func(row []json.RawMessage) error {
		return json.Unmarshal(row[0], &def)
	})
	if err != nil {
		return "", err
	}
	_, from, ok := strings.Cut(def, " FROM ")
	if !ok {
		return "", fmt.Errorf("%s: table %s has no view of live rows", c.Name(), t.ID())
	}
	return from, nil
}

// Rows implements Side.
func (c *ClickHouse) Rows(ctx context.Context, t *Table, f func([]Value) error) error {
	if err := c.rows(ctx, t, f); err != nil {
		return fmt.Errorf("%s: read table %s: %w", c.Name(), t.ID(), err)
	}
	return nil
}

func (c *ClickHouse) rows(ctx context.Context, t *Table, f func([]Value) error) error {
	from, err := c.live(ctx, t)
	if err != nil {
		return err
	}
	cols := t.Schema.Columns
	exprs := make([]string, len(cols), len(cols)+1)
	for i, col := range cols {
		exprs[i] = ident(col.Name)
		switch root := col.Type.Root(); { // bytes are not JSON
		case root.Base == "bytea":
			exprs[i] = "hex(" + exprs[i] + ")"
		case root.Kind == change.Array && root.Elem != nil && root.Elem.Root().Base == "bytea":
			exprs[i] = "arrayMap(x -> hex(x), " + exprs[i] + ")"
		}
	}
	exprs = append(exprs, "_exact")
	row := make([]Value, len(cols))
	return c.query(ctx, "SELECT "+strings.Join(exprs, ", ")+" FROM "+from, func(raw []json.RawMessage) error {
		if len(raw) != len(cols)+1 {
			return fmt.Errorf("%d values in a row, want %d", len(raw), len(cols)+1)
		}
		var exact map[string]string
		if err := json.Unmarshal(raw[len(cols)], &exact); err != nil {
			return err
		}
		for i := range cols {
			var err error
			if text, ok := exact[cols[i].Name]; ok {
				row[i] = Value{Null: text == exactNull}
				if !row[i].Null {
					row[i].Text, err = canonical(&cols[i].Type, text)
				}
			} else {
				row[i], err = fromJSON(&cols[i].Type, raw[i])
			}
			if err != nil {
				return fmt.Errorf("column %q: %w", cols[i].Name, err)
			}
		}
		return f(row)
	})
}

// fromJSON brings a value of ClickHouse's JSON output to canonical form.
func fromJSON(t *change.Type, raw json.RawMessage) (Value, error) {
	root := t.Root()
	switch {
	case string(raw) == "null":
		return Value{Null: true}, nil
	case raw[0] == '[':
		var elems []json.RawMessage
		if err := json.Unmarshal(raw, &elems); err != nil {
			return Value{}, err
		}
		if root.Elem == nil {
			return Value{}, errors.New("a list for a type that is none")
		}
		items := make([]item, len(elems))
		for i, e := range elems {
			v, err := fromJSON(root.Elem, e)
			if err != nil {
				return Value{}, err
			}
			items[i] = item{v.Null, v.Text}
		}
		return Value{Text: joinItems(items)}, nil
	case raw[0] == '{':
		var m map[string]*string
		if err := json.Unmarshal(raw, &m); err != nil {
			return Value{}, err
		}
		items := make(map[string]item, len(m))
		for k, v := range m {
			if v == nil {
				items[k] = item{null: true}
			} else {
				items[k] = item{text: *v}
			}
		}
		return Value{Text: joinMap(items)}, nil
	}
	text := string(raw)
	if raw[0] == '"' {
		if err := json.Unmarshal(raw, &text); err != nil {
			return Value{}, err
		}
	}
	if root.Base == "bytea" {
		text = `\x` + strings.ToLower(text)
	}
	text, err := canonical(t, text)
	return Value{Text: text}, err
}

// Sum implements Side.
func (c *ClickHouse) Sum(ctx context.Context, t *Table, column string) (string, error) {
	from, err := c.live(ctx, t)
	if err != nil {
		return "", err
	}
	var sum string
	err = c.query(ctx, "SELECT toString(sum("+ident(column)+")) FROM "+from, func(raw []json.RawMessage) error { return json.Unmarshal(raw[0], &sum) })
	return sum, err
}

// query runs a SELECT and calls f for every row of its answer.
func (c *ClickHouse) query(ctx context.Context, sql string, f func([]json.RawMessage) error) error {
	u, err := url.Parse(c.URL)
	if err != nil {
		return errors.New("URL: want http://user:password@host:port/")
	}
	q := url.Values{
		"default_format": {"JSONCompact"},
		"output_format_json_quote_64bit_integers": {"1"},
		"output_format_json_quote_decimals":       {"1"},
		"output_format_json_quote_denormals":      {"1"},
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.Scheme+"://"+u.Host+"/?"+q.Encode(), strings.NewReader(sql))
	if err != nil {
		return err
	}
	if u.User != nil {
		password, _ := u.User.Password()
		req.SetBasicAuth(u.User.Username(), password)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		return fmt.Errorf("status %d: %s", res.StatusCode, bytes.TrimSpace(text))
	}
	if f == nil { // a statement, which has no rows
		_, err := io.Copy(io.Discard, res.Body)
		return err
	}
	return eachRow(bufio.NewReaderSize(res.Body, 1<<20), f)
}

// eachRow reads an answer in the format JSONCompact, whose end tells how many rows
// there are: one that breaks off is not taken for the whole, also if it breaks off
// between two rows.
func eachRow(r io.Reader, f func([]json.RawMessage) error) error {
	d := json.NewDecoder(r)
	if err := expect(d, json.Delim('{')); err != nil {
		return err
	}
	n, want, told := int64(0), int64(0), false
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
		switch name {
		case "data":
			if err := expect(d, json.Delim('[')); err != nil {
				return err
			}
			for ; d.More(); n++ {
				var row []json.RawMessage
				if err := d.Decode(&row); err != nil {
					return fmt.Errorf("answer: %w", err)
				}
				if err := f(row); err != nil {
					return err
				}
			}
			err = expect(d, json.Delim(']'))
		case "rows":
			told, err = true, d.Decode(&want)
		case "exception":
			var text string
			if err = d.Decode(&text); err == nil {
				err = errors.New(text)
			}
		default:
			var skipped json.RawMessage
			err = d.Decode(&skipped)
		}
		if err != nil {
			return fmt.Errorf("answer: %w", err)
		}
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return err
	}
	if !told || n != want {
		return fmt.Errorf("answer: %d rows, and its end tells of %d", n, want)
	}
	return nil
}

func expect(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	if err != nil {
		return fmt.Errorf("answer: %w", err)
	}
	if t != want {
		return fmt.Errorf("answer: %v where it should have %v", t, want)
	}
	return nil
}
