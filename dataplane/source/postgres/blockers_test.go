package postgres

import (
	"context"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
)

// A slot waits for every transaction that is running, and says for whom.
func TestCreateSlotSaysForWhomItWaits(t *testing.T) {
	r := newRig(t)
	r.exec(`CREATE TABLE t (id int PRIMARY KEY)`)
	if err := r.s.EnsurePublication(r.ctx(), testPublication, []PublishedTable{table("t")}); err != nil {
		t.Fatal(err)
	}
	cfg, err := pgx.ParseConfig(r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	cfg.RuntimeParams["application_name"] = "nightly report"
	other, err := pgx.ConnectConfig(r.ctx(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.Background()) }()
	tx, err := other.Begin(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(r.ctx(), "INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	var told []Blocker
	found := false
	i, err := r.s.CreateSlotReporting(r.ctx(), r.slot, func(bs []Blocker) {
		told = append(told, bs...)
		for _, b := range bs {
			if b.PID == int32(other.PgConn().PID()) && !found {
				found = true
				if b.Age <= 0 || !strings.Contains(b.String(), `("nightly report", user "`) || !strings.Contains(b.String(), "idle in transaction") {
					t.Errorf("%+v: %s", b, b)
				}
				if err := tx.Rollback(r.ctx()); err != nil {
					t.Error(err)
				}
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if !found || !i.CreatedNow {
		t.Fatalf("slot %+v, told %v", i, told)
	}
}

// An attempt that died while it waited leaves a slot without a beginning, which
// the next one neither takes for finished nor waits behind.
func TestCreateSlotAfterAnAttemptThatDied(t *testing.T) {
	r := newRig(t)
	r.exec(`CREATE TABLE t (id int PRIMARY KEY)`)
	if err := r.s.EnsurePublication(r.ctx(), testPublication, []PublishedTable{table("t")}); err != nil {
		t.Fatal(err)
	}
	other, err := pgx.Connect(r.ctx(), r.dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = other.Close(context.Background()) }()
	tx, err := other.Begin(r.ctx())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(r.ctx(), "INSERT INTO t VALUES (1)"); err != nil {
		t.Fatal(err)
	}
	waits, died := make(chan struct{}, 100), make(chan error, 1)
	go func() {
		_, err := r.s.CreateSlotReporting(r.ctx(), r.slot, func([]Blocker) { waits <- struct{}{} })
		died <- err
	}()
	<-waits
	freed := false
	i, err := r.s.CreateSlotReporting(r.ctx(), r.slot, func(bs []Blocker) {
		if len(bs) > 0 && !freed {
			freed = true
			if err := tx.Rollback(r.ctx()); err != nil {
				t.Error(err)
			}
		}
	})
	if err != nil || !i.CreatedNow || i.Confirmed == 0 {
		t.Fatalf("slot %+v, %v", i, err)
	}
	if err := <-died; err == nil {
		t.Error("the first attempt made a slot, too")
	}
}
