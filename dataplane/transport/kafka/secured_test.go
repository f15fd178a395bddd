package kafka

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"syncline/dataplane/certs"
	"syncline/dataplane/change"
	"syncline/testsuite/stack"
)

func trusting(t testing.TB, caFile string) *certs.Certs {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", caFile)
	}
	return certs.Fixed(&tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12})
}

// Everything that the transport does works over TLS with each mechanism.
func TestSecuredListener(t *testing.T) {
	t.Parallel()
	s := stack.KafkaSecured(t)
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		t.Run(mechanism, func(t *testing.T) {
			t.Parallel()
			o := testOptions(t)
			o.Brokers, o.TLS, o.SASL = s.Brokers, trusting(t, s.CA), SASL{mechanism, s.User, s.Password}
			ensure(t, o, TopicOptions{Partitions: 1}, orders)
			w := openWriter(t, o, WriterOptions{})
			const n = 200
			var seq uint64
			for i := range n {
				var err error
				if seq, err = w.Append(t.Context(), testChange(i, "a", fmt.Sprint(i))); err != nil {
					t.Fatal(err)
				}
			}
			waitAcked(t, w, seq)
			for i, r := range readAll(t, openLog(t, o, LogOptions{}), orders, 0, -1, n) {
				if got, want := change.Encode(nil, r.Change), change.Encode(nil, testChange(i, "a", fmt.Sprint(i))); !bytes.Equal(got, want) {
					t.Fatalf("record %d is %+v", i, r.Change)
				}
			}
		})
	}
}

// What is wrong has its name: a refused login is retried, as passwords rotate; a
// certificate that nobody vouches for says so.
func TestSecuredListenerRefuses(t *testing.T) {
	t.Parallel()
	s := stack.KafkaSecured(t)
	base := Options{Brokers: s.Brokers, Prefix: "test.", Pipeline: stack.Name(t), RetryFor: 300 * time.Millisecond, TLS: trusting(t, s.CA)}
	check := func(o Options) error {
		a, err := OpenAdmin(o)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = a.Close() }()
		_, checked := a.Check(t.Context())
		ensured := a.EnsureTopics(t.Context(), TopicOptions{Partitions: 1}, []change.TableID{orders}, nil)
		if checked == nil || ensured == nil {
			t.Fatalf("taken: %v, %v", checked, ensured)
		}
		for _, err := range []error{checked, ensured} {
			if strings.Contains(err.Error(), "not-the-password") {
				t.Errorf("the password shows: %v", err)
			}
		}
		return errors.Join(checked, ensured)
	}
	for _, mechanism := range []string{"plain", "scram-sha-256", "scram-sha-512"} {
		o := base
		o.SASL = SASL{mechanism, s.User, "not-the-password"}
		err := check(o)
		for _, e := range err.(interface{ Unwrap() []error }).Unwrap() {
			want(t, e, CodeAuth, true)
		}
	}
	o := base
	o.SASL, o.TLS = SASL{"scram-sha-512", s.User, s.Password}, trusting(t, stack.NewAuthority(t).File)
	for _, e := range check(o).(interface{ Unwrap() []error }).Unwrap() {
		want(t, e, CodeTLS, true)
	}
	o.TLS = nil
	for _, e := range check(o).(interface{ Unwrap() []error }).Unwrap() {
		want(t, e, CodeUnreachable, true)
		if !strings.Contains(e.Error(), "TLS") {
			t.Errorf("does not hint at TLS: %v", e)
		}
	}
}
