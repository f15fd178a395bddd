// Package workflows is the control plane: it decides order, retry, pause and
// compensation, and does no work of its own.
//
// # Workflows
//
//   - Pipeline is the entity behind a declaration. It sets up what the pipeline
//     needs, keeps one Stream running, starts a Bootstrap whenever tables have to
//     be loaded, and answers updates and the status query. It ends only when it
//     is destroyed or when its setup failed.
//   - Stream keeps capture and every lane of every sink running, each for itself:
//     a component that fails for good is reported and waits for an operator, the
//     others go on.
//   - Bootstrap loads tables, chunk by chunk, from generations of exported
//     snapshots.
//   - Snapshot is a one-off load without a stream; Plan a one-off check of a
//     declaration; Report a one-off report.
//   - Audit verifies tables of a pipeline at its sinks, when an operator or a
//     Schedule starts it.
//
// # Failure
//
// Activities retry for ever on conditions that may pass, with a bounded, visible
// delay. A condition that stays is reported under its name in the status. What
// a failed or cancelled setup has made is removed again under a disconnected
// context.
package workflows
