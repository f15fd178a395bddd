package codecserver

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.temporal.io/sdk/converter"
	"go.uber.org/zap"

	"syncline/activities/codec"
)

const (
	encode = "encode"
	decode = "decode"
	// maxBody is room for a page of a history.
	maxBody = 32 << 20
)

// Options of a Server.
type Options struct {
	Address   string
	Namespace string // the one whose payloads it reads
	Codec     *codec.Codec

	CertFile, KeyFile string   // without them it speaks plain HTTP
	Origins           []string // of the Web UI, such as https://temporal.example

	Tokens                 func(context.Context) (string, error) // nil: none
	JWKS, Issuer, Audience string                                // "": no JWTs
	WithoutAuth            bool

	Registry prometheus.Registerer // may be nil
	Log      *zap.Logger
}

func (o Options) warn(text string) func(error) {
	return func(err error) { o.Log.Warn(text, zap.Error(err)) }
}

// Server is a running codec server.
type Server struct {
	o        Options
	tokens   *codec.Held[[]token]
	login    *login
	handler  http.Handler
	requests *prometheus.CounterVec

	srv  *http.Server
	addr net.Addr
	end  chan error
}

// Start listens and serves until Close.
func Start(ctx context.Context, o Options) (*Server, error) {
	s := &Server{o: o, end: make(chan error, 1), handler: converter.NewPayloadCodecHTTPHandler(o.Codec)}
	host, _, err := net.SplitHostPort(o.Address)
	if err != nil {
		return nil, fmt.Errorf("SYNCLINE_CODEC_ADDR: %w", err)
	}
	authed := o.Tokens != nil || o.JWKS != ""
	switch {
	case !authed && !o.WithoutAuth:
		return nil, errors.New("nothing says who may decrypt (fix: set SYNCLINE_CODEC_TOKENS, or SYNCLINE_CODEC_JWKS with its issuer and audience)")
	case authed && o.WithoutAuth:
		return nil, errors.New("SYNCLINE_CODEC_WITHOUT_AUTH is set beside tokens or a JWKS (fix: keep one)")
	case o.WithoutAuth && !loopback(host):
		return nil, fmt.Errorf("SYNCLINE_CODEC_WITHOUT_AUTH is for 127.0.0.1 alone, and the server is to listen on %s (fix: set SYNCLINE_CODEC_TOKENS or SYNCLINE_CODEC_JWKS)", o.Address)
	}
	if o.Tokens != nil {
		if s.tokens, err = codec.Hold(ctx, func(ctx context.Context) ([]token, error) {
			text, err := o.Tokens(ctx)
			if err != nil {
				return nil, err
			}
			return parseTokens(text)
		}, o.warn("the tokens cannot be read again; those that were read last count")); err != nil {
			return nil, fmt.Errorf("SYNCLINE_CODEC_TOKENS: %w", err)
		}
	}
	if o.JWKS != "" {
		if s.login, err = newLogin(ctx, o); err != nil {
			return nil, err
		}
	}
	s.requests = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "syncline_codec_requests_total", Help: "Requests to the codec server by what became of them."}, []string{"operation", "outcome"})
	for _, op := range []string{encode, decode} {
		for _, outcome := range []string{"allowed", "refused"} {
			s.requests.WithLabelValues(op, outcome)
		}
	}
	if o.Registry != nil {
		if err := o.Registry.Register(s.requests); err != nil {
			return nil, err
		}
	}
	s.srv = &http.Server{
		Handler: s.routes(), ErrorLog: zap.NewStdLog(o.Log.Named("http")),
		ReadHeaderTimeout: 5 * time.Second, ReadTimeout: time.Minute, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute,
	}
	if o.CertFile != "" {
		cert, err := codec.Hold(ctx, func(context.Context) (*tls.Certificate, error) {
			c, err := tls.LoadX509KeyPair(o.CertFile, o.KeyFile)
			return &c, err
		}, o.warn("the certificate cannot be read again; the one that was read last is used"))
		if err != nil {
			return nil, fmt.Errorf("SYNCLINE_CODEC_TLS_CERT, SYNCLINE_CODEC_TLS_KEY: %w", err)
		}
		s.srv.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert.Get(), nil }}
	} else if !loopback(host) {
		o.Log.Warn("plain HTTP: tokens and payloads are for everybody on the way to see, unless something before this server speaks TLS (SYNCLINE_CODEC_TLS_CERT)")
	}
	l, err := net.Listen("tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("SYNCLINE_CODEC_ADDR: %w", err)
	}
	s.addr = l.Addr()
	go func() {
		if o.CertFile != "" {
			s.end <- s.srv.ServeTLS(l, "", "")
			return
		}
		s.end <- s.srv.Serve(l)
	}()
	return s, nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// URL is where the server is.
