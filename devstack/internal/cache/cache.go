// Package cache keeps what is slow to fetch or build, outside of the repository,
// so that fresh clones share it.
//
// An entry appears under its final name by a rename, when it is complete; a
// build that dies leaves nothing that another would take for finished. A file
// lock per entry makes a second process wait instead of building the same.
package cache

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"syncline/devstack/internal/problem"
)

// Env overrides the folder.
const Env = "SYNCLINE_CACHE"

// Cache is a folder of entries.
type Cache struct {
	dir string
	// Say reports what takes long.
	Say func(format string, args ...any)
}

// Open finds the folder: SYNCLINE_CACHE, or syncline in the user's cache.
func Open(say func(string, ...any)) (*Cache, error) {
	dir := os.Getenv(Env)
	if dir == "" {
		base, err := os.UserCacheDir()
		if err != nil {
			return nil, problem.New("set "+Env+" to a folder", "no folder for caches is known: %v", err)
		}
		dir = filepath.Join(base, "syncline")
	}
	return At(dir, say)
}

// At is a cache in a given folder.
func At(dir string, say func(string, ...any)) (*Cache, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("cache folder: %w", err)
	}
	if err := os.MkdirAll(abs, 0o755); err != nil {
		return nil, problem.New("set "+Env+" to a folder that you may write", "the cache folder cannot be made: %v", err)
	}
	if say == nil {
		say = func(string, ...any) {}
	}
	return &Cache{dir: abs, Say: say}, nil
}

// Dir is the folder of all entries.
func (c *Cache) Dir() string { return c.dir }

// Path is where an entry is, or will be.
func (c *Cache) Path(name string) string { return filepath.Join(c.dir, name) }

// Has tells whether an entry is complete.
func (c *Cache) Has(name string) bool {
	_, err := os.Stat(c.Path(name))
	return err == nil
}

// Get returns the folder of an entry and has build fill it if it is not there.
func (c *Cache) Get(ctx context.Context, name string, build func(ctx context.Context, dir string) error) (string, error) {
	final := c.Path(name)
	if c.Has(name) {
		return final, nil
	}
	unlock, err := c.lock(ctx, name)
	if err != nil {
		return "", err
	}
	defer unlock()
	if c.Has(name) { // built by the holder before us
		return final, nil
	}
	tmp, err := os.MkdirTemp(c.dir, ".tmp-"+name+"-")
	if err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	defer func() { _ = os.RemoveAll(tmp) }()
	// Postgres runs as another user and must be able to enter.
	if err := os.Chmod(tmp, 0o755); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	if err := build(ctx, tmp); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, final); err != nil {
		return "", fmt.Errorf("cache: %w", err)
	}
	return final, nil
}

// lock waits for the entry's file lock.
func (c *Cache) lock(ctx context.Context, name string) (unlock func(), err error) {
	f, err := os.OpenFile(c.Path("."+name+".lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cache lock: %w", err)
	}
	told := false
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !told {
			told = true
			c.Say("waiting for another process that prepares %s", name)
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(200 * time.Millisecond):
		}
	}
}
