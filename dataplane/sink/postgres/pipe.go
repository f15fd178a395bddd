package postgres

import (
	"io"
	"sync"
)

// pipe carries bytes from a COPY that is read to a COPY that is written. Unlike
// io.Pipe it holds a few large blocks, so that both servers work at once and
// rows, which arrive one by one, are handed over many at a time.
type pipe struct {
	full, free chan []byte
	cur        []byte // being filled by Write
	rest, blk  []byte // being drained by Read
	done       chan struct{}
	once       sync.Once
	err        error // why the reader stopped; set before done is closed
	werr       error // why the writer stopped; set before full is closed
	progress   func(int64)
	n          int64
	aside      func() error // what the writer wants done while nothing is copied
	turn       chan error   // what became of it
}

const (
	pipeBlocks = 4
	pipeBlock  = 256 << 10
)

func newPipe(progress func(int64)) *pipe {
	p := &pipe{full: make(chan []byte, pipeBlocks), free: make(chan []byte, pipeBlocks), done: make(chan struct{}), turn: make(chan error), progress: progress}
	for range pipeBlocks {
		p.free <- make([]byte, 0, pipeBlock)
	}
	return p
}

// Write copies b; it blocks while all blocks are full.
func (p *pipe) Write(b []byte) (int, error) {
	total := len(b)
	for len(b) > 0 {
		if p.cur == nil {
			select {
			case p.cur = <-p.free:
			case <-p.done:
				return 0, p.err
			}
		}
		n := min(len(b), pipeBlock-len(p.cur))
		p.cur = append(p.cur, b[:n]...)
		b = b[n:]
		if len(p.cur) == pipeBlock {
			if err := p.hand(); err != nil {
				return 0, err
			}
		}
	}
	return total, nil
}

func (p *pipe) hand() error {
	select {
	case p.full <- p.cur:
		p.cur = nil
		return nil
	case <-p.done:
		return p.err
	}
}

// between has do run while no COPY is under way: the one that reads what was written so far
// ends first, and another goes on behind.
func (p *pipe) between(do func() error) error {
	if len(p.cur) > 0 {
		if err := p.hand(); err != nil {
			return err
		}
	}
	p.aside = do
	select {
	case p.full <- nil:
	case <-p.done:
		return p.err
	}
	select {
	case err := <-p.turn:
		return err
	case <-p.done:
		return p.err
	}
}

// yields does what the writer wants done, if it is that for which Read came to an end.
func (p *pipe) yields() bool {
	if p.aside == nil {
		return false
	}
	do := p.aside
	p.aside = nil
	p.turn <- do()
	return true
}

// finish ends the stream with err, or with io.EOF. Only the writer calls it, once.
func (p *pipe) finish(err error) {
	if err == nil && len(p.cur) > 0 {
		err = p.hand()
	}
	p.werr = err
	close(p.full)
}

// Read returns what was written.
func (p *pipe) Read(b []byte) (int, error) {
	if len(p.rest) == 0 {
		if p.blk != nil {
			p.free <- p.blk[:0]
			p.blk = nil
		}
		blk, ok := <-p.full
		if !ok {
			if p.werr != nil {
				return 0, p.werr
			}
			return 0, io.EOF
		}
		if blk == nil {
			return 0, io.EOF // of this COPY
		}
		p.blk, p.rest = blk, blk
		p.count(len(blk))
	}
	n := copy(b, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

// count takes in bytes that were sent to the sink.
func (p *pipe) count(n int) {
	p.n += int64(n)
	if p.progress != nil {
		p.progress(p.n)
	}
}

// stop makes the writer fail with err.
func (p *pipe) stop(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.done)
	})
}
