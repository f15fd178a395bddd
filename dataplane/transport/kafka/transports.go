package kafka

import (
	"context"
	"errors"
	"net"

	kgo "github.com/segmentio/kafka-go"

	"syncline/dataplane/login"
)

// transports are the connections to a cluster: those of the login in force, and of the one
// before as long as requests are under way on them.
type transports struct {
	login login.Source
	pools *login.Pools[*kgo.Transport]
}

var _ kgo.RoundTripper = (*transports)(nil)

func newTransports(ctx context.Context, o *Options) *transports {
	return &transports{login: o.Login, pools: login.NewPools(o.Login, func(l login.Login) (*kgo.Transport, error) {
		t, err := o.transport(l)
		if err != nil {
			return nil, err
		}
		t.Context = ctx
		return t, nil
	}, (*kgo.Transport).CloseIdleConnections)}
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
		if t.login == nil || !errors.Is(err, kgo.SASLAuthenticationFailed) {
			return res, err
		}
		if now, rerr := t.login.Refused(ctx, l); rerr != nil || now.Generation == l.Generation || !again {
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
