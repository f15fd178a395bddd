package target

import (
	"regexp"
	"strings"
	"testing"
)

func TestNewPassword(t *testing.T) {
	safe := regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
	seen := map[string]bool{}
	for n := range 2000 {
		p := NewPassword(n % 600).Reveal()
		if !safe.MatchString(p) || seen[p] || len(p) != min(max(n%600, 27), 512) {
			t.Fatalf("%q of length %d", p, n%600)
		}
		seen[p] = true
	}
}

func TestValidate(t *testing.T) {
	for _, good := range []Spec{
		{Name: "a", Type: "postgres", Host: "db", SSLMode: "verify-full"},
		{Name: "a", Type: "clickhouse", Host: "db", Protocol: "http", Cluster: "c"},
		{Name: "a", Type: "kafka", Brokers: []string{"[::1]:9092", "b:1"}, Mechanism: "scram-sha-256", AdminMechanism: "plain"},
	} {
		if err := good.Validate(); err != nil {
			t.Error(err)
		}
	}
	for says, bad := range map[string]Spec{
		"name: is empty":           {Type: "postgres", Host: "db"},
		`type: "mysql"`:            {Name: "a", Type: "mysql"},
		"host: is empty":           {Name: "a", Type: "postgres"},
		"port: 70000":              {Name: "a", Type: "clickhouse", Host: "db", Port: 70000},
		`sslmode: "yes"`:           {Name: "a", Type: "postgres", Host: "db", SSLMode: "yes"},
		`protocol: "grpc"`:         {Name: "a", Type: "clickhouse", Host: "db", Protocol: "grpc"},
		"brokers: is empty":        {Name: "a", Type: "kafka"},
		`brokers: "b"`:             {Name: "a", Type: "kafka", Brokers: []string{"b"}},
		"passwords of SASL/PLAIN":  {Name: "a", Type: "kafka", Brokers: []string{"b:1"}, Mechanism: "plain"},
		"cluster: is none":         {Name: "a", Type: "postgres", Host: "db", Cluster: "c"},
		`admin_mechanism: "oauth"`: {Name: "a", Type: "kafka", Brokers: []string{"b:1"}, AdminMechanism: "oauth"},
	} {
		if err := bad.Validate(); err == nil || !strings.Contains(err.Error(), says) {
			t.Errorf("want %q: %v", says, err)
		}
	}
}
