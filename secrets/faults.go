package secrets

import (
	"crypto/tls"
	"errors"
	"net/http"
	"strings"

	vaultapi "github.com/hashicorp/vault/api"

	"syncline/dataplane/fault"
)

// The named conditions of resolving a reference.
const (
	CodeVaultNotConfigured    fault.Code = "VaultNotConfigured"
	CodeVaultUnreachable      fault.Code = "VaultUnreachable"
	CodeVaultSealed           fault.Code = "VaultSealed"
	CodeVaultLoginRefused     fault.Code = "VaultLoginRefused"
	CodeVaultTokenExpired     fault.Code = "VaultTokenExpired"
	CodeVaultPermissionDenied fault.Code = "VaultPermissionDenied"
	CodeSecretMissing         fault.Code = "SecretMissing"
	CodeSecretFieldMissing    fault.Code = "SecretFieldMissing"
	CodeSecretVersionDeleted  fault.Code = "SecretVersionDeleted"
	CodeEnvNotSet             fault.Code = "EnvNotSet"
	CodeFileUnreadable        fault.Code = "FileUnreadable"
)

// transient is fault.Transient with a hint for the case that it does not pass.
func transient(code fault.Code, cause error, fix, format string, args ...any) *fault.Error {
	e := fault.Transient(code, cause, format, args...)
	e.Fix = fix
	return e
}

// answerOf gives the HTTP status of an error of Vault's client and what the
// server said, or 0 if no server answered.
func answerOf(err error) (status int, said string) {
	var re *vaultapi.ResponseError
	if !errors.As(err, &re) {
		return 0, ""
	}
	if re.RawError {
		// Not Vault's own words but a proxy's page: of no use in an error.
		return re.StatusCode, http.StatusText(re.StatusCode)
	}
	// Vault nests its errors in lists with line breaks and bullets.
	said = strings.Join(strings.Fields(strings.ReplaceAll(strings.Join(re.Errors, "; "), "\t*", " ")), " ")
	if len(said) > 300 {
		said = said[:300] + "…"
	}
	return re.StatusCode, Redact(said)
}

// serverFault names the conditions in which Vault as a whole does not work, and
// returns nil for the others.
func serverFault(addr string, err error) *fault.Error {
	status, said := answerOf(err)
	switch {
	case status == 0:
		fix := "check SYNCLINE_VAULT_ADDR, that Vault runs, and that this worker may connect to it"
		var cert *tls.CertificateVerificationError
		switch {
		case errors.As(err, &cert):
			return transient(CodeVaultUnreachable, err, "name the certificate authority of Vault in SYNCLINE_VAULT_CACERT",
				"Vault at %s has a certificate that this worker does not trust", addr)
		case errors.Is(err, http.ErrSchemeMismatch):
			fix = "begin SYNCLINE_VAULT_ADDR with http://, or name an address at which Vault has TLS"
		}
		return transient(CodeVaultUnreachable, err, fix, "Vault at %s does not answer", addr)
	case wantsTLS(err):
		return transient(CodeVaultUnreachable, nil, "begin SYNCLINE_VAULT_ADDR with https://", "Vault at %s wants TLS", addr)
	case status == http.StatusServiceUnavailable && strings.Contains(said, "sealed"):
		return transient(CodeVaultSealed, nil, "unseal it: vault operator unseal", "Vault at %s is sealed", addr)
	case status >= 500 || status == http.StatusTooManyRequests || status == http.StatusPreconditionFailed:
		return transient(CodeVaultUnreachable, nil, "see Vault's own log if this does not pass",
			"Vault at %s answered %d: %s", addr, status, said)
	}
	return nil
}

// wantsTLS reports whether a server with TLS was asked in plain text: it answers so itself,
// before Vault sees the request.
func wantsTLS(err error) bool {
	var re *vaultapi.ResponseError
	return errors.As(err, &re) && re.StatusCode == http.StatusBadRequest && re.RawError &&
		strings.Contains(strings.Join(re.Errors, " "), "HTTP request to an HTTPS server")
}

// refusesToken reports whether Vault said that the token itself is no good, as
// opposed to its policies.
func refusesToken(err error) bool {
	status, said := answerOf(err)
	return (status == http.StatusForbidden || status == http.StatusUnauthorized) &&
		(strings.Contains(said, "invalid token") || strings.Contains(said, "bad token") || strings.Contains(said, "missing client token"))
}

func isStatus(err error, status int) bool {
	s, _ := answerOf(err)
	return s == status
}
