package codec

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"fmt"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"syncline/dataplane/fault"
)

// What an encrypted payload says of itself.
const (
	Encoding   = "binary/encrypted"
	MetadataID = "encryption-key-id"
)

// The faults of reading payloads.
const (
	CodeKeyUnknown fault.Code = "PayloadKeyUnknown"
	CodeKeysUnset  fault.Code = "PayloadKeysUnset"
	CodeDamaged    fault.Code = "PayloadDamaged"
)

const (
	version  = 1
	saltSize = 32
	// what the derived keys are for
	purpose = "syncline payload 1"
)

// Keys is a keyring as it is held in a process.
type Keys = Held[Keyring]

// HoldKeys reads a keyring by a function that goes past caches.
func HoldKeys(ctx context.Context, read func(context.Context) (string, error), warn func(error)) (*Keys, error) {
	return Hold(ctx, func(ctx context.Context) (Keyring, error) {
		s, err := read(ctx)
		if err != nil {
			return Keyring{}, err
		}
		return ParseKeyring(s)
	}, warn)
}

// Codec encrypts and decrypts payloads. Without keys it leaves everything as it is, and
// what is encrypted is a fault to read.
type Codec struct{ keys *Keys }

var _ converter.PayloadCodec = (*Codec)(nil)

// New makes a codec; keys may be nil.
func New(keys *Keys) *Codec { return &Codec{keys} }

func (c *Codec) encrypts() bool { return c.keys != nil && c.keys.Get().current != "" }

// Encode encrypts each payload with the current key, if there is one.
func (c *Codec) Encode(ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
	if c.keys == nil {
		return ps, nil
	}
	ring := c.keys.Get()
	if ring.current == "" {
		return ps, nil
	}
	out := make([]*commonpb.Payload, len(ps))
	for i, p := range ps {
		plain, err := proto.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("payload: %w", err)
		}
		data, err := seal(ring.keys[ring.current], ring.current, plain)
		if err != nil {
			return nil, err
		}
		out[i] = &commonpb.Payload{
			Metadata: map[string][]byte{converter.MetadataEncoding: []byte(Encoding), MetadataID: []byte(ring.current)},
			Data:     data,
		}
	}
	return out, nil
}

// Decode decrypts what is encrypted, and leaves the rest as it is.
func (c *Codec) Decode(ps []*commonpb.Payload) ([]*commonpb.Payload, error) {
	out := make([]*commonpb.Payload, len(ps))
	for i, p := range ps {
		if string(p.GetMetadata()[converter.MetadataEncoding]) != Encoding {
			out[i] = p
			continue
		}
		var err error
		if out[i], err = c.open(p); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (c *Codec) open(p *commonpb.Payload) (*commonpb.Payload, error) {
	id := string(p.Metadata[MetadataID])
	switch {
	case c.keys == nil:
		return nil, passing(CodeKeysUnset, nil, "set SYNCLINE_PAYLOAD_KEYS to the keys that the workers have", "a payload is encrypted, and no keys are set here")
	case !idForm.MatchString(id):
		return nil, damaged("it names no key of Syncline's")
	}
	key, err := c.key(id)
	if err != nil {
		return nil, err
	}
	plain, err := unseal(key, id, p.Data)
	if err != nil {
		return nil, err
	}
	inner := &commonpb.Payload{}
	if err := proto.Unmarshal(plain, inner); err != nil {
		return nil, damaged("key %s opens it, and what is in it is no payload", id)
	}
	return inner, nil
}

func (c *Codec) key(id string) ([]byte, error) {
	if key := c.keys.Get().keys[id]; key != nil {
		return key, nil
	}
	ring, err := c.keys.Sooner(context.Background())
	if key := ring.keys[id]; key != nil {
		return key, nil
	}
	if err != nil {
		return nil, passing(CodeKeyUnknown, err, "see to where SYNCLINE_PAYLOAD_KEYS is kept", "a payload is encrypted with key %s, and the keys cannot be read again", id)
	}
	return nil, passing(CodeKeyUnknown, nil, "put key "+id+" back into the keyring that SYNCLINE_PAYLOAD_KEYS names", "a payload is encrypted with key %s, which the keyring does not have", id)
}

// passing is a condition that ends by itself once somebody has mended it.
func passing(code fault.Code, cause error, fix, format string, args ...any) error {
	e := fault.Transient(code, cause, format, args...)
	e.Fix = fix
	return e
}

func damaged(format string, args ...any) error {
	e := fault.Permanent(CodeDamaged, nil, "reset the workflow to before it, or terminate and start it again", format, args...)
	e.What = "an encrypted payload cannot be read: " + e.What
	return e
}

// once gives the cipher and the nonce for one salt.
func once(key, salt []byte) (cipher.AEAD, []byte, error) {
	m, err := hkdf.Key(sha256.New, key, salt, purpose, keySize+12)
	if err != nil {
		return nil, nil, fmt.Errorf("derive a payload's key: %w", err)
	}
	block, err := aes.NewCipher(m[:keySize])
	if err != nil {
		return nil, nil, fmt.Errorf("payload's cipher: %w", err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, nil, fmt.Errorf("payload's cipher: %w", err)
	}
	return aead, m[keySize:], nil
}

func bound(id string) []byte { return append([]byte{version}, id...) }

func seal(key []byte, id string, plain []byte) ([]byte, error) {
	out := make([]byte, 1+saltSize, 1+saltSize+len(plain)+16)
	out[0] = version
	_, _ = rand.Read(out[1:]) // never fails
	aead, nonce, err := once(key, out[1:])
	if err != nil {
		return nil, err
	}
	return aead.Seal(out, nonce, plain, bound(id)), nil
}

func unseal(key []byte, id string, data []byte) ([]byte, error) {
	if len(data) < 1+saltSize+16 {
		return nil, damaged("it is cut short, to %d bytes", len(data))
	}
	if data[0] != version {
		return nil, damaged("it is of version %d, and this release knows version %d", data[0], version)
	}
	aead, nonce, err := once(key, data[1:1+saltSize])
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nonce, data[1+saltSize:], bound(id))
	if err != nil {
		return nil, damaged("it was altered, or key %s is not the one that encrypted it", id)
	}
	return plain, nil
}
