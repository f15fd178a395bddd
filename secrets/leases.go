package secrets

import (
	"context"
	"maps"
	"time"
)

// How long the end of a process waits for its connections, and then for Vault.
const (
	leaveWithin  = 2 * time.Second
	revokeWithin = 2 * time.Second
)

// lent is an account of a dynamic role: Vault made it for this process alone.
type lent struct {
	a          *Account
	user       string
	generation int64
}

// begin admits work that may have Vault make an account, until Close. Who is admitted
// calls reads.Done.
func (s *Logins) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.reads.Add(1)
	return true
}

// lend notes an account that was made, to be given back.
func (s *Logins) lend(a *Account, f found) {
	if !f.made {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lent[f.lease.id] = lent{a, f.User, f.Generation}
}

// replaced gives an account back once no connection uses it.
func (s *Logins) replaced(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l, ok := s.lent[id]; ok && !s.closed { // Close gives back all that are left
		s.watch.Go(func() {
			if l.a.left(s.ctx, l.generation) {
				s.giveBack(id)
			}
		})
	}
}

// left waits until no connection of a generation is open, and reports whether that came
// before the end of ctx.
func (a *Account) left(ctx context.Context, generation int64) bool {
	for {
		open, closed := a.Counts()
		if open[generation] == 0 {
			return true
		}
		select {
		case <-ctx.Done():
			return false
		case <-closed:
		}
	}
}

// giveBack has Vault revoke an account. It is tried once: what fails ends with its lease.
func (s *Logins) giveBack(id string) {
	s.mu.Lock()
	l, ok := s.lent[id]
	delete(s.lent, id)
	s.mu.Unlock()
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), revokeWithin)
	defer cancel()
	err := s.r.vault.under(ctx, "sys/leases/revoke", "update", func(sess *session) error {
		// Vault answers before it is done, and repeats what the database refuses.
		return sess.client.Sys().RevokeWithContext(ctx, id)
	})
	s.o.Revoked(l.a.ref, l.user, err)
}

// giveBackAll gives back what is left when the process ends: what still has connections
// when ctx ends too, since they end with the process.
func (s *Logins) giveBackAll(ctx context.Context) {
	made := make(chan struct{})
	go func() {
		s.reads.Wait()
		close(made)
	}()
	select {
	case <-made:
	case <-ctx.Done(): // Vault does not answer; what it may make ends with its lease
	}
	s.mu.Lock()
	all := maps.Clone(s.lent)
	s.mu.Unlock()
	done := make(chan struct{})
	for id, l := range all {
		go func() {
			l.a.left(ctx, l.generation)
			s.giveBack(id)
			done <- struct{}{}
		}()
	}
	for range all {
		<-done
	}
}
