package pipeline

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func TestRotationExample(t *testing.T) {
	text := example(t, "rotation.yaml")
	r, err := ParseRotation("rotation.yaml", text)
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Targets) != 3 || r.Targets[1].TLS == nil || r.Login.String() != "vault:secret/orders/source" || r.Targets[2].Port != 0 {
		t.Fatalf("read %+v", r)
	}
	for _, f := range append(rotationRoot.fields, rotationRoot.child("targets").elem.fields...) {
		if !strings.Contains(string(text), f.name+":") {
			t.Errorf("the example lacks %s", f.name)
		}
	}
	// As the input of a workflow it says the same.
	j, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	var back Rotation
	if err := json.Unmarshal(j, &back); err != nil {
		t.Fatal(err)
	}
	if err := back.Check(); err != nil || !reflect.DeepEqual(&back, r) {
		t.Errorf("came back as %+v, %v", back, err)
	}
}

func TestMistakesInRotations(t *testing.T) {
	for text, say := range map[string]string{
		"version: 1\nlogin: vault:secret/x\n":                                                                                                                      "1:1: targets: is missing",
		"version: 1\nlogin: secret/x\ntargets: []\n":                                                                                                               "2:8: login",
		"version: 1\nsecrets: vault:secret/x\ntargets: []\n":                                                                                                       "secrets: is not a field; expected one of version, login",
		"version: 1\nlogin: vault:s/x#password\ntargets: []\n":                                                                                                     "field after #",
		"version: 1\nlogin: vault:s/x\ntargets:\n- {name: a, type: postgres, admin: vault:s/y}\n":                                                                  "4:19: targets[0].host: is missing",
		"version: 1\nlogin: vault:s/x\ntargets:\n- {name: a, type: postgres, host: h, admin: vault:s/x}\n":                                                         "is the login that is rotated",
		"version: 1\nlogin: vault:s/x\ntargets:\n- {name: a, type: kafka, admin: vault:s/y}\n":                                                                     "brokers",
		"version: 1\nlogin: vault:s/x\ntargets:\n- {name: a, type: kafka, brokers: 'k:1', host: h, admin: vault:s/y}\n":                                            "not a field of a target of type kafka",
		"version: 1\nlogin: vault:s/x\nlength: 10\ntargets:\n- {name: a, type: postgres, host: h, admin: vault:s/y}\n":                                             "3:9: length",
		"version: 1\nlogin: vault:s/x\ntargets:\n- {name: a, type: postgres, host: h, admin: vault:s/y}\n- {name: a, type: postgres, host: g, admin: vault:s/y}\n": "targets[1].name",
	} {
		_, err := ParseRotation("r.yaml", []byte(text))
		if err == nil || !strings.Contains(err.Error(), say) {
			t.Errorf("%s\ngot %v\nwant one that says %q", text, err, say)
		}
	}
}
