package pgtext

import (
	"bytes"
	"math"
	"math/bits"

	"syncline/dataplane/change"
)

// CopyWriter takes a COPY text stream (FORMAT text, default delimiter, NULL as
// \N) in pieces of any size and hands out its rows. It holds at most one row.
type CopyWriter struct {
	columns int
	maxRow  int
	row     func(change.Row) error
	values  change.Row
	carry   []byte // the beginning of a row whose end has not come
	plain   []byte // unescaped fields of the row at hand
	raw     []byte // the row at hand as it came
	off     int64  // of the row at hand in the stream
	rows    int64
	ended   bool
	err     error
}

// NewCopyWriter returns a CopyWriter for rows of so many columns. A row longer
// than maxRow bytes is an error. row is called for each; the values are valid
// until it returns.
func NewCopyWriter(columns, maxRow int, row func(change.Row) error) *CopyWriter {
	return &CopyWriter{columns: columns, maxRow: maxRow, row: row, values: make(change.Row, columns)}
}

// Rows returns how many rows were handed out.
func (c *CopyWriter) Rows() int64 { return c.rows }

// Line is the row at hand as it came, without its newline; for row, until it returns.
func (c *CopyWriter) Line() []byte { return c.raw }

// Write implements io.Writer. An error, also one of row, is final.
func (c *CopyWriter) Write(p []byte) (int, error) {
	if c.err != nil {
		return 0, c.err
	}
	done := 0
	for done < len(p) {
		end := bytes.IndexByte(p[done:], '\n')
		if end < 0 {
			if len(c.carry)+len(p)-done > c.maxRow {
				c.err = c.bad(c.maxRow, "row is longer than allowed")
				return done, c.err
			}
			c.carry = append(c.carry, p[done:]...)
			return len(p), nil
		}
		line := p[done : done+end]
		if len(c.carry) > 0 {
			c.carry = append(c.carry, line...)
			line = c.carry
		}
		if len(line) > c.maxRow {
			c.err = c.bad(c.maxRow, "row is longer than allowed")
			return done, c.err
		}
		if c.err = c.line(line); c.err != nil {
			return done, c.err
		}
		c.off += int64(len(line)) + 1
		c.carry = c.carry[:0]
		done += end + 1
	}
	return len(p), nil
}

// Close reports an error if the stream ended inside a row.
func (c *CopyWriter) Close() error {
	if c.err == nil && len(c.carry) > 0 {
		c.err = c.bad(len(c.carry), "stream ends inside a row")
	}
	return c.err
}

func (c *CopyWriter) bad(at int, why string) error {
	off := c.off + int64(at)
	if off > math.MaxInt {
		off = math.MaxInt
	}
	return bad("COPY text", int(off), why)
}

func (c *CopyWriter) line(line []byte) error {
	if c.ended {
		return c.bad(0, `text after the end marker`)
	}
	if len(line) == 2 && line[0] == '\\' && line[1] == '.' {
		c.ended = true
		return nil
	}
	escapes := bytes.IndexByte(line, '\\') >= 0
	if escapes && cap(c.plain) < len(line) {
		// Unescaping never grows a field, so the buffer does not move under earlier ones.
		c.plain = make([]byte, 0, 1<<bits.Len(uint(len(line))))
	}
	c.plain = c.plain[:0]
	rest, at := line, 0
	for i := 0; i < c.columns; i++ {
		n := bytes.IndexByte(rest, '\t')
		if last := i == c.columns-1; last != (n < 0) {
			if last {
				return c.bad(at+n, "more fields than columns")
			}
			return c.bad(len(line), "fewer fields than columns")
		}
		f := rest
		if n >= 0 {
			f, rest = rest[:n], rest[n+1:]
		}
		if escapes && bytes.IndexByte(f, '\\') >= 0 {
			if len(f) == 2 && f[1] == 'N' {
				c.values[i] = change.Value{Kind: change.Null}
				at += n + 1
				continue
			}
			var err error
			if f, err = c.unescape(f, at); err != nil {
				return err
			}
		}
		if f == nil {
			f = []byte{}
		}
		c.values[i] = change.Value{Kind: change.Text, Data: f}
		at += n + 1
	}
	if c.columns == 0 && len(line) > 0 {
		return c.bad(0, "more fields than columns")
	}
	c.rows++
	c.raw = line
	return c.row(c.values)
}

func (c *CopyWriter) unescape(f []byte, at int) ([]byte, error) {
	start := len(c.plain)
	for i := 0; i < len(f); i++ {
		b := f[i]
		if b != '\\' {
			c.plain = append(c.plain, b)
			continue
		}
		if i++; i == len(f) {
			return nil, c.bad(at+i, "ends after a backslash")
		}
		switch b = f[i]; b {
		case 'b':
			b = '\b'
		case 'f':
			b = '\f'
		case 'n':
			b = '\n'
		case 'r':
			b = '\r'
		case 't':
			b = '\t'
		case 'v':
			b = '\v'
		case 'x':
			v, n := digits(f[i+1:], 16, 2)
			if n > 0 { // without digits it stands for the letter, as in Postgres
				b, i = v, i+n
			}
		case '0', '1', '2', '3', '4', '5', '6', '7':
			v, n := digits(f[i:], 8, 3)
			b, i = v, i+n-1
		}
		c.plain = append(c.plain, b)
	}
	return c.plain[start:len(c.plain):len(c.plain)], nil
}

// digits reads up to most digits of the base.
func digits(b []byte, base, most int) (v byte, n int) {
	for n < most && n < len(b) && int(nibble[b[n]]) < base {
		v = v*byte(base) + nibble[b[n]]
		n++
	}
	return v, n
}

// AppendCopyField appends the field of a value that is not NULL.
func AppendCopyField(b, value []byte) []byte {
	for _, c := range value {
		switch c {
		case '\\':
			b = append(b, '\\', '\\')
		case '\t':
			b = append(b, '\\', 't')
		case '\n':
			b = append(b, '\\', 'n')
		case '\r':
			b = append(b, '\\', 'r')
		default:
			b = append(b, c)
		}
	}
	return b
}

// CopyField returns the value of a field of COPY text that is not NULL.
func CopyField(f []byte) ([]byte, error) {
	if bytes.IndexByte(f, '\\') < 0 {
		return f, nil
	}
	return new(CopyWriter).unescape(f, 0)
}
