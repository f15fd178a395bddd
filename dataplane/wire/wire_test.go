package wire

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

// kernel reads the socket's own counters.
func kernel(t *testing.T, c net.Conn) (sent, received int64) {
	t.Helper()
	raw, err := c.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var info *unix.TCPInfo
	var inner error
	if err := errors.Join(raw.Control(func(fd uintptr) { info, inner = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }), inner); err != nil {
		t.Fatal(err)
	}
	return int64(info.Bytes_acked), int64(info.Bytes_received)
}

// What is counted is what the kernel counts, plain and with TLS.
func TestAsTheKernelCounts(t *testing.T) {
	var m Meter
	c, err := m.Dial(t.Context(), "tcp", echo(t))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	total := 0
	for range 200 {
		b := make([]byte, rand.IntN(100_000))
		go func() { _, _ = c.Write(b) }()
		if _, err := io.ReadFull(c, make([]byte, len(b))); err != nil {
			t.Fatal(err)
		}
		total += len(b)
	}
	compare(t, &m, c, int64(total), int64(total))

	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = w.Write(make([]byte, n/2))
	}))
	defer server.Close()
	var s Meter
	var last net.Conn
	pool := x509.NewCertPool()
	pool.AddCert(server.Certificate())
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool}, DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := s.Dial(ctx, network, addr)
		last = c
		return c, err
	}}}
	for range 20 {
		r, err := client.Post(server.URL, "text/plain", io.LimitReader(rand.NewChaCha8([32]byte{}), 500_000))
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, r.Body)
		_ = r.Body.Close()
	}
	compare(t, &s, last, 20*500_000, 20*250_000)
	if got := s.Count(); got.Sent < 20*500_000+1000 || got.Connections != 1 {
		t.Errorf("TLS itself is not counted: %+v", got)
	}
}

// compare waits until the kernel has an answer for all that was sent.
func compare(t *testing.T, m *Meter, c net.Conn, sent, received int64) {
	t.Helper()
	near := func(a, b int64) bool { return max(a-b, b-a) <= b/50 }
	for until := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		got := m.Count()
		out, in := kernel(t, c)
		if near(got.Sent, out) && near(got.Received, in) && near(got.Sent, sent) && near(got.Received, received) {
			return
		}
		if time.Now().After(until) {
			t.Fatalf("counted %+v, the kernel %d and %d, given %d and %d", got, out, in, sent, received)
		}
	}
}

func TestMeter(t *testing.T) {
	addr := echo(t)
	var none *Meter
	c, err := none.Dial(t.Context(), "tcp", addr)
	if err != nil || none.Count() != (Count{}) {
		t.Fatal(err)
	}
	_ = c.Close()
	var m Meter
	if _, err := m.Dial(t.Context(), "tcp", "127.0.0.1:1"); err == nil || m.Count() != (Count{}) {
		t.Errorf("a refused connection: %v, %+v", err, m.Count())
	}
	c, err = m.Dial(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	before := m.Count()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if got := m.Count().Minus(before); got != (Count{Sent: 5}) {
		t.Errorf("%+v", got)
	}
	_ = c.Close()
	if n, err := c.Write([]byte("x")); err == nil || n != 0 || m.Count().Sent != 5 {
		t.Errorf("after the end: %d, %v, %+v", n, err, m.Count())
	}
}
