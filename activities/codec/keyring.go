package codec

import (
	"bytes"
	"crypto/rand"
	"crypto/subtle"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"time"

	"syncline/dataplane/fault"
)

// CodeKeyringInvalid is the fault of a text that is not a keyring.
const CodeKeyringInvalid fault.Code = "PayloadKeyringInvalid"

// keySize is that of AES-256.
const keySize = 32

// Keyring is the keys for payloads by their ids, and which of them encrypts. The others
// are kept for reading. None encrypts while a keyring reaches its readers, before
// encryption begins, and after it was given up.
type Keyring struct {
	current string
	keys    map[string][]byte
}

// Format keeps keys out of everything that prints a Keyring.
func (k Keyring) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "keyring of %d, current %q", len(k.keys), k.current)
}

// text is a Keyring's form in a secret.
type text struct {
	Current *string           `json:"current"` // not left out by mistake: without it nothing is encrypted
	Keys    map[string][]byte `json:"keys"`
}

var idForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// ParseKeyring reads a keyring. Its errors quote nothing but ids.
func ParseKeyring(s string) (Keyring, error) {
	bad := func(format string, args ...any) (Keyring, error) {
		return Keyring{}, fault.Permanent(CodeKeyringInvalid, nil, "write one that starter payload-keys has made", "the keys for payloads are not a keyring: "+format, args...)
	}
	d := json.NewDecoder(bytes.NewReader([]byte(s)))
	d.DisallowUnknownFields()
	var in text
	if err := d.Decode(&in); err != nil || in.Current == nil {
		return bad(`want {"current": ID, "keys": {ID: 32 bytes in base64}}`) // the cause may quote a key
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return bad("something follows it")
	}
	ids := slices.Sorted(maps.Keys(in.Keys))
	for i, id := range ids {
		if !idForm.MatchString(id) {
			return bad("the id of key %d is not up to 64 letters, digits, ., _ and -", i+1)
		}
		if len(in.Keys[id]) != keySize {
			return bad("key %s has %d bytes, not %d", id, len(in.Keys[id]), keySize)
		}
		for _, other := range ids[:i] {
			if subtle.ConstantTimeCompare(in.Keys[id], in.Keys[other]) == 1 {
				return bad("keys %s and %s are the same", other, id)
			}
		}
	}
	if len(ids) == 0 {
		return bad("it has no key")
	}
	if current := *in.Current; current != "" && in.Keys[current] == nil {
		return bad("its current key is not among its %d", len(ids))
	}
	return Keyring{*in.Current, in.Keys}, nil
}

// Reveal gives the text that ParseKeyring reads, keys included.
func (k Keyring) Reveal() string {
	b, err := json.Marshal(text{&k.current, k.keys})
	if err != nil {
		panic(err) // text and bytes
	}
	return string(b)
}

// Current is the id of the key that encrypts, "" if none does.
func (k Keyring) Current() string { return k.current }

// IDs lists the ids in order.
func (k Keyring) IDs() []string { return slices.Sorted(maps.Keys(k.keys)) }

// NewKeyID proposes an id: the day, and something that no other has.
func NewKeyID(now time.Time) string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails
	return now.UTC().Format("2006-01-02") + "-" + hex.EncodeToString(b[:])
}

// NewKeyring makes a keyring of one new key, which encrypts.
func NewKeyring(id string) (Keyring, error) {
	return Keyring{}.Add(id, true)
}

// Add gives a keyring with one more key, new, which encrypts from now on if use says so.
func (k Keyring) Add(id string, use bool) (Keyring, error) {
	if !idForm.MatchString(id) {
		return Keyring{}, fmt.Errorf("%q is not an id of up to 64 letters, digits, ., _ and -", id)
	}
	if k.keys[id] != nil {
		return Keyring{}, fmt.Errorf("the keyring has a key %s already; an id is never used twice", id)
	}
	key := make([]byte, keySize)
	_, _ = rand.Read(key) // never fails
	out := Keyring{k.current, maps.Clone(k.keys)}
	if out.keys == nil {
		out.keys = map[string][]byte{}
	}
	out.keys[id] = key
	if use {
		out.current = id
	}
	return out, nil
}

// Use gives a keyring that encrypts with another of its keys.
func (k Keyring) Use(id string) (Keyring, error) {
	if k.keys[id] == nil {
		return Keyring{}, k.lacks(id)
	}
	return Keyring{id, maps.Clone(k.keys)}, nil
}

// Stop gives a keyring that encrypts nothing more, and reads what it did.
func (k Keyring) Stop() Keyring { return Keyring{"", maps.Clone(k.keys)} }

// Retire gives a keyring without a key. What it has encrypted cannot be read any more.
func (k Keyring) Retire(id string) (Keyring, error) {
	switch {
	case k.keys[id] == nil:
		return Keyring{}, k.lacks(id)
	case id == k.current:
		return Keyring{}, fmt.Errorf("key %s is the current one; use another first", id)
	}
	out := Keyring{k.current, maps.Clone(k.keys)}
	delete(out.keys, id)
	return out, nil
}

func (k Keyring) lacks(id string) error {
	return fmt.Errorf("the keyring has no key %q; it has %v", id, k.IDs())
}
