package frontend

import (
	"fmt"
	"strings"
)

// Variable is one of Temporal's own variables.
type Variable struct{ Name, Meaning string }

// Variables lists what the SDK reads of the environment to connect.
func Variables() []Variable {
	return []Variable{
		{"TEMPORAL_ADDRESS", "Frontend, `host:port`."},
		{"TEMPORAL_NAMESPACE", "Namespace."},
		{"TEMPORAL_API_KEY", "API key; turns TLS on. `SYNCLINE_TEMPORAL_API_KEY` names a place to read it from instead."},
		{"TEMPORAL_TLS", "`true` or `false`; on by itself with a key or any of the following."},
		{"TEMPORAL_TLS_SERVER_CA_CERT_PATH", "File of the authority that signed the frontend's certificate; default: the system's. `…_DATA` holds it itself."},
		{"TEMPORAL_TLS_CLIENT_CERT_PATH", "File of the client certificate. `…_DATA` holds it itself."},
		{"TEMPORAL_TLS_CLIENT_KEY_PATH", "File of its private key. `…_DATA` holds it itself."},
		{"TEMPORAL_TLS_SERVER_NAME", "Name in the frontend's certificate; default: the host connected to."},
		{"TEMPORAL_TLS_DISABLE_HOST_VERIFICATION", "`true` takes any certificate: for trying out only."},
		{"TEMPORAL_CLIENT_AUTHORITY", "The `:authority` of requests, for proxies that route by it."},
		{"TEMPORAL_CONFIG_FILE", "Configuration file of the `temporal` program; default `temporalio/temporal.toml` in the user's folder for configurations."},
		{"TEMPORAL_PROFILE", "Profile of that file; default `default`."},
	}
}

// Reference is a Markdown table of Variables.
func Reference() string {
	var b strings.Builder
	b.WriteString("| variable | meaning |\n|---|---|\n")
	for _, v := range Variables() {
		fmt.Fprintf(&b, "| `%s` | %s |\n", v.Name, v.Meaning)
	}
	return b.String()
}
