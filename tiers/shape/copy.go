package shape

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"slices"

	"syncline/dataplane/pgtext"
)

var errCopy = errors.New("the source's COPY is not in the format that was asked for")

// Finisher returns a writer of COPY output that was read by Column, in the binary or the
// text format, which makes the values of masked columns of it and gives the rest to w as
// it is. It holds one row at most. Its Close reports an end within a row.
func (s *Shape) Finisher(w io.Writer, binary bool) io.WriteCloser {
	f := &finisher{s: s, w: w, cut: textRow, row: s.textRow}
	if binary {
		f.cut, f.row, f.header = f.binaryRow, s.binaryRow, true
	}
	return f
}

type finisher struct {
	s      *Shape
	w      io.Writer
	cut    func([]byte) (int, error)             // length of the row that text begins with; 0: it is not all there
	row    func(dst, row []byte) ([]byte, error) // appended as it is to be
	header bool                                  // of the binary format has yet to come
	carry  []byte
	out    []byte
}

// Write implements io.Writer.
func (f *finisher) Write(p []byte) (int, error) {
	f.carry = append(f.carry, p...)
	f.out = f.out[:0]
	rest := f.carry
	for {
		n, err := f.cut(rest)
		if err != nil {
			return 0, err
		}
		if n == 0 {
			break
		}
		if f.header {
			f.header, f.out = false, append(f.out, rest[:n]...)
		} else if f.out, err = f.row(f.out, rest[:n]); err != nil {
			return 0, err
		}
		rest = rest[n:]
	}
	f.carry = append(f.carry[:0], rest...)
	if len(f.out) > 0 {
		if _, err := f.w.Write(f.out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// Close implements io.Closer.
func (f *finisher) Close() error {
	if len(f.carry) > 0 || f.header {
		return errCopy
	}
	return nil
}

func textRow(text []byte) (int, error) { return bytes.IndexByte(text, '\n') + 1, nil }

// textRow makes a line: a mark is no character that the format escapes.
func (s *Shape) textRow(dst, line []byte) ([]byte, error) {
	line = line[:len(line)-1]
	if string(line) == `\.` {
		return append(append(dst, line...), '\n'), nil
	}
	for i := range s.out.Columns {
		field, rest, more := bytes.Cut(line, []byte{'\t'})
		if more == (i == len(s.out.Columns)-1) {
			return nil, errCopy
		}
		line = rest
		if i > 0 {
			dst = append(dst, '\t')
		}
		switch {
		case string(field) == `\N` || !slices.Contains(s.masked, i):
			dst = append(dst, field...)
		case len(field) > 0 && field[0] == markAsIs:
			dst = append(dst, field[1:]...)
		default:
			plain, err := pgtext.CopyField(field)
			if err != nil {
				return nil, err
			}
			dst = append(dst, s.Finish(i, plain)...) // hexadecimal: nothing to escape
		}
	}
	return append(dst, '\n'), nil
}

// The binary format: a header of 11 bytes, flags and the length of an extension; rows of
// fields behind their lengths, -1 for NULL; and at the end -1 for a number of fields.
const copyHeader = 11 + 4 + 4

func (f *finisher) binaryRow(b []byte) (int, error) {
	if f.header {
		if len(b) < copyHeader {
			return 0, nil
		}
		n := copyHeader + int(binary.BigEndian.Uint32(b[copyHeader-4:]))
		if n > len(b) {
			return 0, nil
		}
		return n, nil
	}
	if len(b) < 2 {
		return 0, nil
	}
	fields := int16(binary.BigEndian.Uint16(b))
	if fields == -1 {
		return 2, nil
	}
	if int(fields) != len(f.s.out.Columns) {
		return 0, errCopy
	}
	at := 2
	for range fields {
		if len(b) < at+4 {
			return 0, nil
		}
		n := int32(binary.BigEndian.Uint32(b[at:]))
		at += 4 + int(max(n, 0))
	}
	if len(b) < at {
		return 0, nil
	}
	return at, nil
}

func (s *Shape) binaryRow(dst, row []byte) ([]byte, error) {
	dst = append(dst, row[:2]...)
	row = row[2:]
	for i := 0; len(row) > 0; i++ {
		n := int32(binary.BigEndian.Uint32(row))
		if n < 0 || !slices.Contains(s.masked, i) {
			dst = append(dst, row[:4+max(n, 0)]...)
		} else {
			v := s.Finish(i, row[4:4+n])
			dst = binary.BigEndian.AppendUint32(dst, uint32(len(v)))
			dst = append(dst, v...)
		}
		row = row[4+max(n, 0):]
	}
	return dst, nil
}
