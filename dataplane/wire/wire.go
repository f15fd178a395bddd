// Package wire opens the connections of the data plane, and counts what they carry.
//
// # What is counted
//
// Bytes as they leave and enter the process, below TLS: with its records and
// handshakes, without the headers of TCP and IP (about 40 bytes a packet, 3 % of full
// packets of an Ethernet and 0.1 % of those of a loopback). A byte that was given to the
// kernel counts, even if the connection breaks before it arrives. Segments that the
// kernel sends again do not count.
//
// # Failure
//
// A Meter never fails. Dialing does as net.Dialer's.
package wire

import (
	"context"
	"net"
	"sync/atomic"
	"syscall"
	"time"
)

// Dial opens a connection.
type Dial = func(ctx context.Context, network, addr string) (net.Conn, error)

// Plain opens connections whose other end, if it vanishes without a word, is missed
// within a minute: the default of most systems is hours.
func Plain(ctx context.Context, network, addr string) (net.Conn, error) {
	d := net.Dialer{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 6}}
	return d.DialContext(ctx, network, addr)
}

// Count is what connections carried.
type Count struct {
	Sent, Received int64 // bytes
	Connections    int64 // that were opened
}

// Minus returns what was carried since an earlier count.
func (c Count) Minus(o Count) Count {
	return Count{c.Sent - o.Sent, c.Received - o.Received, c.Connections - o.Connections}
}

// Meter counts what the connections carry that it opens. The zero value is ready, and
// nil counts nothing. Safe for concurrent use.
type Meter struct{ sent, received, connections atomic.Int64 }

// Count returns what was carried so far, by open connections too.
func (m *Meter) Count() Count {
	if m == nil {
		return Count{}
	}
	return Count{m.sent.Load(), m.received.Load(), m.connections.Load()}
}

// Dial opens a connection by Plain.
func (m *Meter) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	c, err := Plain(ctx, network, addr)
	if err != nil || m == nil {
		return c, err
	}
	m.connections.Add(1)
	return &conn{c, m}, nil
}

type conn struct {
	net.Conn
	m *Meter
}

func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.m.received.Add(int64(n))
	return n, err
}

func (c *conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.m.sent.Add(int64(n))
	return n, err
}

// SyscallConn lets drivers look whether an idle connection is still there.
func (c *conn) SyscallConn() (syscall.RawConn, error) {
	s, ok := c.Conn.(syscall.Conn)
	if !ok {
		return nil, syscall.ENOTSUP
	}
	return s.SyscallConn()
}
