package clickhouse

import (
	"fmt"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// target is a table of the sink.
type target struct{ db, table string }

func (t target) String() string { return ident(t.db) + "." + ident(t.table) }

// view is the table's view of live rows.
func (t target) view() target { return target{t.db, t.table + "_live"} }

// held is the table's view of keys that are held.
func (t target) held() target { return target{t.db, sink.HeldName(t.table, longestName)} }

// plainName reports whether a name needs no escape inside back-quotes.
func plainName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && c < 0x80 && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return s != ""
}

// ident quotes a name. Everything but letters and digits is escaped, because
// the client library cuts statements apart by patterns that do not understand quotes.
func ident(s string) string {
	if plainName(s) {
		return "`" + s + "`"
	}
	var b strings.Builder
	b.WriteByte('`')
	for i := range len(s) {
		if c := s[i]; c >= 0x80 || plainName(s[i:i+1]) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, `\x%02X`, c)
		}
	}
	b.WriteByte('`')
	return b.String()
}

func idents(names []string) string {
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = ident(n)
	}
	return strings.Join(q, ", ")
}

// lit quotes a text.
func lit(s string) string {
	var b strings.Builder
	b.Grow(len(s) + 2)
	b.WriteByte('\'')
	for i := range len(s) {
		switch c := s[i]; c {
		case '\'', '\\':
			b.WriteByte('\\')
			b.WriteByte(c)
		case '?', 0: // a question mark would be taken for a parameter
			fmt.Fprintf(&b, `\x%02X`, c)
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('\'')
	return b.String()
}

// versionLit is a position as the value of _version.
func versionLit(p change.Position) string { return "toUInt128('" + p.Version().String() + "')" }