func (s *Server) URL() string {
	if s.o.CertFile != "" {
		return "https://" + s.addr.String()
	}
	return "http://" + s.addr.String()
}

// Close ends the server, letting requests under way finish within the context.
func (s *Server) Close(ctx context.Context) error {
	err := s.srv.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.srv.Close())
	}
	if served := <-s.end; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// routes finds the operation at the end of the path: what is before it is free, for
// whatever stands before this server. http.ServeMux would redirect the doubled slashes
// that the command-line tool sends.
func (s *Server) routes() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		op := path.Base(r.URL.Path)
		switch {
		case r.URL.Path == "/healthz" && r.Method == http.MethodGet:
			_, _ = w.Write([]byte("ok\n"))
		case op != encode && op != decode:
			http.NotFound(w, r)
		case r.Method == http.MethodOptions:
			s.preflight(w, r)
		case r.Method == http.MethodPost:
			s.serve(w, r, op)
		default:
			w.Header().Set("Allow", "POST, OPTIONS")
			http.Error(w, "only POST", http.StatusMethodNotAllowed)
		}
	})
}

// foreign reports whether a page that is not listed sends the request, and lets one
// that is listed read the answer.
func (s *Server) foreign(w http.ResponseWriter, r *http.Request) bool {
	w.Header().Add("Vary", "Origin")
	origin := r.Header.Get("Origin")
	if origin == "" {
		return false // no browser
	}
	if !slices.Contains(s.o.Origins, origin) {
		return true
	}
	w.Header().Set("Access-Control-Allow-Origin", origin)
	return false
}

// preflight answers a browser that asks what the Web UI may send.
func (s *Server) preflight(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Origin") == "" || s.foreign(w, r) {
		http.Error(w, "origin is not allowed", http.StatusForbidden)
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", "POST")
	h.Set("Access-Control-Allow-Headers", "Authorization, Authorization-Extras, Content-Type, X-Namespace")
	h.Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request, operation string) {
	w.Header().Set("Cache-Control", "no-store")
	namespace := r.Header.Get("X-Namespace")
	var who caller
	status, reason := 0, ""
	if s.foreign(w, r) {
		status, reason = http.StatusForbidden, "origin is not allowed"
	} else if c, err := s.identify(r); err != nil {
		w.Header().Set("WWW-Authenticate", "Bearer")
		status, reason = http.StatusUnauthorized, err.Error()
	} else {
		who = c
		switch {
		case namespace != "" && namespace != s.o.Namespace: // the command-line tool names none unless it is given one
			status, reason = http.StatusForbidden, "this server is for another namespace"
		case !who.role.may(operation):
			status, reason = http.StatusForbidden, "the role does not allow it"
		case r.ContentLength > maxBody:
			status, reason = http.StatusRequestEntityTooLarge, fmt.Sprintf("more than %d bytes", maxBody)
		}
	}
	outcome := "allowed"
	if status != 0 {
		outcome = "refused"
	}
	s.requests.WithLabelValues(operation, outcome).Inc()
	s.o.Log.Info("codec request", zap.String("operation", operation), zap.String("outcome", outcome), zap.String("reason", reason),
		zap.String("who", who.name), zap.String("by", who.by), zap.String("role", string(who.role)),
		zap.String("namespace", cut(namespace)), zap.String("remote", r.RemoteAddr))
	if status != 0 {
		http.Error(w, reason, status)
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, maxBody)
	s.handler.ServeHTTP(w, r)
}

// cut bounds what a stranger may write into the log.
func cut(s string) string { return s[:min(len(s), 128)] }

// identify finds out who asks.
func (s *Server) identify(r *http.Request) (caller, error) {
	if s.o.WithoutAuth {
		return caller{"", "none", Writer}, nil
	}
	scheme, text, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	text = strings.TrimSpace(text)
	if !strings.EqualFold(scheme, "bearer") || text == "" {
		return caller{}, errors.New("no bearer token")
	}
	if s.tokens != nil {
		if c, ok := known(s.tokens.Get(), text); ok {
			return c, nil
		}
	}
	if s.login != nil && strings.Count(text, ".") == 2 {
		return s.login.identify(r.Context(), text, s.o.Namespace)
	}
	return caller{}, errors.New("the token is not known")
}
