package check

import (
	"encoding/json"
	"strings"
	"testing"
)

// An answer that breaks off anywhere is an error, not fewer rows.
func TestCutAnswers(t *testing.T) {
	const whole = `{"meta":[{"name":"a","type":"UInt8"}],"data":[[1],["x"],[null]],"rows":3,"statistics":{"elapsed":0.1}}`
	read := func(text string) (n int, err error) {
		return n, eachRow(strings.NewReader(text), func([]json.RawMessage) error { n++; return nil })
	}
	for n := range len(whole) {
		if _, err := read(whole[:n]); err == nil {
			t.Errorf("%d bytes of the answer are taken for all of it", n)
		}
	}
	var rows int
	if err := eachRow(strings.NewReader(whole), func([]json.RawMessage) error { rows++; return nil }); err != nil || rows != 3 {
		t.Errorf("%d rows: %v", rows, err)
	}
	for _, bad := range []string{strings.Replace(whole, `"rows":3`, `"rows":4`, 1), strings.Replace(whole, `"rows":3,`, "", 1), strings.Replace(whole, `"rows":3`, `"exception":"no","rows":3`, 1)} {
		if _, err := read(bad); err == nil {
			t.Errorf("taken: %s", bad)
		}
	}
}
