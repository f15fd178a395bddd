package kafka

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	kgo "github.com/segmentio/kafka-go"
	"github.com/segmentio/kafka-go/protocol"
)

// The requests below go over kafka-go's connections but are written and read
// here: kafka-go's Produce and Fetch are for one partition and handle records
// one by one, its ListOffsets opens a connection per partition and bound.

const (
	produceVersion = 7  // since Kafka 2.1
	fetchVersion   = 11 // since Kafka 2.3
	offsetsVersion = 5  // since Kafka 2.2
	correlation    = 1  // a connection has one request at a time
	maxResponse    = 256 << 20
)

type enc struct{ b []byte }

func (e *enc) i8(v int8)   { e.b = append(e.b, byte(v)) }
func (e *enc) i16(v int16) { e.b = binary.BigEndian.AppendUint16(e.b, uint16(v)) }
func (e *enc) i32(v int32) { e.b = binary.BigEndian.AppendUint32(e.b, uint32(v)) }
func (e *enc) i64(v int64) { e.b = binary.BigEndian.AppendUint64(e.b, uint64(v)) }
func (e *enc) str(s string) {
	e.i16(int16(len(s)))
	e.b = append(e.b, s...)
}

func (e *enc) request(key protocol.ApiKey, version int16, client string) {
	e.i32(0)
	e.i16(int16(key))
	e.i16(version)
	e.i32(correlation)
	e.str(client)
}

func (e *enc) send(w io.Writer) error {
	binary.BigEndian.PutUint32(e.b, uint32(len(e.b)-4))
	_, err := w.Write(e.b)
	return err
}

// dec reads a response; after the first error it returns zeros.
type dec struct {
	r    io.Reader
	left int
	err  error
	buf  [8]byte
}

func (d *dec) full(b []byte) []byte {
	if d.err == nil && len(b) > d.left {
		d.err = errors.New("response ends early")
	}
	if d.err == nil {
		d.left -= len(b)
		if _, d.err = io.ReadFull(d.r, b); errors.Is(d.err, io.EOF) {
			d.err = io.ErrUnexpectedEOF
		}
	}
	if d.err != nil {
		clear(b)
	}
	return b
}

func (d *dec) i16() int16 { return int16(binary.BigEndian.Uint16(d.full(d.buf[:2]))) }
func (d *dec) i32() int32 { return int32(binary.BigEndian.Uint32(d.full(d.buf[:4]))) }
func (d *dec) i64() int64 { return int64(binary.BigEndian.Uint64(d.full(d.buf[:8]))) }

// bytes takes n bytes into memory of their own.
func (d *dec) bytes(n int) []byte {
	if d.err == nil && (n < 0 || n > d.left) {
		d.err = fmt.Errorf("field of %d bytes in a response with %d left", n, d.left)
	}
	if d.err != nil || n == 0 {
		return nil
	}
	return d.full(make([]byte, n))
}

// count reads the length of an array whose elements take at least size bytes.
func (d *dec) count(size int) int {
	n := int(d.i32())
	if d.err == nil && (n < -1 || n > d.left/size) {
		d.err = fmt.Errorf("array of %d elements in a response with %d bytes left", n, d.left)
	}
	if d.err != nil {
		return 0
	}
	return max(n, 0)
}

func (d *dec) response() {
	d.left = 4
	n := d.i32()
	if d.err == nil && (n < 4 || n > maxResponse) {
		d.err = fmt.Errorf("response of %d bytes", n)
	}
	d.left = int(n)
	if id := d.i32(); d.err == nil && id != correlation {
		d.err = fmt.Errorf("response to request %d, want %d", id, correlation)
	}
}

func (d *dec) end() error {
	if d.err == nil && d.left != 0 {
		d.err = fmt.Errorf("response has %d bytes too many", d.left)
	}
	return d.err
}

// toLeader routes a request to the leader that the caller found.
type toLeader struct{ leader int32 }

func (t toLeader) Broker(c protocol.Cluster) (protocol.Broker, error) {
	b, ok := c.Brokers[t.leader]
	if !ok {
		return protocol.Broker{}, kgo.BrokerNotAvailable
	}
	return b, nil
}

