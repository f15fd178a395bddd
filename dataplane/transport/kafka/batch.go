package kafka

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/klauspost/compress/zstd"
	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/compress"
)

// Record batches of format 2, the only one since Kafka 0.11.
const (
	batchHeader   = 61
	batchOverhead = 12 // base offset and length, which the length does not count
	offLength     = 8
	offMagic      = 16
	offCRC        = 17
	offAttributes = 21
	offLastDelta  = 23
	offFirstTime  = 27
	offMaxTime    = 35
	offProducer   = 43
	offCount      = 57

	attrCompression = 0x07
	attrControl     = 0x20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type header struct {
	key   string
	value []byte
}

// appendRecord appends a record to the records of a batch. body is scratch space.
func appendRecord(dst, body []byte, delta int, key, value []byte, headers []header) (records, scratch []byte) {
	body = append(body[:0], 0) // attributes
	body = append(body, 0)     // timestamp delta
	body = binary.AppendVarint(body, int64(delta))
	body = appendNullable(body, key)
	body = appendNullable(body, value)
	body = binary.AppendVarint(body, int64(len(headers)))
	for i := range headers {
		body = binary.AppendVarint(body, int64(len(headers[i].key)))
		body = append(body, headers[i].key...)
		body = appendNullable(body, headers[i].value)
	}
	dst = binary.AppendVarint(dst, int64(len(body)))
	return append(dst, body...), body
}

func appendNullable(b, v []byte) []byte {
	if v == nil {
		return append(b, 1) // -1: null
	}
	return append(binary.AppendVarint(b, int64(len(v))), v...)
}

// newBatch returns a buffer with room for the length that a produce request
// puts before the batch, and for the batch's header.
func newBatch(buf []byte) []byte {
	return append(buf[:0], make([]byte, 4+batchHeader)...)
}

// sealBatch completes what newBatch began and appendRecord filled: count records,
// all of the same time. It returns b, or out's storage if it compressed.
func sealBatch(b, out []byte, count int, millis int64, c Compression) ([]byte, error) {
	attributes := int16(0)
	if c != CompressNone {
		packed, err := compressTo(newBatch(out), b[4+batchHeader:], c)
		if err != nil {
			return nil, err
		}
		if len(packed) < len(b) {
			b, attributes = packed, int16(c)
		}
	}
	h := b[4:]
	binary.BigEndian.PutUint32(b, uint32(len(h)))
	binary.BigEndian.PutUint32(h[offLength:], uint32(len(h)-batchOverhead))
	binary.BigEndian.PutUint32(h[12:], 0xffffffff) // leader epoch: the broker's to set
	h[offMagic] = 2
	binary.BigEndian.PutUint16(h[offAttributes:], uint16(attributes))
	binary.BigEndian.PutUint32(h[offLastDelta:], uint32(count-1))
	binary.BigEndian.PutUint64(h[offFirstTime:], uint64(millis))
	binary.BigEndian.PutUint64(h[offMaxTime:], uint64(millis))
	for i := offProducer; i < offCount; i++ {
		h[i] = 0xff // no producer id, epoch or sequence
	}
	binary.BigEndian.PutUint32(h[offCount:], uint32(count))
	binary.BigEndian.PutUint32(h[offCRC:], crc32.Checksum(h[offAttributes:], castagnoli))
	return b, nil
}

// Compression of record batches.
type Compression int8

// The compressions that a Writer can use. A reader takes all that Kafka knows.
const (
	CompressNone = Compression(0)
	CompressLZ4  = Compression(compress.Lz4)
	CompressZstd = Compression(compress.Zstd)
)

// ParseCompression reads none, lz4 or zstd; "" is zstd.
func ParseCompression(s string) (Compression, error) {
	switch s {
	case "none":
		return CompressNone, nil
	case "lz4":
		return CompressLZ4, nil
	case "zstd", "":
		return CompressZstd, nil
	}
	return 0, fmt.Errorf("compression %q: want zstd, lz4 or none", s)
}

var (
	zstdEncoders = sync.Pool{New: func() any {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(512<<10))
		if err != nil {
			panic(err) // the options are constants
		}
		return e
	}}
	zstdDecoders = sync.Pool{New: func() any {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBatch))
		if err != nil {
			panic(err)
		}
		return d
	}}
)

// maxBatch bounds what one batch may become when it is decompressed.
const maxBatch = 256 << 20

func compressTo(dst, src []byte, c Compression) ([]byte, error) {
	if c == CompressZstd {
		e := zstdEncoders.Get().(*zstd.Encoder)
		defer zstdEncoders.Put(e)
		return e.EncodeAll(src, dst), nil
	}
	codec := kgo.Compression(c).Codec()
	if codec == nil {
		return nil, fmt.Errorf("no codec for compression %d", c)
	}
	buf := sliceWriter{dst}
	w := codec.NewWriter(&buf)
	if _, err := w.Write(src); err != nil {
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.b, nil
}

func decompress(src []byte, c Compression) ([]byte, error) {
	if c == CompressZstd {
		d := zstdDecoders.Get().(*zstd.Decoder)
		defer zstdDecoders.Put(d)
		return d.DecodeAll(src, nil)
	}
	codec := kgo.Compression(c).Codec()
	if codec == nil {
		return nil, fmt.Errorf("unknown compression %d", c)
	}
	r := codec.NewReader(&sliceReader{src})
	defer r.Close()
	out, err := io.ReadAll(io.LimitReader(r, maxBatch+1))
	if err == nil && len(out) > maxBatch {
		err = fmt.Errorf("batch grows beyond %d bytes", maxBatch)
	}
	return out, err
}

type sliceWriter struct{ b []byte }

func (w *sliceWriter) Write(p []byte) (int, error) { w.b = append(w.b, p...); return len(p), nil }

type sliceReader struct{ b []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.b)
	r.b = r.b[n:]
	return n, nil
}

