package kafka

import (
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha512"
	"fmt"
	"testing"
	"time"

	kgo "github.com/segmentio/kafka-go"

	"syncline/dataplane/login"
	"syncline/dataplane/sink"
	"syncline/testsuite/stack"
)

// A writer and a reader that waits for more go on while the login changes ten times, each
// time to another user whose predecessor's password is changed as soon as it is left.
func TestLoginMoves(t *testing.T) {
	t.Parallel()
	s := stack.KafkaSecured(t)
	o := testOptions(t)
	o.Brokers, o.TLS, o.SASL = s.Brokers, trusting(t, s.CA), SASL{"scram-sha-512", s.User, s.Password}
	ensure(t, o, TopicOptions{Partitions: 1}, orders)
	root, err := connect(o)
	if err != nil {
		t.Fatal(err)
	}
	defer root.close()
	password := func(user, password string) {
		t.Helper()
		salt := make([]byte, 16)
		_, _ = rand.Read(salt)
		salted, err := pbkdf2.Key(sha512.New, password, salt, 4096, sha512.Size)
		if err != nil {
			t.Fatal(err)
		}
		res, err := root.client.AlterUserScramCredentials(t.Context(), &kgo.AlterUserScramCredentialsRequest{Upsertions: []kgo.UserScramCredentialsUpsertion{
			{Name: user, Mechanism: kgo.ScramMechanismSha512, Iterations: 4096, Salt: salt, SaltedPassword: salted}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res.Results {
			if r.Error != nil {
				t.Fatal(r.Error)
			}
		}
	}
	users := [2]string{stack.Name(t) + "-a", stack.Name(t) + "-b"}
	now := login.Login{User: users[0], Password: "pw1", Generation: 1}
	password(now.User, now.Password)
	src := login.NewHeld(now)
	o.Login, o.SASL.User, o.SASL.Password = src, "", ""
	until := func(what string, limit time.Duration, f func() bool) time.Duration {
		t.Helper()
		begun := time.Now()
		for !f() {
			if time.Since(begun) > limit {
				counts, _ := src.Counts()
				t.Fatalf("no %s within %v; connections by generation: %v", what, limit, counts)
			}
			time.Sleep(5 * time.Millisecond)
		}
		return time.Since(begun)
	}
	// Brokers learn of a new password a moment after they have taken it.
	until("login of the first user", 10*time.Second, func() bool {
		a, err := OpenAdmin(o)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Close()
		_, err = a.Check(t.Context())
		return err == nil
	})
	w, l := openWriter(t, o, WriterOptions{}), openLog(t, o, LogOptions{})
	r, err := l.Open(t.Context(), sink.Partition{Table: orders, N: 0}, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	writing, stop := context.WithCancel(t.Context())
	wrote := make(chan int, 1)
	go func() {
		n := 0
		for ; writing.Err() == nil; n++ {
			if _, err := w.Append(t.Context(), testChange(n, "a", fmt.Sprint(n))); err != nil {
				t.Error(err)
				break
			}
			time.Sleep(200 * time.Microsecond)
		}
		wrote <- n
	}()
	read := make(chan int, 1)
	total := make(chan int, 1)
	go func() {
		n, want := 0, -1
		var last time.Time
		var gap time.Duration
		for n != want {
			ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
			recs, err := r.Read(ctx, 500)
			cancel()
			if err != nil {
				t.Errorf("read after %d records: %v", n, err)
				break
			}
			for _, rec := range recs {
				if string(rec.Change.New[1].Data) != fmt.Sprint(n) {
					t.Errorf("record %d is %s", n, rec.Change.New[1].Data)
				}
				n++
			}
			if !last.IsZero() {
				gap = max(gap, time.Since(last))
			}
			last = time.Now()
			select {
			case want = <-total:
			default:
			}
		}
		t.Logf("%d records, longest time without one %v", n, gap)
		read <- n
	}()
	rotate := func() (old login.Login) {
		old = now
		now = login.Login{User: users[old.Generation%2], Password: fmt.Sprint("pw", old.Generation+1), Generation: old.Generation + 1}
		password(now.User, now.Password)
		src.Put(now)
		return old
	}
	left := func(old login.Login) {
		t.Helper()
		begun := time.Now()
		until(fmt.Sprintf("connection under generation %d", now.Generation), 10*time.Second, func() bool { // the broker may take it late
			counts, _ := src.Counts()
			return counts[now.Generation] > 1
		})
		adopted := time.Since(begun)
		took := until(fmt.Sprintf("end of generation %d", old.Generation), 2*time.Second, func() bool {
			counts, _ := src.Counts()
			return counts[old.Generation] == 0
		})
		t.Logf("adopted after %v, old connections closed %v later", adopted.Round(time.Millisecond), took.Round(time.Millisecond))
	}
	for range 10 {
		old := rotate()
		left(old)
		password(old.User, "gone")
	}
	// A login that does not work stops nothing.
	works := now
	src.Put(login.Login{User: now.User, Password: "not-the-password", Generation: now.Generation + 1})
	before, _ := w.Acked()
	until("record under the login that works", 10*time.Second, func() bool {
		n, err := w.Acked()
		if err != nil {
			t.Fatal(err)
		}
		return n > before+500
	})
	now.Generation += 2
	now.User = users[(now.Generation-1)%2]
	rotate()
	left(works)
	// Nor does one that changes while nothing is written.
	stop()
	n := <-wrote
	waitAcked(t, w, uint64(n))
	left(rotate())
	if _, err := w.Append(t.Context(), testChange(n, "a", fmt.Sprint(n))); err != nil {
		t.Fatal(err)
	}
	total <- n + 1
	if got := <-read; got != n+1 {
		t.Errorf("read %d of %d", got, n+1)
	}
}
