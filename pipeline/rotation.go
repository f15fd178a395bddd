package pipeline

import (
	"encoding/json"
	"time"

	"syncline/secrets"
)

// The values of RotationTarget.Type.
const (
	TargetPostgres   = "postgres"
	TargetClickHouse = "clickhouse"
	TargetKafka      = "kafka"
)

// Rotation says how a login is rotated: what is at its path in Vault, and at which servers
// its two users exist. It holds references only.
type Rotation struct {
	Version int              `json:"version"`
	Login   secrets.LoginRef `json:"login"`
	Targets []RotationTarget `json:"targets"`
	// Every is how often a Schedule rotates it; 0: only when somebody says so.
	Every Duration `json:"every,omitempty"`
	// Patience is how long each step before the promotion is tried before all is put back,
	// and how long a worker may be silent after it before that is an alert.
	Patience Duration `json:"patience"`
	// Gone is after how long a worker that nobody hears of, and of which the servers show no
	// session, no longer holds up the revocation; never before 90s, since a worker at rest asks for work once a minute.
	Gone Duration `json:"gone"`
	// Length of the passwords that are made.
	Length int `json:"length"`
}

// RotationTarget is a server at which both users exist, and where an administrator sets
// their passwords.
type RotationTarget struct {
	Name  string           `json:"name"`
	Type  string           `json:"type"`
	Admin secrets.LoginRef `json:"admin"` // who may set passwords there

	Host        string `json:"host,omitempty"`
	Port        int    `json:"port,omitempty"`
	Database    string `json:"database,omitempty"`
	SSLMode     string `json:"sslmode,omitempty"`     // postgres
	SSLRootCert string `json:"sslrootcert,omitempty"` // postgres
	// Passwordless: that no password is asked for there is meant (postgres).
	Passwordless bool   `json:"passwordless,omitempty"`
	Protocol     string `json:"protocol,omitempty"` // clickhouse
	Cluster      string `json:"cluster,omitempty"`  // clickhouse: ON CLUSTER

	Brokers   []string `json:"brokers,omitempty"`   // kafka
	Mechanism string   `json:"mechanism,omitempty"` // kafka
	// AdminMechanism is that of the administrator, if it is another one (kafka).
	AdminMechanism string `json:"admin_mechanism,omitempty"`
	TLS            *TLS   `json:"tls,omitempty"` // clickhouse, kafka
	Region         string `json:"region,omitempty"`
}

// PatienceDefault and GoneDefault are those of a Rotation.
const (
	PatienceDefault = 2 * time.Minute
	GoneDefault     = 10 * time.Minute
)

var rotationRoot = (&field{
	kind: kindObject, doc: "How one login is rotated.",
	fields: []*field{
		{name: "version", kind: kindInteger, required: true, min: 1, max: 1, doc: "Version of this format."},
		{name: "login", kind: kindLogin, required: true, also: []string{"secret", "path"}, doc: "The login, as pipelines name it."},
		{name: "every", kind: kindDuration, derived: "only when somebody says so", min: int64(time.Minute), max: 3650 * day, also: []string{"period", "interval"}, doc: "How often `starter rotate --schedule` lets it be rotated."},
		{name: "patience", kind: kindDuration, def: "2m", min: int64(5 * time.Second), max: day, doc: "How long a step before the promotion is tried before all is put back; after it, how long a worker may be silent before that is an alert."},
		{name: "gone", kind: kindDuration, def: "10m", min: int64(10 * time.Second), max: 30 * day, doc: "After how long a worker that nobody hears of, and of which the servers show no session, no longer holds up the revocation."},
		{name: "length", kind: kindInteger, def: 40, min: 27, max: 128, doc: "Characters of the passwords that are made; 27 are 160 bits."},
		{name: "targets", kind: kindList, required: true, min: 1, uniqueBy: "name", also: []string{"servers"}, doc: "The servers at which both users exist: every region, every replica that has its own users.",
			elem: &field{kind: kindObject, fields: []*field{
				{name: "name", kind: kindText, required: true, pattern: namePattern, want: nameWant, check: checkName, doc: "Name of the target, unique in the rotation."},
				{name: "type", kind: kindText, required: true, enum: []string{TargetPostgres, TargetClickHouse, TargetKafka}, doc: "Kind of server."},
				{name: "admin", kind: kindLogin, required: true, also: []string{"administrator"}, doc: "A login that may set the passwords of both users."},
				{name: "host", kind: kindText, pattern: hostPattern, want: hostWant, also: []string{"hostname", "address", "server"}, doc: "Host name or address (postgres, clickhouse)."},
				{name: "port", kind: kindInteger, derived: "5432; ClickHouse: 8123 (http) or 9000 (native), with TLS 8443 or 9440", min: 1, max: 65535, doc: "Port."},
				{name: "database", kind: kindText, also: []string{"dbname", "db"}, derived: "the administrator's name; ClickHouse: `default`", doc: "Database to connect to."},
				{name: "sslmode", kind: kindText, when: TargetPostgres, enum: sslModes, def: "prefer", doc: "As in libpq."},
				{name: "sslrootcert", kind: kindText, when: TargetPostgres, also: []string{"ca_file"}, doc: "File of the authorities' certificates, on the worker."},
				{name: "passwordless", kind: kindBoolean, when: TargetPostgres, derived: "false", doc: "That `pg_hba.conf` asks the users for no password is meant: NOLOGIN alone revokes."},
				{name: "protocol", kind: kindText, when: TargetClickHouse, enum: []string{"http", "native"}, def: "http", doc: "ClickHouse interface."},
				{name: "cluster", kind: kindText, when: TargetClickHouse, pattern: identPattern, want: "a name of at most 63 characters", doc: "Cluster on all of whose servers the users are (`ON CLUSTER`)."},
				{name: "brokers", kind: kindList, when: TargetKafka, commas: true, set: true, min: 1, required: true, want: "a list of host:port, or one text with commas",
					also: []string{"bootstrap_servers", "servers"}, doc: "Brokers to begin with.",
					elem: &field{kind: kindText, pattern: "^" + brokerPattern + "$", want: "host:port, such as kafka:9092"}},
				{name: "mechanism", kind: kindText, when: TargetKafka, enum: []string{"scram-sha-256", "scram-sha-512"}, def: "scram-sha-512", doc: "Mechanism of the users."},
				{name: "admin_mechanism", kind: kindText, when: TargetKafka, enum: []string{"plain", "scram-sha-256", "scram-sha-512"}, derived: "`mechanism`", doc: "Mechanism of the administrator."},
				{name: "tls", kind: kindObject, also: []string{"ssl"}, doc: "Encryption (clickhouse, kafka); `tls: {}` turns it on with the system's authorities.", fields: tlsFields},
				{name: "region", kind: kindText, pattern: regionPattern, want: regionWant, also: []string{"location"}, doc: "Region where it is, for the record."},
			}}},
	},
}).compile()

