package codec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"syncline/dataplane/fault"
)

// fataler is a test of testing or of rapid.
type fataler interface {
	Helper()
	Fatal(...any)
}

func ring(t fataler, ids ...string) Keyring {
	t.Helper()
	r := Keyring{}
	for _, id := range ids {
		var err error
		if r, err = r.Add(id, true); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// place is where a keyring is kept.
type place struct {
	mu    sync.Mutex
	text  string
	err   error
	reads atomic.Int64
	slow  time.Duration
}

func (p *place) put(r Keyring) { p.set(r.Reveal(), nil) }

func (p *place) set(text string, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.text, p.err = text, err
}

func (p *place) read(ctx context.Context) (string, error) {
	p.reads.Add(1)
	time.Sleep(p.slow)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.text, p.err
}

func codecOf(t fataler, r Keyring) (*Codec, *place) {
	t.Helper()
	p := &place{}
	p.put(r)
	keys, err := HoldKeys(context.Background(), p.read, nil)
	if err != nil {
		t.Fatal(err)
	}
	return New(keys), p
}

func one(t fataler, c *Codec, p *commonpb.Payload) *commonpb.Payload {
	t.Helper()
	out, err := c.Encode([]*commonpb.Payload{p})
	if err != nil {
		t.Fatal(err)
	}
	return out[0]
}

func payload(t *rapid.T) *commonpb.Payload {
	p := &commonpb.Payload{Data: rapid.SliceOf(rapid.Byte()).Draw(t, "data")}
	for k, v := range rapid.MapOf(rapid.StringN(0, 20, -1), rapid.SliceOf(rapid.Byte())).Draw(t, "metadata") {
		if p.Metadata == nil {
			p.Metadata = map[string][]byte{}
		}
		p.Metadata[k] = v
	}
	if rapid.Bool().Draw(t, "looks encrypted") {
		p.Metadata = map[string][]byte{converter.MetadataEncoding: []byte(Encoding), MetadataID: []byte("a")}
	}
	return p
}

// Whatever is encoded comes back as it was, from whichever key of the keyring; and a
// payload that is encoded shows nothing and is never the same twice.
func TestRoundTrip(t *testing.T) {
	old := ring(t, "a")
	new, err := old.Add("b", true)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := codecOf(t, old)
	after, _ := codecOf(t, new)
	rapid.Check(t, func(t *rapid.T) {
		in := rapid.SliceOfN(rapid.Custom(payload), 0, 5).Draw(t, "payloads")
		for _, c := range []*Codec{before, after} {
			sealed, err := c.Encode(in)
			if err != nil || len(sealed) != len(in) {
				t.Fatalf("%d payloads, %v", len(sealed), err)
			}
			again, _ := c.Encode(in)
			for i, p := range sealed {
				if len(p.Metadata) != 2 || len(in[i].Data) > 8 && bytes.Contains(p.Data, in[i].Data) || bytes.Equal(p.Data, again[i].Data) {
					t.Fatalf("payload %d shows: %v", i, p)
				}
			}
			out, err := after.Decode(sealed)
			if err != nil {
				t.Fatal(err)
			}
			for i := range in {
				if !proto.Equal(in[i], out[i]) {
					t.Fatalf("payload %d came back as %v, was %v", i, out[i], in[i])
				}
			}
		}
	})
}

// No change of a single bit, cut, or other name of a key goes unnoticed.
func TestDamageIsNoticed(t *testing.T) {
	c, _ := codecOf(t, ring(t, "a", "b"))
	rapid.Check(t, func(t *rapid.T) {
		p := one(t, c, rapid.Custom(payload).Draw(t, "payload"))
		switch rapid.IntRange(0, 3).Draw(t, "damage") {
		case 0:
			p.Data[rapid.IntRange(0, len(p.Data)-1).Draw(t, "byte")] ^= 1 << rapid.IntRange(0, 7).Draw(t, "bit")
		case 1:
			p.Data = p.Data[:rapid.IntRange(0, len(p.Data)-1).Draw(t, "left")]
		case 2:
			p.Data = append(p.Data, rapid.Byte().Draw(t, "more"))
		case 3: // another key of the keyring
			p.Metadata[MetadataID] = []byte("a")
		}
		if out, err := c.Decode([]*commonpb.Payload{p}); !fault.Is(err, CodeDamaged) || fault.Retryable(err) {
			t.Fatalf("read as %v, %v", out, err)
		}
	})
	for _, id := range []string{"", "no id", strings.Repeat("x", 65)} {
		p := &commonpb.Payload{Metadata: map[string][]byte{converter.MetadataEncoding: []byte(Encoding), MetadataID: []byte(id)}}
		if _, err := c.Decode([]*commonpb.Payload{p}); !fault.Is(err, CodeDamaged) || id != "" && strings.Contains(err.Error(), id) {
			t.Errorf("id %q: %v", id, err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	c, p := codecOf(f, ring(f, "a"))
	good := one(f, c, &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"x"`)})
	f.Add("a", good.Data)
	f.Add("a", []byte{version})
	f.Add("b", good.Data)
	f.Add("\x00", []byte{})
	f.Fuzz(func(t *testing.T, id string, data []byte) {
		in := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte(Encoding), MetadataID: []byte(id)}, Data: data}
		reads := p.reads.Load()
		out, err := c.Decode([]*commonpb.Payload{in})
		if err == nil && !bytes.Equal(data, good.Data) {
			t.Fatalf("made up, and read as %v", out)
		}
		if err != nil && fault.CodeOf(err) == "" {
			t.Fatalf("no name: %v", err)
		}
		if !idForm.MatchString(id) && p.reads.Load() != reads {
			t.Fatal("the keyring was read for an id that cannot be")
		}
	})
}

func FuzzKeyring(f *testing.F) {
	f.Add(ring(f, "a", "b").Reveal())
	f.Add(`{"current":"a","keys":{"a":"AAAA"}}`)
	f.Fuzz(func(t *testing.T, s string) {
		r, err := ParseKeyring(s)
		if err != nil {
			if !fault.Is(err, CodeKeyringInvalid) {
				t.Fatal(err)
			}
			return
		}
		again, err := ParseKeyring(r.Reveal())
		if err != nil || again.Reveal() != r.Reveal() || r.current != "" && len(r.keys[r.current]) != keySize {
			t.Fatalf("%v, %v", again, err)
		}
	})
}

func TestKeyrings(t *testing.T) {
	r := ring(t, "a", "b")
	if r.Current() != "b" {
		t.Errorf("current is %s", r.Current())
	}
	later, err := r.Add("c", false)
	if err != nil || later.Current() != "b" || len(later.IDs()) != 3 || len(r.IDs()) != 2 {
		t.Errorf("%v, %v, %v", later, r, err)
	}
	used, err := later.Use("c")
	if err != nil || used.Current() != "c" {
		t.Errorf("%v, %v", used, err)
	}
	only, err := Keyring{}.Add("r", false)
	if parsed, perr := ParseKeyring(only.Reveal()); err != nil || perr != nil || parsed.Current() != "" {
		t.Errorf("a keyring that only reads: %v, %v, %v", parsed, err, perr)
	}
	if s := used.Stop(); s.Current() != "" || len(s.IDs()) != 3 {
		t.Errorf("%v", s)
	}
	left, err := used.Retire("a")
	if err != nil || fmt.Sprint(left.IDs()) != "[b c]" {
		t.Errorf("%v, %v", left, err)
	}
	for name, f := range map[string]func() (Keyring, error){
		"an id again":         func() (Keyring, error) { return r.Add("a", true) },
		"a bad id":            func() (Keyring, error) { return r.Add("a b", true) },
		"use of none":         func() (Keyring, error) { return r.Use("x") },
		"retire none":         func() (Keyring, error) { return r.Retire("x") },
		"retire the one used": func() (Keyring, error) { return r.Retire("b") },
		"nothing":             func() (Keyring, error) { return ParseKeyring("") },
		"no keys":             func() (Keyring, error) { return ParseKeyring(`{"current":"a"}`) },
		"two texts":           func() (Keyring, error) { return ParseKeyring(r.Reveal() + r.Reveal()) },
		"an unknown field":    func() (Keyring, error) { return ParseKeyring(`{"sekrit":1}`) },
		"a short key":         func() (Keyring, error) { return ParseKeyring(`{"current":"a","keys":{"a":"c2Vrcml0"}}`) },
		"no base64":           func() (Keyring, error) { return ParseKeyring(`{"current":"a","keys":{"a":"sekrit!"}}`) },
		"one key by two names": func() (Keyring, error) {
			return ParseKeyring(strings.Replace(fmt.Sprintf(`{"current":"a","keys":{"a":%q,"b":%[1]q}}`, strings.Repeat("A", 43)+"="), "sekrit", "", 1))
		},
	} {
		if k, err := f(); err == nil || strings.Contains(err.Error(), "sekrit") || strings.Contains(err.Error(), "c2Vrcml0") {
			t.Errorf("%s: %v, %v", name, k, err)
		}
	}
	for _, s := range []string{fmt.Sprint(r), fmt.Sprintf("%+v %#v %s", r, r, &r)} {
		if strings.Contains(s, "map") || strings.Contains(s, "[") {
			t.Errorf("keys show: %s", s)
		}
	}
	if a, b := NewKeyID(time.Now()), NewKeyID(time.Now()); a == b || !idForm.MatchString(a) {
		t.Errorf("%s, %s", a, b)
	}
}

// What is not encrypted passes; what is, is a named fault where no keys are set.
func TestWithoutKeys(t *testing.T) {
	plain := &commonpb.Payload{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: []byte(`"x"`)}
	off := New(nil)
	stopped, _ := codecOf(t, ring(t, "a").Stop())
	if one(t, stopped, plain) != plain {
		t.Error("encrypts, and was told to stop")
	}
	on, _ := codecOf(t, ring(t, "a"))
	for _, c := range []*Codec{off, on} {
		if out, err := c.Decode([]*commonpb.Payload{plain}); err != nil || out[0] != plain {
			t.Errorf("%v, %v", out, err)
		}
	}
	if one(t, off, plain) != plain {
		t.Error("encrypted without a key")
	}
	_, err := off.Decode([]*commonpb.Payload{one(t, on, plain)})
	if !fault.Is(err, CodeKeysUnset) || !strings.Contains(err.Error(), "SYNCLINE_PAYLOAD_KEYS") {
		t.Error(err)
	}
}

// A new current key is taken up within a minute, one that another uses already at once,
// and while the keyring is away, or nonsense, the one of before is used.
func TestKeysAreReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := ring(t, "a")
		second, _ := first.Add("b", true)
		third, _ := second.Add("c", true)
		p := &place{}
		p.put(first)
		var told []error
		keys, err := HoldKeys(t.Context(), p.read, func(err error) { told = append(told, err) })
		if err != nil {
			t.Fatal(err)
		}
		c := New(keys)
		id := func() string {
			t.Helper()
			return string(one(t, c, &commonpb.Payload{Data: []byte("x")}).Metadata[MetadataID])
		}
		for range 100 {
			id()
		}
		if n := p.reads.Load(); n != 1 {
			t.Errorf("%d reads at first", n)
		}
		// Encryption was stopped, and begins again with another key.
		p.put(second.Stop())
		time.Sleep(renewEvery)
		id()
		synctest.Wait()
		if got := id(); got != "" {
			t.Errorf("encrypts with %s", got)
		}
		p.put(second)
		time.Sleep(renewEvery)
		id() // starts the read
		synctest.Wait()
		if got := id(); got != "b" {
			t.Errorf("encrypts with %s", got)
		}
		p.set("", errors.New("away"))
		time.Sleep(renewEvery)
		id()
		synctest.Wait()
		p.set("nonsense", nil)
		time.Sleep(renewEvery)
		id()
		synctest.Wait()
		if got := id(); got != "b" || len(told) != 2 || !fault.Is(told[1], CodeKeyringInvalid) {
			t.Errorf("encrypts with %s, told %v", got, told)
		}
		// Another worker is ahead; many payloads of its come at the same time.
		ahead, _ := codecOf(t, third)
		foreign := one(t, ahead, &commonpb.Payload{Data: []byte("x")})
		_, err = c.Decode([]*commonpb.Payload{foreign})
		if !fault.Is(err, CodeKeyUnknown) || !fault.Retryable(err) || !strings.Contains(err.Error(), "key c") || !strings.Contains(err.Error(), "cannot be read again") {
			t.Error(err)
		}
		time.Sleep(10 * time.Second)
		p.put(third)
		p.slow = time.Second
		before := p.reads.Load()
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() {
				if _, err := c.Decode([]*commonpb.Payload{foreign}); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if n := p.reads.Load() - before; n != 1 {
			t.Errorf("%d reads for one key", n)
		}
		// A key that nobody has does not make everybody ask all the time.
		p.slow = 0
		nobody, _ := codecOf(t, ring(t, "z"))
		lost := one(t, nobody, &commonpb.Payload{})
		before = p.reads.Load()
		for range 1000 {
			if _, err := c.Decode([]*commonpb.Payload{lost}); !fault.Is(err, CodeKeyUnknown) || !strings.Contains(err.Error(), "key z") {
				t.Fatal(err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if n := p.reads.Load() - before; n > 8 {
			t.Errorf("%d reads in 10 s", n)
		}
	})
	if _, err := HoldKeys(t.Context(), (&place{err: errors.New("away")}).read, nil); err == nil {
		t.Error("starts without keys")
	}
}

// The texts of failures go the way of payloads, and are clear text where these are.
func TestFailures(t *testing.T) {
	on, _ := codecOf(t, ring(t, "a"))
	stopped, _ := codecOf(t, ring(t, "a").Stop())
	var o client.Options
	for c, hidden := range map[*Codec]bool{on: true, stopped: false, New(nil): false} {
		c.Apply(&o)
		f := o.FailureConverter.ErrorToFailure(fmt.Errorf("outer: %w", errors.New("canary")))
		b, err := proto.Marshal(f)
		if err != nil || bytes.Contains(b, []byte("canary")) == hidden || hidden != (f.Message == "Encoded failure") {
			t.Errorf("%v, %v", f, err)
		}
		if back := o.FailureConverter.FailureToError(f); back == nil || !strings.Contains(back.Error(), "outer: canary") {
			t.Errorf("came back as %v", back)
		}
	}
}

// A workflow's task stops where its input cannot be read; elsewhere that is an error.
func TestWorkflowsAreHeldUp(t *testing.T) {
	c, _ := codecOf(t, ring(t, "a"))
	other, _ := codecOf(t, ring(t, "b"))
	var o, oo client.Options
	c.Apply(&o)
	other.Apply(&oo)
	foreign, err := oo.DataConverter.ToPayloads("x")
	if err != nil {
		t.Fatal(err)
	}
	var s string
	if err := o.DataConverter.FromPayloads(foreign, &s); !fault.Is(err, CodeKeyUnknown) {
		t.Error(err)
	}
	inside := inWorkflow{converter.NewCodecDataConverter(converter.GetDefaultDataConverter(), c)}
	func() {
		defer func() {
			if err, _ := recover().(error); !fault.Is(err, CodeKeyUnknown) {
				t.Errorf("goes on: %v", err)
			}
		}()
		_ = inside.FromPayloads(foreign, &s)
	}()
	own, _ := o.DataConverter.ToPayloads("x")
	var n int
	if err := inside.FromPayloads(own, &s); err != nil || s != "x" {
		t.Error(s, err)
	}
	if err := inside.FromPayloads(own, &n); err == nil {
		t.Error("a text is a number")
	}
}

func BenchmarkThereAndBack(b *testing.B) {
	c, _ := codecOf(b, ring(b, "a"))
	for _, size := range []int{200, 20_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			p := []*commonpb.Payload{{Metadata: map[string][]byte{"encoding": []byte("json/plain")}, Data: make([]byte, size)}}
			b.ReportAllocs()
			for b.Loop() {
				sealed, err := c.Encode(p)
				if err == nil {
					_, err = c.Decode(sealed)
				}
				if err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
