// Package repair makes rows of a sink equal to the source's again, key by key, while
// both are written to.
//
// # Steps
//
// Plan looks at the keys that a verification found once more, drops those that no
// longer differ, and records the others in the sink's ledger with what they are and
// what they will be. Then, for the keys of a plan:
//
//   - Quarantine holds them: from then on lanes set their changes aside, in order, and
//     nothing else reaches their rows.
//   - Replay takes a position P of the source and waits until the ledger has passed it.
//     Rows that the log alone tells (package replay), and that it tells as the source has
//     them, are made of their changes. The others, those whose changes the log no longer has
//     or has too far back to look for them there, and those whose wrong row has
//     the version of the right one, are taken from a snapshot S of the source. Everything at or before P is
//     seen by S, so a sink that keeps versions takes P as that of the row: it is above
//     that of every change that the row lacks. What was set aside and is in the row is
//     told by P and S, never by a clock.
//   - Reverify takes another position, waits for the ledger again, and compares. A row
//     that was written to since is compared with what was written into it: the rest is
//     set aside, behind it.
//   - Release hands the keys back to their lanes, which apply what was set aside and let
//     go in one commit; then every key is verified once more, as any suspect is.
//
// Quarantine and Release are a statement over all keys each. Everything else goes in
// portions, whose size follows that of the rows: memory is bounded by that, and, while
// keys are verified, by the keys themselves.
//
// # Failure
//
// The ledger says how far each key has come, so every step may be run again by another
// worker and goes on there. A key that cannot be mended is let go with the reason. Keys
// are held under a lease: if nobody comes to an end of a repair, their lanes let them go
// by themselves. Nothing here starts over by deleting: at no moment is a key's row absent
// that should be there.
package repair
