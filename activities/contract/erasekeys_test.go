package contract

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"strings"
	"testing"

	"syncline/dataplane/change"
)

func TestKeysAreSealed(t *testing.T) {
	priv, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keys := EraseKeys{Salt: "0123456789abcdef", Rows: []EraseRow{{Table: change.TableID{Schema: "public", Name: "users"}, Key: map[string]string{"id": "4711"}}}}
	sealed, err := SealKeys(priv.PublicKey().Bytes(), keys)
	if err != nil || bytes.Contains(sealed, []byte("4711")) || bytes.Contains(sealed, []byte("users")) {
		t.Fatalf("%q, %v", sealed, err)
	}
	text, err := OpenKeys(priv.Bytes(), sealed)
	if err != nil || string(text) != `{"salt":"0123456789abcdef","rows":[{"table":"public.users","key":{"id":"4711"}}]}` {
		t.Fatalf("%s, %v", text, err)
	}
	other, err := ecdh.X25519().GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	sealed[len(sealed)-1]++
	for _, secret := range [][]byte{other.Bytes(), priv.Bytes(), nil} {
		if text, err := OpenKeys(secret, sealed); err == nil {
			t.Errorf("opened: %s", text)
		}
	}
}

func TestKeyDigests(t *testing.T) {
	users, orders := change.TableID{Schema: "public", Name: "users"}, change.TableID{Schema: "public", Name: "orders"}
	seen := map[string]bool{}
	for _, salt := range []string{"0123456789abcdef", "0123456789abcdeg"} {
		for _, id := range []change.TableID{users, orders} {
			for _, k := range []change.Key{"\x0242", "\x0243"} {
				d, err := KeyDigest(salt, id, k)
				again, _ := KeyDigest(salt, id, k)
				if err != nil || len(d) != 64 || d != again || seen[d] || strings.Contains(d, "42") && strings.Contains(d, salt) {
					t.Errorf("%s %s %q: %s, %v", salt, id, k, d, err)
				}
				seen[d] = true
			}
		}
	}
}
