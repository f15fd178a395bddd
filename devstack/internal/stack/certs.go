package stack

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// Files of the authority that signed Kafka's certificates, and of a client of it.
func (c *Config) kafkaCA() string         { return filepath.Join(c.Data, "kafka-apache", "ca.pem") }
func (c *Config) kafkaClientCert() string { return filepath.Join(c.Data, "kafka-apache", "client.pem") }
func (c *Config) kafkaClientKey() string  { return filepath.Join(c.Data, "kafka-apache", "client.key") }

// Files of the authority that signed Vault's certificate, and of that with its key.
func (c *Config) vaultCA() string   { return filepath.Join(c.Data, "vault", "ca.pem") }
func (c *Config) vaultPair() string { return filepath.Join(c.Data, "vault", "server.pem") }

// authority signs certificates while a service is set up; its key is in no file.
type authority struct {
	pem  []byte // its certificate
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("key of the authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "devstack"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("certificate of the authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("certificate of the authority: %w", err)
	}
	return &authority{pemBlock("CERTIFICATE", der), cert, key}, nil
}

// sign makes a key and its certificate, for a server on this machine or a client, as PEM.
func (a *authority) sign(name string) (key, cert []byte, err error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("key of %s: %w", name, err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: a.cert.NotBefore, NotAfter: a.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, DNSNames: []string{"localhost"},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &k.PublicKey, a.key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate of %s: %w", name, err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, nil, fmt.Errorf("key of %s: %w", name, err)
	}
	return pemBlock("PRIVATE KEY", private), pemBlock("CERTIFICATE", der), nil
}

func pemBlock(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

// writeCertificates makes an authority, and a key and certificate of a server on this
// machine in one file, as Kafka and Vault read them. Made anew at each start.
func writeCertificates(ca, pair string) (*authority, error) {
	a, err := newAuthority()
	if err != nil {
		return nil, err
	}
	key, cert, err := a.sign("localhost")
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(ca, a.pem, 0o644); err != nil {
		return nil, fmt.Errorf("write %s: %w", ca, err)
	}
	if err := os.WriteFile(pair, append(key, cert...), 0o600); err != nil {
		return nil, fmt.Errorf("write %s: %w", pair, err)
	}
	return a, nil
}
