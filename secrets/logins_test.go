package secrets_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
	"syncline/secrets"
)

func loginRef(t *testing.T, s string) secrets.LoginRef {
	t.Helper()
	r, err := secrets.ParseLoginRef(s)
	must(t, err)
	return r
}

func TestLoginRefs(t *testing.T) {
	for _, s := range []string{"vault:secret/orders/source", "vault:database/creds/orders"} {
		if r := loginRef(t, s); r.String() != s {
			t.Errorf("%s came back as %s", s, r)
		}
	}
	for s, say := range map[string]string{
		"": "vault:<path>", "secret/orders": "vault:", "env:X": "vault:", "vault:secret/orders#password": "field", "vault:orders": "mount",
		"vault:secret/orders/a": "slots", "vault:secret//orders": "segment", "hunter2": "vault:",
	} {
		_, err := secrets.ParseLoginRef(s)
		if !fault.Is(err, secrets.CodeRefInvalid) || !strings.Contains(err.Error(), say) || s == "hunter2" && strings.Contains(err.Error(), s) {
			t.Errorf("%q: %v, want one that says %q", s, err, say)
		}
	}
}

// rotor makes a login of two slots in force as generation 1.
func (v *realVault) rotor(r *secrets.Resolver) (secrets.LoginRef, *secrets.Rotor) {
	v.t.Helper()
	ref := loginRef(v.t, "vault:"+v.v2+"/app/orders")
	_, err := v.c.KVv2(v.v2).Put(v.t.Context(), "app/orders", map[string]any{"username": "orders_a", "password": "first"})
	must(v.t, err)
	p, err := r.Rotor(ref).Init(v.t.Context(), "orders_b")
	must(v.t, err)
	if p.Slot != secrets.SlotA || p.Generation != 1 {
		v.t.Fatalf("begins with %+v", p)
	}
	return ref, r.Rotor(ref)
}

func stage(password string) func() (login.Login, error) {
	return func() (login.Login, error) { return login.Login{User: "orders_b", Password: password}, nil }
}

// What a rotation writes to a real Vault, and what comes of each step that is repeated,
// lost or beaten by another.
func TestPointerMovesOnce(t *testing.T) {
	v := newRealVault(t)
	r := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.c.Token())})
	_, rotor := v.rotor(r)
	ctx := t.Context()
	if p, err := rotor.Init(ctx, "other"); err != nil || p.Generation != 1 {
		t.Fatalf("a second init: %+v, %v", p, err)
	}
	from, err := rotor.Lock(ctx, "run-1", "")
	must(t, err)
	if again, err := rotor.Lock(ctx, "run-1", ""); err != nil || !again.Same(from) {
		t.Fatalf("locked again: %+v, %v", again, err)
	}
	if _, err := rotor.Lock(ctx, "run-0", ""); !fault.Is(err, secrets.CodeLoginLocked) || !strings.Contains(err.Error(), "--break-lock run-1") {
		t.Fatalf("locked by another: %v", err)
	}
	if from, err = rotor.Lock(ctx, "run-0", "run-1"); err != nil || from.Lock != "run-0" || from.Generation != 1 {
		t.Fatalf("broken: %+v, %v", from, err)
	}
	must(t, rotor.Unlock(ctx, "run-1")) // which has it no longer
	must(t, rotor.Unlock(ctx, "run-0"))
	from, err = rotor.Lock(ctx, "run-1", "")
	must(t, err)
	made := 0
	once := func() (login.Login, error) {
		made++
		return login.Login{User: "orders_b", Password: fmt.Sprint("second", made)}, nil
	}
	n, err := rotor.Stage(ctx, secrets.SlotB, 2, "run-1", once)
	must(t, err)
	again, err := rotor.Stage(ctx, secrets.SlotB, 2, "run-1", once)
	must(t, err)
	if n != again || made != 1 {
		t.Fatalf("staged as %d and %d, made %d times", n, again, made)
	}
	to := secrets.Pointer{Slot: secrets.SlotB, Generation: 2, Version: n, Rotation: "run-1"}
	moved, err := rotor.Move(ctx, from, to)
	must(t, err)
	// Its answer was lost, and it is asked for again.
	if again, err := rotor.Move(ctx, from, to); err != nil || !again.Same(moved) {
		t.Fatalf("again: %+v, %v", again, err)
	}
	// Another rotation had read the same pointer.
	if _, err := rotor.Move(ctx, from, secrets.Pointer{Slot: secrets.SlotB, Generation: 2, Version: n, Rotation: "run-2"}); !fault.Is(err, secrets.CodePointerMoved) {
		t.Fatalf("beaten: %v", err)
	}
	l, _, err := rotor.Login(ctx, secrets.SlotB, n)
	must(t, err)
	if l.User != "orders_b" || l.Password != "second1" || l.Generation != 2 {
		t.Fatalf("staged %s", l)
	}
	// A next one stages the other slot: who still reads the pointer of before sees what it pointed to.
	if _, err := rotor.Stage(ctx, secrets.SlotA, 3, "run-3", func() (login.Login, error) { return login.Login{User: "orders_a", Password: "third"}, nil }); err != nil {
		t.Fatal(err)
	}
	if l, _, err := rotor.Login(ctx, secrets.SlotA, from.Version); err != nil || l.Password != "first" {
		t.Fatalf("the old pointer leads to %s, %v", l, err)
	}
	// The slot's newest version is deleted: it is staged over that.
	must(t, v.c.KVv2(v.v2).Delete(ctx, "app/orders/a"))
	if _, err := rotor.Stage(ctx, secrets.SlotA, 4, "run-4", stage("fourth")); err != nil {
		t.Fatal(err)
	}
	must(t, v.c.KVv2(v.v2).DeleteMetadata(ctx, "app/orders/a"))
	if _, err := rotor.Stage(ctx, secrets.SlotA, 4, "run-5", stage("fifth")); err != nil {
		t.Fatal(err)
	}
	// Written by hand, it says nothing.
	_, err = v.c.KVv2(v.v2).Put(ctx, "app/orders", map[string]any{"slot": "c", "generation": 9})
	must(t, err)
	if _, err := rotor.Pointer(ctx); !fault.Is(err, secrets.CodePointerInvalid) {
		t.Fatal(err)
	}
	_, err = v.c.KVv2(v.v2).Put(ctx, "app/plain", map[string]any{"username": "u", "password": "p"})
	must(t, err)
	if _, err := r.Rotor(loginRef(t, "vault:"+v.v2+"/app/plain")).Pointer(ctx); !fault.Is(err, secrets.CodePointerInvalid) {
		t.Fatal(err)
	}
	must(t, v.c.KVv1(v.v1).Put(ctx, "plain", map[string]any{"username": "u", "password": "p"}))
	if _, err := r.Rotor(loginRef(t, "vault:"+v.v1+"/plain")).Pointer(ctx); !fault.Is(err, secrets.CodeVaultNotMovable) {
		t.Fatal(err)
	}
}

