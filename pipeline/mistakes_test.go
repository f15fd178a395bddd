package pipeline

import (
	"errors"
	"strings"
	"testing"
)

// Each case is one mistake in an otherwise valid declaration, and all there is to say of it.
func TestMistakes(t *testing.T) {
	sink := "{name: copy, type: postgres, dsn: env:DST}"
	tables := "tables: [shop.*]"
	for _, c := range []struct{ name, text, want string }{
		{"empty", "", "1:1: is empty; expected a pipeline"},
		{"comment only", "# nothing\n", "is empty"},
		{"a list", "- a\n", "1:1: is a list; expected a mapping with fields among version"},
		{"a word", "hello\n", `is the text "hello"`},
		{"null", "~\n", "has no value"},
		{"syntax", "a: [1,\nb: 2\n", "is not valid YAML"},
		{"unclosed quote", "name: 'x\n", "1:7: is not valid YAML"},
		{"bad bytes", "name: \xff\n", "1:7: holds a byte that is not text"},
		{"two documents", small + "---\na: 1\n", "10:1: a second document"},
		{"merge key", small + "<<: {}\n", "merge keys"},
		{"tag", with(t, "name: shop", "name: !!str shop"), "2:7: name: uses a YAML feature"},
		{"alias", with(t, "name: shop", "name: *x"), "2:7: name: alias *x has no anchor"},
		{"variable in brackets", with(t, "[kafka:9092]", "[${B}]"), `expected "${VAR}" in quotes inside [ ]`},
		{"undefined", with(t, "name: shop", "name: ${NAME}"), "2:7: name: variable NAME is not defined"},
		{"unclosed variable", with(t, "name: shop", "name: a${NAME"), "${ is not closed"},
		{"strange variable", with(t, "name: shop", "name: ${1-2}"), "${1-2} does not name a variable"},
		{"nested default", with(t, "name: shop", "name: ${A:-${B}}"), "holds another variable"},
		{"name", with(t, "name: shop", "name: 1shop_"), `did you mean "shop"`},
		{"name type", with(t, "name: shop", "name: 12"), "is the number 12; expected at most 40"},
		{"long name", with(t, "name: shop", "name: "+strings.Repeat("a", 41)), `did you mean "` + strings.Repeat("a", 40) + `"`},
		{"version", with(t, "version: 1", "version: 1.5"), "is the number 1.5; expected 1"},
		{"huge number", with(t, "version: 1", "version: 99999999999999999999999"), "version: is"},
		{"missing", with(t, "name: shop\n", ""), "1:1: name: is missing"},
		{"misspelt, not also missing", with(t, "name: shop", "nmae: shop"), `2:1: nmae: is not a field; did you mean "name"`},
		{"case", with(t, "name: shop", "Name: shop"), `did you mean "name"`},
		{"other tools' names", with(t, "brokers", "bootstrap_servers"), `did you mean "brokers"`},
		{"no way to connect", with(t, ", dsn: env:SRC", ""), "3:1: source: lacks fields; expected either dsn or host, database, user"},
		{"half a connection", with(t, "dsn: env:SRC", "host: h, user: u"), "source.database: is missing"},
		{"both", with(t, "dsn: env:SRC", "dsn: env:SRC, port: 5432"), "source.port: cannot be given together with dsn"},
		{"no sink", with(t, "\n  - "+sink, " []"), "sinks: is empty"},
		{"same name", with(t, sink, sink+"\n  - "+sink), "8:12: sinks[1].name: is there twice (first in line 7)"},
		{"lanes", with(t, "env:DST", "env:DST, lanes: 5"), "sinks[0].lanes: is 5, more than kafka.partitions (4)"},
		{"transaction", with(t, "brokers:", "partitions: 2\n  brokers:") + "stream: {order: transaction}\n", "kafka.partitions: is more than 1"},
		{"batch over memory", small + "stream: {max_batch_bytes: 64MiB, memory_limit: 32MiB}\n", "stream.max_batch_bytes: is 64MiB, more than"},
		{"no unit", small + "stream: {status_interval: 5}\n", `did you mean "5s"`},
		{"no unit in text", small + "stream: {status_interval: '5'}\n", `did you mean "5s"`},
		{"long duration", small + "stream: {status_interval: 99999999999999999999d}\n", "too long"},
		{"range", small + "snapshot: {chunk_bytes: 1}\n", "out of range; expected a size such as 64MiB from 64KiB to 64GiB"},
		{"boolean", with(t, tables, "tables: {include: [a.b], options: [{match: a.b, append_only: on}]}"), `did you mean "true"`},
		{"included and excluded", with(t, tables, "tables: {include: [a.b, a.c], exclude: [a.c]}"), "tables.include[1]: is excluded as well"},
		{"same option", with(t, tables, "tables: {include: [a.b], options: [{match: a.b}, {match: a.b}]}"), "tables.options[1].match: is there twice"},
		{"order by left out", with(t, tables, "tables: {include: [a.b], options: [{match: a.b, columns: {exclude: [x]}, order_by: [y, x]}]}"), "order_by[1]: is a column that columns leaves out"},
		{"comment in where", with(t, tables, "tables: {include: [a.b], options: [{match: a.b, where: 'x > 1 -- y'}]}"), "where: holds an SQL comment"},
		{"no schema", with(t, "[shop.*]", "[orders]"), `names no schema; expected a pattern schema.table, such as shop.* or *.orders; did you mean "*.orders"`},
		{"three parts", with(t, "[shop.*]", "[a.b.c]"), "more than two parts"},
		{"key without certificate", with(t, "brokers:", "tls: {key: env:K}\n  brokers:"), "kafka.tls.key: is given without cert_file"},
		{"tier without a period", small + "tiers: [{name: bulk}]\nclassify: [{match: a.b, tier: bulk}]\n", "9:9: tiers[0].every: is missing"},
		{"unknown tier", small + "tiers: [{name: bulk, every: 1h}]\nclassify: [{match: a.b, tier: blk}, {match: a.c, tier: bulk}]\n", `10:31: classify[0].tier: is "blk", which tiers does not declare; expected one of stream, bulk; did you mean "bulk"`},
		{"unused tier", small + "tiers: [{name: bulk, every: 1h}]\n", `tiers[0].name: is "bulk", to which classify gives nothing`},
		{"tier called stream", small + "tiers: [{name: stream, every: 1h}]\n", "the tier that needs no declaration"},
		{"unknown compression of a tier", small + "tiers: [{name: bulk, every: 1h, compression: gzip}]\nclassify: [{match: a.b, tier: bulk}]\n", `tiers[0].compression: is the text "gzip"; expected one of none, lz4, zstd`},
		{"sample of aggregates", small + "tiers: [{name: bulk, every: 1h, aggregate: {group: [g]}, sample: {by: g, rate: 1%}}]\nclassify: [{match: a.b, tier: bulk}]\n", "9:66: tiers[0].sample: is given, but the tier keeps aggregates, and not the rows; expected one of them"},
		{"rows of a tier by how they are changed", small + "tiers: [{name: bulk, every: 1h, omit: [x]}]\nclassify: [{match: a.b, columns: [c], tier: bulk}]\n", "10:34: classify[0].columns: is given, but tier bulk does not keep its rows whole (omit or sample)"},
		{"rate of a tier", small + "tiers: [{name: bulk, every: 1h, sample: {by: x, rate: 110%}}]\nclassify: [{match: a.b, tier: bulk}]\n", "tiers[0].sample.rate: is the text \"110%\", out of range"},
		{"aggregates of nothing", small + "tiers: [{name: bulk, every: 1h, aggregate: {values: [{column: v, functions: [sum]}]}}]\nclassify: [{match: a.b, tier: bulk}]\n", "9:44: tiers[0].aggregate: has neither group nor time"},
		{"unknown function", small + "tiers: [{name: bulk, every: 1h, aggregate: {group: [g], values: [{column: v, functions: [median]}]}}]\nclassify: [{match: a.b, tier: bulk}]\n", "tiers[0].aggregate.values[0].functions[0]: is the text \"median\"; expected sum, count, avg, min, max, or a quantile"},
		{"bucket of parts of a second", small + "tiers: [{name: bulk, every: 1h, aggregate: {time: {column: ts, bucket: 1.5s}}}]\nclassify: [{match: a.b, tier: bulk}]\n", "tiers[0].aggregate.time.bucket: is 1s500ms; expected whole seconds"},
		{"aggregates by columns", small + "tiers: [{name: bulk, every: 1h, aggregate: {group: [g]}}]\nclassify: [{match: a.b, columns: [c], tier: bulk}]\n", "classify[0].columns: is given, but tier bulk keeps aggregates"},
		{"period over retention", small + "tiers: [{name: bulk, every: 4d}]\nclassify: [{match: a.b, tier: bulk}]\n", "tiers[0].every: is 4d, and the log keeps its changes for 7d (kafka.retention)"},
		{"jitter", small + "tiers: [{name: bulk, every: 1h, jitter: 45m}]\nclassify: [{match: a.b, tier: bulk}]\n", "tiers[0].jitter: is 45m, and the tier runs every 1h"},
		{"condition", small + "tiers: [{name: bulk, every: 1h}]\nclassify: [{match: a.b, where: severity = critical, tier: bulk}]\n", "10:32: classify[0].where: at character 12: a constant is wanted, not the name"},
		{"entry never asked", small + "tiers: [{name: bulk, every: 1h}]\nclassify: [{match: a.b, tier: bulk}, {match: a.b, where: x = 1, tier: stream}]\n", "classify[1].match: is never asked: classify[0] takes all changes of a.b"},
		{"tiers of whole transactions", small + "stream: {order: transaction}\ntiers: [{name: bulk, every: 1h}]\nclassify: [{match: a.b, tier: bulk}]\n", "whole transactions cannot wait in part"},
		{"budget without a currency", small + "budget: {amount: 100}\n", "9:18: budget.amount: is the number 100; expected a sum and a currency, such as 100 USD"},
		{"budget in dollars", small + "budget: {amount: $100}\n", `budget.amount: is the text "$100"; expected a sum and a currency`},
		{"budget of a year", small + "budget: {amount: 100 USD, per: year}\n", "budget.per: is the text \"year\"; expected one of day, week, month"},
		{"budget that slows what streams", small + "budget: {amount: 100 USD, slow: 4}\n", "9:33: budget.slow: is given, but there is no batch tier, and what streams is never slowed"},
		{"budget that slows by nothing", small + "tiers: [{name: bulk, every: 1h}]\nclassify: [{match: a.b, tier: bulk}]\nbudget: {amount: 100 USD, slow: 1}\n", "budget.slow: is the number 1, out of range"},
		{"restricted data shipped", with(t, "env:DST", "env:DST, region: us-east-1") + "residency: [{name: pii, match: a.b, columns: [x], regions: [eu-west-1]}]\n",
			"9:13: residency[0].otherwise: is refuse, and class pii, which may be in eu-west-1 only, would be shipped to kafka (in no region that is said), sinks[copy] (in us-east-1); expected drop, mask or withhold"},
		{"mask without a key", small + "residency: [{name: pii, match: a.b, columns: [x], regions: [eu], otherwise: mask}]\n", "residency[0].otherwise: is mask, and there is no key; expected key: a reference"},
		{"key without a mask", small + "residency: [{name: pii, match: a.b, columns: [x], regions: [eu], otherwise: drop, key: env:K}]\n", "9:88: residency[0].key: is given, and otherwise is drop"},
		{"drop of rows", small + "residency: [{name: pii, match: a.b, regions: [eu], otherwise: drop}]\n", "residency[0].otherwise: is drop, which is of columns, and columns are not given"},
		{"withhold of columns", small + "residency: [{name: pii, match: a.b, columns: [x], regions: [eu], otherwise: withhold}]\n", "residency[0].columns: is given, and otherwise is withhold"},
		{"class without regions", small + "residency: [{name: pii, match: a.b, otherwise: withhold}]\n", "residency[0].regions: is missing"},
		{"classes of one name", small + "residency: [{name: pii, match: a.b, regions: [eu], otherwise: withhold}, {name: pii, match: a.c, regions: [eu], otherwise: withhold}]\n", `residency[1].name: is "pii" as that of residency[0]`},
		{"condition of a class", small + "residency: [{name: pii, match: a.b, where: x = y, regions: [eu], otherwise: withhold}]\n", "residency[0].where: at character 5: a constant is wanted"},
		{"secret as a key", small + "residency: [{name: pii, match: a.b, columns: [x], regions: [eu], otherwise: mask, key: hunter2}]\n", "residency[0].key"},
		{"thin of nothing", small + "thin: [{match: a.b}]\n", "9:8: thin[0]: says nothing of its tables; expected omit or sample"},
		{"thin at another sink", small + "thin: [{match: a.b, sinks: [cpy], omit: [x]}]\n", `thin[0].sinks[0]: is "cpy", which is no sink; expected copy; did you mean "copy"`},
		{"sample of nothing", small + "thin: [{match: a.b, sample: {by: [x], rate: 0%}}]\n", "thin[0].sample.rate"},
		{"objective without an indicator", small + "objectives: [{name: a}]\n", "9:14: objectives[0].indicator: is missing; expected one of lag, apply-errors, convergence, backlog"},
		{"misspelt indicator", small + "objectives: [{indicator: convergance}]\n", `objectives[0].indicator: is the text "convergance"; expected one of lag, apply-errors, convergence, backlog; did you mean "convergence"`},
		{"lag without a bound", small + "objectives: [{indicator: lag}]\n", "9:14: objectives[0].within: is missing; expected a duration"},
		{"bound of a lag elsewhere", small + "objectives: [{indicator: convergence, within: 1s}]\n", "9:39: objectives[0].within: is for lag only, and this is convergence"},
		{"backlog without a bound", small + "objectives: [{indicator: backlog}]\n", "objectives[0].at_most: is missing"},
		{"other word for a bound", small + "objectives: [{indicator: lag, threshold: 1s}]\n", `did you mean "within"`},
		{"target as a share", small + "objectives: [{indicator: convergence, target: 0.999}]\n", `9:47: objectives[0].target: is the number 0.999; expected a percentage such as 99.9% from 0.0001% to 99.9999%; did you mean "99.9%"`},
		{"target without a sign", small + "objectives: [{indicator: convergence, target: 99.95}]\n", `did you mean "99.95%"`},
		{"target of all", small + "objectives: [{indicator: convergence, target: 100%}]\n", "objectives[0].target: is the text \"100%\", out of range"},
		{"period", small + "objectives: [{indicator: convergence, period: 1m}]\n", "out of range; expected a duration such as 10s, 1h30m or 7d from 1h to 365d"},
		{"objectives of one name", small + "objectives: [{name: a, indicator: convergence}, {name: a, indicator: apply-errors}]\n", "9:56: objectives[1].name: is there twice (first in line 9)"},
		{"objectives of one indicator", small + "objectives: [{indicator: convergence}, {indicator: convergence, target: 1%}]\n", `9:40: objectives[1]: is called "convergence" as objectives[0] is: without a name`},
		{"for the other sink", with(t, "env:DST", "env:DST, tls: {}"), "sinks[0].tls: is for clickhouse only"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := Parse("f.yaml", []byte(c.text), vars())
			var ps Problems
			if !errors.As(err, &ps) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got  %v\nwant %s", err, c.want)
			}
			if len(ps) != 1 && c.name != "for the other sink" {
				t.Errorf("more than one problem:\n%v", err)
			}
			for _, p := range ps {
				if p.Line < 1 || p.Column < 1 || p.File != "f.yaml" {
					t.Errorf("without a place: %+v", p)
				}
			}
		})
	}
}

