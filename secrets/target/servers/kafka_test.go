package servers

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"strconv"
	"testing"

	"syncline/dataplane/login"
	"syncline/secrets/target"
	"syncline/testsuite/stack"
)

func TestKafka(t *testing.T) {
	t.Parallel()
	s := stack.KafkaSecured(t)
	pem, err := os.ReadFile(s.CA)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatal("no certificate")
	}
	at := func(spec target.Spec, user, password string) target.Target {
		t.Helper()
		spec.Name, spec.Type = "events", target.Kafka
		if spec.Brokers == nil {
			spec.Brokers = s.Brokers
		}
		x, err := Open(spec, login.Login{User: user, Password: password}, &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(x.Close)
		return x
	}
	ctx := inTime(t)
	user := stack.Name(t)
	for _, m := range []string{"scram-sha-256", "scram-sha-512"} {
		t.Run(m, func(t *testing.T) {
			x := at(target.Spec{Mechanism: m, AdminMechanism: "plain"}, s.User, s.Password)
			life(t, x, user)
			life(t, at(target.Spec{Mechanism: m}, s.User, s.Password), user+` "a',=;`)
		})
	}
	// A password of one mechanism does not stay behind when the other's is set.
	one, two := at(target.Spec{Mechanism: "scram-sha-256"}, s.User, s.Password), at(target.Spec{}, s.User, s.Password)
	p := target.NewPassword(30)
	if err := one.Set(ctx, user, p); err != nil {
		t.Fatal(err)
	}
	if err := two.Set(ctx, user, p); err != nil {
		t.Fatal(err)
	}
	_, err = one.Try(ctx, user, p)
	wantFault(t, err, target.CodeLogin)
	anyPassword(t, two, user)
	if got, err := two.Sessions(ctx, user); err != nil || got.Known {
		t.Errorf("%+v, %v", got, err)
	}
	wantFault(t, two.Set(ctx, "ö", p), target.CodeRefused, "ASCII")
	_, err = two.End(ctx, user)
	wantFault(t, err, target.CodeRefused)
	bad := at(target.Spec{}, s.User, "wrong-77")
	wantFault(t, bad.Check(ctx, user), target.CodeAdmin)
	wantFault(t, bad.Set(ctx, user, p), target.CodeAdmin)
	wantFault(t, bad.Disable(ctx, user), target.CodeAdmin)
	gone := net.JoinHostPort("127.0.0.1", strconv.Itoa(closedPort(t)))
	unreachable(t, at(target.Spec{Brokers: []string{gone}}, s.User, s.Password))
	if err := two.Disable(ctx, user); err != nil {
		t.Error(err)
	}
}
