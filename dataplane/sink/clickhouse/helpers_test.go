package clickhouse

import (
	"context"
	"io"

	"syncline/dataplane/sink"
)

// textCopy sends rows in pieces, as a connection does.
func textCopy(text []byte, rows int64) sink.CopyFunc {
	return func(_ context.Context, w io.Writer, _ bool) (int64, error) {
		for t := text; len(t) > 0; {
			n := min(len(t), 64<<10)
			if _, err := w.Write(t[:n]); err != nil {
				return 0, err
			}
			t = t[n:]
		}
		return rows, nil
	}
}
