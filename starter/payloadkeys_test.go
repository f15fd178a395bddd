package main

import (
	"strings"
	"testing"

	"syncline/activities/codec"
)

// A keyring is made and rotated through pipes; keys show only where they are asked for.
func TestPayloadKeys(t *testing.T) {
	t.Parallel()
	do := func(in string, args ...string) result {
		t.Helper()
		return call{args: append([]string{"payload-keys"}, args...), stdin: in}.run(t)
	}
	ring := func(r result) codec.Keyring {
		t.Helper()
		k, err := codec.ParseKeyring(r.exits(exitOK).out)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first := do("", "new", "--id", "k1")
	if k := ring(first); k.Current() != "k1" || len(k.IDs()) != 1 {
		t.Errorf("%v", k)
	}
	if k := ring(do("", "new", "--json")); len(k.Current()) != len("2006-01-02-01234567") {
		t.Errorf("%v", k)
	}
	added := do(first.out, "add", "--id", "k2")
	if k := ring(added); k.Current() != "k2" || strings.Join(k.IDs(), " ") != "k1 k2" {
		t.Errorf("%v", k)
	}
	later := do(added.out, "add", "--id", "k3", "--later")
	if k := ring(later); k.Current() != "k2" {
		t.Errorf("%v", k)
	}
	used := do(later.out, "use", "k3")
	if k := ring(used); k.Current() != "k3" {
		t.Errorf("%v", k)
	}
	if k := ring(do(used.out, "retire", "k1")); strings.Join(k.IDs(), " ") != "k2 k3" {
		t.Errorf("%v", k)
	}
	list := do(used.out, "list").exits(exitOK)
	if list.out != "k1\nk2\nk3  current\n" {
		t.Error(list.out)
	}
	var out struct {
		Current string   `json:"current"`
		Keys    []string `json:"keys"`
	}
	do(used.out, "list", "--json").exits(exitOK).object(&out)
	if out.Current != "k3" || len(out.Keys) != 3 {
		t.Errorf("%+v", out)
	}
	do(used.out, "retire", "k3").exits(exitInvalid).says("the current one")
	do(used.out, "use", "k9").exits(exitInvalid).says(`no key "k9"`)
	do(used.out, "add", "--id", "k1").exits(exitInvalid).says("has a key k1 already")
	do("nonsense", "list").exits(exitInvalid).says("PayloadKeyringInvalid")

	r := call{args: []string{"payload-keys", "new"}, terminal: true}.run(t).exits(exitInvalid).says("would show on the terminal")
	if r.out != "" {
		t.Error(r.out)
	}
	ring(call{args: []string{"payload-keys", "new", "--show"}, terminal: true}.run(t))
	call{args: []string{"status", "x"}, env: map[string]string{"SYNCLINE_PAYLOAD_KEYS": "sekrit"}}.run(t).exits(exitInvalid).says("SYNCLINE_PAYLOAD_KEYS is not a reference")
	call{args: []string{"status", "x"}, env: map[string]string{"SYNCLINE_PAYLOAD_KEYS": "file:/nowhere"}}.run(t).exits(exitInvalid).says("SYNCLINE_PAYLOAD_KEYS", "/nowhere")
}