// Of many rotations that move the same pointer at the same time exactly one does.
func TestOneMoveWins(t *testing.T) {
	v := newRealVault(t)
	r := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.c.Token())})
	_, rotor := v.rotor(r)
	from, err := rotor.Pointer(t.Context())
	must(t, err)
	n, err := rotor.Stage(t.Context(), secrets.SlotB, 2, "x", stage("p"))
	must(t, err)
	var wg sync.WaitGroup
	errs := make([]error, 12)
	for i := range errs {
		wg.Go(func() {
			_, errs[i] = rotor.Move(t.Context(), from, secrets.Pointer{Slot: secrets.SlotB, Generation: 2, Version: n, Rotation: fmt.Sprint("run-", i)})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		switch {
		case err == nil:
			won++
		case !fault.Is(err, secrets.CodePointerMoved):
			t.Error(err)
		}
	}
	if won != 1 {
		t.Errorf("%d moves won", won)
	}
}

func TestAllowed(t *testing.T) {
	v := newRealVault(t)
	root := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.c.Token())})
	ref, rotor := v.rotor(root)
	must(t, rotor.Allowed(t.Context()))
	reader := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.token("1h", false, v.reader).ClientToken)})
	err := reader.Rotor(ref).Allowed(t.Context())
	if !fault.Is(err, secrets.CodeVaultPermissionDenied) || !strings.Contains(fmt.Sprint(errors.Unwrap(err)), "update on "+v.v2+"/data/app/orders/b") {
		t.Errorf("of a reader: %v, %v", err, errors.Unwrap(err))
	}
	if _, err := reader.Rotor(ref).Stage(t.Context(), secrets.SlotB, 2, "x", stage("p")); !fault.Is(err, secrets.CodeVaultPermissionDenied) {
		t.Errorf("a reader stages: %v", err)
	}
}

