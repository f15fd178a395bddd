package kafka

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
)

type plainRecord struct {
	key, value []byte
	headers    []header
}

func buildBatch(t interface{ Fatal(...any) }, recs []plainRecord, c Compression) []byte {
	b := newBatch(nil)
	for i, r := range recs {
		b, _ = appendRecord(b, nil, i, r.key, r.value, r.headers)
	}
	b, err := sealBatch(b, nil, len(recs), 1772366400250, c)
	if err != nil {
		t.Fatal(err)
	}
	return b[4:]
}

func TestBatchRoundTrip(t *testing.T) {
	data := rapid.Custom(func(t *rapid.T) []byte {
		if rapid.IntRange(0, 4).Draw(t, "nil") == 0 {
			return nil
		}
		return rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "data")
	})
	rapid.Check(t, func(t *rapid.T) {
		recs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) plainRecord {
			r := plainRecord{key: data.Draw(t, "key"), value: data.Draw(t, "value")}
			for range rapid.IntRange(0, 3).Draw(t, "headers") {
				r.headers = append(r.headers, header{rapid.String().Draw(t, "header"), data.Draw(t, "header value")})
			}
			return r
		}), 1, 30).Draw(t, "records")
		b := buildBatch(t, recs, rapid.SampledFrom([]Compression{CompressNone, CompressLZ4, CompressZstd}).Draw(t, "compression"))
		n, next, err := batchSpan(b)
		if err != nil || n != len(b) || next != int64(len(recs)) {
			t.Fatalf("span %d of %d, next %d, %v", n, len(b), next, err)
		}
		it, err := openBatch(b)
		if err != nil {
			t.Fatal(err)
		}
		for i, want := range recs {
			r, err := it.next()
			if err != nil || r.offset != int64(i) || !equal(r.key, want.key) || !equal(r.value, want.value) {
				t.Fatalf("record %d is %+v, %v, want %+v", i, r, err, want)
			}
			at := 0
			err = r.eachHeader(func(k, v []byte) bool {
				ok := string(k) == want.headers[at].key && equal(v, want.headers[at].value)
				at++
				return ok
			})
			if err != nil || at != len(want.headers) {
				t.Fatalf("record %d: %d headers, %v", i, at, err)
			}
		}
		if _, err := it.next(); err != io.EOF {
			t.Fatalf("after the last record: %v", err)
		}
		if at := rapid.IntRange(offAttributes, len(b)-1).Draw(t, "damage"); true {
			b[at] ^= 1
			if _, err := openBatch(b); err == nil {
				t.Fatalf("byte %d damaged, nobody noticed", at)
			}
		}
	})
}

func fixChecksum(b []byte) {
	binary.BigEndian.PutUint32(b[offCRC:], crc32.Checksum(b[offAttributes:], castagnoli))
}

func equal(a, b []byte) bool { return (a == nil) == (b == nil) && bytes.Equal(a, b) }

// Whatever a broker sends, decoding ends with records or an error.
func FuzzBatch(f *testing.F) {
	recs := []plainRecord{{[]byte("k"), []byte("v"), []header{{"h", []byte("x")}}}, {nil, nil, nil}}
	for _, c := range []Compression{CompressNone, CompressLZ4, CompressZstd} {
		f.Add(buildBatch(f, recs, c))
	}
	f.Fuzz(func(t *testing.T, set []byte) {
		for len(set) > 0 {
			n, _, err := batchSpan(set)
			if err != nil || n == 0 {
				return
			}
			for _, checked := range []bool{true, false} {
				b := bytes.Clone(set[:n])
				if !checked { // as if the checksum were right
					fixChecksum(b)
				}
				it, err := openBatch(b)
				for err == nil {
					var r rawRecord
					if r, err = it.next(); err == nil {
						_ = r.eachHeader(func(_, _ []byte) bool { return true })
					}
				}
			}
			set = set[n:]
		}
	})
}

func FuzzResponses(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x0e\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		if len(b) < 4 || binary.BigEndian.Uint32(b) > 1<<20 {
			return // memory for a large response is taken before it has come
		}
		_, _ = readFetchResponse(bytes.NewReader(b))
		_, _ = readProduceResponse(bytes.NewReader(b))
		_, _ = readOffsetsResponse(bytes.NewReader(b))
	})
}

func TestTopicNames(t *testing.T) {
	seen := map[string]change.TableID{}
	rapid.Check(t, func(t *rapid.T) {
		id := change.TableID{Schema: rapid.StringN(1, 10, 40).Draw(t, "schema"), Name: rapid.StringN(1, 10, 40).Draw(t, "name")}
		name, err := TopicName("pre.", "my-pipe", id)
		if err != nil {
			t.Skip("too long")
		}
		if len(name) > maxTopic || strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-") != "" {
			t.Fatalf("%q is no legal topic", name)
		}
		if other, ok := seen[name]; ok && other != id {
			t.Fatalf("%v and %v share %q", id, other, name)
		}
		seen[name] = id
		if back, ok := ParseTopicName("pre.", "my-pipe", name); !ok || back != id {
			t.Fatalf("%v became %v, %v", id, back, ok)
		}
	})
	for topic, want := range map[string]string{
		"pre.my-pipe.shop.order_Items": "shop.order_Items", "pre.my-pipe.a-2Eb.c-20d": `"a.b"."c d"`,
		"pre.my-pipe._schemas": "", "pre.my-pipe.a": "", "pre.my-pipe.a.b.c": "", "pre.my-pipe.a.b-2e": "", "pre.my-pipe.a.b-61": "", "pre.my-pipe.a.": "", "pre.other.a.b": "", "pre.my-pipe.a.b-2": "",
	} {
		id, ok := ParseTopicName("pre.", "my-pipe", topic)
		if ok != (want != "") || ok && id.String() != want {
			t.Errorf("%s is %v, %v; want %q", topic, id, ok, want)
		}
	}
	_, err := TopicName("", "p", change.TableID{Schema: strings.Repeat("ü", 63), Name: strings.Repeat("ü", 63)})
	want(t, err, CodeTopicName, false)
}

func FuzzParseTopicName(f *testing.F) {
	f.Add("p.a.b")
	f.Add("p.a-2Eb.c-20")
	f.Fuzz(func(t *testing.T, topic string) {
		if id, ok := ParseTopicName("", "p", topic); ok && len(topic) <= maxTopic {
			if back, err := TopicName("", "p", id); err != nil || back != topic {
				t.Fatalf("%q is %v, which is %q, %v", topic, id, back, err)
			}
		}
	})
}

func TestOptionsAreChecked(t *testing.T) {
	for want, o := range map[string]Options{
		"no brokers":     {Pipeline: "p"},
		"want host:port": {Brokers: []string{"kafka"}, Pipeline: "p"},
		"pipeline":       {Brokers: []string{"a:1"}, Pipeline: "a.b"},
		"prefix":         {Brokers: []string{"a:1"}, Pipeline: "p", Prefix: "a/"},
		"SASL":           {Brokers: []string{"a:1"}, Pipeline: "p", SASL: SASL{Mechanism: "gssapi"}},
	} {
		if _, err := OpenAdmin(o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
	s := SASL{Mechanism: "plain", User: "u", Password: "hush"}
	if text := fmt.Sprintf("%v %+v %#v %s", s, s, struct{ S SASL }{s}, s); strings.Contains(text, "hush") {
		t.Errorf("a password in %s", text)
	}
}
