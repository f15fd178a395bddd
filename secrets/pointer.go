package secrets

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"syncline/dataplane/fault"
	"syncline/dataplane/login"
)

// Codes of logins that rotate.
const (
	CodePointerInvalid  fault.Code = "PointerInvalid"  // the secret that says which login counts does not say it
	CodePointerMoved    fault.Code = "PointerMoved"    // somebody else moved the pointer, or wrote the slot
	CodeLoginLocked     fault.Code = "LoginLocked"     // another rotation of it runs, or was left off
	CodeVaultNotMovable fault.Code = "VaultNotMovable" // where it is kept nothing can be moved by check-and-set
)

// Slot is one of the two logins of a secret: of them one is in force, and the other idle
// until a rotation gives it a new password and makes it the one in force.
type Slot string

// The slots.
const (
	SlotA Slot = "a"
	SlotB Slot = "b"
)

// Other is the other slot.
func (s Slot) Other() Slot {
	if s == SlotA {
		return SlotB
	}
	return SlotA
}

// Pointer is the secret at the path of a LoginRef, in a KV engine of version 2. It says
// which of the two logins below it is in force: <path>/a or <path>/b, each with username
// and password. It is moved by check-and-set: that is the one moment at which a rotation
// happens. It holds no secret itself.
type Pointer struct {
	Slot       Slot   `json:"slot"`
	Generation int64  `json:"generation"` // grows by one with each move
	Version    int    `json:"version"`    // of the secret in the slot: what it says is for ever the same
	Rotation   string `json:"rotation"`   // who moved it: the run of the workflow, or "init"
	// Lock is the rotation under way, which alone may write the slots: two at the same time
	// would overwrite each other's passwords at the servers.
	Lock string `json:"lock,omitempty"`

	written int // version of the pointer itself, for check-and-set
}

func (p Pointer) validate(at string) error {
	if p.Slot != SlotA && p.Slot != SlotB || p.Generation < 1 || p.Version < 1 {
		return fault.Permanent(CodePointerInvalid, nil, `write it as starter rotate does: {"slot": "a" or "b", "generation": 1 or more, "version": of the secret in the slot}`,
			"the secret at %s has a field slot or generation, but does not say which login is in force", at)
	}
	return nil
}

// pointerOf reads the pointer that a secret is, if it is one.
func pointerOf(at string, d doc) (p Pointer, is bool, err error) {
	_, slot := d.data["slot"]
	_, gen := d.data["generation"]
	if !slot && !gen {
		return p, false, nil
	}
	text := func(field string) string { t, _ := textOf(d.data[field]); return t }
	p = Pointer{Slot: Slot(text("slot")), Rotation: text("rotation"), Lock: text("lock"), written: d.written}
	p.Generation, _ = strconv.ParseInt(text("generation"), 10, 64)
	p.Version, _ = strconv.Atoi(text("version"))
	return p, true, p.validate(at)
}

// credentials reads user and password out of a secret.
func credentials(at string, d doc) (login.Login, error) {
	user, _ := textOf(d.data["username"])
	password, _ := textOf(d.data["password"])
	for _, f := range [][2]string{{"username", user}, {"password", password}} {
		if f[1] == "" {
			return login.Login{}, fault.Permanent(CodeSecretFieldMissing, nil, "write the fields username and password", "the login at %s has no field %q, or an empty one", at, f[0])
		}
	}
	return login.Login{User: user, Password: password}, nil
}

// Rotor reads and moves the pointer of one login, and writes what it may point to. It
// needs a token that may create and update the path and the two below it.
type Rotor struct {
	v   *vault
	ref LoginRef
}

// Rotor gives the one of a login.
func (r *Resolver) Rotor(ref LoginRef) *Rotor { return &Rotor{r.vault, ref} }

func (r *Rotor) slot(s Slot) string { return r.ref.String() + "/" + string(s) }

// Pointer reads what is in force.
func (r *Rotor) Pointer(ctx context.Context) (p Pointer, err error) {
	err = r.v.under(ctx, r.ref.String(), canRead, func(sess *session) error {
		d, err := r.v.get(ctx, sess, r.ref.String(), r.ref.path, 0)
		if err != nil {
			return err
		}
		if d.version == 1 || d.engine == engineDatabase {
			return fault.Permanent(CodeVaultNotMovable, nil, "keep the login in a KV engine of version 2: vault secrets enable -version=2 -path=… kv",
				"%s is in an engine without check-and-set, in which nothing can be moved at one moment", r.ref)
		}
		is := false
		p, is, err = pointerOf(r.ref.String(), d)
		if err == nil && !is {
			err = fault.Permanent(CodePointerInvalid, nil, "make it one with starter rotate --init", "the secret at %s is a login itself, not a pointer to one of two", r.ref)
		}
		return err
	})
	return p, err
}

