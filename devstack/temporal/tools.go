//go:build tools

// Package temporal pins the Temporal server, Web UI and CLI that devstack
// builds. It is a module of its own because a server has many dependencies.
package temporal

import _ "github.com/temporalio/cli/cmd/temporal"
