package secrets

import (
	"crypto/x509"
	"net/http"
	"sync"

	vaultapi "github.com/hashicorp/vault/api"

	"syncline/dataplane/certs"
)

// trusting sends requests to Vault over connections that trust the authorities which their
// file holds now: these rotate while a token is used and renewed. Vault's own client reads
// the file once.
type trusting struct {
	file *certs.Certs

	mu    sync.Mutex
	roots *x509.CertPool // of via
	via   *http.Transport
}

// RoundTrip implements http.RoundTripper.
func (t *trusting) RoundTrip(req *http.Request) (*http.Response, error) {
	via, err := t.transport(req)
	if err != nil {
		return nil, err
	}
	return via.RoundTrip(req)
}

func (t *trusting) transport(req *http.Request) (*http.Transport, error) {
	now, err := t.file.Config(req.Context())
	if err != nil {
		return nil, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.via != nil && t.roots == now.RootCAs {
		return t.via, nil
	}
	// A new one and no copy, whose HTTP/2 connections would be those of before.
	def := vaultapi.DefaultConfig()
	if def.Error != nil {
		return nil, def.Error
	}
	next, _ := def.HttpClient.Transport.(*http.Transport)
	next.TLSClientConfig.RootCAs = now.RootCAs
	if t.via != nil {
		t.via.CloseIdleConnections()
	}
	t.roots, t.via = now.RootCAs, next
	return next, nil
}
