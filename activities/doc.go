// Package activities joins the planes: it resolves secrets, opens the data
// plane's ends, runs its loops, turns their progress into heartbeats and their
// errors into Temporal's, retryable or not. It decides nothing itself.
//
// # Failure
//
// An error's type is its fault's code. A fault that says no retry can help is
// non-retryable; every other error is retried. A superseded lane (Fenced) ends
// its attempt and is retried: either a newer attempt exists, and the server
// ignores this one, or the ledger asked all lanes to claim again.
//
// When the worker shuts down, long activities finish what is in flight and end
// with WorkerStopped, so that another worker takes over at once rather than
// after a heartbeat timeout.
package activities
