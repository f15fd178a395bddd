package pipeline

import (
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

var update = flag.Bool("update", false, "rewrite golden files")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g, w := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for i := range max(len(g), len(w)) {
		if i >= len(g) || i >= len(w) || g[i] != w[i] {
			t.Errorf("%s differs from line %d on; run with -update if that is meant. Got:\n%s", name, i+1, strings.Join(g[min(i, len(g)):min(i+10, len(g))], "\n"))
			return
		}
	}
}

func vars(kv ...string) func(string) (string, bool) {
	m := map[string]string{}
	for i := 0; i < len(kv); i += 2 {
		m[kv[i]] = kv[i+1]
	}
	return func(k string) (string, bool) { v, ok := m[k]; return v, ok }
}

func example(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("..", "examples", name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func mustParse(t testing.TB, text string, kv ...string) *Spec {
	t.Helper()
	s, err := Parse("test.yaml", []byte(text), vars(kv...))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	return s
}

const small = `version: 1
name: shop
source: {type: postgres, dsn: env:SRC}
kafka:
  brokers: [kafka:9092]
sinks:
  - {name: copy, type: postgres, dsn: env:DST}
tables: [shop.*]
`

// with puts a text in place of another in the small declaration.
func with(t testing.TB, old, next string) string {
	t.Helper()
	if !strings.Contains(small, old) {
		t.Fatalf("%q is not in the small declaration", old)
	}
	return strings.Replace(small, old, next, 1)
}

func TestMessyFileReportsEverythingAtOnce(t *testing.T) {
	data, err := os.ReadFile("testdata/messy.yaml")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Parse("messy.yaml", data, vars())
	var problems Problems
	if !errors.As(err, &problems) {
		t.Fatalf("error is %T, want Problems", err)
	}
	golden(t, "messy.golden", err.Error()+"\n")
	for _, secret := range []string{"hunter2", "s3cret"} {
		if strings.Contains(err.Error(), secret) {
			t.Errorf("the secret %s is in the messages", secret)
		}
	}
}

// declarations are the examples of pipelines.
func declarations() []string {
	files, _ := filepath.Glob("../examples/*.yaml")
	return slices.DeleteFunc(files, func(f string) bool {
		return slices.Contains([]string{"prices.yaml", "rotation.yaml"}, filepath.Base(f))
	})
}

func TestExamplesParse(t *testing.T) {
	files := declarations()
	if len(files) < 3 {
		t.Fatalf("examples: %v", files)
	}
	for _, f := range files {
		s := mustParse(t, string(example(t, filepath.Base(f))), "SYNCLINE_KAFKA_BROKERS", "a:1,b:2")
		again, err := json.Marshal(s)
		if err != nil {
			t.Fatal(err)
		}
		back, err := Decode(again)
		if err != nil || !reflect.DeepEqual(s, back) {
			t.Errorf("%s: Decode(JSON) is not the same: %v\n%+v\n%+v", f, err, s, back)
		}
		var plain Spec
		if err := json.Unmarshal(again, &plain); err != nil || !reflect.DeepEqual(s, &plain) {
			t.Errorf("%s: Unmarshal(JSON) is not the same: %v", f, err)
		}
		if err := plain.Normalise(); err != nil || !reflect.DeepEqual(s, &plain) {
			t.Errorf("%s: Normalise changed a complete Spec: %v", f, err)
		}
	}
}

// The full example must show every field there is.
func TestFullExampleHasEveryField(t *testing.T) {
	n, problems := fromYAML(example(t, "full.yaml"), aPipeline)
	if len(problems) > 0 {
		t.Fatal(problems)
	}
	var missing []string
	var walk func(f *field, ns []*node, path string)
	walk = func(f *field, ns []*node, path string) {
		for _, c := range f.fields {
			var found []*node
			for _, n := range ns {
				if v := n.get(c.name); v != nil {
					found = append(found, v)
				}
			}
			p := join(path, c.name)
			if other := []string{"source.dsn", "source.login", "kafka.sasl.login"}; len(found) == 0 && !slices.Contains(other, p) {
				missing = append(missing, p)
			}
			if c.kind == kindList && c.elem.kind == kindObject {
				var items []*node
				for _, n := range found {
					items = append(items, n.items...)
				}
				walk(c.elem, items, p)
			} else {
				walk(c, found, p)
			}
		}
	}
	walk(root, []*node{n}, "")
	if len(missing) > 0 {
		t.Errorf("examples/full.yaml lacks %v", missing)
	}
}

func TestDefaults(t *testing.T) {
	s := mustParse(t, small)
	golden(t, "small.json", indent(t, s))
	if s.SlotName() != "syncline_shop" || s.TopicPrefix() != "syncline.shop." {
		t.Errorf("derived names: %s %s", s.SlotName(), s.TopicPrefix())
	}
	if s.Kafka.Retention.Std() != 7*24*time.Hour || s.Snapshot.ChunkBytes != 64<<20 {
		t.Errorf("%v %v", s.Kafka.Retention, s.Snapshot.ChunkBytes)
	}
	s = mustParse(t, with(t, "{name: copy, type: postgres, dsn: env:DST}", "{name: c, type: clickhouse, host: h, user: u, database: d, protocol: native, tls: {}}"))
	if k := s.Sinks[0]; k.Port != 9440 || k.TLS == nil || k.Protocol != "native" || k.SSLMode != "" {
		t.Errorf("%+v", k)
	}
	s = mustParse(t, small+"objectives: [{indicator: lag, within: 500ms}]\n")
	if len(s.Objectives) != 1 || s.Objectives[0] != (Objective{Name: "lag", Indicator: ObjectiveLag, Within: Duration(500 * time.Millisecond), Target: 999000, Period: Duration(30 * 24 * time.Hour)}) {
		t.Errorf("%+v", s.Objectives)
	}
	if o := (&Spec{Objectives: s.Objectives}).Objectives[0]; o.Target.Share() != 0.999 || o.Describe() != "99.9% of changes arrive within 500ms, over 30d" {
		t.Errorf("%v %s", o.Target.Share(), o.Describe())
	}
	s = mustParse(t, small+"stream: {order: transaction}\n")
	if s.Kafka.Partitions != 1 || s.Sinks[0].Lanes != 1 {
		t.Errorf("partitions %d, lanes %d", s.Kafka.Partitions, s.Sinks[0].Lanes)
	}
}

func indent(t *testing.T, v any) string {
	t.Helper()
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return string(b) + "\n"
}

func TestNormaliseFillsHandMadeSpec(t *testing.T) {
	want := mustParse(t, small)
	s := &Spec{Version: 1, Name: "shop", Kafka: Kafka{Brokers: []string{"kafka:9092"}, TopicPrefix: "syncline."}, Source: Source{Type: "postgres", DSN: want.Source.DSN},
		Sinks: []Sink{{Name: "copy", Type: "postgres", DSN: want.Sinks[0].DSN}}, Tables: Tables{Include: []string{"shop.*"}}}
	if err := s.Normalise(); err != nil || !reflect.DeepEqual(s, want) {
		t.Errorf("%v\n%+v\n%+v", err, s, want)
	}
	s.Name, s.Kafka.Partitions = "No", 5000
	var ps Problems
	if err := s.Normalise(); !errors.As(err, &ps) || len(ps) != 2 || s.Name != "No" {
		t.Errorf("%v", err)
	}
}

func TestDecodeDoesNotExpand(t *testing.T) {
	s := mustParse(t, strings.Replace(small, "tables: [shop.*]", "tables: {include: [shop.*], options: [{match: shop.a, where: \"x = '$${HOME}'\"}]}", 1))
	if got := s.Tables.Options[0].Where; got != "x = '${HOME}'" {
		t.Fatalf("where is %q", got)
	}
	data, _ := json.Marshal(s)
	back, err := Decode(data)
	if err != nil || !reflect.DeepEqual(back, s) {
		t.Errorf("%v %+v", err, back)
	}
	for _, bad := range []string{"", "{", "[]", "null", `{"name":"a","name":"b"}`, `{} {}`, strings.Repeat("[", 500), strings.Repeat(`{"a":`, 500)} {
		if _, err := Decode([]byte(bad)); !errors.As(err, new(Problems)) {
			t.Errorf("Decode(%.20q): %v", bad, err)
		}
	}
}
