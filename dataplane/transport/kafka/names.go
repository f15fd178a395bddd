package kafka

import (
	"fmt"
	"regexp"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/transport/debezium"
)

// maxTopic is Kafka's limit.
const maxTopic = 249

var (
	legalPrefix   = regexp.MustCompile(`^[A-Za-z0-9._-]*$`)
	legalPipeline = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)
)

func checkNames(prefix, pipeline string) error {
	if !legalPrefix.MatchString(prefix) || len(prefix) > 64 {
		return fmt.Errorf("kafka: topic prefix %q: want at most 64 letters, digits, dots, dashes and underscores", prefix)
	}
	if !legalPipeline.MatchString(pipeline) || len(pipeline) > 64 {
		return fmt.Errorf("kafka: pipeline %q: want at most 64 letters, digits, dashes and underscores", pipeline)
	}
	return nil
}

// TopicName returns the topic of a table: <prefix><pipeline>.<schema>.<name>.
// Letters (in their case), digits and underscores stand for themselves, every
// other byte is a dash and two hexadecimal digits. Different tables have
// different topics.
func TopicName(prefix, pipeline string, t change.TableID) (string, error) {
	name := prefix + pipeline + "." + escape(t.Schema) + "." + escape(t.Name)
	if t.Schema == "" || t.Name == "" || len(name) > maxTopic {
		return "", fault.Permanent(CodeTopicName, nil, "exclude or rename the table",
			"table %s: its topic would have a name of %d bytes, Kafka allows %d", t, len(name), maxTopic)
	}
	return name, nil
}

// ParseTopicName is the inverse of TopicName; ok is false for every other topic.
func ParseTopicName(prefix, pipeline, topic string) (t change.TableID, ok bool) {
	rest, ok := strings.CutPrefix(topic, prefix+pipeline+".")
	if !ok {
		return t, false
	}
	schema, name, ok := strings.Cut(rest, ".")
	if !ok {
		return t, false
	}
	if t.Schema, ok = unescape(schema); !ok {
		return change.TableID{}, false
	}
	if t.Name, ok = unescape(name); !ok {
		return change.TableID{}, false
	}
	return t, true
}

// SchemasTopic returns the name of the pipeline's topic of definitions.
func SchemasTopic(prefix, pipeline string) string { return prefix + pipeline + "._schemas" }

// ProgressTopic returns the name of the pipeline's topic of progress records.
func ProgressTopic(prefix, pipeline string) string { return prefix + pipeline + "._progress" }

// IndexTopic returns the name of the pipeline's topic of index records.
func IndexTopic(prefix, pipeline string) string { return prefix + pipeline + "._index" }

// debeziumTopic returns the name of a table's topic in Debezium's form, "" if o
// asks for none.
func (o *Options) debeziumTopic(t change.TableID) string {
	if o.Debezium == nil {
		return ""
	}
	return o.Prefix + debezium.Topic(o.Debezium.Server, t)
}

func plain7(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_'
}

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		if plain7(s[i]) {
			b.WriteByte(s[i])
		} else {
			fmt.Fprintf(&b, "-%02X", s[i])
		}
	}
	return b.String()
}

func unescape(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case plain7(s[i]):
			b.WriteByte(s[i])
		case s[i] == '-' && i+2 < len(s):
			hi, lo := strings.IndexByte(hexDigits, s[i+1]), strings.IndexByte(hexDigits, s[i+2])
			if hi < 0 || lo < 0 || plain7(byte(hi<<4|lo)) { // one form only
				return "", false
			}
			b.WriteByte(byte(hi<<4 | lo))
			i += 2
		default:
			return "", false
		}
	}
	return b.String(), b.Len() > 0
}

const hexDigits = "0123456789ABCDEF"