// batchSpan returns the length of the first batch of a record set and the offset
// after it; n is 0 if the set does not hold a whole one.
func batchSpan(set []byte) (n int, next int64, err error) {
	if len(set) < batchHeader {
		return 0, 0, nil
	}
	if set[offMagic] != 2 {
		return 0, 0, fmt.Errorf("record batch of format %d, want 2", set[offMagic])
	}
	length := int(int32(binary.BigEndian.Uint32(set[offLength:])))
	if length < batchHeader-batchOverhead {
		return 0, 0, fmt.Errorf("record batch of %d bytes", length)
	}
	if len(set) < batchOverhead+length {
		return 0, 0, nil
	}
	base := int64(binary.BigEndian.Uint64(set))
	delta := int32(binary.BigEndian.Uint32(set[offLastDelta:]))
	if base < 0 || delta < 0 {
		return 0, 0, fmt.Errorf("record batch at offset %d+%d", base, delta)
	}
	return batchOverhead + length, base + int64(delta) + 1, nil
}

// rawRecord aliases the batch that it was read from.
type rawRecord struct {
	offset  int64
	key     []byte
	value   []byte
	headers []byte // encoded, with their count
}

// recordIter walks the records of one batch.
type recordIter struct {
	b    []byte // what is left
	left int
	base int64
}

// openBatch checks a batch as batchSpan delimited it and decompresses it into
// memory of its own, so that its records may be kept.
func openBatch(b []byte) (recordIter, error) {
	if sum := crc32.Checksum(b[offAttributes:], castagnoli); sum != binary.BigEndian.Uint32(b[offCRC:]) {
		return recordIter{}, fmt.Errorf("checksum does not match")
	}
	attributes := binary.BigEndian.Uint16(b[offAttributes:])
	it := recordIter{b: b[batchHeader:], left: int(int32(binary.BigEndian.Uint32(b[offCount:]))), base: int64(binary.BigEndian.Uint64(b))}
	if attributes&attrControl != 0 || it.left == 0 { // transaction markers, compacted-away records
		return recordIter{}, nil
	}
	if c := Compression(attributes & attrCompression); c != CompressNone {
		var err error
		if it.b, err = decompress(it.b, c); err != nil {
			return recordIter{}, fmt.Errorf("decompress: %w", err)
		}
	}
	if it.left < 0 || it.left > len(it.b) {
		return recordIter{}, fmt.Errorf("%d records in %d bytes", it.left, len(it.b))
	}
	return it, nil
}

var errDamaged = fmt.Errorf("damaged record")

// next returns io.EOF after the last record.
func (it *recordIter) next() (rawRecord, error) {
	if it.left == 0 {
		if len(it.b) != 0 {
			it.b = nil
			return rawRecord{}, fmt.Errorf("bytes after the last record")
		}
		return rawRecord{}, io.EOF
	}
	n, w := binary.Varint(it.b)
	if w <= 0 || n < 0 || n > int64(len(it.b)-w) {
		return rawRecord{}, errDamaged
	}
	body := it.b[w : w+int(n)]
	it.b = it.b[w+int(n):]
	it.left--
	if len(body) < 1 {
		return rawRecord{}, errDamaged
	}
	body = body[1:] // attributes: none are defined
	var rec rawRecord
	var delta int64
	ok := true
	if _, ok = cutVarint(&body); ok { // timestamp delta
		delta, ok = cutVarint(&body)
	}
	if !ok || delta < 0 {
		return rawRecord{}, errDamaged
	}
	rec.offset = it.base + delta
	if rec.key, ok = cutNullable(&body); ok {
		rec.value, ok = cutNullable(&body)
	}
	if !ok {
		return rawRecord{}, errDamaged
	}
	rec.headers = body
	return rec, nil
}

// eachHeader calls f for the headers of a record until it returns false.
func (r *rawRecord) eachHeader(f func(key, value []byte) bool) error {
	b := r.headers
	n, ok := cutVarint(&b)
	if !ok || n < 0 {
		return errDamaged
	}
	for range n {
		key, ok := cutNullable(&b)
		if !ok || key == nil {
			return errDamaged
		}
		value, ok := cutNullable(&b)
		if !ok {
			return errDamaged
		}
		if !f(key, value) {
			return nil
		}
	}
	if len(b) != 0 {
		return errDamaged
	}
	return nil
}

func cutVarint(b *[]byte) (int64, bool) {
	v, w := binary.Varint(*b)
	if w <= 0 {
		return 0, false
	}
	*b = (*b)[w:]
	return v, true
}

func cutNullable(b *[]byte) ([]byte, bool) {
	n, ok := cutVarint(b)
	switch {
	case !ok || n < -1 || n > int64(len(*b)):
		return nil, false
	case n == -1:
		return nil, true
	}
	v := (*b)[:n:n]
	*b = (*b)[n:]
	return v, true
}
