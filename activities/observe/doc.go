// Package observe is what a worker shows of itself: logs, metrics, traces,
// health and profiles. Only the composition root and the activities use it; the data plane
// declares small observer interfaces of its own, which the handles here fulfil
// or are adapted to with one line each.
//
//   - NewLogger writes JSON lines; connection strings that get into a message or
//     an error are redacted on the way out. TemporalLogger lends it to the SDK.
//   - Metrics declares every syncline_* metric in one table. Handles (Capture,
//     Deliver, Snapshot) are taken by one attempt of a loop and closed at its
//     end, which removes its gauges: a worker that has handed its lane on must
//     not go on showing the lag that it last saw. The values of a label are
//     bounded; what exceeds the bound is counted under "_other".
//   - Health knows the loops that run in this process and how long each may take
//     between two signs of progress. A loop that overstays makes /healthz red
//     until it progresses or ends, and its attempts count as one: what fails again
//     and again does not progress. An idle loop does: it has looked and found nothing. Readiness is a separate matter: /readyz is red while the
//     worker starts and from the moment it drains.
//   - Traces sends the data plane's spans by OTLP, if an endpoint is set. Its queue
//     is bounded: a collector that is slow or away costs spans, and nothing else.
//   - Server serves /metrics, /healthz, /readyz and, if asked to, /debug/pprof/.
package observe
