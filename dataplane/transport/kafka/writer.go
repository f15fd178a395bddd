package kafka

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"time"

	"syncline/dataplane/capture"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/transport/debezium"
)

// WriterOptions shape how changes are written.
type WriterOptions struct {
	// Partitions returns the declared number of a table's topic, 0 if it has none.
	// Without it the number that the topic has is taken, unchecked.
	Partitions      func(change.TableID) int
	Compression     Compression   // CompressNone if zero; the usual choice is CompressZstd
	MaxMessageBytes int           // largest batch, as the topics' max.message.bytes; default 1 MiB
	MaxChangeBytes  int           // hard limit of one encoded change; default 256 MiB
	BatchBytes      int           // a batch is sent when it is this large; default 512 KiB
	RequestBytes    int           // of batches in one request, before compression; default 1 MiB
	Linger          time.Duration // how long a batch waits for company; default 5ms
	WindowBytes     int           // handed over and not acknowledged; default 32 MiB
	InFlight        int           // requests at a time; default 4
	IndexEvery      time.Duration // least time between two records of the index; default 1 minute
}

func (o *WriterOptions) validate() error {
	setDefault(&o.MaxMessageBytes, 1<<20)
	setDefault(&o.MaxChangeBytes, 256<<20)
	setDefault(&o.BatchBytes, 512<<10)
	setDefault(&o.RequestBytes, 1<<20)
	setDefault(&o.Linger, 5*time.Millisecond)
	setDefault(&o.WindowBytes, 32<<20)
	setDefault(&o.InFlight, 4)
	setDefault(&o.IndexEvery, time.Minute)
	o.BatchBytes = min(o.BatchBytes, o.MaxMessageBytes-1024)
	switch {
	case o.MaxMessageBytes < 16<<10:
		return errors.New("kafka: max_message_bytes is below 16 KiB")
	case o.WindowBytes < 0 || o.InFlight < 1 || o.BatchBytes < 1 || o.Linger < 0:
		return errors.New("kafka: writer options below zero")
	}
	return nil
}

// Writer is capture's log.
type Writer struct {
	c    *cluster
	opts WriterOptions
	b    *batcher

	session string // tells the parts of this writer's changes from another's
	cancel  context.CancelFunc
	done    chan struct{}

	// guarded by b.mu
	tables  map[change.TableID]*tableTopic
	last    *tableTopic
	read    change.Position // highest appended
	value   []byte          // scratch
	text    []byte          // scratch of header values
	headers []header
	schemas map[change.Version]*change.Schema // those put, if dbz is set
	dbz     *debezium.Encoder                 // nil: our own form only

	mu     sync.Mutex // of the two below
	listed time.Time
	known  map[change.Version]bool

	index indexer // only PutProgress uses it
}

type tableTopic struct {
	id       change.TableID
	lanes    []*lane
	debezium []*lane // nil until the first change
	encoded  int64   // bytes of the values of its records
}

var _ capture.AckedLog = (*Writer)(nil)

// OpenWriter connects and learns where the pipeline's topics end.
func OpenWriter(ctx context.Context, o Options, wo WriterOptions) (*Writer, error) {
	if err := wo.validate(); err != nil {
		return nil, err
	}
	c, err := connect(o)
	if err != nil {
		return nil, err
	}
	session := make([]byte, 8)
	_, _ = rand.Read(session) // never fails
	w := &Writer{c: c, opts: wo, session: hex.EncodeToString(session), done: make(chan struct{}),
		tables: map[change.TableID]*tableTopic{}, known: map[change.Version]bool{}, schemas: map[change.Version]*change.Schema{}}
	if d := c.opts.Debezium; d != nil {
		if w.dbz, err = debezium.New(*d); err != nil {
			c.close()
			return nil, err
		}
	}
	w.b = newBatcher(c, &w.opts)
	for _, topic := range []string{SchemasTopic(o.Prefix, o.Pipeline), ProgressTopic(o.Prefix, o.Pipeline)} {
		if _, err := c.topic(ctx, topic); err != nil {
			c.close()
			return nil, err
		}
	}
	if err := w.list(ctx); err != nil {
		c.close()
		return nil, err
	}
	run, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	go func() {
		defer close(w.done)
		w.b.run(run)
		w.b.wg.Wait()
	}()
	return w, nil
}

