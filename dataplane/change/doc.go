// Package change is the vocabulary of the data plane: what changed (Change),
// in which row (Key), by which definition of its table (Schema), and where in
// the order of the source (Position). It is pure: no input or output, no clock.
//
// The byte-level format of an encoded change is in this package's README.
package change
