package change

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/cespare/xxhash/v2"
)

// TableID names a table by schema and name, as stored (not folded, not quoted).
type TableID struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// String returns schema.name, each part double-quoted only if it needs to be
// told apart (a dot, a quote or white space in it).
func (t TableID) String() string { return quotePart(t.Schema) + "." + quotePart(t.Name) }

func quotePart(s string) string {
	if s == "" || strings.ContainsAny(s, ".\" \t\n") {
		return `"` + strings.ReplaceAll(s, `"`, `""`) + `"`
	}
	return s
}

// ParseTableID reads the form that String returns. Case is kept.
func ParseTableID(s string) (TableID, error) {
	first, rest, err := cutPart(s)
	if err != nil || !strings.HasPrefix(rest, ".") {
		return TableID{}, fmt.Errorf("table %q: want schema.name", s)
	}
	second, rest, err := cutPart(rest[1:])
	if err != nil || rest != "" {
		return TableID{}, fmt.Errorf("table %q: want schema.name", s)
	}
	return TableID{first, second}, nil
}

func cutPart(s string) (part, rest string, err error) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexByte(s, '.')
		if i < 0 {
			i = len(s)
		}
		if i == 0 || strings.ContainsAny(s[:i], "\" \t\n") {
			return "", "", fmt.Errorf("bad name")
		}
		return s[:i], s[i:], nil
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			b.WriteByte(s[i])
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			b.WriteByte('"')
			i++
			continue
		}
		return b.String(), s[i+1:], nil
	}
	return "", "", fmt.Errorf("unterminated quote")
}

// MarshalText and UnmarshalText make a TableID a string in JSON.
func (t TableID) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText is the inverse of MarshalText.
func (t *TableID) UnmarshalText(b []byte) (err error) { *t, err = ParseTableID(string(b)); return err }

// Kind tells how a type is made.
type Kind string

// The kinds of types, after pg_type.typtype.
const (
	Base       Kind = "base"
	Array      Kind = "array"
	Enum       Kind = "enum"
	Domain     Kind = "domain"
	Composite  Kind = "composite"
	Range      Kind = "range"
	MultiRange Kind = "multirange"
)

// Type is the type of a column at the source.
type Type struct {
	Name   string   `json:"name"`             // as format_type prints it, with modifiers: numeric(10,2), shop.mood
	Kind   Kind     `json:"kind"`             //
	Base   string   `json:"base"`             // pg_type.typname without modifiers: int4, numeric, citext, _int4, mood
	OID    uint32   `json:"oid"`              // at the source; only those below 16384 mean the same elsewhere
	Mod    int32    `json:"mod"`              // atttypmod, -1 if none
	Elem   *Type    `json:"elem,omitempty"`   // of an array: its element; of a domain: what it is over; of a range: its subtype
	Labels []string `json:"labels,omitempty"` // of an enum, in order
}

// Root returns what values of the type look like: itself, or for a domain the
// type under it.
func (t *Type) Root() *Type {
	for t.Kind == Domain && t.Elem != nil {
		t = t.Elem
	}
	return t
}

// NumericPrecision returns the declared precision and scale of a numeric type.
func (t *Type) NumericPrecision() (precision, scale int, ok bool) {
	if t.Base != "numeric" || t.Mod < 4 {
		return 0, 0, false
	}
	m := t.Mod - 4
	scale = int(m & 0x7ff)
	if scale >= 1024 { // scales are signed 11-bit numbers since Postgres 15
		scale -= 2048
	}
	return int(m >> 16 & 0xffff), scale, true
}

// Column of a table. Generated columns are not in a Schema: the log does not carry them.
type Column struct {
	Name    string `json:"name"`
	Type    Type   `json:"type"`
	NotNull bool   `json:"not_null,omitempty"`
	// Missing is what rows that were there before the column have in it: the constant
	// default of ADD COLUMN, which the source gives them without a change in the log.
	// nil: NULL, or not known any more because the source has rewritten the table.
	Missing *string `json:"missing,omitempty"`
	// Masked: values were replaced by keyed hashes on the way here, in all rows or in some
	// (package tiers/shape).
	Masked bool `json:"masked,omitempty"`
}

// Schema is one version of a table's definition, as the source had it.
type Schema struct {
	Table   TableID  `json:"table"`
	Columns []Column `json:"columns"`
	Key     []int    `json:"key,omitempty"`  // primary key, in key order, as indexes into Columns; none: append-only
	Full    bool     `json:"full,omitempty"` // REPLICA IDENTITY FULL: old images are complete
}

// Version is the fingerprint of a Schema: equal definitions have equal versions.
type Version uint64

// String returns 16 hexadecimal digits.
func (v Version) String() string { return string(v.Append(nil)) }

// Append appends that form.
func (v Version) Append(b []byte) []byte {
	return hex.AppendEncode(b, binary.BigEndian.AppendUint64(make([]byte, 0, 8), uint64(v)))
}

// ParseVersion reads the form that String returns.
func ParseVersion(s string) (Version, error) {
	v, err := strconv.ParseUint(s, 16, 64)
	if err != nil || len(s) != 16 {
		return 0, fmt.Errorf("schema version %q: want 16 hexadecimal digits", s)
	}
	return Version(v), nil
}

// Version returns the fingerprint. Compute it once per schema, not per row.
func (s *Schema) Version() Version { return Version(xxhash.Sum64(EncodeSchema(s))) }

// Holds reports whether every column of the other schema is, by name, in this one.
func (s *Schema) Holds(other *Schema) bool {
	return !slices.ContainsFunc(other.Columns, func(c Column) bool { return s.Column(c.Name) < 0 })
}

// IsKey reports whether the column at index i is part of the primary key.
func (s *Schema) IsKey(i int) bool {
	return slices.Contains(s.Key, i)
}

// KeyNames are the names of the key's columns, in its order.
func (s *Schema) KeyNames() []string {
	out := make([]string, len(s.Key))
	for n, i := range s.Key {
		out[n] = s.Columns[i].Name
	}
	return out
}

// Column returns the index of the named column, or -1.
func (s *Schema) Column(name string) int {
	for i := range s.Columns {
		if s.Columns[i].Name == name {
			return i
		}
	}
	return -1
}

// EncodeSchema returns the JSON form of s, the one that Version hashes.
func EncodeSchema(s *Schema) []byte {
	b, err := json.Marshal(s)
	if err != nil {
		panic(err) // plain data: cannot fail
	}
	return b
}

// DecodeSchema reads the form that EncodeSchema writes.
func DecodeSchema(b []byte) (*Schema, error) {
	s := new(Schema)
	if err := json.Unmarshal(b, s); err != nil {
		return nil, fmt.Errorf("schema: %w", err)
	}
	for n, i := range s.Key {
		if i < 0 || i >= len(s.Columns) || slices.Contains(s.Key[:n], i) {
			return nil, fmt.Errorf("schema of table %s: key column %d of %d columns", s.Table, i, len(s.Columns))
		}
	}
	return s, nil
}
