package activities

import (
	"time"

	"syncline/analytics"
	"syncline/dataplane/certs"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/dataplane/transport/kafka"
	"syncline/secrets"
)

// securityKinds are the codes of faults that whoever guards a system wants to see.
var securityKinds = map[fault.Code]string{
	source.CodeAuth: analytics.SecurityAuth, sink.CodeAuth: analytics.SecurityAuth, kafka.CodeAuth: analytics.SecurityAuth,
	secrets.CodeVaultLoginRefused: analytics.SecurityAuth, secrets.CodeVaultTokenExpired: analytics.SecurityAuth,

	source.CodePrivilege: analytics.SecurityPermission, source.CodeNoReplication: analytics.SecurityPermission,
	sink.CodePrivilege: analytics.SecurityPermission, secrets.CodeVaultPermissionDenied: analytics.SecurityPermission,

	secrets.CodeVaultNotConfigured: analytics.SecuritySecret, secrets.CodeVaultUnreachable: analytics.SecuritySecret,
	secrets.CodeVaultSealed: analytics.SecuritySecret, secrets.CodeSecretMissing: analytics.SecuritySecret,
	secrets.CodeSecretFieldMissing: analytics.SecuritySecret, secrets.CodeSecretVersionDeleted: analytics.SecuritySecret,
	secrets.CodeEnvNotSet: analytics.SecuritySecret, secrets.CodeFileUnreadable: analytics.SecuritySecret,

	kafka.CodeTLS: analytics.SecurityTLS, certs.CodeTLSFile: analytics.SecurityTLS,
}

// refused counts a failure if it is one of those, and records it.
func (a *Activities) refused(pipeline, component string, code fault.Code, message string) {
	kind := securityKinds[code]
	if kind == "" {
		return
	}
	a.Metrics.SecurityFailed(kind)
	a.Analytics.Put(&analytics.SecurityEvents{
		Time: time.Now().UTC(), Pipeline: pipeline, Component: component, Kind: kind, Code: string(code), Message: secrets.Redact(message), Worker: a.Worker,
	})
}
