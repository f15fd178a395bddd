package billing

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"github.com/ClickHouse/clickhouse-go/v2/lib/driver"

	"syncline/analytics"
	"syncline/analytics/bill"
	"syncline/dataplane/fault"
	"syncline/pipeline"
	"syncline/tiers/cost"
)

// Conditions of pricing.
const (
	// CodeNoPrices: no price table was applied.
	CodeNoPrices fault.Code = "NoPrices"
	// CodePrices: a price table cannot be read.
	CodePrices fault.Code = "PricesInvalid"
)

const howToApply = "starter cost prices apply FILE; examples/prices.yaml is one"

// rows reads what a SELECT finds.
func rows(ctx context.Context, s *analytics.Store, sql string, scan func(driver.Rows) error, args ...any) error {
	rs, err := s.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	for rs.Next() {
		if err := scan(rs); err != nil {
			_ = rs.Close() // the reason is the other failure
			return fault.Transient(analytics.CodeStore, err, "read a row of analytics")
		}
	}
	if err := rs.Err(); err != nil {
		_ = rs.Close() // as above
		return fault.Transient(analytics.CodeStore, err, "read analytics")
	}
	return rs.Close()
}

// Version names a price table by its text.
func Version(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}

// Apply makes a price table the one that counts. One that counts already is left alone.
func Apply(ctx context.Context, s *analytics.Store, text, who, why string, now time.Time) (bill.Applied, error) {
	t, err := pipeline.ParsePrices("", []byte(text))
	if err != nil {
		return bill.Applied{}, fault.Permanent(CodePrices, err, howToApply, "the price table has mistakes")
	}
	have, err := History(ctx, s, 1)
	if err != nil {
		return bill.Applied{}, err
	}
	a := bill.Applied{Version: Version(text), At: now.UTC().Truncate(time.Millisecond), Who: who, Why: why, Currency: t.Currency, Text: text}
	if len(have) > 0 && have[0].Version == a.Version {
		return have[0], nil
	}
	return a, s.Insert(ctx, "prices/"+a.Version+"/"+a.At.Format(time.RFC3339Nano), []analytics.Row{&analytics.Prices{Time: a.At, Version: a.Version, Actor: who, Reason: why, Currency: a.Currency, Text: text}})
}

// History returns the price tables that were applied, the newest first.
func History(ctx context.Context, s *analytics.Store, n int) (out []bill.Applied, err error) {
	err = rows(ctx, s, "SELECT ts, version, actor, reason, currency, definition FROM {db}.prices ORDER BY ts DESC, version LIMIT ?", func(r driver.Rows) error {
		var a bill.Applied
		if err := r.Scan(&a.At, &a.Version, &a.Who, &a.Why, &a.Currency, &a.Text); err != nil {
			return err
		}
		out = append(out, a)
		return nil
	}, n)
	return out, err
}

// Current returns the price table that counts.
func Current(ctx context.Context, s *analytics.Store) (*cost.Table, bill.Applied, error) {
	have, err := History(ctx, s, 1)
	if err != nil {
		return nil, bill.Applied{}, err
	}
	if len(have) == 0 {
		return nil, bill.Applied{}, fault.Permanent(CodeNoPrices, nil, howToApply, "no price table was applied")
	}
	t, err := pipeline.ParsePrices("prices "+have[0].Version, []byte(have[0].Text))
	if err != nil {
		return nil, have[0], fault.Permanent(CodePrices, err, howToApply, "the price table that counts cannot be read by this release")
	}
	return t, have[0], nil
}