// Login reads a login in a slot: a version of it, or with 0 its newest, and tells which
// generation that was written for.
func (r *Rotor) Login(ctx context.Context, s Slot, version int) (l login.Login, at int, err error) {
	err = r.v.under(ctx, r.slot(s), canRead, func(sess *session) error {
		d, err := r.v.get(ctx, sess, r.slot(s), r.ref.path+"/"+string(s), version)
		if err != nil {
			return err
		}
		at = d.written
		if l, err = credentials(r.slot(s), d); err == nil {
			gen, _ := textOf(d.data["generation"])
			l.Generation, _ = strconv.ParseInt(gen, 10, 64)
		}
		return err
	})
	return l, at, err
}

// Allowed asks Vault whether the token may do what a rotation needs, and names what it
// may not.
func (r *Rotor) Allowed(ctx context.Context) error {
	return r.v.under(ctx, r.ref.String(), canRead, func(sess *session) error {
		_, m, err := r.v.locate(ctx, sess, r.ref.String(), r.ref.path)
		if err != nil {
			return err
		}
		paths := []string{r.ref.path, r.ref.path + "/" + string(SlotA), r.ref.path + "/" + string(SlotB)}
		for i, p := range paths {
			paths[i] = m.api(p, "data/")
		}
		out, err := sess.client.Logical().WriteWithContext(ctx, "sys/capabilities-self", map[string]any{"paths": paths})
		if err != nil {
			if isStatus(err, http.StatusForbidden) && !refusesToken(err) {
				return nil // a token without the default policy may not ask; writing will tell
			}
			return err
		}
		var errs []error
		for _, p := range paths {
			has := map[string]bool{}
			list, _ := out.Data[p].([]any)
			for _, c := range list {
				has[fmt.Sprint(c)] = true
			}
			for _, c := range []string{"read", "create", "update"} {
				if !has[c] && !has["root"] {
					errs = append(errs, fmt.Errorf("%s on %s", c, p))
				}
			}
		}
		if len(errs) > 0 {
			return fault.Permanent(CodeVaultPermissionDenied, errors.Join(errs...), "give the policy of the workers of the control role read, create and update on the path and the two below it",
				"the token may not do what a rotation of %s needs", r.ref)
		}
		return nil
	})
}

// Stage writes a login for a generation into a slot, once: what an earlier attempt of the
// same rotation has written is kept, and given back. made is called only if there is none.
func (r *Rotor) Stage(ctx context.Context, s Slot, generation int64, rotation string, made func() (login.Login, error)) (version int, err error) {
	err = r.v.under(ctx, r.slot(s), canWrite, func(sess *session) error {
		at, path := r.slot(s), r.ref.path+"/"+string(s)
		d, err := r.v.get(ctx, sess, at, path, 0)
		switch {
		case fault.Is(err, CodeSecretMissing), fault.Is(err, CodeSecretVersionDeleted):
			if d.written, err = r.newest(ctx, sess, at, path); err != nil {
				return err
			}
		case err != nil:
			return err
		default:
			gen, _ := textOf(d.data["generation"])
			by, _ := textOf(d.data["rotation"])
			if gen == strconv.FormatInt(generation, 10) && by == rotation {
				version = d.written
				return nil
			}
		}
		l, err := made()
		if err != nil {
			return err
		}
		version, err = r.put(ctx, sess, at, path, d.written, map[string]any{
			"username": l.User, "password": l.Password, "generation": generation, "rotation": rotation,
		})
		return err
	})
	return version, err
}

// newest is the number of the newest version of a secret whose newest is deleted.
func (r *Rotor) newest(ctx context.Context, sess *session, at, path string) (int, error) {
	_, m, err := r.v.locate(ctx, sess, at, path)
	if err != nil || m.path == "" {
		return 0, err
	}
	meta, err := sess.client.Logical().ReadWithContext(ctx, m.api(path, "metadata/"))
	if isStatus(err, http.StatusForbidden) && !refusesToken(err) {
		return 0, nil // if there is a version, check-and-set finds out
	}
	if err != nil || meta == nil {
		return 0, err
	}
	n, _ := textOf(meta.Data["current_version"])
	return strconv.Atoi(n)
}

// Move makes another login the one in force, if the pointer is still what from was read
// as. After an answer that got lost it reads what became of it: a move that has happened
// is a success, whoever asks again.
func (r *Rotor) Move(ctx context.Context, from, to Pointer) (moved Pointer, err error) {
	if err := to.validate(r.ref.String()); err != nil {
		return moved, err
	}
	err = r.v.under(ctx, r.ref.String(), canWrite, func(sess *session) error {
		moved = to
		moved.written, err = r.put(ctx, sess, r.ref.String(), r.ref.path, from.written, to.fields())
		return err
	})
	if err == nil || fault.Is(err, CodeVaultPermissionDenied) {
		return moved, err
	}
	// Its outcome is not known, or it was lost: the pointer tells.
	now, rerr := r.Pointer(context.WithoutCancel(ctx))
	switch {
	case rerr != nil:
		return moved, err
	case now.Same(to):
		return now, nil
	case now.written != from.written:
		return now, pointerMoved(r.ref.String(), fmt.Sprintf("it is at generation %d, by %s", now.Generation, now.Rotation))
	}
	return moved, err
}

