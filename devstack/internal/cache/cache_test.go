package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
)

func TestOnlyOneBuildsAndOnlyWholeEntriesAppear(t *testing.T) {
	dir, ctx := t.TempDir(), context.Background()
	var built atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			// A cache of its own each, as another process would have.
			c, err := At(dir, nil)
			if err != nil {
				t.Error(err)
				return
			}
			p, err := c.Get(ctx, "thing-1", func(_ context.Context, d string) error {
				built.Add(1)
				if c.Has("thing-1") {
					t.Error("visible before it is whole")
				}
				return os.WriteFile(filepath.Join(d, "f"), []byte("x"), 0o600)
			})
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := os.ReadFile(filepath.Join(p, "f")); err != nil || string(b) != "x" {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	wg.Wait()
	if built.Load() != 1 {
		t.Errorf("built %d times", built.Load())
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	c, err := At(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	broken := errors.New("broken")
	for range 2 {
		_, err = c.Get(context.Background(), "x", func(_ context.Context, d string) error {
			_ = os.WriteFile(filepath.Join(d, "half"), nil, 0o600)
			return broken
		})
		if !errors.Is(err, broken) || c.Has("x") {
			t.Fatalf("%v, there: %t", err, c.Has("x"))
		}
	}
	entries, _ := filepath.Glob(filepath.Join(c.Dir(), ".tmp-*"))
	if len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	c, err := At(t.TempDir(), nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	_, err = c.Get(ctx, "x", func(context.Context, string) error {
		other, _ := At(c.Dir(), func(string, ...any) { cancel() })
		_, err := other.Get(ctx, "x", func(context.Context, string) error { return nil })
		return err
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
