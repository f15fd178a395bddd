package main

import (
	"io"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
)

// link stands between two regions: servers of the far one are reached through it alone,
// and it counts what passes.
type link struct {
	there, back atomic.Int64 // bytes to the far region and from it

	mu    sync.Mutex
	open  []io.Closer
	ended bool
}

// to returns the address at which a server of the far region is reached.
func (l *link) to(addr string) (string, error) {
	in, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	l.keep(in)
	go func() {
		for {
			near, err := in.Accept()
			if err != nil {
				return
			}
			far, err := net.Dial("tcp", addr)
			if err != nil {
				_ = near.Close()
				continue
			}
			l.keep(near, far)
			go l.carry(far, near, &l.there)
			go l.carry(near, far, &l.back)
		}
	}()
	return in.Addr().String(), nil
}

// dsn returns a connection string by which its server is reached over the link.
func (l *link) dsn(dsn string) (string, error) {
	u, err := url.Parse(dsn)
	if err != nil {
		return "", err
	}
	u.Host, err = l.to(u.Host)
	return u.String(), err
}

func (l *link) keep(cs ...io.Closer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		for _, c := range cs {
			_ = c.Close()
		}
	}
	l.open = append(l.open, cs...)
}

func (l *link) carry(to, from net.Conn, n *atomic.Int64) {
	_, _ = io.Copy(counting{to, n}, from)
	_ = to.Close()
	_ = from.Close()
}

func (l *link) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ended = true
	for _, c := range l.open {
		_ = c.Close()
	}
}

type counting struct {
	w io.Writer
	n *atomic.Int64
}

func (c counting) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// carried is what has passed a link.
type carried struct{ there, back int64 }

func (l *link) carried() carried { return carried{l.there.Load(), l.back.Load()} }
