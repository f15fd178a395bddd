// Package e2e holds the tests that run whole pipelines: real worker processes
// between real servers, steered through Temporal as the command-line tool does.
//
// Every test has its own databases, task queues, workers and pipelines, so that
// tests run beside each other and beside other packages on the same servers. The
// test that restarts servers starts a development stack of its own, and a process
// that uses it.
//
// Nothing waits by sleeping: a test waits for what it needs to see, and says what
// it saw last when that does not come. Random moments come from a seed that is
// logged and can be given again:
//
//	E2E_SEED         seed of all random moments; default: of the clock
//	E2E_KILLS        how often each role is killed in each phase; default 3, in CI 1, make soak 20
//	E2E_WORKER       path of a worker with the race detector, instead of building one
//	E2E_WORKER_FAST  the same, without the race detector
//	E2E_KEEP         keep the logs of tests that pass, too
package e2e
