package certs_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/wire"
	"syncline/testsuite/stack"
)

func read(t *testing.T, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// server wants clients of an authority and has a certificate of another; both may be
// exchanged while it runs.
type server struct {
	t       *testing.T
	addr    string
	current atomic.Pointer[tls.Config]
	seen    chan string // serial numbers of the clients' certificates
}

func (s *server) use(own *stack.Authority, clients ...*stack.Authority) {
	s.t.Helper()
	cert, key := own.Sign("127.0.0.1")
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		s.t.Fatal(err)
	}
	pool := x509.NewCertPool()
	for _, a := range clients {
		pool.AppendCertsFromPEM(read(s.t, a.File))
	}
	s.current.Store(&tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS12})
}

func newServer(t *testing.T) *server {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t, addr: l.Addr().String(), seen: make(chan string, 10)}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			x := tls.Server(c, s.current.Load())
			if x.Handshake() == nil {
				s.seen <- x.ConnectionState().PeerCertificates[0].SerialNumber.String()
				_, _ = x.Write([]byte("!"))
			}
			_ = x.Close()
		}
	}()
	return s
}

// dial connects, and makes sure that the server has taken the client's certificate, which
// it says only after the client's part of the handshake.
func dial(t *testing.T, c *certs.Certs, addr string) error {
	conn, err := c.Dial(wire.Plain)(t.Context(), "tcp", addr)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Read(make([]byte, 1))
	return err
}

// Authorities and the client's certificate are exchanged while connections are opened: at
// no step is one refused, and what is dropped at the end is trusted no longer.
func TestRotation(t *testing.T) {
	oldCA, newCA := stack.NewAuthority(t), stack.NewAuthority(t)
	dir := t.TempDir()
	ca, cert, key := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	put := func(path string, texts ...[]byte) {
		t.Helper()
		var all []byte
		for _, b := range texts {
			all = append(all, b...)
		}
		if err := os.WriteFile(path, all, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	leaf := func(a *stack.Authority) (c, k []byte) {
		cf, kf := a.Sign("client")
		return read(t, cf), read(t, kf)
	}
	c1, k1 := leaf(oldCA)
	put(ca, read(t, oldCA.File))
	put(cert, c1)
	put(key, k1)
	s := newServer(t)
	s.use(oldCA, oldCA)
	c, err := certs.New(t.Context(), certs.Options{CAFile: ca, CertFile: cert, Key: func(context.Context) (string, error) {
		b, err := os.ReadFile(key)
		return string(b), err
	}})
	if err != nil {
		t.Fatal(err)
	}
	last := ""
	works := func(step string, another bool) {
		t.Helper()
		if err := dial(t, c, s.addr); err != nil {
			t.Fatalf("%s: %v", step, err)
		}
		if now := <-s.seen; (now != last) != another {
			t.Errorf("%s: another certificate: %v, want %v", step, now != last, another)
		} else {
			last = now
		}
	}
	works("at first", true)
	put(ca, read(t, oldCA.File), read(t, newCA.File)) // trust both
	works("both trusted", false)
	s.use(newCA, oldCA, newCA)
	works("the server's leaf is swapped", false)
	c2, k2 := leaf(newCA)
	put(cert, c2) // its key is not there yet
	works("half of the client's leaf", false)
	put(key, k2)
	works("the client's leaf is swapped", true)
	put(ca, nil) // somebody is writing it
	works("no authorities for a moment", false)
	put(ca, read(t, newCA.File)) // drop the old
	s.use(newCA, newCA)
	works("the old one is dropped", false)
	s.use(oldCA, newCA)
	if err := dial(t, c, s.addr); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the old authority is still trusted: %v", err)
	}
}

func TestMistakes(t *testing.T) {
	a := stack.NewAuthority(t)
	cert, _ := a.Sign("client")
	_, other := a.Sign("other")
	key := func(path string) func(context.Context) (string, error) {
		return func(context.Context) (string, error) {
			b, err := os.ReadFile(path)
			return string(b), err
		}
	}
	for name, o := range map[string]certs.Options{
		"no such authority": {CAFile: "/nowhere"},
		"no authority":      {CAFile: other},
		"no such leaf":      {CertFile: "/nowhere", Key: key(other)},
		"another key":       {CertFile: cert, Key: key(other)},
	} {
		if _, err := certs.New(t.Context(), o); !fault.Is(err, certs.CodeTLSFile) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if certs.Fixed(nil) != nil {
		t.Error("no configuration is encryption")
	}
	// Another name than the server's.
	s := newServer(t)
	s.use(a, a)
	cf, kf := a.Sign("client")
	c, err := certs.New(t.Context(), certs.Options{CAFile: a.File, CertFile: cf, Key: key(kf), ServerName: "elsewhere.example"})
	if err != nil {
		t.Fatal(err)
	}
	if err := dial(t, c, s.addr); err == nil || !strings.Contains(err.Error(), "elsewhere.example") {
		t.Errorf("another name: %v", err)
	}
}
