package postgres

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
)

func TestTypeID(t *testing.T) {
	for in, want := range map[string]change.TableID{
		"mood":               {Schema: "public", Name: "mood"},
		"shop.mood":          {Schema: "shop", Name: "mood"},
		`shop."E-""Mail"`:    {Schema: "shop", Name: `E-"Mail`},
		`"a.b"."c d"`:        {Schema: "a.b", Name: "c d"},
		"public.vec(3)":      {Schema: "public", Name: "vec"},
		"gis.geometry(P,12)": {Schema: "gis", Name: "geometry"},
	} {
		if have, ok := typeID(in); !ok || have != want {
			t.Errorf("%s: %v, %t", in, have, ok)
		}
	}
	for _, in := range []string{"", "a.b.c", `"open`, ".x"} {
		if have, ok := typeID(in); ok {
			t.Errorf("%s: %v", in, have)
		}
	}
}

// A context that has ended is the reason of whatever the server says then.
func TestWrapAfterTheEnd(t *testing.T) {
	s := &Sink{pipeline: "p"}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	late, stop := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer stop()
	for _, cause := range []error{
		io.ErrUnexpectedEOF, &pgconn.PgError{Code: "57014", Message: "COPY from stdin failed: context canceled"},
		&pgconn.PgError{Code: "57P01"}, &pgconn.PgError{Code: "40001"}, context.DeadlineExceeded,
	} {
		if err := s.wrap(gone, cause, "do it"); !errors.Is(err, context.Canceled) || fault.CodeOf(err) != "" {
			t.Errorf("%v after it was cancelled: %v", cause, err)
		}
		if err := s.wrap(late, cause, "do it"); !errors.Is(err, context.DeadlineExceeded) || fault.CodeOf(err) != sink.CodeUnreachable {
			t.Errorf("%v after the time was over: %v", cause, err)
		}
		if err := s.wrap(t.Context(), cause, "do it"); errors.Is(err, context.Canceled) || fault.CodeOf(err) == "" || !fault.Retryable(err) {
			t.Errorf("%v while the context lasts: %v", cause, err)
		}
	}
	rejected := fault.Permanent(sink.CodeRowRejected, nil, "correct it", "a row")
	if err := s.wrap(gone, rejected, "do it"); !fault.Is(err, sink.CodeRowRejected) {
		t.Errorf("a verdict from before the end: %v", err)
	}
}

func TestPipe(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var told int64
		p := newPipe(func(n int64) { told = n })
		var want []byte
		var writes [][]byte
		for i, n := range rapid.SliceOfN(rapid.IntRange(0, 3*pipeBlock/2), 0, 8).Draw(t, "writes") {
			b := bytes.Repeat([]byte{byte('a' + i)}, n)
			writes, want = append(writes, b), append(want, b...)
		}
		end := rapid.SampledFrom([]error{nil, errors.New("broken")}).Draw(t, "end")
		go func() {
			for _, b := range writes {
				if _, err := p.Write(b); err != nil {
					break
				}
			}
			p.finish(end)
		}()
		have, err := io.ReadAll(p)
		if err != end {
			t.Fatalf("error %v, want %v", err, end)
		}
		if end == nil && (!bytes.Equal(have, want) || told != int64(len(want))) {
			t.Fatalf("%d bytes, told %d, want %d", len(have), told, len(want))
		}
		if !bytes.HasPrefix(want, have) {
			t.Fatal("bytes differ")
		}
	})
}

// What is to be done between two COPYs is done when all before it was read, and nothing
// behind it; its error is the writer's, and that of the reader is too.
func TestPipeYields(t *testing.T) {
	bad := errors.New("it cannot be done")
	rapid.Check(t, func(t *rapid.T) {
		p := newPipe(nil)
		steps := rapid.SliceOfN(rapid.IntRange(0, pipeBlock+1), 1, 6).Draw(t, "bytes before each")
		fails := rapid.IntRange(0, 2*len(steps)).Draw(t, "fails")
		var read, written int
		done := make(chan error)
		go func() {
			var err error
			for i, n := range steps {
				if _, err = p.Write(make([]byte, n)); err != nil {
					break
				}
				written += n
				want := written
				if err = p.between(func() error {
					if read != want {
						t.Errorf("%d bytes were read of %d", read, want)
					}
					if i == fails {
						return bad
					}
					return nil
				}); err != nil {
					break
				}
			}
			p.finish(err)
			done <- err
		}()
		var err error
		for more := true; more && err == nil; more = err == nil && p.yields() {
			var b []byte
			b, err = io.ReadAll(p)
			read += len(b)
		}
		if werr := <-done; werr != err || (err == bad) != (fails < len(steps)) {
			t.Fatalf("%v for the writer, %v for the reader", werr, err)
		}
	})
	p := newPipe(nil)
	go func() {
		_, _ = io.ReadAll(p)
		p.stop(bad) // the server has not taken what was read
	}()
	if err := p.between(func() error { return nil }); err != bad {
		t.Errorf("%v", err)
	}
}

func TestPipeStops(t *testing.T) {
	p := newPipe(nil)
	gone := errors.New("the sink is gone")
	done := make(chan error)
	go func() {
		var err error
		for err == nil {
			_, err = p.Write(make([]byte, 1000))
		}
		p.finish(err)
		done <- err
	}()
	if _, err := p.Read(make([]byte, 10)); err != nil {
		t.Fatal(err)
	}
	p.stop(gone)
	if err := <-done; !errors.Is(err, gone) {
		t.Fatalf("error %v", err)
	}
}

func TestBeyondAndShapes(t *testing.T) {
	if got := literal(`it's \ `); got != `E'it''s \\ '` {
		t.Error(got)
	}
	num := func(p, s int32) change.Type { return change.Type{Base: "numeric", Mod: p<<16 + s + 4} }
	n102, n124 := num(10, 2), num(12, 4)
	for _, c := range []struct {
		from  change.Type
		to    column
		ok    bool
		lossy bool
	}{
		{n102, column{typ: "numeric", mod: -1}, true, false},
		{n102, column{typ: "numeric", mod: n124.Mod}, true, false},
		{n124, column{typ: "numeric", mod: n102.Mod}, true, true},
		{change.Type{Base: "int8", Mod: -1}, column{typ: "int4", mod: -1}, false, false},
		{change.Type{Base: "int2", Mod: -1}, column{typ: "int8", mod: -1}, true, false},
		{change.Type{Base: "json", Mod: -1}, column{typ: "jsonb", mod: -1}, true, true},
		{change.Type{Base: "point", Mod: -1}, column{typ: "text", mod: -1}, true, false},
		{change.Type{Base: "timestamp", Mod: -1}, column{typ: "timestamp", mod: 3}, true, true},
		{change.Type{Base: "varchar", Mod: 9}, column{typ: "varchar", mod: 14}, true, false},
		{change.Type{Base: "varchar", Mod: 14}, column{typ: "varchar", mod: 9}, true, true},
	} {
		ok, lossy := assignable(&c.from, &c.to)
		if ok != c.ok || (lossy != "") != c.lossy {
			t.Errorf("%+v to %s(%d): %t %q", c.from, c.to.typ, c.to.mod, ok, lossy)
		}
	}
}
