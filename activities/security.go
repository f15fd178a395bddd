package activities

import (
	"context"
	"errors"

	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"

	"syncline/activities/observe"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/dataplane/transport/kafka"
	"syncline/secrets"
)

// securityKinds are the codes of faults that whoever guards a system wants to see.
var securityKinds = map[fault.Code]string{
	source.CodeAuth: observe.SecurityAuth, sink.CodeAuth: observe.SecurityAuth, kafka.CodeAuth: observe.SecurityAuth,
	secrets.CodeVaultLoginRefused: observe.SecurityAuth, secrets.CodeVaultTokenExpired: observe.SecurityAuth,

	source.CodePrivilege: observe.SecurityPermission, source.CodeNoReplication: observe.SecurityPermission,
	sink.CodePrivilege: observe.SecurityPermission, secrets.CodeVaultPermissionDenied: observe.SecurityPermission,

	secrets.CodeVaultNotConfigured: observe.SecuritySecret, secrets.CodeVaultUnreachable: observe.SecuritySecret,
	secrets.CodeVaultSealed: observe.SecuritySecret, secrets.CodeSecretMissing: observe.SecuritySecret,
	secrets.CodeSecretFieldMissing: observe.SecuritySecret, secrets.CodeSecretVersionDeleted: observe.SecuritySecret,
	secrets.CodeEnvNotSet: observe.SecuritySecret, secrets.CodeFileUnreadable: observe.SecuritySecret,

	kafka.CodeTLS: observe.SecurityTLS, codeTLSFile: observe.SecurityTLS,
}

// codeTLSFile: a file of a certificate or its key is not what it should be.
const codeTLSFile fault.Code = "TLSFile"

func securityFailed(m *observe.Metrics, code fault.Code) {
	if kind := securityKinds[code]; kind != "" {
		m.SecurityFailed(kind)
	}
}

// Watch counts the security failures with which activities end: one place for all
// of them. Failures that a loop gets over by itself, it counts where it retries.
func (a *Activities) Watch() interceptor.WorkerInterceptor { return &watcher{m: a.Metrics} }

type watcher struct {
	interceptor.WorkerInterceptorBase
	m *observe.Metrics
}

func (w *watcher) InterceptActivity(_ context.Context, next interceptor.ActivityInboundInterceptor) interceptor.ActivityInboundInterceptor {
	return &watched{interceptor.ActivityInboundInterceptorBase{Next: next}, w.m}
}

type watched struct {
	interceptor.ActivityInboundInterceptorBase
	m *observe.Metrics
}

func (w *watched) ExecuteActivity(ctx context.Context, in *interceptor.ExecuteActivityInput) (any, error) {
	out, err := w.Next.ExecuteActivity(ctx, in)
	var app *temporal.ApplicationError
	if errors.As(err, &app) {
		securityFailed(w.m, fault.Code(app.Type()))
	}
	return out, err
}
