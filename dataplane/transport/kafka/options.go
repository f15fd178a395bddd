package kafka

import (
	"errors"
	"fmt"
	"strings"
	"time"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/sasl"
	"github.com/segmentio/kafka-go/sasl/plain"
	"github.com/segmentio/kafka-go/sasl/scram"

	"syncline/dataplane/certs"
	"syncline/dataplane/login"
	"syncline/dataplane/transport/debezium"
	"syncline/dataplane/wire"
)

// Options say how to reach the cluster and which topics are the pipeline's.
type Options struct {
	Brokers  []string // host:port, at least one
	Prefix   string   // of every topic name, for example "syncline."
	Pipeline string
	ClientID string // default "syncline"

	// Debezium, if set, adds a topic <Prefix><Server>.<schema>.<table> in Debezium's
	// form beside each table's own. Server is <Pipeline>-debezium if empty.
	Debezium *debezium.Options

	TLS  *certs.Certs // nil: plain text
	SASL SASL

	DialTimeout    time.Duration // default 5s, with TLS and authentication
	RequestTimeout time.Duration // of one request, default 10s
	RetryFor       time.Duration // how long to repeat what may pass, default 5s; negative: not at all

	Dial wire.Dial // opens connections; default wire.Plain
	// Login, if set, gives SASL's user and password, which may change meanwhile.
	Login login.Source
}

// SASL credentials; none if Mechanism is empty.
type SASL struct {
	Mechanism string // plain, scram-sha-256, scram-sha-512
	User      string
	Password  string
}

// String and GoString keep the password out of logs.
func (s SASL) String() string {
	if s.Mechanism == "" {
		return "none"
	}
	return s.Mechanism + ":" + s.User
}

// GoString is String.
func (s SASL) GoString() string { return s.String() }

func (s SASL) mechanism() (sasl.Mechanism, error) {
	switch strings.ToLower(s.Mechanism) {
	case "":
		return nil, nil
	case "plain":
		return plain.Mechanism{Username: s.User, Password: s.Password}, nil
	case "scram-sha-256":
		return scram.Mechanism(scram.SHA256, s.User, s.Password)
	case "scram-sha-512":
		return scram.Mechanism(scram.SHA512, s.User, s.Password)
	}
	return nil, fmt.Errorf("SASL mechanism %q: want plain, scram-sha-256 or scram-sha-512", s.Mechanism)
}

func (o *Options) validate() error {
	var errs []error
	if len(o.Brokers) == 0 {
		errs = append(errs, errors.New("kafka: no brokers"))
	}
	for _, b := range o.Brokers {
		if !strings.Contains(b, ":") {
			errs = append(errs, fmt.Errorf("kafka: broker %q: want host:port", b))
		}
	}
	if err := checkNames(o.Prefix, o.Pipeline); err != nil {
		errs = append(errs, err)
	}
	if o.Debezium != nil {
		d := *o.Debezium
		if d.Server == "" {
			d.Server = o.Pipeline + "-debezium"
		}
		if d.Server == o.Pipeline || !legalPipeline.MatchString(d.Server) || len(d.Server) > 64 {
			errs = append(errs, fmt.Errorf("kafka: Debezium server name %q: want at most 64 letters, digits, dashes and underscores, other than the pipeline's name", d.Server))
		}
		o.Debezium = &d
	}
	if o.Login != nil && o.SASL.Mechanism == "" {
		errs = append(errs, errors.New("kafka: a login without a SASL mechanism"))
	}
	if _, err := o.SASL.mechanism(); err != nil {
		errs = append(errs, fmt.Errorf("kafka: %w", err))
	}
	if o.ClientID == "" {
		o.ClientID = "syncline"
	}
	if o.Dial == nil {
		o.Dial = wire.Plain
	}
	setDefault(&o.DialTimeout, 5*time.Second)
	setDefault(&o.RequestTimeout, 10*time.Second)
	setDefault(&o.RetryFor, 5*time.Second)
	return errors.Join(errs...)
}

func setDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// transport opens connections by a login, or by SASL's if there is no Login.
func (o *Options) transport(l login.Login) (*kgo.Transport, error) {
	as, dial := o.SASL, o.Dial
	if o.Login != nil {
		as.User, as.Password = l.User, l.Password
		dial = login.Dial(o.Login, l, dial)
	}
	m, err := as.mechanism()
	if err != nil {
		return nil, err
	}
	return &kgo.Transport{
		Dial:        o.TLS.Dial(dial),
		DialTimeout: o.DialTimeout,
		IdleTimeout: time.Minute,
		MetadataTTL: 10 * time.Second,
		ClientID:    o.ClientID,
		SASL:        m,
	}, nil
}
