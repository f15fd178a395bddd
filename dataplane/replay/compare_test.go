package replay

import (
	"context"
	"fmt"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

// rowsOf are tables by name: digests of keys.
type rowsOf map[string]map[int]int

func (r rowsOf) Sum(_ context.Context, t *verify.Subject, p digest.Scope) (s digest.Sum, _ error) {
	a := 0
	for k, d := range r[t.Options.Name] {
		if p.Slices == 0 || k%p.Slices == p.Slice {
			s.Rows++
			a += 1 << (2*k + d) // no two tables are alike by it
		}
	}
	s.A = fmt.Sprint(a)
	return s, nil
}

func (r rowsOf) Keys(_ context.Context, t *verify.Subject, p digest.Scope, each func(change.Key, digest.Digest) error) error {
	for k, d := range r[t.Options.Name] {
		if p.Slices == 0 || k%p.Slices == p.Slice {
			if err := each(keyOf(k), digest.Digest(fmt.Sprint(d))); err != nil {
				return err
			}
		}
	}
	return nil
}

func TestCompare(t *testing.T) {
	schema := &change.Schema{Table: table, Columns: []change.Column{{Name: "id"}}, Key: []int{0}}
	live := verify.Subject{Schema: schema, Options: sink.TableOptions{Name: "live"}}
	copied := verify.Subject{Schema: schema, Options: sink.TableOptions{Name: "copied"}}
	rapid.Check(t, func(t *rapid.T) {
		draw := func(name string) map[int]int {
			return rapid.MapOfN(rapid.IntRange(0, 9), rapid.IntRange(0, 1), 0, 10).Draw(t, name)
		}
		r := rowsOf{"live": draw("live"), "copied": draw("copied")}
		if rapid.Bool().Draw(t, "same") {
			r["copied"] = r["live"]
		}
		var want Compared
		for k, d := range r["live"] {
			switch got, ok := r["copied"][k]; {
			case !ok:
				want.OnlyLive++
			case got == d:
				want.Both++
			default:
				want.Different++
			}
		}
		want.OnlyReplayed = int64(len(r["copied"])) - want.Both - want.Different
		loaded := rapid.Bool().Draw(t, "loaded")
		var deleted func(change.Key) bool
		if loaded {
			gone := map[change.Key]bool{}
			for k := range rapid.MapOfN(rapid.IntRange(0, 9), rapid.Just(true), 0, 2).Draw(t, "deleted") {
				gone[keyOf(k)] = true
				if _, ok := r["live"][k]; ok {
					if _, ok := r["copied"][k]; !ok {
						want.Deleted++
					}
				}
			}
			deleted = func(k change.Key) bool { return gone[k] }
		}
		moves := rapid.IntRange(-1, 1).Draw(t, "moves at")
		looks := 0
		marks := func(context.Context) ([]sink.Watermark, error) {
			looks++
			m := sink.Watermark{Partition: sink.Partition{Table: table}, Offset: 7}
			if moves >= 0 && looks > moves {
				m.Offset++
			}
			return []sink.Watermark{m}, nil
		}
		got, err := Compare(t.Context(), r, marks, live, copied, []int64{7}, deleted)
		if err != nil {
			t.Fatal(err)
		}
		moved := moves >= 0
		switch {
		case want.Different == 0 && want.OnlyReplayed == 0 && (want.OnlyLive == 0 || loaded && want.Deleted == 0 && !moved):
			want.Verdict = verify.Equal
		case moved:
			want.Verdict, want.Reason = verify.Inconclusive, got.Reason
		default:
			want.Verdict = verify.Different
		}
		if got != want || (got.Reason == "") != (got.Verdict != verify.Inconclusive) {
			t.Fatalf("%+v, want %+v", got, want)
		}
	})
	keyless := *schema
	keyless.Key = nil
	got, err := Compare(t.Context(), rowsOf{}, nil, live, verify.Subject{Schema: &keyless}, nil, nil)
	if err != nil || got.Verdict != verify.Inconclusive || got.Reason == "" {
		t.Errorf("%+v, %v", got, err)
	}
}
