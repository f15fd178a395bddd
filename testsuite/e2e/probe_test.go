package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// probeSQL adds a table with one row that says when it was written, by the source's clock.
const probeSQL = `
CREATE TABLE shop.probe (id integer PRIMARY KEY, us bigint NOT NULL);
INSERT INTO shop.probe VALUES (1, 0)`

// probe measures how old what the sinks show is. It writes the time to the source, and looks
// at each sink what time has come there: at the moment of a look the sink shows nothing newer
// than that. Servers and test have the same clock.
type probe struct {
	t    testing.TB
	stop context.CancelFunc
	runs sync.WaitGroup

	mu        sync.Mutex
	wrote     time.Time
	pause     time.Duration // the longest between two writes
	sinks     map[string]*seen
	before    span
	rotations []span
}

// seen is what was seen at a sink.
type seen struct {
	looks  []span // from the time that the sink showed to that of the look
	values int    // changes of it
	pause  time.Duration
}

type span struct{ from, to time.Time }

func (s span) overlaps(o span) bool { return s.from.Before(o.to) && o.from.Before(s.to) }
func (s span) within(o span) bool   { return !s.from.Before(o.from) && !s.to.After(o.to) }

// probe begins to measure. The pipeline has to have the probe's table.
func (r *rig) probe() *probe {
	r.t.Helper()
	ctx, stop := context.WithCancel(r.t.Context())
	m := &probe{t: r.t, stop: stop, sinks: map[string]*seen{"pg": {}, "ch": {}}}
	r.t.Cleanup(m.end)
	source, err := pgx.Connect(ctx, r.source)
	if err != nil {
		r.t.Fatal(err)
	}
	sink, err := pgx.Connect(ctx, r.sinkDSN)
	if err != nil {
		r.t.Fatal(err)
	}
	m.every(ctx, 100*time.Millisecond, func() error {
		var us int64
		if err := source.QueryRow(ctx, "UPDATE shop.probe SET us = extract(epoch FROM clock_timestamp()) * 1000000 RETURNING us").Scan(&us); err != nil {
			return err
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if at := time.UnixMicro(us); m.wrote.IsZero() {
			m.wrote = at
		} else {
			m.pause, m.wrote = max(m.pause, at.Sub(m.wrote)), at
		}
		return nil
	}, source)
	// The time of a look is that of the sink's answer: how long the answer takes is not
	// counted as age.
	m.every(ctx, 50*time.Millisecond, func() error {
		var us, now int64
		err := sink.QueryRow(ctx, "SELECT us, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint FROM shop.probe").Scan(&us, &now)
		if err == nil {
			m.saw("pg", us, now)
		}
		return err
	}, sink)
	m.every(ctx, 200*time.Millisecond, func() error {
		out, err := r.tryClick(ctx, "SELECT max(us), toUnixTimestamp64Micro(now64(6)) FROM "+r.clickDB+".probe FORMAT TSV")
		if err != nil {
			return err
		}
		var us, now int64
		if _, err := fmt.Sscan(out, &us, &now); err != nil {
			return err
		}
		m.saw("ch", us, now)
		return nil
	}, nil)
	return m
}

// every repeats f until ctx ends, and closes the connection that is f's.
func (m *probe) every(ctx context.Context, pause time.Duration, f func() error, c *pgx.Conn) {
	m.runs.Go(func() {
		if c != nil {
			defer func() { _ = c.Close(context.WithoutCancel(ctx)) }()
		}
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for {
			if err := f(); err != nil && ctx.Err() == nil {
				m.t.Errorf("the probe: %v", err)
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	})
}

func (m *probe) saw(sink string, us, now int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s, look := m.sinks[sink], span{time.UnixMicro(us), time.UnixMicro(now)}
	if us == 0 { // nothing that was written has come
		return
	}
	if n := len(s.looks); n > 0 {
		s.pause = max(s.pause, look.to.Sub(s.looks[n-1].to))
		if look.from.After(s.looks[n-1].from) {
			s.values++
		}
	}
	s.looks = append(s.looks, look)
}

// calm measures for some time in which nothing is rotated, once the sinks have what was
// written before.
func (m *probe) calm(d time.Duration) {
	m.t.Helper()
	since := func(t time.Time) func(context.Context) error {
		return func(context.Context) error {
			m.mu.Lock()
			defer m.mu.Unlock()
			for name, s := range m.sinks {
				if n := len(s.looks); n == 0 || s.looks[n-1].from.Before(t) {
					return errors.New(name + " does not show it")
				}
			}
			return nil
		}
	}
	until(m.t, bound, "the sinks show what is written now", since(time.Now()))
	from := time.Now()
	until(m.t, d+bound, "the sinks show what is written later", since(from.Add(d)))
	m.mu.Lock()
	defer m.mu.Unlock()
	m.before = span{from, time.Now()}
}

// rotated notes a rotation that has ended just now.
func (m *probe) rotated(begun time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.rotations = append(m.rotations, span{begun, time.Now()})
}

func (m *probe) end() {
	m.stop()
	m.runs.Wait()
}

// report ends the probe, makes sure that it has measured something, and tells what. A look
// belongs to a rotation if any of it was going on since the time that the sink showed.
func (m *probe) report(calm bool) {
	m.t.Helper()
	m.end()
	for _, name := range []string{"pg", "ch"} {
		s := m.sinks[name]
		var during, before []time.Duration
		shown := map[time.Time]bool{} // during rotations
		for _, l := range s.looks {
			age := l.to.Sub(l.from)
			if age < 0 {
				m.t.Fatalf("%s shows a time that is to come: the clocks of the servers differ by %s", name, -age)
			}
			if slices.ContainsFunc(m.rotations, l.overlaps) {
				during, shown[l.from] = append(during, age), true
			} else if l.within(m.before) {
				before = append(before, age)
			}
		}
		// Otherwise it is not the pipeline's work that was looked at.
		if len(shown) < len(m.rotations) || calm && len(before) == 0 {
			m.t.Errorf("%s showed %d times in %d rotations, and was looked at %d times before", name, len(shown), len(m.rotations), len(before))
		}
		text := []string{"while they ran " + ages(during)}
		if calm {
			text = append(text, fmt.Sprintf("in %s before, under the same load, %s", m.before.to.Sub(m.before.from).Round(time.Second), ages(before)))
		}
		m.t.Logf("ROTATIONS age of what sink %s shows: %s (%d values in all; longest pause of the probe: in writing %s, in looking %s)", name, strings.Join(text, "; "),
			s.values, m.pause.Round(time.Millisecond), s.pause.Round(time.Millisecond))
	}
}

// ages says how old: looks are taken at a steady pace, so that a quantile is one of time.
func ages(all []time.Duration) string {
	if len(all) == 0 {
		return "was not looked at"
	}
	slices.Sort(all)
	at := func(q float64) time.Duration {
		return all[min(len(all)-1, int(q*float64(len(all))))].Round(time.Millisecond)
	}
	return fmt.Sprintf("median %s, p99 %s, longest %s", at(0.5), at(0.99), at(1))
}
