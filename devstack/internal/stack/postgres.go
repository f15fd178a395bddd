package stack

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"syncline/devstack/internal/problem"
	"syncline/devstack/internal/proc"
)

// settings of both servers: room for many tests at once, and logical decoding.
var postgresSettings = []string{
	"wal_level=logical", "max_replication_slots=100", "max_wal_senders=100", "max_connections=400",
	"max_worker_processes=40", "max_logical_replication_workers=20", "max_sync_workers_per_subscription=4",
	"max_prepared_transactions=20", "shared_buffers=256MB", "max_wal_size=4GB", "track_commit_timestamp=on",
	"unix_socket_directories=", "listen_addresses=127.0.0.1", "logging_collector=off", "timezone=UTC", "log_timezone=UTC",
}

func postgresService(c *Config, p programs, name string, port int) (*service, error) {
	var account *proc.Account
	dir := filepath.Join(c.Data, name)
	if os.Getuid() == 0 {
		var err error
		if account, err = proc.Unprivileged(); err != nil {
			return nil, problem.New("run devstack as another user, or create a user postgres", "Postgres refuses to run as root, and %v", err)
		}
		if !proc.Reachable(filepath.Join(p.postgres, "postgres"), account) {
			return nil, problem.New("set SYNCLINE_CACHE to a folder that all users may enter, such as /var/cache/syncline",
				"the user %s, as which Postgres runs, may not enter %s", account.Name, p.postgres)
		}
		if !proc.Reachable(dir, account) {
			// A clone in root's home must work all the same.
			dir = filepath.Join("/var/tmp", "syncline-"+shortHash(c.Data), name)
		}
	}
	data := filepath.Join(dir, strconv.Itoa(c.Postgres))
	args := []string{"-D", data, "-p", strconv.Itoa(port)}
	settings := postgresSettings
	if !c.Fsync {
		settings = append(settings[:len(settings):len(settings)], "fsync=off", "synchronous_commit=off", "full_page_writes=off")
	}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	s := &service{name: name, address: loopback(port), note: fmt.Sprintf("Postgres %d, user postgres", c.Postgres)}
	s.spec = proc.Spec{
		Path: filepath.Join(p.postgres, "postgres"), Args: args, Dir: "/", Log: c.log(name), User: account,
		Env:        []string{"LC_ALL=C.UTF-8", "PGDATA="},
		StopSignal: syscall.SIGINT, // disconnects clients instead of waiting for them
	}
	s.setup = func(ctx context.Context) error { return initDB(ctx, p.postgres, data, account, s.spec.Log) }
	s.ready = postgresReady(postgresDSN(port))
	return s, nil
}

func postgresDSN(port int) string { return "postgres://postgres@" + loopback(port) + "/postgres" }

func shortHash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:6])
}

// askPasswords has members of the role passwords, if somebody makes one, log in by
// password, where all others are trusted.
func askPasswords(hba string) error {
	text, err := os.ReadFile(hba)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(hba, os.O_WRONLY|os.O_TRUNC, 0) // as whom it belongs to
	if err != nil {
		return err
	}
	_, err = f.WriteString("host all +passwords all scram-sha-256\n" + string(text))
	return errors.Join(err, f.Close())
}

// initDB makes the cluster under another name and renames it when it is whole.
func initDB(ctx context.Context, bin, data string, account *proc.Account, log string) error {
	if _, err := os.Stat(filepath.Join(data, "PG_VERSION")); err == nil {
		return nil
	}
	parent, unfinished := filepath.Dir(data), data+".new"
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if err := os.RemoveAll(unfinished); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if account != nil {
		if err := os.Chown(parent, int(account.UID), int(account.GID)); err != nil {
			return fmt.Errorf("data folder: %w", err)
		}
	}
	var out []byte
	var err error
	for _, locale := range []string{"C.UTF-8", "C"} { // not every system has the first
		cmd := exec.CommandContext(ctx, filepath.Join(bin, "initdb"), "-D", unfinished, "-U", "postgres", "-A", "trust",
			"-E", "UTF8", "--locale", locale, "--no-instructions")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		if account != nil {
			cmd.SysProcAttr.Credential = &syscall.Credential{Uid: account.UID, Gid: account.GID}
		}
		if out, err = cmd.CombinedOutput(); err == nil {
			break
		}
		_ = os.RemoveAll(unfinished)
	}
	_ = os.MkdirAll(filepath.Dir(log), 0o755)
	_ = os.WriteFile(strings.TrimSuffix(log, ".log")+"-initdb.log", out, 0o644)
	if err != nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("initdb: %w: %s", err, lines[len(lines)-1])
	}
	if err := askPasswords(filepath.Join(unfinished, "pg_hba.conf")); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	if err := os.Rename(unfinished, data); err != nil {
		return fmt.Errorf("data folder: %w", err)
	}
	return nil
}
