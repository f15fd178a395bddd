package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	kgo "github.com/segmentio/kafka-go"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/proto"

	"syncline/activities/contract"
	"syncline/dataplane/transport/kafka"
	"syncline/testsuite/stack"
)

// secretPipeline has every secret as a reference of its own kind.
const secretPipeline = `version: 1
name: ${NAME}
source: {type: postgres, host: ${SOURCE_HOST}, port: ${SOURCE_PORT}, database: ${SOURCE_DB}, user: ${ROLE}, password: "${PASSWORD_REF}"}
kafka: {brokers: "${BROKERS}", topic_prefix: e2e., partitions: 2, retention: 1h}
sinks:
  - {name: pg, type: postgres, dsn: "file:${FILE}", lanes: 1, on_existing: append}
  - {name: ch, type: clickhouse, dsn: "env:E2E_CLICKHOUSE", lanes: 1, schema: "${DATABASE}"}
tables:
  include: [s.*]
snapshot: {chunk_bytes: 64KiB}
stream: {status_interval: 200ms, heartbeat_interval: 1s}
`

// TestSecrets plants passwords and row values, lets a pipeline run, fail and be
// rejected, and looks for them where they must not be.
func TestSecrets(t *testing.T) {
	t.Parallel()
	t.Run("env", func(t *testing.T) {
		t.Parallel()
		testSecrets(t, func(r *rig, password string) string {
			r.env = append(r.env, "E2E_PASSWORD="+password)
			return "env:E2E_PASSWORD"
		})
	})
	t.Run("vault", func(t *testing.T) {
		t.Parallel()
		addr, file := stack.Vault(t)
		token, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		testSecrets(t, func(r *rig, password string) string {
			cfg := vaultapi.DefaultConfig()
			cfg.Address = addr
			c, err := vaultapi.NewClient(cfg)
			if err != nil {
				t.Fatal(err)
			}
			c.SetToken(strings.TrimSpace(string(token)))
			mount := stack.Name(t)
			if err := c.Sys().Mount(mount, &vaultapi.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Sys().Unmount(mount) })
			until(t, bound, "the secret is in Vault", func(ctx context.Context) error { // a fresh engine refuses writes for a moment
				_, err := c.KVv2(mount).Put(ctx, "app/db", map[string]any{"password": password})
				return err
			})
			r.env = append(r.env, "SYNCLINE_VAULT_ADDR="+addr, "SYNCLINE_VAULT_TOKEN_FILE="+file)
			return "vault:" + mount + "/app/db#password"
		})
	})
}

