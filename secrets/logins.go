package secrets

import (
	"cmp"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
)

// Logins are the logins that one process uses: each is read once, looked after, and
// given to all who connect with it, so that all move to another together. A login from
// Vault that cannot be read again stays in force.
type Logins struct {
	r      *Resolver
	o      LoginsOptions
	ctx    context.Context
	cancel context.CancelFunc
	watch  sync.WaitGroup
	reads  sync.WaitGroup // that may make an account
	flight singleflight.Group

	mu     sync.Mutex
	by     map[LoginRef]*Account
	lent   map[string]lent // by lease
	closed bool
}

// LoginsOptions of Logins. The zero value is usable.
type LoginsOptions struct {
	// LookEvery is how often it is looked whether another login is in force, beside being
	// told so; spread over the fleet. Default 30 s.
	LookEvery time.Duration
	// Jitter is how long a look waits at most that a refused login has asked for: a fleet
	// that is refused together must not ask together. Default 500 ms.
	Jitter time.Duration
	// Moved is told of each login that comes into force after the first.
	Moved func(LoginRef, login.Login)
	// Failed is told of looks that failed; what was in force stays.
	Failed func(LoginRef, error)
	// Revoked is told of each account of a dynamic role that Vault was asked to revoke. One
	// that could not be revoked ends with its lease.
	Revoked func(ref LoginRef, user string, err error)
}

// Logins makes a registry. Close ends it.
func (r *Resolver) Logins(o LoginsOptions) *Logins {
	o.LookEvery = cmp.Or(o.LookEvery, 30*time.Second)
	o.Jitter = cmp.Or(o.Jitter, 500*time.Millisecond)
	if o.Moved == nil {
		o.Moved = func(LoginRef, login.Login) {}
	}
	if o.Failed == nil {
		o.Failed = func(LoginRef, error) {}
	}
	if o.Revoked == nil {
		o.Revoked = func(LoginRef, string, error) {}
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &Logins{r: r, o: o, ctx: ctx, cancel: cancel, by: map[LoginRef]*Account{}, lent: map[string]lent{}}
}

// Close ends looking after logins, and has Vault revoke the accounts that it made for this
// process, each when its connections are closed. It takes a few seconds at most, and comes
// before the Resolver's, which gives back the token that revokes them.
func (s *Logins) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), leaveWithin)
	defer cancel()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.cancel()
	s.watch.Wait()
	s.giveBackAll(ctx)
}

// Account is one login of a process, a login.Source.
type Account struct {
	*login.Held
	ref LoginRef
	s   *Logins

	mu     sync.Mutex
	looked time.Time // when it was last read
	lease  lease     // of what Vault's database engine made
	made   time.Time
	turn   time.Time // when Vault gives a static role its next password
	last   error     // of the last look
}

var _ login.Source = (*Account)(nil)

// Of gives a login, read from Vault if it is not in use yet.
func (s *Logins) Of(ctx context.Context, ref LoginRef) (*Account, error) {
	if a := s.find(ref); a != nil {
		return a, nil
	}
	done := s.flight.DoChan("open "+ref.String(), func() (any, error) {
		if a := s.find(ref); a != nil {
			return a, nil
		}
		if !s.begin() {
			return nil, context.Canceled
		}
		defer s.reads.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*s.r.opts.Vault.Timeout)
		defer cancel()
		f, err := s.read(limit, ref)
		if err != nil {
			return nil, err
		}
		if f.Generation == 0 {
			f.Generation = 1
		}
		a := &Account{Held: login.NewHeld(f.Login), ref: ref, s: s, looked: time.Now(), lease: f.lease, made: time.Now(), turn: f.turn}
		s.lend(a, f)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.by[ref] = a
		if !s.closed {
			s.watch.Go(a.watch)
		}
		return a, nil
	})
	select {
	case res := <-done:
		if res.Err != nil {
			return nil, res.Err
		}
		return res.Val.(*Account), nil
	case <-ctx.Done():
		return nil, transient(CodeVaultUnreachable, ctx.Err(), "", "gave up waiting for Vault to give %s", ref)
	}
}

