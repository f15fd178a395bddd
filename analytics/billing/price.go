package billing

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/tiers/cost"
)

const (
	// LookBack is how far before the last priced hour a pricing begins, for usage that came late.
	LookBack = 26 * time.Hour
	// CarryOn is for how long a measurement of storage counts that no other follows.
	CarryOn = 3 * time.Hour
	// perInsert is how many hours are written at once.
	perInsert = 24
)

// Task is a pricing to be made.
type Task struct {
	From, Until time.Time // whole hours are priced; a zero From begins where hours are to be priced, a zero Until ends now
	Now         time.Time
	Name        string // of this attempt, and of no other
	Actor       string
	Prices      *cost.Table
	Version     string // of the prices
	Dry         bool   // only say what it would come to
}

// group is what a charge is of.
type group struct{ pipeline, tier, sink, tab, component, origin, destination, place string }

// Price makes the charges of hours that have ended be those by a price table.
func Price(ctx context.Context, s *analytics.Store, in Task) (*bill.Pricing, error) {
	out := &bill.Pricing{Prices: in.Version, Currency: in.Prices.Currency, Dry: in.Dry, Pipelines: []bill.Difference{}, Unpriced: []bill.Unpriced{}}
	out.Until = in.Now.UTC().Truncate(time.Hour)
	if !in.Until.IsZero() && in.Until.Before(out.Until) {
		out.Until = in.Until.UTC().Truncate(time.Hour)
	}
	var err error
	if out.From, err = begin(ctx, s, in); err != nil {
		return out, err
	}
	before := map[string]decimal.Decimal{}
	after := map[string]decimal.Decimal{}
	unpriced := map[bill.Unpriced]uint64{}
	for from := out.From; from.Before(out.Until); from = from.Add(perInsert * time.Hour) {
		until := from.Add(perInsert * time.Hour)
		if until.After(out.Until) {
			until = out.Until
		}
		if err := priced(ctx, s, from, until, before); err != nil {
			return nil, err
		}
		if err := in.piece(ctx, s, from, until, out, after, unpriced); err != nil {
			return nil, err
		}
	}
	names := maps.Clone(before)
	maps.Copy(names, after)
	for _, p := range slices.Sorted(maps.Keys(names)) {
		out.Before, out.After = out.Before.Add(before[p]), out.After.Add(after[p])
		if !before[p].Equal(after[p]) {
			out.Pipelines = append(out.Pipelines, bill.Difference{Pipeline: p, Before: before[p], After: after[p]})
		}
	}
	out.Unpriced = largest(unpriced)
	return out, in.complete(ctx, s, out.Until.Add(-time.Hour))
}

// complete records that everything up to now is priced, where the last hour's row does not
// say so already. It says of the hour what its newest row does.
func (in *Task) complete(ctx context.Context, s *analytics.Store, last time.Time) error {
	if in.Dry || last.Before(in.Now.UTC().Truncate(time.Hour).Add(-time.Hour)) {
		return nil
	}
	row := &analytics.Pricings{Time: time.Now().UTC(), Hour: last, Pricing: in.Name, Prices: in.Version, Digest: digest(nil), Actor: in.Actor}
	err := rows(ctx, s, "SELECT max(ts), argMax(pricing, ts), argMax(prices, ts), argMax(digest, ts), argMax(charges, ts) FROM {db}.pricings WHERE "+between("hour", last, last.Add(time.Hour))+" GROUP BY hour", func(r driver.Rows) error {
		var at time.Time
		if err := r.Scan(&at, &row.Pricing, &row.Prices, &row.Digest, &row.Charges); err != nil {
			return err
		}
		if after := at.UTC().Add(time.Millisecond); after.After(row.Time) { // by the clock of another worker
			row.Time = after
		}
		return nil
	})
	if err != nil {
		return err
	}
	return s.Insert(ctx, in.Name+"/completed", []analytics.Row{row})
}

// largest sorts what has no price, and bounds it.
func largest(m map[bill.Unpriced]uint64) []bill.Unpriced {
	out := make([]bill.Unpriced, 0, len(m))
	for u, n := range m {
		u.Bytes = n
		out = append(out, u)
	}
	slices.SortFunc(out, func(a, b bill.Unpriced) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(fmt.Sprint(a), fmt.Sprint(b)))
	})
	return out[:min(len(out), 50)]
}