func testSecrets(t *testing.T, put func(r *rig, password string) (ref string)) {
	r := newRig(t)
	tag := strings.ReplaceAll(stack.Name(t), "_", "")
	source, sink, value := "plantedsource"+tag, "plantedsink"+tag, "plantedrow"+tag
	role := "role_" + tag
	for _, dsn := range []string{r.source, r.sinkDSN} {
		pw := source
		if dsn == r.sinkDSN {
			pw = sink
		}
		if _, err := scalar(t.Context(), dsn, fmt.Sprintf("CREATE ROLE %s LOGIN SUPERUSER PASSWORD '%s'", role, pw)); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			_, _ = scalar(ctx, dsn, "DROP OWNED BY "+role+" CASCADE")
			_, _ = scalar(ctx, dsn, "DROP ROLE IF EXISTS "+role)
		})
	}
	su, err := url.Parse(r.source)
	if err != nil {
		t.Fatal(err)
	}
	ku, err := url.Parse(r.sinkDSN)
	if err != nil {
		t.Fatal(err)
	}
	ku.User = url.UserPassword(role, sink)
	file := filepath.Join(r.dir, "sink.dsn")
	if err := os.WriteFile(file, []byte(ku.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	vars := map[string]string{"SOURCE_HOST": su.Hostname(), "SOURCE_PORT": su.Port(), "SOURCE_DB": strings.TrimPrefix(su.Path, "/"), "ROLE": role, "FILE": file}
	declare := func(ref string) *pipe {
		text := strings.ReplaceAll(secretPipeline, "${PASSWORD_REF}", ref)
		for k, v := range vars {
			text = strings.ReplaceAll(text, "${"+k+"}", v)
		}
		return r.pipe(text)
	}
	ref := put(r, source)
	r.env = append(r.env, "E2E_BROKEN=postgres://"+role+":"+source+"@127.0.0.1:notaport/x")

	// Values in keys (bounds of chunks), in columns, and in rows that a sink refuses.
	r.exec("CREATE SCHEMA s", "CREATE TABLE s.keyed (k text PRIMARY KEY, v text)", "CREATE TABLE s.refused (id integer PRIMARY KEY, v text)",
		"INSERT INTO s.keyed SELECT '"+value+"' || i, '"+value+"' || repeat('x', 100) FROM generate_series(1, 3000) i", "INSERT INTO s.refused VALUES (1, 'fine')")
	for _, s := range []string{"CREATE SCHEMA s", "CREATE TABLE s.refused (id integer PRIMARY KEY, v text CHECK (v = 'fine'))"} {
		if _, err := scalar(t.Context(), r.sinkDSN, s); err != nil {
			t.Fatal(err)
		}
	}
	w := r.start()
	p := declare(ref)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	r.exec("INSERT INTO s.refused VALUES (2, '"+value+"')", "UPDATE s.keyed SET v = '"+value+"new' WHERE k LIKE '%1'", "DELETE FROM s.keyed WHERE k LIKE '%2'")
	p.converged()
	if n := r.one(r.sinkDSN, "SELECT count(*)::text FROM syncline.dead_letters"); n != "1" {
		t.Errorf("%s dead letters, want the one that the sink refuses", n)
	}
	if n := r.one(r.sinkDSN, "SELECT count(*)::text FROM s.keyed"); n != r.one(r.source, "SELECT count(*)::text FROM s.keyed") {
		t.Errorf("%s rows at the sink", n)
	}
	// Errors speak of connections, and must not quote them.
	var said []string
	for _, bad := range []*pipe{declare(ref), r.pipe(strings.Replace(declaration, "E2E_SOURCE", "E2E_BROKEN", 1) + "  include: [s.*]\n"), declare("env:E2E_NOWHERE")} {
		if bad.spec.Source.Host != "" && bad.spec.Source.Password.String() == ref {
			bad.spec.Source.Port = 1
		}
		_, err := bad.apply()
		if err == nil {
			t.Errorf("a declaration without a source was applied")
			continue
		}
		said = append(said, err.Error())
	}
	// Everything a sink or a server might say when it goes away.
	r.exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '" + role + "'")
	p.converged()
	w.stop()

	find := func(where string, text []byte, rows bool) {
		t.Helper()
		for _, s := range []string{source, sink, value} {
			if s == value && !rows {
				continue
			}
			if i := bytes.Index(text, []byte(s)); i >= 0 {
				t.Errorf("%s holds %q: …%s…", where, s, bytes.ToValidUTF8(text[max(0, i-150):min(len(text), i+60)], []byte(".")))
			}
		}
	}
	find("errors", []byte(strings.Join(said, "\n")), true)
	for _, q := range r.pipes {
		for name, text := range q.histories() {
			find("history of "+name, text, true)
		}
	}
	for _, x := range r.workers {
		b, err := os.ReadFile(x.log)
		if err != nil || len(b) == 0 {
			t.Errorf("log of %s: %v", x.name, err)
		}
		find("log of "+x.name, b, true)
	}
	n := 0
	for topic, text := range p.records() {
		// Rows travel in their tables' topics and nowhere else.
		find("topic "+topic, text, strings.Contains(topic, "._"))
		n += len(text)
	}
	if n < 1000 {
		t.Errorf("only %d bytes in all topics", n)
	}
	for table, text := range p.ledgers() {
		// Bounds of chunks, payloads of dead letters, keys of findings and places of walks are rows, kept with the rows.
		own := slices.ContainsFunc([]string{"chunks", "dead_letters", "findings", "verifications"}, func(s string) bool { return strings.HasSuffix(table, s) })
		find("ledger "+table, text, !own)
	}
	if reason := r.one(r.sinkDSN, "SELECT string_agg(reason, ' ') FROM syncline.dead_letters"); reason == "" || strings.Contains(reason, value) {
		t.Errorf("the reason of a dead letter: %q", reason)
	}
}

// histories returns all events of the pipeline's workflows, and what is pending, as bytes.
func (p *pipe) histories() map[string][]byte {
	p.r.t.Helper()
	ctx := p.r.t.Context()
	out := map[string][]byte{}
	ids := []string{contract.PipelineID(p.name), contract.StreamID(p.name)}
	for n := 1; n < 10; n++ {
		ids = append(ids, fmt.Sprintf("bootstrap/%s/%d", p.name, n))
	}
	for _, id := range ids {
		it := p.r.tc.GetWorkflowHistory(ctx, id, "", false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
		var b []byte
		for it.HasNext() {
			e, err := it.Next()
			if err != nil {
				break // there is none of that id
			}
			x, err := proto.Marshal(e)
			if err != nil {
				p.r.t.Fatal(err)
			}
			b = append(b, x...)
		}
		if d, err := p.r.tc.WorkflowService().DescribeWorkflowExecution(ctx, &workflowservice.DescribeWorkflowExecutionRequest{Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: id}}); err == nil {
			x, err := proto.Marshal(d)
			if err != nil {
				p.r.t.Fatal(err)
			}
			b = append(b, x...)
		}
		if len(b) > 0 {
			out[id] = b
		}
	}
	if len(out[contract.PipelineID(p.name)]) == 0 {
		p.r.t.Errorf("no history of %s", p.name)
	}
	return out
}

// records returns keys, values and headers of all records of the pipeline's topics.
func (p *pipe) records() map[string][]byte {
	p.r.t.Helper()
	ctx, cancel := context.WithTimeout(p.r.t.Context(), bound)
	defer cancel()
	a, err := kafka.OpenAdmin(p.kafka())
	if err != nil {
		p.r.t.Fatal(err)
	}
	defer func() { _ = a.Close() }()
	topics, err := a.Topics(ctx)
	if err != nil {
		p.r.t.Fatal(err)
	}
	out := map[string][]byte{}
	c := &kgo.Client{Addr: kgo.TCP(p.r.brokers...), Timeout: 20 * time.Second}
	for _, topic := range topics {
		for n := range topic.Partitions {
			l, err := c.ListOffsets(ctx, &kgo.ListOffsetsRequest{Topics: map[string][]kgo.OffsetRequest{topic.Name: {kgo.FirstOffsetOf(n), kgo.LastOffsetOf(n)}}})
			if err != nil {
				p.r.t.Fatal(err)
			}
			at := l.Topics[topic.Name][0]
			rd := kgo.NewReader(kgo.ReaderConfig{Brokers: p.r.brokers, Topic: topic.Name, Partition: n, MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 100 * time.Millisecond})
			for next := at.FirstOffset; next < at.LastOffset; {
				m, err := rd.ReadMessage(ctx)
				if errors.Is(err, io.EOF) {
					continue
				}
				if err != nil {
					p.r.t.Fatalf("read %s: %v", topic.Name, err)
				}
				next = m.Offset + 1
				out[topic.Name] = append(append(out[topic.Name], m.Key...), m.Value...)
				for _, h := range m.Headers {
					out[topic.Name] = append(append(out[topic.Name], h.Key...), h.Value...)
				}
			}
			_ = rd.Close()
		}
	}
	return out
}

// ledgers returns the text of every row of the ledgers.
func (p *pipe) ledgers() map[string][]byte {
	p.r.t.Helper()
	out := map[string][]byte{}
	for table := range strings.FieldsSeq(p.r.one(p.r.sinkDSN, "SELECT string_agg(relname, ' ') FROM pg_stat_user_tables WHERE schemaname = 'syncline'")) {
		out["pg."+table] = []byte(p.r.one(p.r.sinkDSN, "SELECT string_agg(t::text, E'\\n') FROM syncline."+table+" t"))
	}
	for table := range strings.FieldsSeq(p.r.click("SELECT table FROM system.columns WHERE database = 'syncline' AND name = 'pipeline'")) {
		out["ch."+table] = []byte(p.r.click("SELECT * FROM syncline." + table + " WHERE pipeline = '" + p.name + "' FORMAT JSONEachRow"))
	}
	if len(out["pg.chunks"]) == 0 || len(out) < 8 {
		p.r.t.Errorf("the ledgers have %d tables", len(out))
	}
	return out
}
