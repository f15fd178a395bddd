package e2e

import (
	"context"
	"fmt"
	"time"

	"syncline/dataplane/change"
	"syncline/dataplane/transport/kafka"
	"syncline/testsuite/shop"
)

// journalSQL adds a table without a key that gets a row with each transfer, in
// its transaction: a change that is applied twice leaves a row too many there.
const journalSQL = `
CREATE TABLE shop.journal (payer integer, payee integer, amount numeric(14,2), at timestamptz);
CREATE FUNCTION shop.note() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN INSERT INTO shop.journal VALUES (NEW.payer, NEW.payee, NEW.amount, NEW.at); RETURN NULL; END $$;
CREATE TRIGGER note AFTER INSERT ON shop.transfers FOR EACH ROW EXECUTE FUNCTION shop.note();
`

// shopTables is the number of tables of a shop with its journal.
const shopTables = 11

// fewTables are those that matter where loading is not the point.
const (
	fewTables   = "  include: [shop.accounts, shop.transfers, shop.journal, shop.orders, shop.inventory, shop.addresses]\n  options:\n    - {match: shop.journal, append_only: true}\n" + fastStream
	fewTablesIs = 6
)

// shopPipeline declares a pipeline of the shop, with many small chunks.
const shopPipeline = "  include: [shop.*]\n  options:\n    - {match: shop.journal, append_only: true}\n" + smallChunks

// counted are tables whose column "version" only grows, also over a deletion.
var counted = []string{"shop.accounts", "shop.inventory", "shop.orders"}

// seedShop makes a shop with a journal.
func (r *rig) seedShop(scale float64) shop.Sizes {
	r.t.Helper()
	sizes, err := shop.Seed(r.t.Context(), r.source, scale)
	if err != nil {
		r.t.Fatal(err)
	}
	r.exec(journalSQL)
	return sizes
}

// load changes the shop until the returned function is called.
func (r *rig) load(rate float64) (stop func()) {
	r.t.Helper()
	ctx, cancel := context.WithCancel(r.t.Context())
	type result struct {
		counts shop.Counts
		err    error
	}
	done := make(chan result, 1)
	go func() {
		n, err := shop.Load(ctx, r.source, shop.LoadOptions{Rate: rate, Seed: 1, Retry: true})
		done <- result{n, err}
	}()
	return func() {
		r.t.Helper()
		cancel()
		res := <-done
		if res.err != nil {
			r.t.Fatalf("load: %v", res.err)
		}
		if res.counts.Changes() == 0 {
			r.t.Error("the load changed nothing")
		}
		r.t.Logf("load: %+v", res.counts)
	}
}

// auditSlot looks again and again whether the slot was ever confirmed past the
// last progress record in Kafka, until the returned function is called.
func (p *pipe) auditSlot() (stop func()) {
	p.r.t.Helper()
	ctx, cancel := context.WithCancel(p.r.t.Context())
	type result struct {
		samples int
		ahead   string
	}
	done := make(chan result, 1)
	go func() {
		var res result
		var w *kafka.Writer // read only: it knows how to find the last record
		defer func() {
			if w != nil {
				_ = w.Close()
			}
			done <- res
		}()
		for t := time.NewTicker(time.Second); ; {
			select {
			case <-ctx.Done():
				t.Stop()
				return
			case <-t.C:
			}
			var err error
			if w == nil {
				if w, err = kafka.OpenWriter(ctx, p.kafka(), kafka.WriterOptions{Partitions: func(change.TableID) int { return p.spec.Kafka.Partitions }}); err != nil {
					w = nil
					continue
				}
			}
			// The slot first: what is written between the two looks cannot excuse it
			// by more than the time of one look.
			at, err := scalar(ctx, p.r.source, "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", p.spec.SlotName())
			if err != nil || at == "" {
				continue
			}
			confirmed, err := change.ParseLSN(at)
			if err != nil {
				continue
			}
			last, found, err := w.LastProgress(ctx)
			if err != nil || !found {
				continue
			}
			res.samples++
			if confirmed > last.Through && res.ahead == "" {
				res.ahead = fmt.Sprintf("slot at %s, last progress record at %s", confirmed, last.Through)
			}
		}
	}()
	return func() {
		p.r.t.Helper()
		cancel()
		res := <-done
		if res.ahead != "" {
			p.r.t.Errorf("the source was told of more than Kafka had: %s", res.ahead)
		}
		if res.samples < 3 {
			p.r.t.Errorf("only %d samples of the slot", res.samples)
		}
	}
}

// settled ends a test of faults: all rows equal, the money all there, nothing twice.
func (p *pipe) settled(sizes shop.Sizes, tables int) {
	p.r.t.Helper()
	p.awaitPhase(bound, "streaming")
	rows := p.equal(tables)
	p.totals("shop.accounts", "balance", sizes.Total())
	if rows["shop.journal"] == 0 {
		p.r.t.Error("nothing came to the journal")
	}
}
