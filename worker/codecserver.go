package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"go.uber.org/zap"

	"syncline/activities/codecserver"
	"syncline/activities/observe"
	"syncline/secrets"
	"syncline/worker/config"
)

// serveCodec is the command codec-server.
func serveCodec() int {
	c, err := config.Load(os.Environ())
	if err == nil && !c.Temporal.Encrypts() {
		err = errors.New("SYNCLINE_PAYLOAD_KEYS is not set, and the codec server has nothing to decrypt with")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		return 2
	}
	log := observe.NewLogger(os.Stderr, c.LogLevel, zap.String("server", "codec"), zap.String("build", c.BuildID))
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := runCodec(ctx, c, log); err != nil {
		log.Error("codec server ended", zap.Error(err))
		return 1
	}
	return 0
}

// runCodec serves until ctx ends. It does not connect to Temporal.
func runCodec(ctx context.Context, c config.Config, log *zap.Logger) (err error) {
	metrics, health := observe.NewMetrics(c.BuildID), observe.NewHealth()
	health.Register(metrics)
	resolver, err := secrets.New(c.Secrets())
	if err != nil {
		return err
	}
	defer resolver.Close()
	payloads, err := c.Temporal.Codec(ctx, resolver, keysAway(log, metrics))
	if err != nil {
		return err
	}
	o := codecserver.Options{
		Address: c.Codec.Addr, Namespace: c.Temporal.Namespace, Codec: payloads,
		CertFile: c.Codec.TLSCert, KeyFile: c.Codec.TLSKey, Origins: c.Codec.Origins,
		JWKS: c.Codec.JWKS, Issuer: c.Codec.Issuer, Audience: c.Codec.Audience, WithoutAuth: c.Codec.WithoutAuth,
		Registry: metrics.Registry, Log: log,
	}
	if !c.Codec.Tokens.IsZero() {
		o.Tokens = func(ctx context.Context) (string, error) {
			s, err := resolver.Refetch(ctx, c.Codec.Tokens)
			return s.Reveal(), err
		}
	}
	server, err := codecserver.Start(ctx, o)
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.ShutdownTimeout)
		defer cancel()
		err = errors.Join(err, server.Close(last))
	}()
	watched, err := observe.Serve(c.HTTPAddr, observe.Handler(metrics, health, c.Pprof), log)
	if err != nil {
		return err
	}
	defer func() {
		last, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
		defer cancel()
		err = errors.Join(err, watched.Close(last))
	}()
	health.Ready()
	log.Info("codec server runs", zap.String("at", server.URL()), zap.String("namespace", c.Temporal.Namespace), zap.String("metrics", "http://"+watched.Addr()+"/metrics"))
	<-ctx.Done()
	health.NotReady("stopping")
	return nil
}
