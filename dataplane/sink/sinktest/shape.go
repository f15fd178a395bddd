package sinktest

import (
	"maps"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
	"syncline/tiers/shape"
)

// testShaped: a table comes to hold less of its rows, with the rate of a sample beside
// them, by a change of its definition and by another load; and what it has in a masked
// column is compared.
func testShaped(e *env) {
	v1 := Schema("shaped", 1, Col("id", Int4), Col("mail", TextT), Col("note", TextT))
	v1.Columns[2].NotNull = true
	sh, err := shape.Compile(v1, []shape.Rule{
		{Of: "a", Do: shape.Mask, Columns: []string{"mail"}, Key: "k"},
		{Of: "b", Do: shape.Omit, Columns: []string{"note"}},
		{Of: "c", Do: shape.Sample, Columns: []string{"id"}, Rate: 250_000, Salt: "x"},
	}, shape.Keys{"k": []byte("0123456789abcdef")}, shape.All)
	e.ok(err)
	to := sh.Schema()
	t := e.add(v1, 1, sink.TableOptions{})
	x := e.claim(0, 1)
	e.apply(x, Batch(t, 1, Put(v1, 1, "1", "ann", "kept")))
	e.ok(x.Evolve(e.ctx, t, to, Pos(2)))
	e.ok(x.Evolve(e.ctx, t, to, Pos(3)))
	t.Schema = to
	mask := strings.Repeat("0a", 32)
	e.apply(x, Batch(t, 3, Put(to, 4, "2", mask, NULL, "0.25"), Put(to, 5, "3", NULL, NULL, "0.25"), Del(to, 6, "4")))
	e.want(t, []string{"1", "ann", "kept", "0.25"}, []string{"2", mask, NULL, "0.25"}, []string{"3", NULL, NULL, "0.25"})

	side, ok := e.sink.(verify.Sink)
	if !ok {
		e.Skip("a sink that cannot be verified")
	}
	subject := verify.Subject{Schema: to, Options: t.Options, Shape: sh, Kept: &verify.Kept{}}
	subject.Forms, _, err = subject.Compared(e.ctx, side)
	e.ok(err)
	if subject.Forms[1] != digest.Masked || subject.Forms[2] == digest.Masked {
		e.Fatalf("forms %v", subject.Forms)
	}
	digests := func() map[change.Key]digest.Digest {
		out := map[change.Key]digest.Digest{}
		e.ok(side.Keys(e.ctx, &subject, digest.Scope{}, func(k change.Key, d digest.Digest) error {
			out[k] = d
			return nil
		}))
		return out
	}
	before := digests()
	e.apply(x, Batch(t, 4, Put(to, 7, "2", strings.Repeat("0b", 32), NULL, "0.25")))
	after := digests()
	two := e.keyOf(to, "2")
	if len(before) != 3 || before[two] == after[two] {
		e.Fatalf("another mask is not told: %v, %v", before, after)
	}
	after[two] = before[two]
	if !maps.Equal(before, after) {
		e.Fatalf("rows that are the same are not: %v, %v", before, after)
	}

	e.ok(e.sink.ResetTable(e.ctx, t.ID, 2))
	e.ok(e.sink.Redefine(e.ctx, t.ID, to))
	_, err = e.sink.PlanChunks(e.ctx, t.ID, []sink.Chunk{{N: 0}})
	e.ok(err)
	f, _ := Copy(to, []string{"5", mask, NULL, "0.25"})
	_, err = e.sink.LoadChunk(e.ctx, t.ID, 0, Loaded(8), f, nil)
	e.ok(err)
	e.ok(e.sink.FinishLoad(e.ctx, t.ID))
	e.want(t, []string{"5", mask, NULL, "0.25"})
}
