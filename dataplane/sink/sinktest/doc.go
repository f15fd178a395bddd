// Package sinktest is the conformance suite that every sink passes: what package
// sink promises, asked of a real server through the interface alone, with a
// Probe to read rows back.
//
// What sinks may do differently is in Capabilities, each with its reason;
// everything else is the same for all.
package sinktest
