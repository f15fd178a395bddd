package clickhouse

import (
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/ClickHouse/ch-go/compress"
	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// requestBody undoes the request's Content-Encoding and ClickHouse's own frames.
func requestBody(r *http.Request) (io.Reader, error) {
	var body io.Reader = r.Body
	switch enc := strings.ToLower(r.Header.Get("Content-Encoding")); enc {
	case "", "identity":
	case "gzip":
		z, err := gzip.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("gzip body: %w", err)
		}
		body = z
	case "deflate":
		z, err := zlib.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("deflate body: %w", err)
		}
		body = z
	case "br":
		body = brotli.NewReader(body)
	case "zstd":
		z, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, fmt.Errorf("zstd body: %w", err)
		}
		body = z.IOReadCloser()
	case "lz4":
		body = lz4.NewReader(body)
	default:
		return nil, fmt.Errorf("Content-Encoding %q is not known; use gzip, deflate, br, zstd or lz4", enc)
	}
	if truthy(r.URL.Query().Get("decompress")) {
		body = &onceReader{r: compress.NewReader(body)}
	}
	return body, nil
}

// onceReader stops at the first error: the reader of compressed frames gives its
// last frame again after the end.
type onceReader struct {
	r   io.Reader
	err error
}

func (o *onceReader) Read(p []byte) (int, error) {
	if o.err != nil {
		return 0, o.err
	}
	n, err := o.r.Read(p)
	o.err = err
	if errors.Is(err, io.EOF) {
		o.err = io.EOF
	}
	return n, o.err
}

func truthy(s string) bool { return s == "1" || strings.EqualFold(s, "true") }

// output is the answer's body: nothing is sent before the first bytes are
// flushed, so that an early failure can still have its own status.
type output struct {
	w       http.ResponseWriter
	frames  *compress.Writer // ClickHouse's own compression
	encoder io.WriteCloser   // Content-Encoding
	buf     []byte
	limit   int
	started bool
}

// frameSize is how much goes into one compressed frame at most.
const frameSize = 1 << 20

func newOutput(w http.ResponseWriter, r *http.Request) *output {
	q := r.URL.Query()
	o := &output{w: w, limit: frameSize}
	if truthy(q.Get("wait_end_of_query")) {
		o.limit = 256 << 20
	}
	if truthy(q.Get("compress")) {
		method := compress.LZ4
		switch strings.ToUpper(q.Get("network_compression_method")) {
		case "ZSTD":
			method = compress.ZSTD
		case "NONE":
			method = compress.None
		}
		o.frames = compress.NewWriter(compress.LevelZero, method)
		return o
	}
	if truthy(q.Get("enable_http_compression")) {
		for name := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
			if o.encode(strings.TrimSpace(name)) {
				break
			}
		}
	}
	return o
}

func (o *output) encode(name string) bool {
	switch name {
	case "gzip":
		o.encoder, _ = gzip.NewWriterLevel(o.w, gzip.BestSpeed)
	case "deflate":
		o.encoder, _ = zlib.NewWriterLevel(o.w, flate.BestSpeed)
	case "br":
		o.encoder = brotli.NewWriterLevel(o.w, brotli.BestSpeed)
	case "zstd":
		o.encoder, _ = zstd.NewWriter(o.w, zstd.WithEncoderConcurrency(1))
	default:
		return false
	}
	o.w.Header().Set("Content-Encoding", name)
	return true
}

func (o *output) Write(p []byte) (int, error) {
	if len(o.buf)+len(p) > o.limit {
		if err := o.flush(); err != nil {
			return 0, err
		}
	}
	if len(p) > o.limit {
		return len(p), o.send(p)
	}
	o.buf = append(o.buf, p...)
	return len(p), nil
}

func (o *output) flush() error {
	err := o.send(o.buf)
	o.buf = o.buf[:0]
	return err
}

func (o *output) send(p []byte) error {
	o.started = true
	for len(p) > 0 {
		part := p[:min(len(p), frameSize)]
		p = p[len(part):]
		var err error
		switch {
		case o.frames != nil:
			if err = o.frames.Compress(part); err == nil {
				_, err = o.w.Write(o.frames.Data)
			}
		case o.encoder != nil:
			_, err = o.encoder.Write(part)
		default:
			_, err = o.w.Write(part)
		}
		if err != nil {
			return fmt.Errorf("send the answer: %w", err)
		}
	}
	return nil
}

// close sends what is left.
func (o *output) close() error {
	if !o.started && len(o.buf) == 0 {
		o.w.Header().Del("Content-Encoding")
		return nil
	}
	if err := o.flush(); err != nil {
		return err
	}
	if o.encoder != nil {
		return o.encoder.Close()
	}
	return nil
}
