// Package stack gives integration tests their servers.
//
// Addresses come from the environment that `devstack up --env-file` writes. A
// test whose server is not there is skipped, unless SYNCLINE_STACK=required,
// which makes it fail: so CI cannot pass by testing nothing.
//
// Tests share the servers and run in parallel, so each makes its own database,
// ClickHouse database and topic prefix, which its cleanup drops. Replication
// slots of a test's database are dropped too; a slot that stays keeps the WAL of
// all tests that follow.
package stack