// list adds the topics of tables that the writer does not know yet.
func (w *Writer) list(ctx context.Context) error {
	all, err := w.c.topics(ctx)
	if err != nil {
		return classify(ctx, err, "list of topics")
	}
	_, w.index.exists = all[IndexTopic(w.c.opts.Prefix, w.c.opts.Pipeline)]
	var ps []partition
	found := map[change.TableID]topicInfo{}
	w.b.mu.Lock()
	for topic, info := range all {
		id, ok := ParseTopicName(w.c.opts.Prefix, w.c.opts.Pipeline, topic)
		if !ok || w.tables[id] != nil {
			continue
		}
		found[id] = info
		for n := range info.leaders {
			ps = append(ps, partition{topic, int32(n)})
		}
	}
	w.b.mu.Unlock()
	ends, err := w.c.ends(ctx, ps)
	if err != nil {
		return err
	}
	for id, info := range found {
		if err := w.know(id, info, ends); err != nil {
			return err
		}
	}
	return nil
}

func (w *Writer) know(id change.TableID, info topicInfo, ends map[partition][2]int64) error {
	topic, err := TopicName(w.c.opts.Prefix, w.c.opts.Pipeline, id)
	if err != nil {
		return err
	}
	if w.opts.Partitions != nil {
		if want := w.opts.Partitions(id); want != 0 && want != len(info.leaders) {
			return partitionsMismatch(topic, want, len(info.leaders))
		}
	}
	t := &tableTopic{id: change.TableID{Schema: strings.Clone(id.Schema), Name: strings.Clone(id.Name)}}
	for n := range info.leaders {
		p := partition{topic, int32(n)}
		t.lanes = append(t.lanes, &lane{partition: p, next: ends[p][1]})
	}
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	if w.tables[t.id] == nil {
		w.tables[t.id] = t
	}
	return nil
}

func partitionsMismatch(topic string, want, have int) error {
	return fault.Permanent(CodePartitions, nil,
		"declare the number that the topic has; to have another one, delete the topic and resync the table",
		"topic %s has %d partitions, declared are %d", topic, have, want)
}

// table returns the lanes of a table; b.mu is held, and let go while it asks the cluster.
func (w *Writer) table(ctx context.Context, id change.TableID) (*tableTopic, error) {
	if w.last != nil && w.last.id == id {
		return w.last, nil
	}
	if t := w.tables[id]; t != nil {
		w.last = t
		return t, nil
	}
	w.b.mu.Unlock()
	err := func() error {
		topic, err := TopicName(w.c.opts.Prefix, w.c.opts.Pipeline, id)
		if err != nil {
			return err
		}
		info, err := w.c.topic(ctx, topic)
		if err != nil {
			return err
		}
		var ps []partition
		for n := range info.leaders {
			ps = append(ps, partition{topic, int32(n)})
		}
		ends, err := w.c.ends(ctx, ps)
		if err != nil {
			return err
		}
		return w.know(id, info, ends)
	}()
	w.b.mu.Lock()
	if err != nil {
		return nil, err
	}
	return w.tables[id], nil
}

// Append implements capture.Log.
func (w *Writer) Append(ctx context.Context, c *change.Change) (uint64, error) {
	b := w.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.room(ctx); err != nil {
		return 0, err
	}
	t, err := w.table(ctx, c.Table)
	if err != nil {
		return 0, err
	}
	w.value = change.Encode(w.value[:0], c)
	if len(w.value) > w.opts.MaxChangeBytes {
		return 0, fault.Permanent(CodeChangeTooLarge, nil,
			"exclude the column that is this large, or raise the limit and the workers' memory",
			"table %s: change at %s has %d bytes, the limit is %d", c.Table, c.Pos, len(w.value), w.opts.MaxChangeBytes)
	}
	extra, err := w.debezium(ctx, t, c)
	if err != nil {
		return 0, err
	}
	b.seq++
	if w.read.Before(c.Pos) {
		w.read = c.Pos
	}
	w.setHeaders(c)
	var key []byte
	if c.Key != "" {
		key = []byte(c.Key)
	}
	n := c.Partition(len(t.lanes))
	for i, l := range t.lanes {
		if n == i || n == change.AllPartitions {
			w.write(l, key)
			t.encoded += int64(len(w.value))
		}
	}
	for _, r := range extra { // a truncation's goes to the first partition, as a record without a key
		w.headers = w.headers[:0]
		for _, h := range r.Headers {
			w.headers = append(w.headers, header{h.Key, h.Value})
		}
		if c.Trace != "" {
			w.headers = append(w.headers, header{headerTrace, []byte(c.Trace)})
		}
		b.add(t.debezium[max(c.Partition(len(t.debezium)), 0)], b.seq, r.Key, r.Value, w.headers)
		t.encoded += int64(len(r.Value))
	}
	if cap(w.value) > 4<<20 {
		w.value = nil // one huge row must not stay
	}
	return b.seq, nil
}

