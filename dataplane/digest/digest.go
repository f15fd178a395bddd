package digest

import "syncline/dataplane/change"

// Form is how the values of a column are written.
type Form string

// The forms.
const (
	Text     Form = "text"     // what Postgres prints
	Bytes    Form = "bytes"    // md5 of a bytea's bytes: printing doubles them
	Float32  Form = "float4"   // the bits in hexadecimal; any NaN is NaN
	Float64  Form = "float8"   //
	Floats32 Form = "float4[]" // of a list of one dimension: the elements' bits, or ~, with commas
	Floats64 Form = "float8[]" //

	// Compared in Go, since no two servers print them alike: see Canonical.
	JSON  Form = "json"       // as jsonb has it: names in any order, of equal ones the last; numbers by value
	Paths Form = "json paths" // as ClickHouse's type JSON has it
	// Masked are texts of which the sink has keyed hashes: the source's become such on the way.
	Masked Form = "masked"
)

// Sum is the digest of a set of rows. Sums of equal sets are equal.
type Sum struct {
	Rows int64  `json:"rows"`
	A    string `json:"a"` // decimal sums of the first and the second 60 bits of rows' md5
	B    string `json:"b"`
}

// Digest is the md5 of a row's text, in hexadecimal.
type Digest string

// Scope is a part of a table's rows. Its bounds are row data.
type Scope struct {
	After []string `json:"after,omitempty"` // texts of a primary key; nil: from the first on
	UpTo  []string `json:"up_to,omitempty"` // inclusive; nil: to the last
	// Of the keys' hashes, those that leave Slice as a remainder of Slices; 0: all.
	Slice  int `json:"slice,omitempty"`
	Slices int `json:"slices,omitempty"`
}

// FloatForm is the form of a floating-point type, or of a list of one; ok is false
// for other types.
func FloatForm(t *change.Type) (f Form, ok bool) {
	switch root := t.Root(); {
	case root.Kind == change.Array && root.Elem != nil:
		switch root.Elem.Root().Base {
		case "float4":
			return Floats32, true
		case "float8":
			return Floats64, true
		}
	case root.Base == "float4":
		return Float32, true
	case root.Base == "float8":
		return Float64, true
	}
	return Text, false
}