// produceRequest gives one broker a batch for each of several partitions.
type produceRequest struct {
	toLeader
	client  string
	timeout int32 // milliseconds that the broker waits for replicas
	batches []*outgoing
	body    enc
	tooOld  bool
}

type produceResponse struct{ answers map[partition]produceAnswer }

type produceAnswer struct {
	err  kgo.Error
	base int64
}

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*produceRequest) ApiKey() protocol.ApiKey { return protocol.Produce }

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*produceResponse) ApiKey() protocol.ApiKey { return protocol.Produce }

// Required makes kafka-go call RawExchange.
func (r *produceRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.tooOld = versions[protocol.Produce] < produceVersion
	return true
}

// encode is called before the request is handed over: a request that was given
// up may be written late, when its batches' memory has other uses.
func (r *produceRequest) encode() {
	byTopic := map[string][]*outgoing{}
	size := 64
	for _, b := range r.batches {
		byTopic[b.topic] = append(byTopic[b.topic], b)
		size += len(b.wire) + len(b.topic) + 16
	}
	e := enc{make([]byte, 0, size)}
	e.request(protocol.Produce, produceVersion, r.client)
	e.i16(-1) // no transaction
	e.i16(-1) // acks: all in-sync replicas
	e.i32(r.timeout)
	e.i32(int32(len(byTopic)))
	for name, batches := range byTopic {
		e.str(name)
		e.i32(int32(len(batches)))
		for _, b := range batches {
			e.i32(b.n)
			e.b = append(e.b, b.wire...)
		}
	}
	r.body, r.batches = e, nil
}

// RawExchange sends the request and reads its response.
func (r *produceRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.tooOld {
		return nil, tooOld(r.leader)
	}
	if err := r.body.send(rw); err != nil {
		return nil, err
	}
	return readProduceResponse(rw)
}

func readProduceResponse(r io.Reader) (*produceResponse, error) {
	d := dec{r: r}
	d.response()
	res := &produceResponse{map[partition]produceAnswer{}}
	for n := d.count(6); n > 0 && d.err == nil; n-- {
		name := string(d.bytes(int(d.i16())))
		for n := d.count(30); n > 0 && d.err == nil; n-- {
			p := partition{name, d.i32()}
			a := produceAnswer{err: kgo.Error(d.i16()), base: d.i64()}
			d.i64() // append time
			d.i64() // log start
			if d.err == nil {
				res.answers[p] = a
			}
		}
	}
	d.i32() // throttle
	return res, d.end()
}

func tooOld(broker int32) error {
	return fmt.Errorf("broker %d: %w: Kafka 2.3 or later is needed", broker, kgo.UnsupportedVersion)
}

// fetchRequest asks one broker for records of several partitions.
type fetchRequest struct {
	toLeader
	client   string
	maxWait  int32 // milliseconds
	maxBytes int32
	topics   []fetchTopic
	tooOld   bool
}

type fetchTopic struct {
	name       string
	partitions []fetchPartition
}

type fetchPartition struct {
	n        int32
	offset   int64
	maxBytes int32
}

// fetchResponse has the partitions of a fetch.
type fetchResponse struct {
	err        kgo.Error
	partitions []fetched
}

type fetched struct {
	partition
	err   kgo.Error
	end   int64 // offset after the last record that all in-sync replicas have
	start int64
	set   []byte
}

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*fetchRequest) ApiKey() protocol.ApiKey { return protocol.Fetch }

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*fetchResponse) ApiKey() protocol.ApiKey { return protocol.Fetch }

// Required makes kafka-go call RawExchange.
func (r *fetchRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.tooOld = versions[protocol.Fetch] < fetchVersion
	return true
}