func TestTabs(t *testing.T) {
	_, err := Parse("f.yaml", []byte("version: 1\nname: shop\nsource:\n\ttype: postgres\n\tdsn: env:S\n\tprot: 1\n"), vars())
	want := []string{"f.yaml:4:1: is indented with a tab", "f.yaml:5:1: is indented", "f.yaml:6:1: is indented", `6:2: source.prot: is not a field; did you mean "port"`, "sinks: is missing"}
	for _, w := range want {
		if err == nil || !strings.Contains(err.Error(), w) {
			t.Errorf("%q is not in\n%v", w, err)
		}
	}
	mustParse(t, with(t, "name: shop", "name:\tshop\t# a tab that is allowed"))
}

func TestSecretsAreReferences(t *testing.T) {
	env := vars("PW", "hunter2", "PATHPART", "shop")
	conn := func(password string) string {
		return with(t, "dsn: env:SRC", "host: h, database: d, user: u, password: "+password)
	}
	for _, c := range []struct{ text, want string }{
		{conn("hunter2"), "is a secret in plain text"},
		{conn(`"h:hunter2"`), "source.password: is"},
		{conn("'${PW}'"), `did you mean "env:PW"`},
		{conn("'x${PW}'"), "takes the secret itself from a variable"},
		{conn("vault:hunter2"), "is not a secret reference: a vault reference needs #"},
		{conn("12345"), "source.password: is a number"},
		{with(t, "env:SRC", "postgres://u:hunter2@h/db"), "connection string with a password in plain text"},
		{with(t, "env:SRC", "postgres://u@h/db"), "connection string in plain text"},
		{with(t, "env:SRC", "'host=h password=hunter2'"), "connection string with a password"},
		{with(t, "dsn: env:SRC", "host: 'postgres://u:hunter2@h/db', database: d, user: u"), "source.host: is text; expected"},
		{with(t, "[kafka:9092]", "['u:hunter2@kafka:9092']"), "kafka.brokers[0]: is text"},
		{with(t, "name: shop", "name: '${PW}@'"), `name: is "${PW}@" after expansion`},
	} {
		_, err := Parse("f.yaml", []byte(c.text), env)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got  %v\nwant %s", err, c.want)
		} else if strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "12345") {
			t.Errorf("the secret is in %v", err)
		}
	}
	s, err := Parse("f.yaml", []byte(conn(`"vault:kv/${PATHPART}#password"`)), env)
	if err != nil || s.Source.Password.String() != "vault:kv/shop#password" {
		t.Errorf("%v %+v", err, s)
	}
}