// begin says where a pricing begins: as told, or for those that come by themselves some
// time before the last hour that is priced, or with the first usage.
func begin(ctx context.Context, s *analytics.Store, in Task) (from time.Time, err error) {
	oldest := in.Now.Add(-analytics.KeepHours * 24 * time.Hour).UTC()
	if !in.From.IsZero() {
		from = in.From.UTC().Truncate(time.Hour)
		if from.Before(oldest) {
			from = oldest.UTC().Truncate(time.Hour)
		}
		return from, nil
	}
	var first, begun, last time.Time
	var any, done uint64
	kept := fmt.Sprintf("ts >= toDateTime(%d, 'UTC')", oldest.Truncate(time.Hour).Unix()) // what is older may be there for a while
	err = rows(ctx, s, `WITH u AS (SELECT min(ts) AS at, count() AS n FROM {db}.usage_hourly WHERE wire > 0 AND `+kept+`), k AS (SELECT min(toStartOfHour(ts)) AS at, count() AS n FROM {db}.storage WHERE bytes > 0 AND `+kept+`),
		p AS (SELECT min(hour) AS first, max(hour) AS last, count() AS n FROM {db}.pricings)
		SELECT u.at, k.at, u.n, k.n, p.first, p.last, p.n FROM u, k, p`, func(r driver.Rows) error {
		var stored time.Time
		var kept uint64
		if err := r.Scan(&first, &stored, &any, &kept, &begun, &last, &done); err != nil {
			return err
		}
		if kept > 0 && (any == 0 || stored.Before(first)) {
			first = stored
		}
		any += kept
		return nil
	})
	switch {
	case err != nil || any == 0:
		return in.Now.UTC(), err // there is nothing to be priced
	case done > 0 && !begun.After(first) && last.Add(-LookBack).After(first): // all before it was priced once
		from = last.Add(-LookBack)
	default:
		from = first
	}
	if from.Before(oldest) {
		from = oldest
	}
	return from.UTC().Truncate(time.Hour), nil
}

// between is a condition on a column of time.
func between(column string, from, until time.Time) string {
	return fmt.Sprintf("%s >= toDateTime(%d, 'UTC') AND %s < toDateTime(%d, 'UTC')", column, from.Unix(), column, until.Unix())
}

// priced adds up what pipelines are charged by the pricings that count.
func priced(ctx context.Context, s *analytics.Store, from, until time.Time, into map[string]decimal.Decimal) error {
	return rows(ctx, s, "SELECT x_pipeline, sum(EffectiveCost) FROM {db}.cost WHERE "+between("ChargePeriodStart", from, until)+" GROUP BY x_pipeline", func(r driver.Rows) error {
		var p string
		var d decimal.Decimal
		if err := r.Scan(&p, &d); err != nil {
			return err
		}
		into[p] = into[p].Add(d)
		return nil
	})
}

// piece prices some hours.
func (in *Task) piece(ctx context.Context, s *analytics.Store, from, until time.Time, out *bill.Pricing, after map[string]decimal.Decimal, unpriced map[bill.Unpriced]uint64) error {
	charges := map[time.Time][]*analytics.CostLedger{}
	add := func(hour time.Time, g group, category string, cs []cost.Charge) {
		for _, c := range cs {
			row := &analytics.CostLedger{
				Start: c.Start.UTC(), End: c.End.UTC(), Pipeline: g.pipeline, Tier: g.tier, Sink: g.sink, Tab: g.tab, Component: g.component, Category: category,
				Region: g.origin, Destination: g.destination, Sku: c.Sku, Bytes: c.Bytes, Quantity: c.Quantity, Unit: c.Unit, Price: c.Price, Cost: c.Cost, Currency: in.Prices.Currency,
				Pricing: in.Name, Tags: map[string]string{},
			}
			if g.place != "" {
				row.Tags["place"] = g.place
			}
			charges[hour] = append(charges[hour], row)
			after[g.pipeline] = after[g.pipeline].Add(c.Cost)
			if c.Price == nil {
				unpriced[bill.Unpriced{Category: category, Origin: g.origin, Destination: g.destination, Place: g.place}] += c.Bytes
			}
		}
	}
	err := rows(ctx, s, `SELECT ts, pipeline, tier, sink, tab, component, origin, destination, sum(wire) AS bytes FROM {db}.usage_hourly WHERE `+between("ts", from, until)+`
		GROUP BY ts, pipeline, tier, sink, tab, component, origin, destination HAVING bytes > 0`, func(r driver.Rows) error {
		var g group
		var hour time.Time
		var n uint64
		if err := r.Scan(&hour, &g.pipeline, &g.tier, &g.sink, &g.tab, &g.component, &g.origin, &g.destination, &n); err != nil {
			return err
		}
		hour = hour.UTC()
		add(hour, g, analytics.Networking, in.Prices.Moved(g.origin, g.destination, hour, hour.Add(time.Hour), n))
		return nil
	})
	if err != nil {
		return err
	}
	if err := in.stored(ctx, s, from, until, add); err != nil {
		return err
	}
	return in.write(ctx, s, from, until, charges, out)
}