// RawExchange sends the request and reads its response.
func (r *fetchRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.tooOld {
		return nil, tooOld(r.leader)
	}
	e := enc{make([]byte, 0, 256)}
	e.request(protocol.Fetch, fetchVersion, r.client)
	e.i32(-1) // replica: a consumer
	e.i32(r.maxWait)
	e.i32(1) // min bytes
	e.i32(r.maxBytes)
	e.i8(0)   // isolation: there are no transactions
	e.i32(0)  // session id
	e.i32(-1) // session epoch: none
	e.i32(int32(len(r.topics)))
	for _, t := range r.topics {
		e.str(t.name)
		e.i32(int32(len(t.partitions)))
		for _, p := range t.partitions {
			e.i32(p.n)
			e.i32(-1) // leader epoch
			e.i64(p.offset)
			e.i64(-1) // log start offset
			e.i32(p.maxBytes)
		}
	}
	e.i32(0)  // forgotten topics
	e.str("") // rack
	if err := e.send(rw); err != nil {
		return nil, err
	}
	return readFetchResponse(rw)
}

func readFetchResponse(r io.Reader) (*fetchResponse, error) {
	d := dec{r: r}
	d.response()
	d.i32() // throttle
	res := &fetchResponse{err: kgo.Error(d.i16())}
	d.i32() // session
	for n := d.count(6); n > 0 && d.err == nil; n-- {
		name := string(d.bytes(int(d.i16())))
		for n := d.count(38); n > 0 && d.err == nil; n-- {
			p := fetched{partition: partition{name, d.i32()}}
			p.err = kgo.Error(d.i16())
			p.end = d.i64()
			d.i64() // last stable offset
			p.start = d.i64()
			for n := d.count(16); n > 0 && d.err == nil; n-- { // aborted transactions
				d.i64()
				d.i64()
			}
			d.i32() // preferred replica
			p.set = d.bytes(max(int(d.i32()), 0))
			if d.err == nil {
				res.partitions = append(res.partitions, p)
			}
		}
	}
	return res, d.end()
}

// offsetsRequest asks one broker for one bound of several partitions.
type offsetsRequest struct {
	toLeader
	client string
	at     int64 // kgo.FirstOffset, kgo.LastOffset or milliseconds
	topics map[string][]int32
	tooOld bool
}

type offsetsResponse struct {
	offsets map[partition]int64
	errs    map[partition]kgo.Error
}

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*offsetsRequest) ApiKey() protocol.ApiKey { return protocol.ListOffsets }

//lint:ignore ST1003 the name is that of an interface of kafka-go
func (*offsetsResponse) ApiKey() protocol.ApiKey { return protocol.ListOffsets }

// Required makes kafka-go call RawExchange.
func (r *offsetsRequest) Required(versions map[protocol.ApiKey]int16) bool {
	r.tooOld = versions[protocol.ListOffsets] < offsetsVersion
	return true
}

// RawExchange sends the request and reads its response.
func (r *offsetsRequest) RawExchange(rw io.ReadWriter) (protocol.Message, error) {
	if r.tooOld {
		return nil, tooOld(r.leader)
	}
	var e enc
	e.request(protocol.ListOffsets, offsetsVersion, r.client)
	e.i32(-1) // replica: a consumer
	e.i8(0)   // isolation
	e.i32(int32(len(r.topics)))
	for name, ps := range r.topics {
		e.str(name)
		e.i32(int32(len(ps)))
		for _, p := range ps {
			e.i32(p)
			e.i32(-1) // leader epoch
			e.i64(r.at)
		}
	}
	if err := e.send(rw); err != nil {
		return nil, err
	}
	return readOffsetsResponse(rw)
}

func readOffsetsResponse(r io.Reader) (*offsetsResponse, error) {
	d := dec{r: r}
	d.response()
	d.i32() // throttle
	res := &offsetsResponse{map[partition]int64{}, map[partition]kgo.Error{}}
	for n := d.count(6); n > 0 && d.err == nil; n-- {
		name := string(d.bytes(int(d.i16())))
		for n := d.count(26); n > 0 && d.err == nil; n-- {
			p := partition{name, d.i32()}
			code := d.i16()
			d.i64() // timestamp
			offset := d.i64()
			d.i32() // leader epoch
			switch {
			case d.err != nil:
			case code != 0:
				res.errs[p] = kgo.Error(code)
			default:
				res.offsets[p] = offset
			}
		}
	}
	return res, d.end()
}
