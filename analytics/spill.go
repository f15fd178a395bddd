package analytics

import (
	"bytes"
	"crypto/rand"
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

// spill is a queue of rows on disk: segments, named in the order of arrival. Each process has a folder with a lock; it also empties the folders of
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
	path   string
	size   int64
	sealed bool // nothing may be added
}

// segmentBytes is the size beyond which a segment takes no more.
const segmentBytes = 128 << 10

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
		s.files = append(s.files, file{filepath.Join(dir, e.Name()), info.Size(), true})
		s.bytes += info.Size()
	}
	return nil
}

func (s *spill) waiting() (segments int, bytes int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.files), s.bytes
}

// oldest returns the first segment, to which nothing is added any more: under its
// name the store must always be given the same.
func (s *spill) oldest() (string, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) == 0 {
		return "", false
	}
	s.files[0].sealed = true
	return s.files[0].path, true
}

// put adds a batch to the newest segment, if that waits and has room, or begins
// another: what piles up during an outage is then brought in by few insertions.
func (s *spill) put(rows map[string][]Row) error {
	frame, err := encode(rows)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bytes >= s.bound {
		return fault.Transient(CodeSpill, nil, "%d bytes of analytics rows wait already", s.bytes)
	}
	if n := len(s.files); n == 0 || s.files[n-1].sealed || s.files[n-1].size >= segmentBytes {
		s.seq++
		s.files = append(s.files, file{path: filepath.Join(s.dir, fmt.Sprintf("%012d-%s%s", s.seq, rand.Text(), segment))})
	}
	last := &s.files[len(s.files)-1]
	if err := add(last.path, last.size, frame); err != nil {
		last.sealed = true // its end may be torn
		if last.size == 0 {
			s.files = s.files[:len(s.files)-1]
		}
		return fault.Transient(CodeSpill, err, "write a segment of analytics rows")
	}
	last.size += int64(len(frame))
	s.bytes += int64(len(frame))
	select {
	case s.fresh <- struct{}{}:
	default:
	}
	return nil
}

// add appends to a file, or leaves it as long as it was.
func add(path string, size int64, frame []byte) (err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(frame, size)
	if err = errors.Join(err, f.Close()); err != nil {
		if size == 0 {
			return errors.Join(err, os.Remove(path))
		}
		return errors.Join(err, os.Truncate(path, size))
	}
	return nil
}

// encode makes one compressed frame of rows.
func encode(rows map[string][]Row) ([]byte, error) {
	var text bytes.Buffer
	e := json.NewEncoder(&text)
	for table, rs := range rows {
		for _, r := range rs {
			row, err := json.Marshal(r)
			if err == nil {
				err = e.Encode(line{table, row})
			}
			if err != nil {
				return nil, fault.Permanent(CodeSpill, err, "report it", "encode rows of %s", table)
			}
		}
	}
	return frames.EncodeAll(text.Bytes(), nil), nil
}

// frames compresses; its methods may be called concurrently.
var frames, _ = zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20)) // these options are valid

// read returns a segment's rows under the name by which the store knows them. With
// errTorn come those before a place that cannot be read, as the end of a segment
// that was being written when the process or the machine died.
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
	d := json.NewDecoder(z)
	for {
		var l line
		if err := d.Decode(&l); errors.Is(err, io.EOF) && len(b.rows) > 0 {
			return b, nil
		} else if err != nil {
			return b, fmt.Errorf("%w: %w", errTorn, err)
		}
		empty := kinds[l.Table]
		if empty == nil { // of a newer release that ran here before
			return b, fmt.Errorf("%w: table %q is unknown", errTorn, l.Table)
		}
		r := empty()
		if err := json.Unmarshal(l.Row, r); err != nil {
			return b, fmt.Errorf("%w: %w", errTorn, err)
		}
		b.rows[l.Table] = append(b.rows[l.Table], r)
	}
}

var errTorn = errors.New("a segment cannot be read to its end")

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
