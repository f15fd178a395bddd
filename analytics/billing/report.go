package billing

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"
	"github.com/shopspring/decimal"

	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/dataplane/fault"
	"syncline/tiers/cost"
)

// CodeReport: a report on costs is asked for that cannot be made.
const CodeReport fault.Code = "CostReport"

// Groups of a report that are named; the others are added up.
const maxGroups = 200

// keys are the columns that reports are grouped by.
var keys = map[string]string{
	bill.ByPipeline: "x_pipeline", bill.ByTable: "x_table", bill.ByTier: "x_tier", bill.BySink: "x_sink",
	bill.ByComponent: "if(ServiceCategory = '" + analytics.StorageSku + "', Tags['place'], x_component)",
	bill.ByRoute: "if(ServiceCategory = '" + analytics.StorageSku + "', concat('kept in ', if(RegionId = '', 'unknown', RegionId)), " +
		"concat(if(RegionId = '', 'unknown', RegionId), ' → ', if(x_destination = '', 'unknown', x_destination)))",
	bill.ByDay: "toString(toDate(ChargePeriodStart))",
}

// Question is what a report is asked for.
type Question struct {
	Pipeline     string // empty: all
	Since, Until time.Time
	By           []string
	Now          time.Time
}

// Report says what was charged, by the pricings that count.
func Report(ctx context.Context, s *analytics.Store, in Question) (*bill.Report, error) {
	r := &bill.Report{Pipeline: in.Pipeline, Since: in.Since.UTC().Truncate(time.Hour), Until: in.Until.UTC(), By: in.By, Step: 3600, Groups: []bill.Group{}}
	if whole := r.Until.Truncate(time.Hour); whole.Before(r.Until) { // the hour that is under way has no price yet
		r.Until = whole
	}
	if !r.Since.Before(r.Until) {
		return nil, fault.Permanent(CodeReport, nil, "ask for at least one hour that has ended", "the report would be from %s until %s", r.Since.Format(time.RFC3339), r.Until.Format(time.RFC3339))
	}
	var by []string
	for _, k := range in.By {
		if keys[k] == "" {
			return nil, fault.Permanent(CodeReport, nil, "one or more of "+strings.Join(bill.Ways(), ", "), "costs are not told by %q", k)
		}
		by = append(by, "toString("+keys[k]+")")
	}
	if len(by) == 0 || len(by) > 3 {
		return nil, fault.Permanent(CodeReport, nil, "one to three of "+strings.Join(bill.Ways(), ", "), "costs are told by one to three things, not by %d", len(by))
	}
	_, applied, err := Current(ctx, s)
	if err != nil {
		return nil, err
	}
	r.Currency, r.Prices = applied.Currency, applied.Version
	if r.Until.Sub(r.Since) > 72*time.Hour {
		r.Step = 24 * 3600
	}
	if r.Priced, err = Priced(ctx, s); err != nil {
		return nil, err
	}
	for _, read := range []func(context.Context, *analytics.Store, *bill.Report, []string) error{groups, gaps, others} {
		if err := read(ctx, s, r, by); err != nil {
			return nil, err
		}
	}
	now := in.Now.UTC()
	start := time.Date(now.Year(), now.Month(), 1, 0, 0, 0, 0, time.UTC)
	month, err := Spend(ctx, s, in.Pipeline, r.Currency, start, start.AddDate(0, 1, 0), r.Priced)
	r.Forecast = month.Forecast
	return r, err
}

// Priced returns until when hours are priced; zero if none is.
func Priced(ctx context.Context, s *analytics.Store) (until time.Time, err error) {
	err = rows(ctx, s, "SELECT max(hour), count() FROM {db}.pricings WHERE charges > 0", func(q driver.Rows) error {
		var n uint64
		var last time.Time
		if err := q.Scan(&last, &n); err != nil || n == 0 {
			return err
		}
		until = last.UTC().Add(time.Hour)
		return nil
	})
	return until, err
}

// of is a condition that selects a pipeline's charges, with its argument.
func of(pipeline string) (string, []any) {
	if pipeline == "" {
		return "1", nil
	}
	return "x_pipeline = ?", []any{pipeline}
}