func (s *Logins) find(ref LoginRef) *Account {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.by[ref]
}

// found is a login as Vault has it.
type found struct {
	login.Login
	lease lease
	turn  time.Time
	made  bool // by the look itself: a dynamic role makes another user each time
}

// read reads what is in force. A generation of 0 says that only a comparison can tell
// whether it is another.
func (s *Logins) read(ctx context.Context, ref LoginRef) (f found, err error) {
	v := s.r.vault
	err = v.under(ctx, ref.String(), canRead, func(sess *session) error {
		f = found{}
		d, err := v.get(ctx, sess, ref.String(), ref.path, 0)
		if err != nil {
			return err
		}
		p, is, err := pointerOf(ref.String(), d)
		if err != nil {
			return err
		}
		if is {
			at := ref.String() + "/" + string(p.Slot)
			if d, err = v.get(ctx, sess, at, ref.path+"/"+string(p.Slot), p.Version); err != nil {
				return err
			}
			f.Login, err = credentials(at, d)
			f.Generation = p.Generation
			return err
		}
		if f.Login, err = credentials(ref.String(), d); err != nil {
			return err
		}
		f.Generation = int64(d.written)
		f.lease = d.lease
		f.made = d.lease.id != ""
		if ttl, ok := textOf(d.data["ttl"]); ok && d.engine == engineDatabase && !f.made {
			if sec, err := time.ParseDuration(ttl + "s"); err == nil {
				f.turn = time.Now().Add(sec)
			}
		}
		return nil
	})
	return f, err
}

// look reads the login again, and brings what it finds into force. Simultaneous calls
// share one.
func (a *Account) look(ctx context.Context) error {
	done := a.s.flight.DoChan("look "+a.ref.String(), func() (any, error) {
		if !a.s.begin() {
			return nil, context.Canceled
		}
		defer a.s.reads.Done()
		limit, cancel := context.WithTimeout(context.WithoutCancel(ctx), 4*a.s.r.opts.Vault.Timeout)
		defer cancel()
		f, err := a.s.read(limit, a.ref)
		now, _ := a.Login(limit)
		a.mu.Lock()
		before := a.lease.id
		a.last = err
		if err == nil {
			a.looked, a.lease, a.turn = time.Now(), f.lease, f.turn
			if f.made {
				a.made = time.Now()
			}
		}
		a.mu.Unlock()
		if err != nil {
			a.s.o.Failed(a.ref, err)
			return nil, err
		}
		if f.Generation == 0 { // nothing counts it but ourselves
			f.Generation = now.Generation
			if f.User != now.User || f.Password != now.Password {
				f.Generation++
			}
		}
		a.s.lend(a, f)
		if a.Put(f.Login) {
			a.s.o.Moved(a.ref, f.Login)
		}
		a.s.replaced(before)
		return nil, nil
	})
	select {
	case res := <-done:
		return res.Err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Refused looks again, after a moment that differs from process to process.
func (a *Account) Refused(ctx context.Context, l login.Login) (login.Login, error) {
	now, err := a.Login(ctx)
	if err != nil || now.Generation != l.Generation {
		return now, err // another is in force by now
	}
	wait := time.NewTimer(rand.N(a.s.o.Jitter))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-a.Changed(l.Generation):
	case <-ctx.Done():
		return now, ctx.Err()
	}
	if now, err = a.Login(ctx); err != nil || now.Generation != l.Generation {
		return now, err
	}
	// What Vault cannot say does not make the refusal another one.
	_ = a.look(ctx)
	return a.Login(ctx)
}

// watch looks again now and then, renews leases, and replaces what comes to its end.
func (a *Account) watch() {
	retry := time.Second
	for {
		wait := a.next()
		if a.failed() != nil {
			wait = min(wait, retry)
			retry = min(2*retry, a.s.o.LookEvery)
		} else {
			retry = time.Second
		}
		t := time.NewTimer(wait)
		select {
		case <-a.s.ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if !a.renew() {
			_ = a.look(a.s.ctx)
		}
	}
}

// next is when to look again.
func (a *Account) next() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	every := a.s.o.LookEvery*3/4 + rand.N(a.s.o.LookEvery/2)
	if a.lease.id != "" { // of a dynamic role each look makes another user
		return max(time.Until(a.made.Add(a.lease.lasts*2/3)), 50*time.Millisecond)
	}
	if !a.turn.IsZero() {
		every = min(every, max(time.Until(a.turn)+200*time.Millisecond, 50*time.Millisecond))
	}
	return every
}

// renew has a lease go on, and reports whether it did for as long as before: at the end
// of its greatest length it does not, and another user is made.
func (a *Account) renew() bool {
	a.mu.Lock()
	l := a.lease
	a.mu.Unlock()
	if l.id == "" || !l.renewable {
		return false
	}
	ctx, cancel := context.WithTimeout(a.s.ctx, a.s.r.opts.Vault.Timeout)
	defer cancel()
	ok := false
	err := a.s.r.vault.under(ctx, "the lease of "+a.ref.String(), "renew", func(sess *session) error {
		out, err := sess.client.Sys().RenewWithContext(ctx, l.id, int(l.lasts.Seconds()))
		if err != nil || out == nil {
			return err
		}
		got := time.Duration(out.LeaseDuration) * time.Second
		ok = got > l.lasts/2
		a.mu.Lock()
		defer a.mu.Unlock()
		if ok && a.lease.id == l.id {
			a.made = time.Now()
			a.lease.lasts = got
			a.last = nil
		}
		return nil
	})
	return err == nil && ok
}

func (a *Account) failed() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.last
}

