package contract

import (
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/hpke"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"syncline/dataplane/change"
)

var eraseInfo = []byte("syncline erasure")

// SealKeys encrypts keys for an erasure: with HPKE in base mode, of X25519, HKDF-SHA256
// and AES-256-GCM.
func SealKeys(public []byte, keys EraseKeys) ([]byte, error) {
	pub, err := ecdh.X25519().NewPublicKey(public)
	if err != nil {
		return nil, err
	}
	to, err := hpke.NewDHKEMPublicKey(pub)
	if err != nil {
		return nil, err
	}
	text, err := json.Marshal(keys)
	if err != nil {
		return nil, err
	}
	return hpke.Seal(to, hpke.HKDFSHA256(), hpke.AES256GCM(), eraseInfo, text)
}

// OpenKeys is the inverse of SealKeys; the secret is the X25519 private key.
func OpenKeys(secret, sealed []byte) ([]byte, error) {
	priv, err := ecdh.X25519().NewPrivateKey(secret)
	if err != nil {
		return nil, err
	}
	from, err := hpke.NewDHKEMPrivateKey(priv)
	if err != nil {
		return nil, err
	}
	return hpke.Open(from, hpke.HKDFSHA256(), hpke.AES256GCM(), eraseInfo, sealed)
}

// KeyDigest is what a record has in place of a key: without the salt nobody can tell what
// it is of, also of numbers that could be tried out.
func KeyDigest(salt string, id change.TableID, key change.Key) (string, error) {
	k, err := hkdf.Key(sha256.New, []byte(salt), nil, "syncline erasure digest", sha256.Size)
	if err != nil {
		return "", err
	}
	h := hmac.New(sha256.New, k)
	fmt.Fprintf(h, "%s\x00%s", id, string(key))
	return hex.EncodeToString(h.Sum(nil)), nil
}
