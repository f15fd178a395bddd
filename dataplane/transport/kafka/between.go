package kafka

import (
	"context"

	"syncline/dataplane/change"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

var _ verify.Changes = (*Log)(nil)

// Between implements verify.Changes. An offset from which delivery goes on is never
// within a change, so neither bound cuts one. Unlike readers, any number of these may
// be in a partition.
func (l *Log) Between(ctx context.Context, sp sink.Partition, from, to int64, each func(*change.Change) error) error {
	p, start, end, err := l.partition(ctx, sp)
	switch {
	case err != nil:
		return err
	case from < start || to > end:
		return offsetGone(p, from, start, end)
	}
	r := &reader{fd: &feed{partition: p}}
	return l.c.scan(ctx, p, from, to, func(raw rawRecord) error {
		if raw.offset >= to {
			return nil
		}
		var c change.Change
		if _, ok, err := r.decode(&raw, &c); err != nil || !ok {
			return err
		}
		return each(&c)
	})
}