func groups(ctx context.Context, s *analytics.Store, r *bill.Report, by []string) error {
	length := r.Until.Sub(r.Since)
	where, args := of(r.Pipeline)
	points := int((length + time.Duration(r.Step)*time.Second - 1) / (time.Duration(r.Step) * time.Second))
	found := map[string]*bill.Group{}
	r.Total.Points = make([]float64, points)
	sql := fmt.Sprintf(`SELECT [%s] AS k, if(ChargePeriodStart < toDateTime(%d, 'UTC'), -1, intDiv(toUnixTimestamp(ChargePeriodStart) - %d, %d)) AS i, sum(EffectiveCost),
		sumIf(x_bytes, ServiceCategory = '%s'), sumIf(x_bytes, ServiceCategory = '%s'), sumIf(x_bytes, ListUnitPrice IS NULL AND ServiceCategory = '%s'), sumIf(x_bytes, ListUnitPrice IS NULL AND ServiceCategory = '%s')
		FROM {db}.cost WHERE %s AND BillingCurrency = ? AND %s GROUP BY k, i ORDER BY k, i`, strings.Join(by, ", "), r.Since.Unix(), r.Since.Unix(), r.Step,
		analytics.Networking, analytics.StorageSku, analytics.Networking, analytics.StorageSku, where, between("ChargePeriodStart", r.Since.Add(-length), r.Until))
	err := rows(ctx, s, sql, func(q driver.Rows) error {
		var key []string
		var i int64
		var g bill.Group
		if err := q.Scan(&key, &i, &g.Cost, &g.Moved, &g.Kept, &g.NoPrice, &g.NoPriceKept); err != nil {
			return err
		}
		k := strings.Join(key, "\x00")
		if found[k] == nil {
			found[k] = &bill.Group{Key: key, Points: make([]float64, points)}
		}
		if i < 0 {
			g = bill.Group{Before: g.Cost}
		} else if i < int64(points) {
			found[k].Points[i] += g.Cost.InexactFloat64()
			r.Total.Points[i] += g.Cost.InexactFloat64()
		}
		sum(found[k], &g)
		sum(&r.Total, &g)
		return nil
	}, append(args, r.Currency)...)
	if err != nil {
		return err
	}
	for _, g := range found {
		if !r.Total.Cost.IsZero() {
			g.Share = g.Cost.Div(r.Total.Cost).InexactFloat64()
		}
		r.Groups = append(r.Groups, *g)
	}
	if !r.Total.Cost.IsZero() {
		r.Total.Share = 1
	}
	days := slices.Contains(r.By, bill.ByDay)
	if days { // a day before is another group, and has nothing of this time
		r.Groups = slices.DeleteFunc(r.Groups, func(g bill.Group) bool { return g.Moved+g.Kept == 0 })
	}
	slices.SortFunc(r.Groups, func(a, b bill.Group) int {
		if days {
			return slices.Compare(a.Key, b.Key)
		}
		return cmp.Or(b.Cost.Cmp(a.Cost), cmp.Compare(b.NoPrice+b.NoPriceKept, a.NoPrice+a.NoPriceKept), slices.Compare(a.Key, b.Key))
	})
	if len(r.Groups) > maxGroups {
		r.Left, r.Rest.Points = len(r.Groups)-maxGroups, make([]float64, points)
		for _, g := range r.Groups[maxGroups:] {
			sum(&r.Rest, &g)
			r.Rest.Share += g.Share
			for i := range g.Points {
				r.Rest.Points[i] += g.Points[i]
			}
		}
		r.Groups = r.Groups[:maxGroups]
	}
	return nil
}

func sum(into, g *bill.Group) {
	into.Cost, into.Before = into.Cost.Add(g.Cost), into.Before.Add(g.Before)
	into.Moved, into.Kept, into.NoPrice, into.NoPriceKept = into.Moved+g.Moved, into.Kept+g.Kept, into.NoPrice+g.NoPrice, into.NoPriceKept+g.NoPriceKept
}

// gaps finds what has no price.
func gaps(ctx context.Context, s *analytics.Store, r *bill.Report, _ []string) error {
	where, args := of(r.Pipeline)
	found := map[bill.Unpriced]uint64{}
	err := rows(ctx, s, "SELECT ServiceCategory, RegionId, x_destination, Tags['place'], sum(x_bytes) FROM {db}.cost WHERE ListUnitPrice IS NULL AND "+where+" AND "+
		between("ChargePeriodStart", r.Since, r.Until)+" GROUP BY 1, 2, 3, 4", func(q driver.Rows) error {
		var u bill.Unpriced
		var n uint64
		if err := q.Scan(&u.Category, &u.Origin, &u.Destination, &u.Place, &n); err != nil {
			return err
		}
		found[u] = n
		return nil
	}, args...)
	r.Unpriced = largest(found)
	return err
}

// others adds up what was charged in other currencies.
func others(ctx context.Context, s *analytics.Store, r *bill.Report, _ []string) error {
	where, args := of(r.Pipeline)
	return rows(ctx, s, "SELECT BillingCurrency, sum(EffectiveCost) FROM {db}.cost WHERE "+where+" AND BillingCurrency != ? AND "+
		between("ChargePeriodStart", r.Since, r.Until)+" GROUP BY BillingCurrency ORDER BY BillingCurrency", func(q driver.Rows) error {
		var o bill.Other
		if err := q.Scan(&o.Currency, &o.Cost); err != nil {
			return err
		}
		r.Others = append(r.Others, o)
		return nil
	}, append(args, r.Currency)...)
}

// Spent is what was spent of a period.
type Spent struct {
	Sum      decimal.Decimal
	NoPrice  bool // there is usage that no price is for
	Forecast cost.Forecast
}

// Spend says what a pipeline, or all of them, have cost since start, and will have cost
// at end, from what is priced.
func Spend(ctx context.Context, s *analytics.Store, pipeline, currency string, start, end, until time.Time) (out Spent, err error) {
	if until.After(end) {
		until = end
	}
	where, args := of(pipeline)
	from := until.AddDate(0, 0, -57)
	if start.Before(from) {
		from = start
	}
	var hours []float64
	var first time.Time
	err = rows(ctx, s, "SELECT toStartOfHour(ChargePeriodStart) AS h, sum(EffectiveCost), countIf(ListUnitPrice IS NULL) FROM {db}.cost WHERE "+where+" AND BillingCurrency = ? AND "+between("ChargePeriodStart", from, until)+" GROUP BY h ORDER BY h", func(q driver.Rows) error {
		var h time.Time
		var d decimal.Decimal
		var gaps uint64
		if err := q.Scan(&h, &d, &gaps); err != nil {
			return err
		}
		if h = h.UTC(); first.IsZero() {
			first = h
			hours = make([]float64, int(until.Sub(first)/time.Hour))
		}
		if i := int(h.Sub(first) / time.Hour); i < len(hours) {
			hours[i] = d.InexactFloat64()
		}
		if !h.Before(start) {
			out.Sum, out.NoPrice = out.Sum.Add(d), out.NoPrice || gaps > 0
		}
		return nil
	}, append(args, currency)...)
	if err != nil {
		return out, err
	}
	if until.Before(start) {
		until = start
	}
	out.Forecast = cost.Foresee(start, until, end, out.Sum.InexactFloat64(), hours)
	return out, nil
}
