// Package certs has TLS connections follow certificates that are exchanged while programs
// run: authorities, and a client's own certificate with its key.
//
// # States
//
// Files and key are read at each handshake if they have changed, so that the next
// connection has what is there now; connections that are open stay as they are. That lets
// certificates rotate in three steps without a restart and without a refusal: the file of
// authorities has the old and the new one (trust both), the client's certificate is
// exchanged (swap the leaf), the old authority is removed (drop the old).
//
// # Failure
//
// What cannot be read, as while somebody writes it, or a certificate whose key does not
// fit, which is there while only one of the two is exchanged, leaves the one of before in
// use, as long as there is one. At the beginning it is a mistake, and named.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"os"
	"sync"

	"syncline/dataplane/fault"
	"syncline/dataplane/wire"
)

// CodeTLSFile: a file of a certificate or its key is not what it should be.
const CodeTLSFile fault.Code = "TLSFile"

// Options say where certificates are.
type Options struct {
	CAFile     string // PEM; "": the system's authorities
	CertFile   string // PEM of the client's certificate; "": it has none
	Key        func(context.Context) (string, error)
	ServerName string // in the server's certificate; "": the host connected to
}

// Certs are the certificates of connections to one place. nil: these are not encrypted.
// Safe for concurrent use.
type Certs struct {
	o     Options
	fixed *tls.Config

	mu     sync.Mutex
	ca     file
	roots  *x509.CertPool
	cert   file
	key    string
	client *tls.Certificate
}

// New reads the files once, to find mistakes.
func New(ctx context.Context, o Options) (*Certs, error) {
	c := &Certs{o: o}
	_, err := c.Config(ctx)
	return c, err
}

// Fixed are certificates that do not change.
func Fixed(conf *tls.Config) *Certs {
	if conf == nil {
		return nil
	}
	return &Certs{fixed: conf}
}

// Config is what a handshake begins with now; nil of nil.
func (c *Certs) Config(ctx context.Context) (*tls.Config, error) {
	if c == nil {
		return nil, nil
	}
	if c.fixed != nil {
		return c.fixed.Clone(), nil
	}
	roots, err := c.authorities()
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.o.ServerName, RootCAs: roots}
	if c.o.CertFile != "" {
		pair, err := c.pair(ctx)
		if err != nil {
			return nil, err
		}
		conf.Certificates = []tls.Certificate{*pair}
	}
	return conf, nil
}

// Dial opens connections by dial, and encrypts them with the certificates that are there
// at that moment.
func (c *Certs) Dial(dial wire.Dial) wire.Dial {
	if c == nil {
		return dial
	}
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		conf, err := c.Config(ctx)
		if err != nil {
			return nil, err
		}
		if conf.ServerName == "" {
			if conf.ServerName, _, err = net.SplitHostPort(addr); err != nil {
				conf.ServerName = addr
			}
		}
		plain, err := dial(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		t := tls.Client(plain, conf)
		if err := t.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, plain.Close())
		}
		return t, nil
	}
}

// file is what was read last.
type file struct{ text string }

// read gives a file's text, and whether it is another than before.
func (f *file) read(path string) (changed bool, err error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return false, err
	}
	if string(b) == f.text {
		return false, nil
	}
	f.text = string(b)
	return true, nil
}

func (c *Certs) authorities() (*x509.CertPool, error) {
	if c.o.CAFile == "" {
		return nil, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, err := c.ca.read(c.o.CAFile)
	if err != nil && c.roots == nil {
		return nil, fault.Permanent(CodeTLSFile, err, "mount the file in every worker", "certificate authority")
	}
	if changed {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM([]byte(c.ca.text)) {
			if c.roots == nil {
				return nil, fault.Permanent(CodeTLSFile, nil, "give a PEM file", "%s holds no certificate", c.o.CAFile)
			}
			return c.roots, nil
		}
		c.roots = pool
	}
	return c.roots, nil
}

// pair gives the client's certificate.
func (c *Certs) pair(ctx context.Context) (*tls.Certificate, error) {
	key, kerr := c.o.Key(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	changed, err := c.cert.read(c.o.CertFile)
	switch {
	case c.client == nil && err != nil:
		return nil, fault.Permanent(CodeTLSFile, err, "mount the file in every worker", "client certificate")
	case c.client == nil && kerr != nil:
		return nil, kerr
	case err != nil || kerr != nil || !changed && key == c.key && c.client != nil:
		return c.client, nil
	}
	pair, err := tls.X509KeyPair([]byte(c.cert.text), []byte(key))
	if err != nil {
		if c.client != nil {
			c.cert.text = "" // looked at again the next time
			return c.client, nil
		}
		return nil, fault.Permanent(CodeTLSFile, nil, "give the key of that certificate", "client certificate %s and its key do not fit", c.o.CertFile)
	}
	c.client, c.key = &pair, key
	return c.client, nil
}