// Encoded calls f for the tables of which changes were appended, with the bytes of the
// values of all their records, in Debezium's form too.
func (w *Writer) Encoded(f func(change.TableID, int64)) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	for id, t := range w.tables {
		if t.encoded > 0 {
			f(id, t.encoded)
		}
	}
}

// Acked implements capture.Log.
func (w *Writer) Acked() (uint64, error) {
	w.b.mu.Lock()
	defer w.b.mu.Unlock()
	return w.b.acked, w.b.err
}

// WaitAcked implements capture.AckedLog.
func (w *Writer) WaitAcked(ctx context.Context, n uint64) error {
	for {
		w.b.mu.Lock()
		acked, err, moved := w.b.acked, w.b.err, w.b.space
		w.b.mu.Unlock()
		if acked >= n || err != nil {
			if acked >= n {
				err = nil
			}
			return err
		}
		select {
		case <-moved:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// PutSchema implements capture.Log.
func (w *Writer) PutSchema(ctx context.Context, s *change.Schema) error {
	v := s.Version()
	if w.dbz != nil {
		w.b.mu.Lock()
		w.schemas[v] = s
		w.b.mu.Unlock()
	}
	w.mu.Lock()
	known := w.known[v]
	w.mu.Unlock()
	if known {
		return nil
	}
	p := partition{SchemasTopic(w.c.opts.Prefix, w.c.opts.Pipeline), 0}
	if _, err := w.c.put(ctx, p, []byte(v.String()), change.EncodeSchema(s), nil); err != nil {
		return err
	}
	w.mu.Lock()
	w.known[v] = true
	w.mu.Unlock()
	return nil
}

// relist is how often PutProgress looks for topics of tables without changes.
const relist = 10 * time.Second

// PutProgress implements capture.Log.
func (w *Writer) PutProgress(ctx context.Context, p capture.Progress) error {
	w.mu.Lock()
	due := time.Since(w.listed) > relist
	if due {
		w.listed = time.Now()
	}
	w.mu.Unlock()
	if due {
		if err := w.list(ctx); err != nil {
			return err
		}
	}
	w.b.mu.Lock()
	if err := w.b.err; err != nil {
		w.b.mu.Unlock()
		return err
	}
	p.Offsets = make(map[string][]int64, len(w.tables))
	for id, t := range w.tables {
		next := make([]int64, len(t.lanes))
		for i, l := range t.lanes {
			next[i] = l.next
		}
		p.Offsets[id.String()] = next
	}
	read := w.read
	w.b.mu.Unlock()
	value, err := json.Marshal(p)
	if err != nil {
		return err
	}
	if _, err = w.c.put(ctx, partition{ProgressTopic(w.c.opts.Prefix, w.c.opts.Pipeline), 0}, nil, value, nil); err != nil {
		return err
	}
	return w.index.put(ctx, w.c, p, read, w.opts.IndexEvery)
}

// progressTail is how many records LastProgress looks at: a writer that was
// superseded may have written after its successor.
const progressTail = 256

// LastProgress implements capture.Log.
func (w *Writer) LastProgress(ctx context.Context) (best capture.Progress, found bool, err error) {
	p := partition{ProgressTopic(w.c.opts.Prefix, w.c.opts.Pipeline), 0}
	ends, err := w.c.ends(ctx, []partition{p})
	if err != nil {
		return best, false, err
	}
	first, end := ends[p][0], ends[p][1]
	err = w.c.scan(ctx, p, max(first, end-progressTail), end, func(r rawRecord) error {
		var q capture.Progress
		if err := json.Unmarshal(r.value, &q); err != nil {
			return damaged(p, r.offset, err)
		}
		if !found || newer(q, best) {
			best, found = q, true
		}
		return nil
	})
	return best, found, err
}

// newer compares by position: writers that were superseded write late.
func newer(a, b capture.Progress) bool {
	if a.Epoch != b.Epoch {
		return a.Epoch > b.Epoch
	}
	return a.Through > b.Through
}

func damaged(p partition, offset int64, err error) error {
	return fault.Permanent(CodeLogDamaged, err, "see who else writes to the topic; then resync the table", "%s offset %d", p, offset)
}

// Close stops writing. What is not acknowledged may or may not be in the log.
func (w *Writer) Close() error {
	w.b.stop(errors.New("kafka: the writer is closed"))
	w.cancel()
	<-w.done
	w.c.close()
	return nil
}
