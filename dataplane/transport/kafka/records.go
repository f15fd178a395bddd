package kafka

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/transport/debezium"
)

// debezium returns the records of c in Debezium's form; b.mu is held, and let go
// while it asks the cluster.
func (w *Writer) debezium(ctx context.Context, t *tableTopic, c *change.Change) ([]debezium.Record, error) {
	if w.dbz == nil {
		return nil, nil
	}
	s := w.schemas[c.Schema]
	if s == nil {
		return nil, fmt.Errorf("kafka: table %s: schema version %s was not put before its first change", c.Table, c.Schema)
	}
	if t.debezium == nil {
		topic := w.c.opts.debeziumTopic(t.id)
		w.b.mu.Unlock()
		info, err := w.c.topic(ctx, topic)
		w.b.mu.Lock()
		if err != nil {
			return nil, err
		}
		for n := range info.leaders {
			t.debezium = append(t.debezium, &lane{partition: partition{topic, int32(n)}})
		}
	}
	recs, err := w.dbz.Encode(s, c, time.Now())
	for i := range recs {
		if size := len(recs[i].Key) + len(recs[i].Value) + 512; size > w.opts.MaxMessageBytes {
			return nil, fault.Permanent(CodeChangeTooLarge, nil,
				"raise max_message_bytes, which bounds a record in Debezium's form, or turn that form off",
				"table %s: change at %s has about %d bytes in Debezium's form, the limit is %d", c.Table, c.Pos, size, w.opts.MaxMessageBytes)
		}
	}
	return recs, err
}

// write adds w.value to a lane, in parts if it is too large for one message.
func (w *Writer) write(l *lane, key []byte) {
	room := w.opts.MaxMessageBytes - 4 - batchHeader - len(key) - recordOverhead(w.headers)
	if len(w.value) <= room {
		w.b.add(l, w.b.seq, key, w.value, w.headers)
		return
	}
	room = max(room-128, 1024) // the two headers of a part
	n := (len(w.value) + room - 1) / room
	headers := append(w.headers,
		header{headerAttempt, []byte(w.session + "-" + strconv.FormatUint(w.b.seq, 36))},
		header{headerPart, nil})
	for i := range n {
		headers[len(headers)-1].value = fmt.Appendf(nil, "%d/%d", i, n)
		w.b.add(l, w.b.seq, key, w.value[i*room:min((i+1)*room, len(w.value))], headers)
	}
}

// The names of record headers.
const (
	headerPosition = "position"
	headerOp       = "op"
	headerSchema   = "schema"
	headerPipeline = "pipeline"
	headerOrigin   = "origin"
	headerTrace    = "traceparent"
	headerPart     = "part"
	headerAttempt  = "attempt"
)

func (w *Writer) setHeaders(c *change.Change) {
	text := w.text[:0]
	cut := func(from int) []byte { return text[from:len(text):len(text)] }
	text = c.Pos.Append(text)
	w.headers = append(w.headers[:0], header{headerPosition, cut(0)})
	at := len(text)
	text = append(text, byte(c.Op))
	w.headers = append(w.headers, header{headerOp, cut(at)})
	at = len(text)
	text = c.Schema.Append(text)
	w.headers = append(w.headers, header{headerSchema, cut(at)}, header{headerPipeline, []byte(w.c.opts.Pipeline)})
	if c.Origin != "" {
		w.headers = append(w.headers, header{headerOrigin, []byte(c.Origin)})
	}
	if c.Trace != "" {
		w.headers = append(w.headers, header{headerTrace, []byte(c.Trace)})
	}
	w.text = text
}