// LoginState is how a process stands with a login. It holds nothing secret.
type LoginState struct {
	Used       bool          `json:"used"` // by this process, since it runs
	User       string        `json:"user,omitempty"`
	Generation int64         `json:"generation,omitempty"`
	Open       map[int64]int `json:"open,omitempty"` // connections by generation
	Failed     string        `json:"failed,omitempty"`
}

// Look reads a login again, if this process uses it; what fails is in its State.
func (s *Logins) Look(ctx context.Context, ref LoginRef) {
	if a := s.find(ref); a != nil && !a.leased() {
		_ = a.look(ctx)
	}
}

// leased reports whether each look makes another user.
func (a *Account) leased() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.lease.id != ""
}

// State says how this process stands with a login.
func (s *Logins) State(ctx context.Context, ref LoginRef) LoginState {
	a := s.find(ref)
	if a == nil {
		return LoginState{}
	}
	l, _ := a.Login(ctx)
	open, _ := a.Counts()
	st := LoginState{Used: true, User: l.User, Generation: l.Generation, Open: open}
	if err := a.failed(); err != nil {
		st.Failed = err.Error()
	}
	return st
}

// Adopt brings a generation into force, or a later one, and waits until no connection of
// an earlier one is open; until ctx ends, it tells what is left now and then. A login
// that this process does not use needs nothing: who uses it later reads what is in force.
func (s *Logins) Adopt(ctx context.Context, ref LoginRef, generation int64, left func(LoginState)) (LoginState, error) {
	a := s.find(ref)
	if a == nil {
		return LoginState{}, nil
	}
	for {
		l, err := a.Login(ctx)
		if err != nil {
			return LoginState{}, err
		}
		if l.Generation >= generation {
			break
		}
		if err := a.look(ctx); err != nil {
			return s.State(ctx, ref), err
		}
		if l, _ = a.Login(ctx); l.Generation < generation {
			return s.State(ctx, ref), fault.Transient(CodePointerInvalid, nil, "Vault gives generation %d of %s, not yet %d: it may be answered by a standby", l.Generation, ref, generation)
		}
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		open, closed := a.Counts()
		// Backwards: what moves on meanwhile has left this one too.
		older := slices.ContainsFunc(slices.Collect(maps.Keys(open)), func(g int64) bool { return g < generation })
		if !older {
			return s.State(ctx, ref), nil
		}
		select {
		case <-ctx.Done():
			return s.State(context.WithoutCancel(ctx), ref), ctx.Err()
		case <-closed:
		case <-tick.C:
			left(s.State(ctx, ref))
		}
	}
}