// Lock keeps other rotations away until Unlock. It fails with CodeLoginLocked if another
// has it, unless that is broken: then that one's lock is taken.
func (r *Rotor) Lock(ctx context.Context, rotation, broken string) (Pointer, error) {
	p, err := r.Pointer(ctx)
	if err != nil || p.Lock == rotation {
		return p, err
	}
	if p.Lock != "" && p.Lock != broken {
		return p, fault.Permanent(CodeLoginLocked, nil, "wait until it has ended; if it cannot end any more, starter rotate --break-lock "+p.Lock,
			"rotation %s of %s is under way, or was left off", p.Lock, r.ref)
	}
	to := p
	to.Lock = rotation
	return r.Move(ctx, p, to)
}

// Unlock lets other rotations begin. It does nothing if another has the lock.
func (r *Rotor) Unlock(ctx context.Context, rotation string) error {
	p, err := r.Pointer(ctx)
	if err != nil || p.Lock != rotation {
		return err
	}
	to := p
	to.Lock = ""
	_, err = r.Move(ctx, p, to)
	return err
}

func (p Pointer) fields() map[string]any {
	m := map[string]any{"slot": string(p.Slot), "generation": p.Generation, "version": p.Version, "rotation": p.Rotation}
	if p.Lock != "" {
		m["lock"] = p.Lock
	}
	return m
}

// Same reports whether two pointers say the same, by the same rotation.
func (p Pointer) Same(o Pointer) bool {
	p.written, o.written = 0, 0
	return p == o
}

// Written is the pointer as it was read when its own version was w: for an activity, to
// which only texts come.
func (p Pointer) Written(w int) Pointer { p.written = w; return p }

// At is the version of the pointer itself.
func (p Pointer) At() int { return p.written }

func pointerMoved(at, why string) error {
	return fault.Permanent(CodePointerMoved, nil, "see who else rotates it; the other one's outcome stands", "%s was written by somebody else meanwhile: %s", at, why)
}

// put writes a new version of a secret if its newest is still cas; 0: if there is none.
func (r *Rotor) put(ctx context.Context, sess *session, at, path string, cas int, data map[string]any) (int, error) {
	_, m, err := r.v.locate(ctx, sess, at, path)
	if err != nil {
		return 0, err
	}
	out, err := sess.client.Logical().WriteWithContext(ctx, m.api(path, "data/"), map[string]any{"options": map[string]any{"cas": cas}, "data": data})
	if status, said := answerOf(err); status == http.StatusBadRequest && strings.Contains(said, "check-and-set") {
		return 0, pointerMoved(at, "its version is no longer "+strconv.Itoa(cas))
	}
	if err != nil {
		return 0, err
	}
	if out == nil {
		return 0, fault.Permanent(CodeVaultNotMovable, nil, "keep it in a KV engine of version 2", "Vault does not tell the version of what was written to %s", at)
	}
	var n int
	switch x := out.Data["version"].(type) {
	case json.Number:
		n64, _ := x.Int64()
		n = int(n64)
	case float64:
		n = int(x)
	}
	return n, nil
}

// Init makes a login a pointer to one of two, of which this is the first: what is there as
// username and password becomes slot a, in force as the generation that processes know it
// by, which is its version, and idle is the other user. Done before, it changes nothing.
func (r *Rotor) Init(ctx context.Context, idle string) (Pointer, error) {
	var first login.Login
	var d doc
	err := r.v.under(ctx, r.ref.String(), canRead, func(sess *session) (err error) {
		if d, err = r.v.get(ctx, sess, r.ref.String(), r.ref.path, 0); err == nil {
			if _, is, perr := pointerOf(r.ref.String(), d); is {
				return perr
			}
			first, err = credentials(r.ref.String(), d)
		}
		return err
	})
	if err != nil {
		return Pointer{}, err
	}
	if p, is, err := pointerOf(r.ref.String(), d); is {
		return p, err
	}
	if first.User == idle {
		return Pointer{}, fault.Permanent(CodePointerInvalid, nil, "name another user, with the same rights", "both logins of %s would be of user %s", r.ref, idle)
	}
	const by = "init"
	generation := int64(max(d.written, 1))
	version, err := r.Stage(ctx, SlotA, generation, by, func() (login.Login, error) { return first, nil })
	if err != nil {
		return Pointer{}, err
	}
	// Its password is made by the first rotation; until then nobody knows one.
	if _, err := r.Stage(ctx, SlotB, 0, by, func() (login.Login, error) { return login.Login{User: idle, Password: "none yet"}, nil }); err != nil {
		return Pointer{}, err
	}
	return r.Move(ctx, Pointer{written: d.written}, Pointer{Slot: SlotA, Generation: generation, Version: version, Rotation: by})
}
