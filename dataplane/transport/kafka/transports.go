package kafka

import (
	"context"
	"errors"
	"net"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol/metadata"

	"syncline/dataplane/login"
)

// transports are the connections to a cluster: those of the login in force, and of the one
// before as long as requests are under way on them.
type transports struct {
	pools *login.Pools[*kgo.Transport]
}

var _ kgo.RoundTripper = (*transports)(nil)

func newTransports(ctx context.Context, o *Options) *transports {
	t := &transports{}
	t.pools = login.NewPools(o.Login, login.PoolOptions[*kgo.Transport]{
		Open: func(l login.Login) (*kgo.Transport, error) {
			t, err := o.transport(l)
			if err != nil {
				return nil, err
			}
			t.Context = ctx
			return t, nil
		},
		Try: func(ctx context.Context, t *kgo.Transport) error {
			ctx, cancel := context.WithTimeout(ctx, o.RequestTimeout)
			defer cancel()
			_, err := t.RoundTrip(ctx, kgo.TCP(o.Brokers...), &metadata.Request{TopicNames: []string{}})
			return err
		},
		Shut: (*kgo.Transport).CloseIdleConnections,
	})
	return t
}

// RoundTrip sends a request. Brokers that refuse the login have read nothing of it: if
// another is in force by then, it is sent again.
func (t *transports) RoundTrip(ctx context.Context, addr net.Addr, req kgo.Request) (kgo.Response, error) {
	for again := true; ; again = false {
		via, l, done, err := t.pools.Take(ctx)
		if err != nil {
			return nil, err
		}
		res, err := via.RoundTrip(ctx, addr, req)
		done()
		if !errors.Is(err, kgo.SASLAuthenticationFailed) || !again || !t.pools.Refused(ctx, l) {
			return res, err
		}
	}
}

// CloseIdleConnections has the next request open new ones.
func (t *transports) CloseIdleConnections() {
	if via, _, done, err := t.pools.Take(context.Background()); err == nil {
		via.CloseIdleConnections()
		done()
	}
}

func (t *transports) close() { t.pools.Close() }
