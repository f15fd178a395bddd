package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.temporal.io/sdk/client"

	"syncline/activities/codec"
	"syncline/activities/contract"
)

// encrypt makes workers that start from now on encrypt what they hand to Temporal, and
// the test read it. rotate adds a key, which encrypts from then on.
func (r *rig) encrypt() (rotate func(id string)) {
	r.t.Helper()
	file := filepath.Join(r.dir, "payload-keys")
	var ring codec.Keyring
	rotate = func(id string) {
		r.t.Helper()
		var err error
		if ring, err = ring.Add(id, true); err != nil {
			r.t.Fatal(err)
		}
		// In one step, as Vault does it.
		if err := os.WriteFile(file+".new", []byte(ring.Reveal()), 0o600); err != nil {
			r.t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			r.t.Fatal(err)
		}
	}
	rotate("first")
	r.env = append(r.env, "SYNCLINE_PAYLOAD_KEYS=file:"+file)
	keys, err := codec.HoldKeys(r.t.Context(), func(context.Context) (string, error) {
		b, err := os.ReadFile(file)
		return string(b), err
	}, func(err error) { r.t.Error(err) })
	if err != nil {
		r.t.Fatal(err)
	}
	o := client.Options{HostPort: r.temporal, Logger: silent{}}
	codec.New(keys).Apply(&o)
	tc, err := client.Dial(o)
	if err != nil {
		r.t.Fatalf("connect to Temporal: %v", err)
	}
	r.tc.Close()
	r.tc = codec.Client{Client: tc, Converter: o.DataConverter}
	return rotate
}

// TestEncryptedPayloads turns encryption on under a pipeline that runs, and rotates the
// key under it. What Temporal has been told from then on names no table and no column.
func TestEncryptedPayloads(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.exec("CREATE SCHEMA hush", "CREATE TABLE hush.canaries (id integer PRIMARY KEY, yellowness text)", "CREATE TABLE hush.budgies (id integer PRIMARY KEY, yellowness text)",
		"INSERT INTO hush.canaries SELECT i, md5(i::text) FROM generate_series(1, 5000) i", "INSERT INTO hush.budgies SELECT i, md5(i::text) FROM generate_series(1, 500) i")
	open := r.start(contract.Control)
	r.start(contract.Capture, contract.Snapshot, contract.Deliver)
	p := r.pipe("  include: [hush.*]\n" + smallChunks)
	p.mustApply()
	p.awaitPhase(bound, contract.Streaming)
	names := []string{"canaries", "budgies", "yellowness", "E2E_SOURCE", "E2E_SINK", r.clickDB}
	shows := func(b []byte) (out []string) {
		for _, n := range names {
			if bytes.Contains(b, []byte(n)) {
				out = append(out, n)
			}
		}
		return out
	}
	before := p.histories()
	if got := shows(before[contract.PipelineID(p.name)]); len(got) < 4 {
		t.Errorf("a history that is not encrypted shows no more than %v: the test looks for the wrong names", got)
	}

	rotate := r.encrypt()
	r.start(contract.Control)
	r.start(contract.Capture, contract.Snapshot, contract.Deliver)
	// One after the other, as an upgrade goes: an old worker cannot read what a new one
	// writes, waits with it, and the new one takes over.
	open.stop()
	r.workers[1].stop()
	p.mustUpdate(contract.ResyncTableUpdate, contract.TablesInput{Tables: ids("hush.budgies")}, nil)
	p.awaitPhase(bound, contract.Streaming)
	rotate("second")
	p.mustUpdate(contract.ResyncTableUpdate, contract.TablesInput{Tables: ids("hush.canaries")}, nil)
	p.awaitPhase(bound, contract.Streaming)
	r.exec("INSERT INTO hush.canaries VALUES (99999, 'new')", "UPDATE hush.budgies SET yellowness = 'very' WHERE id < 100")
	p.converged()
	until(t, bound, "heartbeats are read", func(ctx context.Context) error {
		v, err := p.view(ctx)
		if err != nil {
			return err
		}
		if v.Flow == nil || v.Sinks[0].Applied == 0 {
			return fmt.Errorf("%+v", v)
		}
		return nil
	})
	p.mustUpdate(contract.PauseUpdate, nil, nil)
	p.mustUpdate(contract.ResumeUpdate, nil, nil)
	p.awaitPhase(bound, contract.Streaming)

	whole := 0
	for id, b := range p.histories() {
		if _, old := before[id]; old {
			continue // it began in clear text
		}
		whole++
		if got := shows(b); len(got) > 0 {
			t.Errorf("%s shows %v", id, got)
		}
	}
	if whole < 2 {
		t.Errorf("%d histories began encrypted", whole)
	}

	// A pipeline whose whole life was encrypted, and what it says of a mistake.
	q := r.pipe("  include: [hush.canaries]\n" + smallChunks)
	q.spec.Source.DSN, q.spec.Sinks = p.spec.Source.DSN, q.spec.Sinks[:1]
	q.spec.Sinks[0].OnExisting = "refuse"
	if _, err := q.apply(); err == nil || !strings.Contains(err.Error(), "canaries") {
		t.Errorf("a table that is there is taken over: %v", err)
	}
	for id, b := range q.histories() {
		if got := shows(b); len(got) > 0 {
			t.Errorf("%s shows %v", id, got)
		}
	}
}
