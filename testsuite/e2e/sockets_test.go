package e2e

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// carried are the bytes of one socket, as the kernel counts them: of TCP's payload,
// without headers and what was sent again.
type carried struct{ sent, received int64 }

// sockets watches those of a process until it is told to stop, and returns what they
// carried, by the port that they lead to. It looks often: what a socket carries after the
// last look before it is closed is missed.
func sockets(t *testing.T, pid int) (stop func() map[uint16]carried) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
	if err != nil {
		t.Fatal(err)
	}
	type socket struct {
		inode uint32
		port  uint16
	}
	seen := map[socket]carried{}
	done := make(chan struct{})
	var loop sync.WaitGroup
	loop.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		mine := map[uint32]bool{}
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
			for _, f := range fds {
				var inode uint32
				if to, err := os.Readlink(f); err == nil {
					if _, err := fmt.Sscanf(to, "socket:[%d]", &inode); err == nil {
						mine[inode] = true
					}
				}
			}
			err := diagnose(fd, func(port uint16, inode uint32, c carried) {
				if mine[inode] {
					seen[socket{inode, port}] = c
				}
			})
			if err != nil {
				t.Errorf("look at the kernel's sockets: %v", err)
				return
			}
		}
	})
	return func() map[uint16]carried {
		close(done)
		loop.Wait()
		_ = unix.Close(fd)
		out := map[uint16]carried{}
		for s, c := range seen {
			have := out[s.port]
			out[s.port] = carried{have.sent + c.sent, have.received + c.received}
		}
		return out
	}
}

// diagnose asks the kernel for all TCP sockets of this network (sock_diag(7)).
func diagnose(fd int, each func(port uint16, inode uint32, c carried)) error {
	const (
		byFamily = 20 // SOCK_DIAG_BY_FAMILY
		info     = 2  // INET_DIAG_INFO
		message  = 72 // struct inet_diag_msg
		header   = unix.SizeofNlMsghdr
	)
	req := make([]byte, header+56) // struct inet_diag_req_v2
	binary.NativeEndian.PutUint32(req, uint32(len(req)))
	binary.NativeEndian.PutUint16(req[4:], byFamily)
	binary.NativeEndian.PutUint16(req[6:], unix.NLM_F_REQUEST|unix.NLM_F_DUMP)
	req[header], req[header+1], req[header+2] = unix.AF_INET, unix.IPPROTO_TCP, 1<<(info-1)
	binary.NativeEndian.PutUint32(req[header+4:], ^uint32(0)) // in all states
	if err := unix.Sendto(fd, req, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buf := make([]byte, 1<<18)
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) >= header; {
			size, kind := int(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint16(b[4:])
			if size < header || size > len(b) {
				return fmt.Errorf("a message of %d bytes in %d", size, len(b))
			}
			switch kind {
			case unix.NLMSG_DONE:
				return nil
			case unix.NLMSG_ERROR:
				return unix.Errno(-int32(binary.NativeEndian.Uint32(b[header:])))
			}
			m := b[header:size]
			port, inode := binary.BigEndian.Uint16(m[6:]), binary.NativeEndian.Uint32(m[68:])
			for a := m[message:]; len(a) >= 4; {
				l, k := int(binary.NativeEndian.Uint16(a)), binary.NativeEndian.Uint16(a[2:])
				if l < 4 || l > len(a) {
					break
				}
				if k == info {
					var tcp unix.TCPInfo
					copy(unsafe.Slice((*byte)(unsafe.Pointer(&tcp)), unsafe.Sizeof(tcp)), a[4:l])
					each(port, inode, carried{int64(tcp.Bytes_acked), int64(tcp.Bytes_received)})
				}
				a = a[min((l+3)&^3, len(a)):]
			}
			b = b[min((size+3)&^3, len(b)):]
		}
	}
}
