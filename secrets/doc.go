// Package secrets turns references into secret values at the moment somebody
// connects, and keeps the values out of everything that is stored or printed.
//
// A Ref is what a declaration, a workflow input or a status may hold. It comes
// in three forms:
//
//	vault:<path>#<field>   a field of a secret in Vault's KV engine, v1 or v2
//	env:NAME               a variable of the worker's environment
//	file:<path>            a file that the worker can read, one trailing newline dropped
//
// A Secret is the value. Every way of printing or encoding it gives
// "[redacted]"; only Reveal hands it out. Errors of this package name the
// reference, never the value, and a text that is not a reference is not echoed,
// because it may be a password pasted into the wrong place.
//
// A Resolver goes through these states for Vault: unconnected (nothing is
// contacted until a vault: reference is resolved), logged in (a token and its
// time to live are known, and it is renewed at two thirds of it), and logged out
// again when Vault refuses the token. A refused token is replaced once per
// resolve where that is possible (AppRole logs in again, a token file is read
// again); what remains is reported as a fault:
//
//	VaultUnreachable, VaultSealed         retry: the server may come back
//	VaultTokenExpired                     retry only if somebody else renews the token (token file)
//	VaultNotConfigured, VaultLoginRefused, VaultPermissionDenied,
//	SecretMissing, SecretFieldMissing, SecretVersionDeleted,
//	EnvNotSet, FileUnreadable, RefInvalid  no retry: somebody has to act
//
// Resolved values are cached for a short time, so that a burst of connections
// asks Vault once; Refetch goes past the cache and is what to call after a
// server refused a password.
package secrets