// ParseRotation reads the declaration of a rotation in YAML. The error is of type Problems.
func ParseRotation(filename string, data []byte) (*Rotation, error) {
	n, problems := fromYAML(data, "a rotation: version, login, targets")
	r := new(Rotation)
	if n != nil {
		d := &decoder{at: map[string]pos{}, kept: map[string][]int{}}
		if tree, ok := d.value(rotationRoot, n, "", pos{1, 1}); ok {
			text, err := json.Marshal(tree)
			if err == nil {
				err = json.Unmarshal(text, r)
			}
			if err != nil { // the field table and Rotation disagree; a test holds that they do not
				d.problem(pos{1, 1}, "", "cannot be represented: "+err.Error(), "", "")
			}
			d.rotation(r)
		}
		problems = append(problems, d.problems...)
	}
	if len(problems) == 0 {
		return r, nil
	}
	for i := range problems {
		problems[i].File = filename
	}
	return nil, problems.sorted()
}

// Check fills in the defaults of a Rotation that did not come from ParseRotation, such as
// the input of a workflow, and reports its mistakes as Problems.
func (r *Rotation) Check() error {
	data, err := json.Marshal(r)
	if err != nil {
		return Problems{{Message: "has no JSON form"}}
	}
	var tree map[string]any
	if err := json.Unmarshal(data, &tree); err != nil {
		return Problems{{Message: "has no JSON form"}}
	}
	prune(rotationRoot, tree)
	if data, err = json.Marshal(tree); err != nil {
		return Problems{{Message: "has no JSON form"}}
	}
	checked, err := ParseRotation("", data)
	if err == nil {
		*r = *checked
	}
	return err
}

func (d *decoder) rotation(r *Rotation) {
	for i := range r.Targets {
		t := &r.Targets[i]
		p := d.item("targets", i)
		if t.Type != TargetKafka && t.Type != "" && t.Host == "" && !d.given(p+".host") {
			d.problem(d.at[p+".type"], p+".host", "is missing", hostWant, "")
		}
		for _, name := range []string{"host", "port", "database"} {
			if t.Type == TargetKafka && d.given(p+"."+name) {
				d.problem(d.at[p+"."+name], p+"."+name, "is not a field of a target of type kafka", "brokers", "")
			}
		}
		if t.Type == TargetPostgres && d.given(p+".tls") {
			d.problem(d.at[p+".tls"], p+".tls", "is not a field of a target of type postgres", "sslmode and sslrootcert", "")
		}
		if t.Port == 0 && t.Type != TargetKafka {
			t.Port = defaultPort(&Sink{Type: t.Type, Protocol: t.Protocol, TLS: t.TLS})
		}
		if t.Admin == r.Login && !t.Admin.IsZero() {
			d.problem(d.at[p+".admin"], p+".admin", "is the login that is rotated", "another login, which may set its passwords", "")
		}
		d.clientCertificate(t.TLS, p+".tls")
	}
}
