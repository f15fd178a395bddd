package debezium

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"testing"
)

// conforms checks a value against its Kafka Connect schema as Connect's own
// JsonConverter would: every field of a struct, null only where optional, and the
// JSON type that the schema's type asks for.
func conforms(t *testing.T, at string, schema map[string]any, v any) {
	t.Helper()
	if v == nil {
		if schema["optional"] != true {
			t.Errorf("%s: null, and not optional", at)
		}
		return
	}
	bad := func() { t.Errorf("%s: %v (%T) is not %v", at, v, v, schema["type"]) }
	switch typ := schema["type"]; typ {
	case "struct":
		m, ok := v.(map[string]any)
		if !ok {
			bad()
			return
		}
		fields, _ := schema["fields"].([]any)
		for _, f := range fields {
			f := f.(map[string]any)
			name := f["field"].(string)
			member, ok := m[name]
			if !ok && f["optional"] != true {
				t.Errorf("%s: no field %q", at, name)
			}
			conforms(t, at+"."+name, f, member)
		}
		if len(m) > len(fields) {
			t.Errorf("%s: %d members, the schema has %d fields", at, len(m), len(fields))
		}
	case "array":
		items, ok := v.([]any)
		if !ok {
			bad()
		}
		for i, e := range items {
			conforms(t, fmt.Sprintf("%s[%d]", at, i), schema["items"].(map[string]any), e)
		}
	case "map":
		if _, ok := v.(map[string]any); !ok {
			bad()
		}
	case "string":
		if _, ok := v.(string); !ok {
			bad()
		}
	case "bytes":
		s, ok := v.(string)
		if _, err := base64.StdEncoding.DecodeString(s); !ok || err != nil {
			bad()
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			bad()
		}
	case "float", "double":
		if _, ok := v.(json.Number); !ok {
			bad()
		}
	case "int8", "int16", "int32", "int64":
		n, ok := v.(json.Number)
		if !ok {
			bad()
			return
		}
		if _, err := n.Int64(); err != nil {
			bad()
		}
	default:
		t.Errorf("%s: Connect has no type %v", at, typ)
	}
}
