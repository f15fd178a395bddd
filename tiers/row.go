package tiers

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strings"

	"syncline/dataplane/change"
)

// ParseRow reads a row as people write it, a JSON object of values by column, for
// Explain. Columns that it does not mention count as not sent.
func ParseRow(s *change.Schema, text []byte) (change.Row, error) {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber() // no digit is lost
	var object map[string]any
	if err := d.Decode(&object); err != nil {
		return nil, fmt.Errorf("not a JSON object of values by column: %w", err)
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one JSON object")
	}
	row := make(change.Row, len(s.Columns))
	for i := range row {
		row[i].Kind = change.Unchanged
	}
	names := make([]string, 0, len(object))
	for name := range object {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		i := s.Column(name)
		if i < 0 {
			var known []string
			for j := range s.Columns {
				known = append(known, s.Columns[j].Name)
			}
			return nil, fmt.Errorf("table %s has no column %q; its columns are %s", s.Table, name, strings.Join(known, ", "))
		}
		switch v := object[name].(type) {
		case nil:
			row[i] = change.Value{}
		case string:
			row[i] = change.TextValue(v)
		case json.Number:
			row[i] = change.TextValue(v.String())
		case bool:
			row[i] = change.TextValue(map[bool]string{true: "t", false: "f"}[v])
		default: // what is in json and jsonb
			b, err := json.Marshal(v)
			if err != nil {
				return nil, err
			}
			row[i] = change.TextValue(string(b))
		}
	}
	return row, nil
}