func TestVariables(t *testing.T) {
	s := mustParse(t, with(t, "[kafka:9092]", "${B}\n  partitions: ${N}\n  retention: ${R:-2d}\n  max_message_bytes: ${M}\n  topic_prefix: ${E:-x.}")+
		"stream:\n  spill_dir: /a/$${b}/$c/${D}\n", "B", "a:1, b:2", "N", "7", "M", "65536", "E", "", "D", "${N}")
	if s.Kafka.Brokers[1] != "b:2" || s.Kafka.Partitions != 7 || s.Kafka.Retention.String() != "2d" || s.Kafka.MaxMessageBytes != 65536 || s.Kafka.TopicPrefix != "x." {
		t.Errorf("%+v", s.Kafka)
	}
	if s.Stream.SpillDir != "/a/${b}/$c/${N}" {
		t.Errorf("spill_dir is %q", s.Stream.SpillDir)
	}
	s = mustParse(t, with(t, "[kafka:9092]", `["${B}", c:3]`), "B", "a:1,b:2")
	if strings.Join(s.Kafka.Brokers, " ") != "a:1 b:2 c:3" {
		t.Errorf("%v", s.Kafka.Brokers)
	}
	_, err := Parse("f.yaml", []byte(with(t, "[kafka:9092]", "${B}\n  partitions: ${N}")), vars("B", "", "N", "many"))
	if err == nil || strings.Contains(err.Error(), "many") || !strings.Contains(err.Error(), `partitions: is "${N}" after expansion`) || !strings.Contains(err.Error(), "brokers[0]: is") {
		t.Errorf("%v", err)
	}
}

