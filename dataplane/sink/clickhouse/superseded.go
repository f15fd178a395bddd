package clickhouse

import (
	"context"
	"fmt"
	"math/big"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
)

// superseded tells which updates that found no row to take left-out values from
// have nothing to say any more: a batch is applied again after a later one had
// come as far as its rows, which deleted the key, or another lane has come to a
// TRUNCATE that lies ahead of this one. Setting such an update aside would park
// its key, and with it every later change.
func (x *session) superseded(ctx context.Context, l *layout, t *sink.TableBatch, ask []int) (map[int]bool, error) {
	out := map[int]bool{}
	floor, err := x.floor(ctx, t.Schema.Table.String())
	if err != nil {
		return nil, err
	}
	at := func(i int) change.Position { return raise(t.Rows[i].Pos, t.Epoch) }
	var left []int
	for _, i := range ask {
		if at(i).Before(floor) {
			out[i] = true
		} else if !l.appends {
			left = append(left, i)
		}
	}
	for len(left) > 0 {
		n := min(len(left), lookupKeys)
		some := left[:n]
		left = left[n:]
		keys, err := keyTexts(l, t.Rows, some)
		if err != nil {
			return nil, err
		}
		q := fmt.Sprintf(`%s SELECT keys.n, toString(max(t.%s)) FROM %s AS t INNER JOIN keys ON tuple(%s) = keys.k
			WHERE %s GROUP BY keys.n`, l.withKeys(some, keys), colVersion, l.at, l.pkTuple(), l.inKeys(""))
		err = x.conn.query(ctx, "SELECT versions from "+l.at.String(), q, func(scan func(...any) error) error {
			var row uint32
			var text string
			if err := scan(&row, &text); err != nil {
				return err
			}
			v, ok := new(big.Int).SetString(text, 10)
			if !ok {
				return fmt.Errorf("version of a row: not a number")
			}
			pos, err := change.PositionOfVersion(v)
			if err == nil && !pos.Before(at(int(row))) {
				out[int(row)] = true
			}
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}
