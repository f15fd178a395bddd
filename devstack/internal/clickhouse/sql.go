package clickhouse

import "strings"

// token is a word, a string or a sign of a statement.
type token struct {
	kind       tokenKind
	start, end int
	depth      int // of parentheses around it
}

type tokenKind int

const (
	wordToken tokenKind = iota
	quotedToken
	signToken
)

// scanner finds tokens, skipping blanks and comments.
type scanner struct {
	sql   string
	pos   int
	depth int
}

func (s *scanner) next() (token, bool) {
	for s.pos < len(s.sql) {
		rest := s.sql[s.pos:]
		c := rest[0]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\f' || c == '\v':
			s.pos++
		case strings.HasPrefix(rest, "--"), strings.HasPrefix(rest, "#!"), strings.HasPrefix(rest, "# "):
			if end := strings.IndexByte(rest, '\n'); end >= 0 {
				s.pos += end + 1
			} else {
				s.pos = len(s.sql)
			}
		case strings.HasPrefix(rest, "/*"):
			if end := strings.Index(rest[2:], "*/"); end >= 0 {
				s.pos += end + 4
			} else {
				s.pos = len(s.sql)
			}
		case c == '\'' || c == '"' || c == '`':
			t := token{quotedToken, s.pos, s.pos + quoted(rest), s.depth}
			s.pos = t.end
			return t, true
		case isWord(c):
			n := 1
			for n < len(rest) && isWord(rest[n]) {
				n++
			}
			t := token{wordToken, s.pos, s.pos + n, s.depth}
			s.pos = t.end
			return t, true
		default:
			if c == ')' || c == ']' || c == '}' {
				s.depth--
			}
			t := token{signToken, s.pos, s.pos + 1, s.depth}
			if c == '(' || c == '[' || c == '{' {
				s.depth++
			}
			s.pos++
			return t, true
		}
	}
	return token{}, false
}

func isWord(c byte) bool {
	return c == '_' || c == '$' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
}

// quoted is the length of the quoted token at the start of s.
func quoted(s string) int {
	q := s[0]
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '\\':
			i++
		case q:
			if i+1 < len(s) && s[i+1] == q {
				i++
				continue
			}
			return i + 1
		}
	}
	return len(s)
}

// statement is what the front must know of a query before it runs it.
type statement struct {
	// verb is the first word in capitals.
	verb string
	// insertHead is the INSERT without its FORMAT or VALUES clause; data begins
	// at dataStart. Set only for an INSERT that takes data from outside.
	insertHead string
	dataFormat string
	dataStart  int
	takesData  bool
	// leaky statements change the connection that they run on.
	leaky bool
	// fromInput is INSERT … SELECT … FROM input(…).
	fromInput bool
	// format of the output that a SELECT names; its clause begins at formatStart
	// and ends at formatEnd.
	format                 string
	formatStart, formatEnd int
}

func (s statement) reads() bool {
	switch s.verb {
	case "SELECT", "WITH", "FROM":
		return true
	}
	return false
}

// parse looks at the words outside of parentheses. It need not understand the
// statement: what it does not recognise goes to the engine as it is.
func parse(sql string) statement {
	var st statement
	sc := scanner{sql: sql}
	word := func(t token) string {
		if t.kind != wordToken {
			return ""
		}
		return strings.ToUpper(sql[t.start:t.end])
	}
	var prev string
	for t, ok := sc.next(); ok; t, ok = sc.next() {
		w := word(t)
		if st.verb == "" {
			if w == "" {
				continue // an opening parenthesis
			}
			st.verb = w
			st.leaky = w == "SET" || w == "USE"
			st.takesData = w == "INSERT"
			st.insertHead = sql
			st.dataStart = len(sql)
			continue
		}
		if w != "" && st.verb == "CREATE" && prev == "" && (w == "TEMPORARY" || w == "TEMP") {
			st.leaky = true
		}
		if t.depth == 0 && st.takesData {
			switch w {
			case "SELECT", "WITH", "FROM":
				st.takesData = false
			case "VALUES":
				st.dataFormat, st.insertHead, st.dataStart = "Values", sql[:t.start], t.end
				return st
			case "FORMAT":
				if name, ok := sc.next(); ok && name.kind == wordToken {
					st.dataFormat, st.insertHead = sql[name.start:name.end], sql[:t.start]
					st.dataStart = skipLineEnd(sql, name.end)
					return st
				}
			}
		}
		if t.depth == 0 && w == "FORMAT" && st.reads() {
			save := sc
			if name, ok := sc.next(); ok && name.kind == wordToken {
				st.format, st.formatStart, st.formatEnd = sql[name.start:name.end], t.start, name.end
			} else {
				sc = save
			}
		}
		if prev == "INPUT" && st.verb == "INSERT" && !st.takesData && sql[t.start] == '(' {
			st.fromInput = true
		}
		prev = w
	}
	return st
}

// insertShape is a query with the columns that an INSERT takes, or empty if its
// table is not found.
func insertShape(head string) string {
	sc := scanner{sql: head}
	var t token
	ok, function := true, false
	for range 5 { // INSERT INTO TABLE FUNCTION and the name
		if t, ok = sc.next(); !ok {
			return ""
		}
		w := ""
		if t.kind == wordToken {
			w = strings.ToUpper(head[t.start:t.end])
		}
		function = function || w == "FUNCTION"
		if w != "INSERT" && w != "INTO" && w != "TABLE" && w != "FUNCTION" {
			break
		}
	}
	if t.kind == signToken {
		return ""
	}
	start, end := t.start, t.end
	next, ok := sc.next()
	for ok && head[next.start] == '.' {
		if t, ok = sc.next(); !ok {
			return ""
		}
		end = t.end
		next, ok = sc.next()
	}
	// paren passes what is in parentheses.
	paren := func() (from, to int) {
		from = next.start
		for to = next.end; ok; {
			to = next.end
			closes := head[next.start] == ')' && next.kind == signToken && next.depth == 0
			if next, ok = sc.next(); closes {
				break
			}
		}
		return from, to
	}
	opens := func() bool { return ok && next.kind == signToken && head[next.start] == '(' }
	if function && opens() {
		_, end = paren()
	}
	columns := "*"
	if opens() {
		from, to := paren()
		columns = strings.TrimSuffix(strings.TrimPrefix(head[from:to], "("), ")")
	}
	return "SELECT " + columns + " FROM " + head[start:end]
}

// skipLineEnd is where the data after a format's name begins: after one blank
// or semicolon-free line end.
func skipLineEnd(sql string, i int) int {
	for i < len(sql) && (sql[i] == ' ' || sql[i] == '\t' || sql[i] == ';') {
		i++
	}
	if i < len(sql) && sql[i] == '\r' {
		i++
	}
	if i < len(sql) && sql[i] == '\n' {
		i++
	}
	return i
}

// quoteString writes s as a string of ClickHouse's SQL.
func quoteString(s string) string {
	return "'" + strings.NewReplacer(`\`, `\\`, `'`, `\'`).Replace(s) + "'"
}

// quoteName writes s as an identifier.
func quoteName(s string) string {
	return "`" + strings.NewReplacer("\\", "\\\\", "`", "\\`").Replace(s) + "`"
}