// A process goes on with what it has while Vault refuses, moves when it is told or looks,
// and says when nothing of an older generation is open.
func TestLoginsMove(t *testing.T) {
	v := newRealVault(t)
	admin := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.c.Token())})
	ref, rotor := v.rotor(admin)
	worker := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.token("1h", false, v.reader).ClientToken)})
	moved := make(chan login.Login, 10)
	ls := worker.Logins(secrets.LoginsOptions{LookEvery: time.Hour, Jitter: time.Millisecond, Moved: func(_ secrets.LoginRef, l login.Login) { moved <- l }})
	defer ls.Close()
	if st, err := ls.Adopt(t.Context(), ref, 5, nil); err != nil || st.Used {
		t.Fatalf("what is not used needs nothing: %+v, %v", st, err)
	}
	a, err := ls.Of(t.Context(), ref)
	must(t, err)
	l, err := a.Login(t.Context())
	must(t, err)
	if l.User != "orders_a" || l.Password != "first" || l.Generation != 1 {
		t.Fatalf("begins with %s", l)
	}
	closed := a.Opened(1)
	from, err := rotor.Pointer(t.Context())
	must(t, err)
	n, err := rotor.Stage(t.Context(), secrets.SlotB, 2, "run", stage("second"))
	must(t, err)
	if now, err := a.Refused(t.Context(), l); err != nil || now.Generation != 1 {
		t.Fatalf("refused while nothing has changed: %s, %v", now, err)
	}
	_, err = rotor.Move(t.Context(), from, secrets.Pointer{Slot: secrets.SlotB, Generation: 2, Version: n, Rotation: "run"})
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	if st, err := ls.Adopt(ctx, ref, 2, func(secrets.LoginState) {}); !errors.Is(err, context.DeadlineExceeded) || st.Open[1] != 1 || st.Generation != 2 {
		t.Fatalf("adopted with an old connection: %+v, %v", st, err)
	}
	if l := <-moved; l.User != "orders_b" || l.Generation != 2 {
		t.Fatalf("moved to %s", l)
	}
	closed()
	if st, err := ls.Adopt(t.Context(), ref, 2, func(secrets.LoginState) {}); err != nil || len(st.Open) != 0 || st.User != "orders_b" {
		t.Fatalf("adopted: %+v, %v", st, err)
	}
	// The pointer cannot be read any more: what is in force stays.
	must(t, v.c.KVv2(v.v2).DeleteMetadata(t.Context(), "app/orders"))
	l, _ = a.Login(t.Context())
	if now, err := a.Refused(t.Context(), l); err != nil || now.Generation != 2 {
		t.Fatalf("while it cannot be read: %s, %v", now, err)
	}
	if st := ls.State(t.Context(), ref); !strings.Contains(st.Failed, "SecretMissing") {
		t.Errorf("its state says %+v", st)
	}
}

// A login that nobody rotates but with kv put moves too, by looking.
func TestWrittenByHand(t *testing.T) {
	v := newRealVault(t)
	r := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.c.Token())})
	ref := loginRef(t, "vault:"+v.v2+"/app/hand")
	put := func(password string) {
		_, err := v.c.KVv2(v.v2).Put(t.Context(), "app/hand", map[string]any{"username": "u", "password": password})
		must(t, err)
	}
	put("one")
	ls := r.Logins(secrets.LoginsOptions{LookEvery: 50 * time.Millisecond})
	defer ls.Close()
	a, err := ls.Of(t.Context(), ref)
	must(t, err)
	put("two")
	select {
	case <-a.Changed(1):
	case <-time.After(20 * time.Second):
		t.Fatal("not moved")
	}
	if l, _ := a.Login(t.Context()); l.Password != "two" || l.Generation != 2 {
		t.Fatalf("moved to %s", l)
	}
}

// Processes that use a login while it is made one of two stay on it, and move from there.
func TestInitUnderProcesses(t *testing.T) {
	v := newRealVault(t)
	r := v.resolver(secrets.VaultOptions{Token: secrets.NewSecret(v.c.Token())})
	ref := loginRef(t, "vault:"+v.v2+"/app/used")
	for _, pw := range []string{"one", "two", "three"} {
		_, err := v.c.KVv2(v.v2).Put(t.Context(), "app/used", map[string]any{"username": "used_a", "password": pw})
		must(t, err)
	}
	ls := r.Logins(secrets.LoginsOptions{LookEvery: time.Hour})
	defer ls.Close()
	a, err := ls.Of(t.Context(), ref)
	must(t, err)
	rotor := r.Rotor(ref)
	p, err := rotor.Init(t.Context(), "used_b")
	must(t, err)
	ls.Look(t.Context(), ref)
	l, err := a.Login(t.Context())
	must(t, err)
	if l.Password != "three" || l.Generation != p.Generation {
		t.Fatalf("in force is %s, the pointer says %+v", l, p)
	}
	n, err := rotor.Stage(t.Context(), secrets.SlotB, p.Generation+1, "run", stage("next"))
	must(t, err)
	_, err = rotor.Move(t.Context(), p, secrets.Pointer{Slot: secrets.SlotB, Generation: p.Generation + 1, Version: n, Rotation: "run"})
	must(t, err)
	ls.Look(t.Context(), ref)
	if l, _ = a.Login(t.Context()); l.Password != "next" || l.Generation != p.Generation+1 {
		t.Fatalf("moved to %s", l)
	}
}
