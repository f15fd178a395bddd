package postgres

import (
	"net"
	"syscall"
	"testing"
)

// A copy that waits for its next byte has no bound but this one.
func TestVanishedServersAreMissed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	s, err := NewServer(ServerOptions{DSN: "postgres://u@127.0.0.1/d", Pipeline: "p"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	dial := s.config.ConnConfig.DialFunc
	c, err := dial(t.Context(), "tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	get := func(option int) (n int) {
		if cerr := raw.Control(func(fd uintptr) { n, err = syscall.GetsockoptInt(int(fd), syscall.IPPROTO_TCP, option) }); cerr != nil || err != nil {
			t.Fatal(cerr, err)
		}
		return n
	}
	if after := get(syscall.TCP_KEEPIDLE) + get(syscall.TCP_KEEPINTVL)*get(syscall.TCP_KEEPCNT); after > 60 {
		t.Errorf("missed after %d seconds", after)
	}
}
