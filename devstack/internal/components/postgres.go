package components

import (
	"archive/tar"
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/ulikunitz/xz"

	"syncline/devstack/internal/cache"
	"syncline/devstack/internal/problem"
	"syncline/devstack/internal/proc"
)

// postgresReleases are the builds of Postgres that Maven Central has, by major
// version.
var postgresReleases = map[int]string{15: "15.13.0", 16: "16.9.0", 17: "17.5.0"}

// Postgres is the folder with initdb and postgres of a major version: the
// system's if it is installed, or else one from Maven Central, which has few
// extensions and no client programs.
func (c *Components) Postgres(ctx context.Context, major int) (string, error) {
	system := fmt.Sprintf("/usr/lib/postgresql/%d/bin", major)
	if _, err := os.Stat(filepath.Join(system, "initdb")); err == nil {
		return system, nil
	}
	release, ok := postgresReleases[major]
	if !ok {
		return "", problem.New("use --postgres 15, 16 or 17", "there is no Postgres %d for devstack", major)
	}
	platform := map[string]string{
		"linux/amd64": "linux-amd64", "linux/arm64": "linux-arm64v8",
		"darwin/amd64": "darwin-amd64", "darwin/arm64": "darwin-arm64v8",
	}[runtime.GOOS+"/"+runtime.GOARCH]
	if platform == "" {
		return "", problem.New(fmt.Sprintf("install Postgres %d into %s", major, system), "there is no packed Postgres for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	name := "postgres-" + release + "-" + platform
	kept, err := c.reachableCache()
	if err != nil {
		return "", err
	}
	if !kept.Has(name) {
		if _, err := tool("mvn", fmt.Sprintf("fetching Postgres %d", major), fmt.Sprintf("postgresql-%d, or maven", major)); err != nil {
			return "", err
		}
	}
	dir, err := kept.Get(ctx, name, func(ctx context.Context, tmp string) error {
		c.Cache.Say("fetching Postgres %s, once for all clones", release)
		artifact := "io.zonky.test.postgres:embedded-postgres-binaries-" + platform + ":" + release
		err := run(ctx, tmp, nil, "mvn", "-q", "-B", "dependency:copy", "-Dartifact="+artifact, "-DoutputDirectory="+tmp)
		if err != nil {
			return fmt.Errorf("fetch Postgres: %w", err)
		}
		jars, err := filepath.Glob(filepath.Join(tmp, "*.jar"))
		if err != nil || len(jars) != 1 {
			return fmt.Errorf("fetch Postgres: %d archives came, %w", len(jars), errors.Join(err, os.ErrNotExist))
		}
		if err := unpackJar(jars[0], tmp); err != nil {
			return fmt.Errorf("unpack Postgres: %w", err)
		}
		return os.Remove(jars[0])
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(dir, "bin"), nil
}

// reachableCache is the cache, or, for root with a closed home, one that the
// account that runs Postgres may enter.
func (c *Components) reachableCache() (*cache.Cache, error) {
	if os.Getuid() != 0 {
		return c.Cache, nil
	}
	account, err := proc.Unprivileged()
	if err != nil || proc.Reachable(filepath.Join(c.Cache.Dir(), "x"), account) {
		return c.Cache, nil // without an account the stack itself reports it
	}
	return cache.At("/var/cache/syncline", c.Cache.Say)
}

// unpackJar unpacks the .txz inside of a jar.
func unpackJar(jar, into string) error {
	z, err := zip.OpenReader(jar)
	if err != nil {
		return err
	}
	defer func() { _ = z.Close() }()
	for _, f := range z.File {
		if !strings.HasSuffix(f.Name, ".txz") {
			continue
		}
		r, err := f.Open()
		if err != nil {
			return err
		}
		defer func() { _ = r.Close() }()
		x, err := xz.NewReader(r)
		if err != nil {
			return err
		}
		return untar(x, into)
	}
	return errors.New("no .txz inside")
}

// untar writes files and links below a folder and refuses names that lead out of it.
func untar(r io.Reader, into string) error {
	root, err := os.OpenRoot(into)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }()
	t := tar.NewReader(r)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := filepath.Clean(h.Name)
		if dir := filepath.Dir(name); dir != "." {
			if err := root.MkdirAll(dir, 0o755); err != nil {
				return err
			}
		}
		switch h.Typeflag {
		case tar.TypeDir:
			err = root.MkdirAll(name, 0o755)
		case tar.TypeSymlink:
			err = root.Symlink(h.Linkname, name)
		case tar.TypeReg:
			err = untarFile(root, name, t, os.FileMode(h.Mode).Perm()|0o444)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

func untarFile(root *os.Root, name string, r io.Reader, mode os.FileMode) error {
	f, err := root.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, r); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