// stored prices what was kept.
func (in *Task) stored(ctx context.Context, s *analytics.Store, from, until time.Time, add func(time.Time, group, string, []cost.Charge)) error {
	type sample struct {
		hour  time.Time
		bytes uint64
	}
	samples := map[group][]sample{} // by hour
	err := rows(ctx, s, `SELECT toStartOfHour(ts) AS hour, pipeline, place, tab, region, toUInt64(intDiv(sum(toUInt128(bytes)), count())) FROM {db}.storage WHERE `+between("ts", from.Add(-CarryOn), until)+`
		GROUP BY hour, pipeline, place, tab, region ORDER BY hour`, func(r driver.Rows) error {
		var g group
		var m sample
		if err := r.Scan(&m.hour, &g.pipeline, &g.place, &g.tab, &g.origin, &m.bytes); err != nil {
			return err
		}
		if name, ok := strings.CutPrefix(g.place, analytics.PlaceSink); ok {
			g.sink = name
		}
		m.hour = m.hour.UTC()
		samples[g] = append(samples[g], m)
		return nil
	})
	if err != nil {
		return err
	}
	for g, ms := range samples {
		for i, m := range ms {
			end := m.hour.Add(CarryOn)
			if i+1 < len(ms) && ms[i+1].hour.Before(end) {
				end = ms[i+1].hour
			}
			for h := m.hour; h.Before(end) && h.Before(until); h = h.Add(time.Hour) {
				if !h.Before(from) && m.bytes > 0 {
					add(h, g, analytics.StorageSku, in.Prices.Stored(g.place, g.origin, h, h.Add(time.Hour), m.bytes))
				}
			}
		}
	}
	return nil
}

// write records the hours whose charges are others than those that count.
func (in *Task) write(ctx context.Context, s *analytics.Store, from, until time.Time, charges map[time.Time][]*analytics.CostLedger, out *bill.Pricing) error {
	type counted struct {
		digest string
		at     time.Time
	}
	have := map[time.Time]counted{}
	err := rows(ctx, s, "SELECT hour, argMax(digest, ts), max(ts) FROM {db}.pricings WHERE "+between("hour", from, until)+" GROUP BY hour", func(r driver.Rows) error {
		var h time.Time
		var c counted
		if err := r.Scan(&h, &c.digest, &c.at); err != nil {
			return err
		}
		have[h.UTC()] = c
		return nil
	})
	if err != nil {
		return err
	}
	var ledger, count []analytics.Row
	for h := from; h.Before(until); h = h.Add(time.Hour) {
		cs := charges[h]
		if len(cs) > 0 {
			out.Hours, out.Charges = out.Hours+1, out.Charges+len(cs)
		}
		d := digest(cs)
		was, ok := have[h]
		if ok && was.digest == d || !ok && len(cs) == 0 {
			continue
		}
		at := time.Now().UTC()
		if after := was.at.Add(time.Millisecond); after.After(at) { // by the clock of another worker
			at = after.UTC()
		}
		out.Changed++
		for _, c := range cs {
			ledger = append(ledger, c)
		}
		count = append(count, &analytics.Pricings{Time: at, Hour: h, Pricing: in.Name, Prices: in.Version, Digest: d, Charges: uint64(len(cs)), Actor: in.Actor})
	}
	if in.Dry || len(count) == 0 {
		return nil
	}
	name := in.Name + "/" + from.Format(time.RFC3339)
	if err := s.Insert(ctx, name, ledger); err != nil {
		return err
	}
	return s.Insert(ctx, name, count)
}

// digest is the same for the same charges, in whatever order they are. It sorts them.
func digest(cs []*analytics.CostLedger) string {
	lines := make([]string, len(cs))
	for i, c := range cs {
		price := "none"
		if c.Price != nil {
			price = c.Price.String()
		}
		lines[i] = fmt.Sprintf("%d %d %q %d %s %s %s %s", c.Start.UnixNano(), c.End.UnixNano(),
			[]string{c.Pipeline, c.Tier, c.Sink, c.Tab, c.Component, c.Category, c.Region, c.Destination, c.Sku, c.Tags["place"]}, c.Bytes, c.Unit, price, c.Cost, c.Currency)
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:12])
}
