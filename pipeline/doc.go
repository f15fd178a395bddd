// Package pipeline is the user's declaration of a pipeline: one YAML file that
// names a source, a log, sinks and tables.
//
// A text becomes a Spec in four steps, each of which collects mistakes and goes on:
//
//	YAML ──► positions and values ──► ${VAR} expanded ──► checked against the field table ──► rules between fields
//
// The field table (fields.go) is the only place that says which fields exist,
// what they accept, what they default to and what a change of them does. Parse,
// JSONSchema, Reference and Diff all read it, so they cannot disagree.
//
// # Use
//
//	spec, err := pipeline.Parse("shop.yaml", data, os.LookupEnv)
//	var problems pipeline.Problems
//	if errors.As(err, &problems) { … one line each: file:line:col: path: message; expected … }
//
// A Spec has every default filled in, every size and duration parsed, and names
// secrets by reference only. Its JSON form is a workflow's input. A Spec that
// comes from elsewhere than Parse, for example from JSON that a person wrote for
// the plain temporal command, goes through Decode or Normalise, which fill in
// defaults and find the same mistakes. For each valid Spec, Decode of its JSON
// form gives it back unchanged.
//
// Match chooses tables, Diff says what a new declaration would change in a
// running pipeline, and the methods in names.go derive the names of everything
// that a pipeline owns.
//
// # Failure
//
// Every mistake in the text is a Problem; Problems is the only error type. No
// input makes the package panic, and no problem repeats a value that could be a
// secret: values of secret fields, values that came out of a variable, and
// connection strings are never echoed.
package pipeline
