package stack

import (
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"testing"
	"time"
)

// Secured is Temporal behind TLS, as a secured cluster or Temporal Cloud has it.
type Secured struct {
	Address   string
	Authority *Authority // that signed its certificate and signs its clients'
	Key       string     // the API key that it wants, if any
}

// SecuredTemporal serves the stack's Temporal with TLS and HTTP/2. Clients must have
// a certificate of its authority, or, if key is not empty, that API key.
func SecuredTemporal(t testing.TB, key string) *Secured {
	t.Helper()
	backend := &url.URL{Scheme: "http", Host: Temporal(t)}
	s := &Secured{Authority: NewAuthority(t), Key: key}
	cert, err := tls.LoadX509KeyPair(s.Authority.Sign("temporal.example"))
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	ca, err := os.ReadFile(s.Authority.File)
	if err != nil || !pool.AppendCertsFromPEM(ca) {
		t.Fatalf("authority: %v", err)
	}
	h2, h2c := new(http.Protocols), new(http.Protocols)
	h2.SetHTTP2(true)
	h2c.SetUnencryptedHTTP2(true)
	transport := &http.Transport{Protocols: h2c}
	proxy := &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(backend) },
		Transport:     transport,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), // calls end when clients do
	}
	conf := &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"}}
	if key == "" {
		conf.ClientAuth, conf.ClientCAs = tls.RequireAndVerifyClientCert, pool
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.Address = l.Addr().String()
	server := &http.Server{
		TLSConfig: conf, Protocols: h2, ReadHeaderTimeout: time.Minute, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if key != "" && r.Header.Get("Authorization") != "Bearer "+key {
				w.Header().Set("Content-Type", "application/grpc")
				w.Header().Set("Grpc-Status", "16") // UNAUTHENTICATED
				w.Header().Set("Grpc-Message", "Request unauthorized.")
				return
			}
			proxy.ServeHTTP(w, r)
		}),
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		_ = server.Close()
		transport.CloseIdleConnections()
		<-done
	})
	return s
}
