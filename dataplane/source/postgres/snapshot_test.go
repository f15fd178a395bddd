package postgres

import (
	"bytes"
	"strconv"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

func itoa(n int) string { return strconv.Itoa(n) }

// copyAll copies the chunks (nil: one of everything) as text and parses them.
func (r *rig) copyAll(s *change.Schema, chunks []sink.Chunk, snapshot string) (rows []change.Row) {
	r.t.Helper()
	if chunks == nil {
		chunks = []sink.Chunk{{}}
	}
	for _, c := range chunks {
		var b bytes.Buffer
		n, err := r.s.CopyChunk(snapshot, s, c, "", nil)(r.ctx(), &b, false)
		if err != nil {
			r.t.Fatal(err)
		}
		lines := strings.Split(strings.TrimSuffix(b.String(), "\n"), "\n")
		if n == 0 {
			lines = nil
		}
		if int64(len(lines)) != n {
			r.t.Fatalf("%d lines, %d rows", len(lines), n)
		}
		for _, l := range lines {
			rows = append(rows, copyRow(l))
		}
	}
	return rows
}

func copyRow(line string) (row change.Row) {
	for _, f := range strings.Split(line, "\t") {
		if f == `\N` {
			row = append(row, change.Value{})
			continue
		}
		row = append(row, change.TextValue(strings.NewReplacer(`\\`, `\`, `\t`, "\t", `\n`, "\n", `\r`, "\r", `\b`, "\b", `\f`, "\f", `\v`, "\v").Replace(f)))
	}
	return row
}
