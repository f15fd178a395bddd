package indicators

import (
	"context"
	"fmt"
	"strings"
	"time"

	"syncline/analytics"
)

// Verdicts are how many tables of a sink stand how, by their newest verifications.
type Verdicts struct {
	Pipeline, Sink string
	Equal          int // by the newest verdict
	// Different: an inconclusive verdict since then takes nothing back.
	Different    int
	Inconclusive int // by the newest verdict
}

// Standing is what the newest verifications and rotations of all pipelines say.
type Standing struct {
	Verdicts        []Verdicts
	FailedRotations int // secrets whose newest rotation failed
	Budgets         []Budget
	Priced          time.Time // when usage was last priced up to then; zero if it never was
}

// Budget is how a pipeline stands to its budget, by the newest look at it.
type Budget struct {
	Pipeline string
	Standing string  // as in analytics.Budgets
	Used     float64 // share that is spent
}

// budgetHours is how long a look at a budget is spoken of; the next comes in an hour.
const budgetHours = 3

// standingDays is how long a verdict or a rotation is spoken of.
const standingDays = 30

// Voiding are the actions of the audit trail after which what was said of a table
// before holds no more: its rows are gone, or nobody delivers it.
var Voiding = []string{"ForgetSink", "RemoveTable", "ResetTable"}

// Stand reads the standing. It stays what it is when the worker that found it out
// ends, so that alerts on it do not go with that.
func Stand(ctx context.Context, s *analytics.Store) (*Standing, error) {
	st := &Standing{}
	rows, err := s.Query(ctx, fmt.Sprintf(`SELECT pipeline, sink, toInt64(countIf(newest = '%[1]s')), toInt64(countIf(conclusive = '%[2]s')), toInt64(countIf(newest = '%[3]s')) FROM (
		SELECT v.pipeline AS pipeline, v.sink AS sink, v.tab AS tab, argMax(v.verdict, (v.ts, v.run)) AS newest, argMaxIf(v.verdict, (v.ts, v.run), v.verdict != '%[3]s') AS conclusive
		FROM {db}.verifications AS v
		LEFT JOIN %[5]s AS s ON s.pipeline = v.pipeline AND s.object = v.sink
		LEFT JOIN %[5]s AS t ON t.pipeline = v.pipeline AND t.object = concat(v.sink, ' ', v.tab)
		WHERE v.ts > now64(3) - INTERVAL %[4]d DAY AND v.ts > s.at AND v.ts > t.at AND %[6]s GROUP BY pipeline, sink, tab) GROUP BY pipeline, sink ORDER BY pipeline, sink`,
		analytics.Equal, analytics.Different, analytics.Inconclusive, standingDays,
		"(SELECT pipeline, object, max(ts) AS at FROM {db}.audit_trail WHERE action IN ('"+strings.Join(Voiding, "', '")+"') GROUP BY pipeline, object)", analytics.OfTables))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // read to its end, or failed for another reason
	for rows.Next() {
		var v Verdicts
		var equal, different, inconclusive int64
		if err := rows.Scan(&v.Pipeline, &v.Sink, &equal, &different, &inconclusive); err != nil {
			return nil, fmt.Errorf("read verdicts: %w", err)
		}
		v.Equal, v.Different, v.Inconclusive = int(equal), int(different), int(inconclusive)
		st.Verdicts = append(st.Verdicts, v)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read verdicts: %w", err)
	}
	failed, err := s.Query(ctx, fmt.Sprintf(`SELECT toInt64(countIf(newest != '%s')) FROM (
		SELECT secret, argMax(result, (ts, run)) AS newest FROM {db}.rotations WHERE step = '%s' AND ts > now64(3) - INTERVAL %d DAY GROUP BY secret)`,
		analytics.RotationOK, analytics.RotationEnd, standingDays))
	if err != nil {
		return nil, err
	}
	defer func() { _ = failed.Close() }()
	for failed.Next() {
		var n int64
		if err := failed.Scan(&n); err != nil {
			return nil, fmt.Errorf("read rotations: %w", err)
		}
		st.FailedRotations = int(n)
	}
	if err := failed.Err(); err != nil {
		return nil, fmt.Errorf("read rotations: %w", err)
	}
	if st.Budgets, err = budgets(ctx, s); err != nil {
		return nil, err
	}
	st.Priced, err = priced(ctx, s)
	return st, err
}

// priced leaves out pricings of the past alone, which an operator has made.
func priced(ctx context.Context, s *analytics.Store) (at time.Time, err error) {
	rows, err := s.Query(ctx, "SELECT max(ts), count() FROM {db}.pricings WHERE hour >= toStartOfHour(ts) - INTERVAL 1 HOUR")
	if err != nil {
		return at, err
	}
	defer func() { _ = rows.Close() }() // read to its end, or failed for another reason
	for rows.Next() {
		var newest time.Time
		var n uint64
		if err := rows.Scan(&newest, &n); err != nil {
			return at, fmt.Errorf("read pricings: %w", err)
		}
		if n > 0 {
			at = newest.UTC()
		}
	}
	if err := rows.Err(); err != nil {
		return time.Time{}, fmt.Errorf("read pricings: %w", err)
	}
	return at, nil
}

func budgets(ctx context.Context, s *analytics.Store) (out []Budget, err error) {
	rows, err := s.Query(ctx, fmt.Sprintf(`SELECT pipeline, argMax(standing, ts), argMax(if(amount > 0, spent / amount, 1), ts) FROM {db}.budgets
		WHERE ts > now64(3) - INTERVAL %d HOUR GROUP BY pipeline ORDER BY pipeline`, budgetHours))
	if err != nil {
		return nil, err
	}
	defer func() { _ = rows.Close() }() // read to its end, or failed for another reason
	for rows.Next() {
		var b Budget
		if err := rows.Scan(&b.Pipeline, &b.Standing, &b.Used); err != nil {
			return nil, fmt.Errorf("read budgets: %w", err)
		}
		out = append(out, b)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read budgets: %w", err)
	}
	return out, nil
}
