// Package codec encrypts what Syncline hands to Temporal: inputs, results, heartbeats,
// memos, summaries, and the texts of failures.
//
// A Keyring is the keys by their ids, and which of them encrypts. It is one secret,
// named by a reference, so that a reader never sees a new current key without its
// bytes. Keys holds it in a process, in these states:
//
//	fresh   used as it is
//	aged    used as it is, while one read in the background brings what is there now
//	kept    the read failed: the keyring of before is used, and the failure is told
//
// A payload names the id of its key. An id that is not known makes the keyring be
// read again before anything fails, so that a worker reads what another wrote with
// a key of a moment ago. Such reads are shared and bounded in their rate.
//
// Payloads that are not encrypted pass as they are: they are from before. What is
// encrypted and cannot be read is a fault (PayloadKeyUnknown, PayloadKeysUnset,
// PayloadDamaged). Inside a workflow it is a panic, on purpose: an error there ends
// the workflow or drops a signal, for good, while a panic fails the task alone, which
// Temporal tries again until the key is back. Arguments of updates are the exception:
// whoever sent them gets the fault as the answer.
//
// Sealing: each payload, with its metadata, is encrypted by AES-256-GCM under a key and
// nonce of its own, which HKDF-SHA256 derives from the named key and 32 random bytes.
// So a key has no bound on how many payloads it may encrypt. The format's version
// and the key's id are authenticated. The data are
//
//	version (1 byte, 1) | salt (32 bytes) | ciphertext and tag
//
// A payload is not tied to its place: who can write to Temporal's database can put one
// in another's place, or bring back an old one, as long as its key is there.
package codec