func TestAliases(t *testing.T) {
	s := mustParse(t, strings.Replace(small, "{name: copy", "&first {name: copy", 1)+"stream: &x {spill_dir: &dir /tmp/a}\nsnapshot: {mode: initial}\n")
	if s.Stream.SpillDir != "/tmp/a" || s.Sinks[0].Name != "copy" {
		t.Errorf("%+v", s)
	}
	_, err := Parse("f.yaml", []byte(with(t, "[shop.*]", "&t [*t]")), vars())
	if err == nil || !strings.Contains(err.Error(), "contains itself") {
		t.Errorf("%v", err)
	}
	bomb := "a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n"
	for i := 1; i < 9; i++ {
		p, q := string(rune('0'+i-1)), string(rune('0'+i))
		bomb += "a" + q + ": &a" + q + " [" + strings.Repeat("*a"+p+",", 9) + "*a" + p + "]\n"
	}
	if _, err := Parse("f.yaml", []byte(bomb), vars()); err == nil || !strings.Contains(err.Error(), "too many aliases") {
		t.Errorf("%.300v", err)
	}
}

// Texts that are known to be hard on parsers end soon and without a panic.
func TestHostileTexts(t *testing.T) {
	for _, unit := range []string{"[", "{", "- ", "? ", "&a ", "!a ", "a: [", "{a: ", "*a", "'", ": ", "|\n", "a:\n ", "-", "\t", "${", "#", "\n-\n ", "<<: "} {
		for _, n := range []int{3, 500, 20000} {
			_, err := Parse("f.yaml", []byte(strings.Repeat(unit, n)), vars())
			if !errors.As(err, new(Problems)) {
				t.Errorf("%q × %d: %v", unit, n, err)
			}
		}
	}
	if _, err := Parse("f.yaml", make([]byte, 1<<20), nil); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Errorf("%v", err)
	}
}
