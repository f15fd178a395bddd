package replay

import (
	"context"
	"slices"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// Compared is how a rebuilt table compares with the live one.
type Compared struct {
	Verdict      verify.Verdict
	Reason       string // of one that is inconclusive
	Both         int64  // rows that are alike
	Different    int64  // keys that are in both, with other values
	OnlyLive     int64
	Deleted      int64 // of those: the log says that they are deleted, so no load brought them
	OnlyReplayed int64
}

// Digests is the part of a sink that rows are compared by, in the sink.
type Digests interface {
	Sum(ctx context.Context, t *verify.Subject, part digest.Scope) (digest.Sum, error)
	Keys(ctx context.Context, t *verify.Subject, part digest.Scope, each func(change.Key, digest.Digest) error) error
}

// compareRows is how many keys of a part are in memory.
const compareRows = 20_000

// Compare compares a table that was rebuilt up to end with the live one. Only of a
// live table that nobody writes to meanwhile can it be told that they differ. If the live
// table's load brought rows, which the log never held, deleted tells of which keys the
// log says that they have no row; nil: it brought none.
func Compare(ctx context.Context, s Digests, marks func(context.Context) ([]sink.Watermark, error), live, copied verify.Subject, end []int64, deleted func(change.Key) bool) (out Compared, err error) {
	if len(copied.Schema.Key) == 0 {
		return Compared{Verdict: verify.Inconclusive, Reason: "no key tells its rows apart"}, nil
	}
	moved := func() (bool, error) {
		ms, err := marks(ctx)
		_, at := Cut(live.Schema.Table, ms)
		return !slices.Equal(at, end), err
	}
	before, err := moved()
	if err != nil {
		return out, err
	}
	live.Schema = copied.Schema // what it has that no change had is of no replay
	all, err := s.Sum(ctx, &copied, digest.Scope{})
	if err != nil {
		return out, err
	}
	parts := int(all.Rows/compareRows) + 1
	for n := range parts {
		if err := part(ctx, s, &live, &copied, digest.Scope{Slice: n, Slices: parts}, deleted, &out); err != nil {
			return out, err
		}
	}
	after, err := moved()
	switch {
	case err != nil:
		return out, err
	case out.Different == 0 && out.OnlyReplayed == 0 && (out.OnlyLive == 0 || deleted != nil && out.Deleted == 0 && !before && !after):
		out.Verdict = verify.Equal
	case before || after:
		out.Verdict, out.Reason = verify.Inconclusive, "the live table went on: what came later is among the differences"
	default:
		out.Verdict = verify.Different
	}
	return out, nil
}

func part(ctx context.Context, s Digests, live, copied *verify.Subject, p digest.Scope, deleted func(change.Key) bool, out *Compared) error {
	want, err := s.Sum(ctx, live, p)
	if err != nil {
		return err
	}
	have, err := s.Sum(ctx, copied, p)
	if err != nil {
		return err
	}
	if have == want {
		out.Both += want.Rows
		return nil
	}
	rows := make(map[change.Key]digest.Digest, have.Rows)
	err = s.Keys(ctx, copied, p, func(k change.Key, d digest.Digest) error {
		rows[k] = d
		return nil
	})
	if err != nil {
		return err
	}
	err = s.Keys(ctx, live, p, func(k change.Key, d digest.Digest) error {
		got, ok := rows[k]
		delete(rows, k)
		switch {
		case !ok:
			out.OnlyLive++
			if deleted != nil && deleted(k) {
				out.Deleted++
			}
		case got == d:
			out.Both++
		default:
			out.Different++
		}
		return nil
	})
	out.OnlyReplayed += int64(len(rows))
	return err
}
