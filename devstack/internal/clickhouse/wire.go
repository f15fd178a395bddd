package clickhouse

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"
)

// revision is the one version of the native protocol that the front speaks, that
// of ClickHouse 23.3: newer clients come down to it, clickhouse-go has no other.
const revision = 54460

// Packets of a client and of a server.
const (
	clientHello  = 0
	clientQuery  = 1
	clientData   = 2
	clientCancel = 3
	clientPing   = 4

	serverHello       = 0
	serverData        = 1
	serverException   = 2
	serverProgress    = 3
	serverPong        = 4
	serverEndOfStream = 5
)

// Limits of what a client sends beside blocks.
const (
	maxName      = 64 << 10
	maxStatement = 256 << 20
	maxSettings  = 10_000
)

// errProtocol is for bytes that are not the native protocol; what follows them
// cannot be understood either.
var errProtocol = errors.New("not the native protocol")

// wireReader reads the fields of packets; its first error stays.
type wireReader struct {
	in  *bufio.Reader
	err error
}

func (w *wireReader) byte() byte {
	if w.err != nil {
		return 0
	}
	var b byte
	b, w.err = w.in.ReadByte()
	return b
}

func (w *wireReader) uvarint() uint64 {
	if w.err != nil {
		return 0
	}
	var v uint64
	v, w.err = binary.ReadUvarint(w.in)
	return v
}

func (w *wireReader) skip(n int) {
	if w.err == nil {
		_, w.err = w.in.Discard(n)
	}
}

// string reads a text of limited length, without believing the length.
func (w *wireReader) string(limit uint64) string {
	n := w.uvarint()
	if w.err != nil {
		return ""
	}
	if n > limit {
		w.err = fmt.Errorf("%w: a text of %d bytes where %d are allowed", errProtocol, n, limit)
		return ""
	}
	var b bytes.Buffer
	if _, err := io.CopyN(&b, w.in, int64(n)); err != nil {
		w.err = fmt.Errorf("read a text: %w", err)
		return ""
	}
	return b.String()
}

func (w *wireReader) name() string { return w.string(maxName) }

// hello is what a client says of itself; users and passwords are not checked.
type hello struct {
	revision uint64
	database string
}

// readHello reads what follows the packet's number.
func readHello(w *wireReader) (h hello, err error) {
	w.name() // client
	w.uvarint()
	w.uvarint()
	h.revision = w.uvarint()
	h.database = w.name()
	w.name() // user
	w.name() // password
	return h, w.err
}

// nativeQuery is a statement with what it is to run under.
type nativeQuery struct {
	settings   map[string]string
	params     params
	compressed bool
	sql        string
}

func readQuery(w *wireReader) (nativeQuery, error) {
	w.name() // id
	skipClientInfo(w)
	var q nativeQuery
	q.settings = readSettings(w)
	w.name() // signature of another server
	w.uvarint()
	q.compressed = w.uvarint() != 0
	q.sql = w.string(maxStatement)
	q.params = readSettings(w)
	return q, w.err
}

func skipClientInfo(w *wireReader) {
	if w.byte() == 0 { // no query kind: nothing else
		return
	}
	for range 3 { // initial user, query, address
		w.name()
	}
	w.skip(8) // start time
	switch w.byte() {
	case 1: // TCP
		for range 3 { // user of the system, host, client
			w.name()
		}
		for range 3 { // version
			w.uvarint()
		}
		w.name()    // quota key
		w.uvarint() // depth
		w.uvarint() // patch
	case 2: // HTTP, passed on
		w.byte()
		for range 3 { // agent, forwarded for, referer
			w.name()
		}
		w.name()
		w.uvarint()
	default:
		if w.err == nil {
			w.err = fmt.Errorf("%w: an interface that there is not", errProtocol)
		}
	}
	if w.byte() == 1 { // trace and span
		w.skip(24)
		w.name()
		w.byte()
	}
	for range 3 { // parallel replicas
		w.uvarint()
	}
}

// readSettings reads names, flags and texts up to an empty name.
func readSettings(w *wireReader) map[string]string {
	const custom = 2
	out := map[string]string{}
	for w.err == nil {
		name := w.name()
		if name == "" {
			break
		}
		if len(out) == maxSettings {
			w.err = fmt.Errorf("%w: more than %d settings", errProtocol, maxSettings)
			break
		}
		flags, v := w.uvarint(), w.string(maxStatement)
		if flags&custom != 0 {
			v = undump(v)
		}
		out[name] = v
	}
	return out
}

// undump reads a text that is written as a quoted literal.
func undump(s string) string {
	if len(s) < 2 || s[0] != '\'' || s[len(s)-1] != '\'' {
		return s
	}
	s = s[1 : len(s)-1]
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		if c == '\\' && i+1 < len(s) {
			i++
			switch c = s[i]; c {
			case 'n':
				c = '\n'
			case 'r':
				c = '\r'
			case 't':
				c = '\t'
			case '0':
				c = 0
			}
		}
		b.WriteByte(c)
	}
	return b.String()
}

// wireWriter writes packets.
type wireWriter struct{ out *bufio.Writer }

// Errors of a bufio.Writer stay and come out at the flush.
func (w wireWriter) uvarint(v uint64) {
	_, _ = w.out.Write(binary.AppendUvarint(w.out.AvailableBuffer(), v))
}

func (w wireWriter) string(s string) {
	w.uvarint(uint64(len(s)))
	_, _ = w.out.WriteString(s)
}

func (w wireWriter) hello(version [3]uint64) {
	w.uvarint(serverHello)
	w.string("ClickHouse")
	w.uvarint(version[0])
	w.uvarint(version[1])
	w.uvarint(revision)
	w.string("UTC")
	w.string("devstack")
	w.uvarint(version[2])
}

func (w wireWriter) exception(e *Error) {
	w.uvarint(serverException)
	_, _ = w.out.Write(binary.LittleEndian.AppendUint32(nil, uint32(e.Code)))
	w.string("DB::Exception")
	w.string(nativeMessage(e.Message))
	w.string("") // stack trace
	_ = w.out.WriteByte(0)
}

// progress reports what has been written.
func (w wireWriter) progress(written stats, elapsed time.Duration) {
	w.uvarint(serverProgress)
	for _, v := range []uint64{0, 0, 0, written.rows, written.bytes, uint64(elapsed)} {
		w.uvarint(v)
	}
}

// Ping greets a server of the native protocol and waits for its pong.
func Ping(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	out, in := wireWriter{bufio.NewWriter(conn)}, wireReader{in: bufio.NewReader(conn)}
	out.uvarint(clientHello)
	out.string("devstack")
	for _, v := range []uint64{1, 0, revision} {
		out.uvarint(v)
	}
	for _, v := range []string{"default", "default", ""} {
		out.string(v)
	}
	out.string("") // quota key
	out.uvarint(clientPing)
	if err := out.out.Flush(); err != nil {
		return fmt.Errorf("send hello: %w", err)
	}
	if kind := in.uvarint(); in.err == nil && kind != serverHello {
		return fmt.Errorf("%w: packet %d instead of hello", errProtocol, kind)
	}
	in.name()
	for range 3 {
		in.uvarint()
	}
	in.name()
	in.name()
	in.uvarint()
	if kind := in.uvarint(); in.err == nil && kind != serverPong {
		return fmt.Errorf("%w: packet %d instead of a pong", errProtocol, kind)
	}
	return in.err
}
