package proc

import "syscall"

func attributes(a *Account) *syscall.SysProcAttr {
	s := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if a != nil {
		s.Credential = &syscall.Credential{Uid: a.UID, Gid: a.GID}
	}
	return s
}
