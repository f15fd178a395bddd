package verify

import (
	"bytes"
	"context"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
)

// Keys compares the rows of some keys, each as a suspect. It answers as Table does.
func Keys(ctx context.Context, src Source, snk Sink, led Ledger, t Subject, keys []change.Key, o Options) (Result, error) {
	o.MaxFindings = max(o.MaxFindings, len(keys)+1)
	w := newWalk(src, snk, led, &t, o)
	_, err := w.begin(ctx)
	if err == nil {
		w.res.Rows, w.res.Suspects = int64(len(keys)), len(keys)
		err = w.fenced(ctx, func(ctx context.Context) error { return w.confirm(ctx, keys, &w.res) })
	}
	return w.result(err)
}

// Same reports whether two rows are the same as far as the forms of their columns tell;
// without any: to the last byte.
func Same(forms []digest.Form, a, b change.Row) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		var f digest.Form
		if i < len(forms) {
			f = forms[i]
		}
		if !same(f, a[i], b[i]) {
			return false
		}
	}
	return true
}

func same(f digest.Form, a, b change.Value) bool {
	return a.Equal(b) || f.InGo() && a.Kind == change.Text && b.Kind == change.Text && bytes.Equal(f.Canonical(a.Data), f.Canonical(b.Data))
}

// Await waits until the changes of a tier of the table, or of sink.AllTiers, have taken
// effect up to a position of the source, and has what waits applied up to there. behind says what of it has not within
// the bound; "" if all has.
func Await(ctx context.Context, led Ledger, id change.TableID, tier string, at change.LSN, bound time.Duration) (behind string, err error) {
	until := time.Now().Add(bound)
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 250*time.Millisecond) {
		s, err := look(ctx, led, id, tier)
		if err == nil {
			err = s.ask(ctx, led, id, at)
		}
		if err != nil {
			return "", err
		}
		if behind = s.behind(at); behind == "" || !time.Now().Before(until) {
			return behind, nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return behind, ctx.Err()
		}
	}
}
