package postgres

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"syncline/dataplane/fault"
)

// spools keeps the messages of transactions that are streamed before they
// commit: in memory up to a limit for all together, then the largest one's in a
// file. Positions and order stay as received.
type spools struct {
	dir    string
	prefix string // of file names: the slot's
	limit  int64
	used   int64 // bytes of memory
	open   map[uint32]*spool
}

// spool is one top-level transaction. Messages are stored behind their length,
// first those in the file, then those in mem.
type spool struct {
	xid     uint32
	mem     []byte
	file    *os.File
	spilled int64
	aborted []uint32 // subtransactions that were rolled back
}

const spillSuffix = ".spill"

// newSpools prepares the directory and removes what a killed worker left in it.
func newSpools(dir, slot string, limit int64) (*spools, error) {
	s := &spools{dir: dir, prefix: slot + "-", limit: limit, open: map[uint32]*spool{}}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, spillFault(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return nil, spillFault(err)
	}
	for _, e := range left {
		if strings.HasPrefix(e.Name(), s.prefix) && strings.HasSuffix(e.Name(), spillSuffix) {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil && !errors.Is(err, os.ErrNotExist) {
				return nil, spillFault(err)
			}
		}
	}
	return s, nil
}

func spillFault(err error) error {
	f := fault.Transient(CodeSpill, err, "keep a large transaction on disk")
	f.Fix = "free space in the spill directory, or name another one"
	return f
}

// writeAt is how much a transaction that has a file gathers before it is written.
const writeAt = 1 << 20

// add stores a message of the transaction. It copies raw.
func (s *spools) add(xid uint32, raw []byte) error {
	p := s.open[xid]
	if p == nil {
		p = &spool{xid: xid}
		s.open[xid] = p
	}
	before := cap(p.mem)
	p.mem = binary.AppendUvarint(p.mem, uint64(len(raw)))
	p.mem = append(p.mem, raw...)
	s.used += int64(cap(p.mem) - before)
	if p.file != nil && len(p.mem) >= writeAt {
		if err := s.write(p); err != nil {
			return err
		}
	}
	for s.used > s.limit {
		if err := s.spill(); err != nil {
			return err
		}
	}
	return nil
}

// spill writes out the transaction that holds the most memory and frees that.
func (s *spools) spill() error {
	var p *spool
	for _, c := range s.open {
		if p == nil || cap(c.mem) > cap(p.mem) {
			p = c
		}
	}
	if err := s.write(p); err != nil {
		return err
	}
	s.used -= int64(cap(p.mem))
	p.mem = nil
	return nil
}

func (s *spools) write(p *spool) error {
	if len(p.mem) == 0 {
		return nil
	}
	if p.file == nil {
		f, err := os.OpenFile(s.path(p.xid), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		if err != nil {
			return spillFault(err)
		}
		p.file = f
	}
	if _, err := p.file.Write(p.mem); err != nil {
		return spillFault(err)
	}
	p.spilled += int64(len(p.mem))
	p.mem = p.mem[:0]
	return nil
}

func (s *spools) path(xid uint32) string {
	return filepath.Join(s.dir, fmt.Sprintf("%s%d%s", s.prefix, xid, spillSuffix))
}

// abort forgets a transaction, or marks a subtransaction of it as rolled back.
func (s *spools) abort(xid, sub uint32) error {
	if xid != sub {
		if p := s.open[xid]; p != nil {
			p.aborted = append(p.aborted, sub)
		}
		return nil
	}
	return s.drop(xid)
}

func (s *spools) drop(xid uint32) error {
	p := s.take(xid)
	return s.discard(p)
}

// take removes a transaction from the open ones; nil if it is none of them.
func (s *spools) take(xid uint32) *spool {
	p := s.open[xid]
	if p != nil {
		s.used -= int64(cap(p.mem))
		delete(s.open, xid)
	}
	return p
}

func (s *spools) discard(p *spool) error {
	if p == nil || p.file == nil {
		return nil
	}
	err := errors.Join(p.file.Close(), os.Remove(s.path(p.xid)))
	p.file = nil
	if err != nil {
		return spillFault(err)
	}
	return nil
}

// close forgets all transactions.
func (s *spools) close() error {
	var errs []error
	for xid := range s.open {
		errs = append(errs, s.drop(xid))
	}
	return errors.Join(errs...)
}

// spilled returns the bytes on disk.
func (s *spools) spilled() (n int64) {
	for _, p := range s.open {
		n += p.spilled
	}
	return n
}

// replay reads a committed transaction back, in order.
type replay struct {
	p       *spool
	r       *bufio.Reader
	buf     []byte
	aborted []uint32 // sorted
}

// commit takes a transaction out for replay; nil if nothing of it was streamed.
// Call discard when it was read.
func (s *spools) commit(xid uint32) (*replay, error) {
	p := s.take(xid)
	if p == nil {
		return nil, nil
	}
	slices.Sort(p.aborted)
	rp := &replay{p: p, aborted: p.aborted}
	if p.file == nil {
		rp.r = bufio.NewReader(bytes.NewReader(p.mem))
		return rp, nil
	}
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return nil, spillFault(err)
	}
	rp.r = bufio.NewReaderSize(io.MultiReader(p.file, bytes.NewReader(p.mem)), 256<<10)
	return rp, nil
}

// next returns the next message, valid until the call after it; io.EOF at the end.
func (r *replay) next() ([]byte, error) {
	n, err := binary.ReadUvarint(r.r)
	if errors.Is(err, io.EOF) {
		return nil, io.EOF
	}
	if err == nil {
		if uint64(cap(r.buf)) < n {
			r.buf = make([]byte, n)
		}
		r.buf = r.buf[:n]
		_, err = io.ReadFull(r.r, r.buf)
	}
	if err != nil {
		return nil, spillFault(err)
	}
	return r.buf, nil
}

func (r *replay) rolledBack(xid uint32) bool {
	_, ok := slices.BinarySearch(r.aborted, xid)
	return ok
}
