package analytics

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/klauspost/compress/zstd"

	"syncline/dataplane/fault"
)

// CodeSpill: segments of analytics rows cannot be kept on disk.
const CodeSpill fault.Code = "AnalyticsSpill"

const (
	segment = ".segment"
	damaged = ".damaged"
	lock    = "lock"
)

// spill is a queue of batches on disk: one file per batch, named in the order of
// arrival. Each process has a folder with a lock; it also empties the folders of
// processes that are gone.
type spill struct {
	dir   string
	bound int64
	locks []*os.File
	fresh chan struct{} // there may be something

	mu    sync.Mutex
	files []file // oldest first
	bytes int64
	seq   uint64
}

type file struct {
	path string
	size int64
}

// line is one row in a segment.
type line struct {
	Table string          `json:"t"`
	Row   json.RawMessage `json:"r"`
}

func openSpill(parent string, bound int64) (*spill, error) {
	if err := os.MkdirAll(parent, 0o750); err != nil {
		return nil, fault.Permanent(CodeSpill, err, "give the worker a folder that it can write to (SYNCLINE_SPILL_DIR)", "make the folder for analytics")
	}
	dir, err := os.MkdirTemp(parent, "writer-")
	if err != nil {
		return nil, fault.Permanent(CodeSpill, err, "give the worker a folder that it can write to (SYNCLINE_SPILL_DIR)", "make the folder for analytics")
	}
	s := &spill{dir: dir, bound: bound, fresh: make(chan struct{}, 1)}
	if _, err := s.seize(dir); err != nil {
		return nil, err
	}
	others, err := filepath.Glob(filepath.Join(parent, "writer-*"))
	if err != nil {
		return nil, err
	}
	for _, other := range others {
		if other == dir {
			continue
		}
		ours, err := s.seize(other)
		if err != nil {
			return nil, err
		}
		if ours {
			if err := s.adopt(other); err != nil {
				return nil, err
			}
		}
	}
	return s, nil
}

// seize takes a folder's lock, unless a process that is alive holds it.
func (s *spill) seize(dir string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(dir, lock), os.O_CREATE|os.O_RDWR, 0o640)
	if errors.Is(err, os.ErrNotExist) { // another process emptied it just now
		return false, nil
	}
	if err != nil {
		return false, fault.Permanent(CodeSpill, err, "make the folder writable for the worker's user", "lock a folder of analytics rows")
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return false, f.Close()
	}
	s.locks = append(s.locks, f)
	return true, nil
}

// adopt queues what a dead process has left.
func (s *spill) adopt(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries { // sorted by name, which is the order of arrival
		if !strings.HasSuffix(e.Name(), segment) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		s.files = append(s.files, file{filepath.Join(dir, e.Name()), info.Size()})
		s.bytes += info.Size()
	}
	return nil
}

func (s *spill) waiting() (segments int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files), s.bytes
}

func (s *spill) oldest() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) == 0 {
		return "", false
	}
	return s.files[0].path, true
}

// put writes a batch as a segment, which appears whole or not at all.
func (s *spill) put(b batch) error {
	s.mu.Lock()
	s.seq++
	seq, have := s.seq, s.bytes
	s.mu.Unlock()
	if have >= s.bound {
		return fault.Transient(CodeSpill, nil, "%d bytes of analytics rows wait already", have)
	}
	path := filepath.Join(s.dir, fmt.Sprintf("%012d-%s%s", seq, b.name, segment))
	size, err := write(path, b)
	if err != nil {
		return fault.Transient(CodeSpill, err, "write a segment of analytics rows")
	}
	s.mu.Lock()
	s.files = append(s.files, file{path, size})
	s.bytes += size
	s.mu.Unlock()
	select {
	case s.fresh <- struct{}{}:
	default:
	}
	return nil
}

func write(path string, b batch) (size int64, err error) {
	f, err := os.OpenFile(path+".part", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o640)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(path+".part"))
		}
	}()
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		return 0, errors.Join(err, f.Close())
	}
	e := json.NewEncoder(z)
	for table, rows := range b.rows {
		for _, r := range rows {
			text, err := json.Marshal(r)
			if err == nil {
				err = e.Encode(line{table, text})
			}
			if err != nil {
				return 0, errors.Join(err, z.Close(), f.Close())
			}
		}
	}
	if err := errors.Join(z.Close(), f.Close()); err != nil {
		return 0, err
	}
	info, err := os.Stat(path + ".part")
	if err != nil {
		return 0, err
	}
	return info.Size(), os.Rename(path+".part", path)
}

// read returns a segment's batch. Its name is what the store knows it by.
func (s *spill) read(path string) (b batch, err error) {
	f, err := os.Open(path)
	if err != nil {
		return b, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	z, err := zstd.NewReader(f, zstd.WithDecoderConcurrency(1))
	if err != nil {
		return b, err
	}
	defer z.Close()
	_, b.name, _ = strings.Cut(strings.TrimSuffix(filepath.Base(path), segment), "-")
	b.rows = map[string][]Row{}
	d := json.NewDecoder(bufio.NewReader(z))
	for {
		var l line
		if err := d.Decode(&l); errors.Is(err, io.EOF) && len(b.rows) > 0 {
			return b, nil
		} else if err != nil {
			return b, err
		}
		empty := kinds[l.Table]
		if empty == nil { // of a newer release that ran here before
			return b, fmt.Errorf("table %q is unknown", l.Table)
		}
		r := empty()
		if err := json.Unmarshal(l.Row, r); err != nil {
			return b, err
		}
		b.rows[l.Table] = append(b.rows[l.Table], r)
	}
}

func (s *spill) remove(path string) error {
	if err := os.Remove(path); err != nil {
		return fault.Transient(CodeSpill, err, "remove a segment that is in the store")
	}
	s.forget(path)
	return nil
}

// setAside keeps a segment that cannot be read where nobody takes it for one.
func (s *spill) setAside(path string) error {
	if err := os.Rename(path, strings.TrimSuffix(path, segment)+damaged); err != nil {
		return fault.Transient(CodeSpill, err, "set a damaged segment aside")
	}
	s.forget(path)
	return nil
}

func (s *spill) forget(path string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files = slices.DeleteFunc(s.files, func(f file) bool {
		if f.path == path {
			s.bytes -= f.size
			return true
		}
		return false
	})
}

// close gives the folders back; empty ones go.
func (s *spill) close() error {
	var errs []error
	for _, f := range s.locks {
		dir := filepath.Dir(f.Name())
		left, err := os.ReadDir(dir)
		if err == nil && len(left) == 1 { // the lock alone
			err = os.RemoveAll(dir)
		}
		errs = append(errs, err, f.Close())
	}
	return errors.Join(errs...)
}
