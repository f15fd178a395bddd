package kafka

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"syncline/dataplane/certs"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/wire"
	"syncline/testsuite/stack"
)

// mounted are the files of a worker's certificates.
type mounted struct {
	t             testing.TB
	ca, cert, key string
}

// mount gives files of its own the contents of others.
func mount(t testing.TB, ca, cert, key string) *mounted {
	t.Helper()
	dir := t.TempDir()
	m := &mounted{t, filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")}
	m.put(m.ca, ca)
	m.put(m.cert, cert)
	m.put(m.key, key)
	return m
}

// put replaces a file in one step, as mounted secrets are, by others' contents.
func (m *mounted) put(path string, from ...string) {
	m.t.Helper()
	if err := os.WriteFile(path+".new", []byte(texts(m.t, from...)), 0o600); err != nil {
		m.t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		m.t.Fatal(err)
	}
}

func texts(t testing.TB, files ...string) string {
	t.Helper()
	var all strings.Builder
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(b)
	}
	return all.String()
}

// certificates is what a pipeline with these files connects with; cert may be empty.
func certificates(t testing.TB, ca, cert, key string) *certs.Certs {
	t.Helper()
	c, err := certs.New(t.Context(), certs.Options{CAFile: ca, CertFile: cert, Key: func(context.Context) (string, error) {
		b, err := os.ReadFile(key)
		return string(b), err
	}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// mutualListener changes what the broker's listener has and trusts while it runs, as
// kafka-configs --alter does.
type mutualListener struct {
	t      testing.TB
	client *kgo.Client
	broker string
}

const (
	trusts = "listener.name.mutual.ssl.truststore.certificates"
	chain  = "listener.name.mutual.ssl.keystore.certificate.chain"
	key    = "listener.name.mutual.ssl.keystore.key"
)

func openMutualListener(t testing.TB) *mutualListener {
	t.Helper()
	l := &mutualListener{t: t, client: &kgo.Client{Addr: kgo.TCP(stack.Kafka(t)...), Timeout: 20 * time.Second}}
	m, err := l.client.Metadata(t.Context(), &kgo.MetadataRequest{})
	if err != nil || len(m.Brokers) != 1 {
		t.Fatalf("brokers: %+v, %v", m, err)
	}
	l.broker = strconv.Itoa(m.Brokers[0].ID)
	return l
}

// set gives names values, or what the broker began with if these are empty.
func (l *mutualListener) set(ctx context.Context, pairs ...string) {
	l.t.Helper()
	r := kgo.IncrementalAlterConfigsRequestResource{ResourceType: kgo.ResourceTypeBroker, ResourceName: l.broker}
	for i := 0; i < len(pairs); i += 2 {
		op := kgo.ConfigOperationSet
		if pairs[i+1] == "" {
			op = kgo.ConfigOperationDelete
		}
		r.Configs = append(r.Configs, kgo.IncrementalAlterConfigsRequestConfig{Name: pairs[i], Value: pairs[i+1], ConfigOperation: op})
	}
	res, err := l.client.IncrementalAlterConfigs(ctx, &kgo.IncrementalAlterConfigsRequest{Resources: []kgo.IncrementalAlterConfigsRequestResource{r}})
	if err == nil {
		err = res.Resources[0].Error
	}
	if err != nil {
		l.t.Fatalf("set %s: %v", pairs[0], err)
	}
}

// connects tries one connection, without repetition.
func connects(ctx context.Context, t testing.TB, brokers []string, c *certs.Certs) error {
	t.Helper()
	a, err := OpenAdmin(Options{Brokers: brokers, Prefix: "test.", Pipeline: "mutual", TLS: c, RetryFor: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	_, err = a.Check(ctx)
	return err
}

func soon(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not seen: %s", what)
		}
	}
}

// refused wants the fault of a connection that TLS does not let come about, with a field in what to do.
func refused(t testing.TB, err error, fields ...string) {
	t.Helper()
	want(t, err, CodeTLS, true)
	var f *fault.Error
	if !errors.As(err, &f) {
		return
	}
	for _, field := range fields {
		if !strings.Contains(f.Fix, field) {
			t.Errorf("no %s in what to do: %v", field, err)
		}
	}
}

// The brokers' certificate, the workers', and the authorities on both sides are exchanged
// while a writer and a reader run that repeat nothing: trust both, swap the leaves, drop the
// old. At each step both open new connections.
func TestCertificatesRotateKafka(t *testing.T) {
	k, broker := stack.KafkaMutual(t), openMutualListener(t)
	begin := func(ctx context.Context) {
		broker.set(ctx, trusts, "", chain, "", key, "")
		first := certificates(t, k.CA, k.Cert, k.Key)
		soon(t, "the broker's first certificates", func() bool { return connects(ctx, t, k.Brokers, first) == nil })
	}
	begin(t.Context()) // a run that was killed leaves what it had set
	t.Cleanup(func() { begin(context.Background()) })

	o := testOptions(t)
	ensure(t, o, TopicOptions{Partitions: 1}, orders)
	other := stack.NewAuthority(t)
	leaf, leafKey := other.Sign("localhost") // Kafka takes another one of the same name only
	if _, _, err := openLog(t, o, LogOptions{}).Range(t.Context(), sink.Partition{Table: orders, N: 0}); err != nil {
		t.Fatal(err) // this repeats, until new topics have their leaders
	}
	files := mount(t, k.CA, k.Cert, k.Key)
	o.Brokers, o.TLS, o.RetryFor = k.Brokers, certificates(t, files.ca, files.cert, files.key), -1
	var dialed [2]atomic.Int64
	counting := func(n *atomic.Int64) Options {
		o := o
		o.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			n.Add(1)
			return wire.Plain(ctx, network, addr)
		}
		return o
	}
	w, l := openWriter(t, counting(&dialed[0]), WriterOptions{}), openLog(t, counting(&dialed[1]), LogOptions{})
	r, err := l.Open(t.Context(), sink.Partition{Table: orders, N: 0}, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()

	running, stop := context.WithCancel(t.Context())
	ended := make(chan int, 2)
	var wrote, read atomic.Int64
	go func() {
		defer func() { ended <- 1 }()
		for every := time.NewTicker(time.Millisecond); running.Err() == nil; wrote.Add(1) {
			<-every.C
			if _, err := w.Append(t.Context(), testChange(int(wrote.Load()), "a", fmt.Sprint(wrote.Load()))); err != nil {
				t.Errorf("write %d: %v", wrote.Load(), err)
				return
			}
		}
	}()
	go func() {
		defer func() { ended <- 1 }()
		for {
			recs, err := r.Read(running, 500)
			if running.Err() != nil {
				return
			}
			if err != nil {
				t.Errorf("read %d: %v", read.Load(), err)
				return
			}
			for _, rec := range recs {
				n := int(read.Load())
				if got, want := change.Encode(nil, rec.Change), change.Encode(nil, testChange(n, "a", fmt.Sprint(n))); !bytes.Equal(got, want) {
					t.Errorf("record %d is %+v", n, rec.Change)
					return
				}
				read.Add(1)
			}
		}
	}()
	defer func() {
		stop()
		<-ended
		<-ended
	}()
	// flows has the writer, the reader, and one who begins now open connections.
	flows := func(step string) {
		t.Helper()
		for i, c := range []*cluster{w.c, l.c} {
			opened := dialed[i].Load()
			c.renew()
			soon(t, step+": another connection", func() bool { return dialed[i].Load() > opened || t.Failed() })
		}
		appended := wrote.Load()
		soon(t, fmt.Sprintf("%s: record %d", step, appended), func() bool {
			if _, err := w.Acked(); err != nil {
				t.Fatalf("%s: %v", step, err)
			}
			return read.Load() > appended || t.Failed()
		})
		if err := connects(t.Context(), t, k.Brokers, o.TLS); err != nil {
			t.Errorf("%s: %v", step, err)
		}
		if t.Failed() {
			t.Fatal(step)
		}
	}
	flows("at first")

	both := texts(t, k.CA, other.File)
	files.put(files.ca, k.CA, other.File)
	flows("workers trust both")
	broker.set(t.Context(), trusts, both)
	next := certificates(t, files.ca, leaf, leafKey)
	soon(t, "a broker that trusts both", func() bool { return connects(t.Context(), t, k.Brokers, next) == nil })
	flows("all trust both")

	broker.set(t.Context(), chain, texts(t, leaf), key, texts(t, leafKey))
	onlyNew := certificates(t, other.File, k.Cert, k.Key)
	soon(t, "the broker's new certificate", func() bool { return connects(t.Context(), t, k.Brokers, onlyNew) == nil })
	flows("the broker's leaf is swapped")
	client, clientKey := other.Sign("client")
	files.put(files.cert, client)
	flows("half of the workers' leaf") // the key is not there yet
	files.put(files.key, clientKey)
	flows("the workers' leaf is swapped")

	broker.set(t.Context(), trusts, texts(t, other.File))
	soon(t, "the end of the old certificate", func() bool { return connects(t.Context(), t, k.Brokers, onlyNew) != nil })
	flows("the broker trusts the new one")
	files.put(files.ca, other.File)
	flows("the old one is dropped")
	refused(t, connects(t.Context(), t, k.Brokers, onlyNew), "kafka.tls.cert_file", "kafka.tls.key")
	refused(t, connects(t.Context(), t, k.Brokers, certificates(t, k.CA, client, clientKey)), "kafka.tls.ca_file")
	t.Logf("%d records, %d connections to write and %d to read", read.Load(), dialed[0].Load(), dialed[1].Load())
}

// Who has no certificate, or one that the broker's authority did not sign, is refused at
// whatever comes first; the error names the field.
func TestMutualListenerRefuses(t *testing.T) {
	k, foreign := stack.KafkaMutual(t), stack.NewAuthority(t)
	cert, key := foreign.Sign("client")
	for name, c := range map[string]struct {
		tls    *certs.Certs
		fields []string
	}{
		"no certificate":      {certificates(t, k.CA, "", ""), []string{"kafka.tls.cert_file", "kafka.tls.key"}},
		"a foreign one":       {certificates(t, k.CA, cert, key), []string{"kafka.tls.cert_file", "kafka.tls.key"}},
		"a foreign authority": {certificates(t, foreign.File, k.Cert, k.Key), []string{"kafka.tls.ca_file"}},
	} {
		t.Run(name, func(t *testing.T) {
			o := testOptions(t)
			ensure(t, o, TopicOptions{Partitions: 1}, orders)
			o.Brokers, o.TLS, o.RetryFor = k.Brokers, c.tls, 300*time.Millisecond
			a, err := OpenAdmin(o)
			if err != nil {
				t.Fatal(err)
			}
			defer a.Close()
			_, checked := a.Check(t.Context())
			_, wrote := OpenWriter(t.Context(), o, WriterOptions{})
			_, read := OpenLog(t.Context(), o, LogOptions{})
			for _, err := range []error{checked, wrote, read, a.EnsureTopics(t.Context(), TopicOptions{Partitions: 1}, []change.TableID{orders}, nil), a.Rights(t.Context(), orders)} {
				refused(t, err, c.fields...)
			}
		})
	}
	// Each of the three differs from this by one thing.
	if err := connects(t.Context(), t, k.Brokers, certificates(t, k.CA, k.Cert, k.Key)); err != nil {
		t.Error(err)
	}
	named, err := certs.New(t.Context(), certs.Options{CAFile: k.CA, ServerName: "elsewhere.example"})
	if err != nil {
		t.Fatal(err)
	}
	refused(t, connects(t.Context(), t, k.Brokers, named), "kafka.tls.server_name")
}
