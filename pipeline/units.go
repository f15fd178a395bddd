package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that people write as 10s, 1h30m or 7d.
type Duration time.Duration

// Std returns the standard library's type.
func (d Duration) Std() time.Duration { return time.Duration(d) }

var durationUnits = []struct {
	name string
	size time.Duration
}{
	{"d", 24 * time.Hour}, {"h", time.Hour}, {"m", time.Minute}, {"s", time.Second},
	{"ms", time.Millisecond}, {"us", time.Microsecond}, {"ns", time.Nanosecond},
}

// Patterns shared with the JSON Schema.
const (
	durationPattern = `^([0-9]+(\.[0-9]+)?(ns|us|ms|s|m|h|d|w))+$`
	sizePattern     = `^[0-9]+(\.[0-9]+)?(B|kB|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$`
)

var (
	durationRE   = regexp.MustCompile(durationPattern)
	durationPart = regexp.MustCompile(`([0-9]+(?:\.[0-9]+)?)(ns|us|ms|s|m|h|d|w)`)
	sizeRE       = regexp.MustCompile(sizePattern)
	bareNumber   = regexp.MustCompile(`^[0-9]+(\.[0-9]+)?$`)
)

// String returns the exact shortest form in whole units, for example 1h30m or 7d.
func (d Duration) String() string {
	if d <= 0 {
		return "0s"
	}
	var b strings.Builder
	rest := time.Duration(d)
	for _, u := range durationUnits {
		if n := rest / u.size; n > 0 {
			fmt.Fprintf(&b, "%d%s", n, u.name)
			rest %= u.size
		}
	}
	return b.String()
}

// ParseDuration reads whole or decimal numbers with the units ns, us, ms, s, m,
// h, d and w, for example 1h30m or 7d.
func ParseDuration(s string) (Duration, error) {
	if !durationRE.MatchString(s) {
		return 0, errors.New("not a duration")
	}
	var total time.Duration
	for _, m := range durationPart.FindAllStringSubmatch(s, -1) {
		unit := 7 * 24 * time.Hour // w
		for _, u := range durationUnits {
			if u.name == m[2] {
				unit = u.size
			}
		}
		n, ok := scaled(m[1], int64(unit))
		if !ok || total > math.MaxInt64-time.Duration(n) {
			return 0, errors.New("too long")
		}
		total += time.Duration(n)
	}
	return Duration(total), nil
}

// MarshalText gives String.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("duration %q: %w", b, err)
	}
	*d = v
	return nil
}

// Size is a number of bytes that people write as 64MiB or 1GB.
type Size int64

var sizeUnits = []struct {
	name string
	size int64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"KB", 1e3}, {"kB", 1e3}, {"B", 1},
}

// String returns the exact form in the largest binary unit, for example 64MiB.
func (s Size) String() string {
	for _, u := range sizeUnits[:4] {
		if s > 0 && int64(s)%u.size == 0 {
			return strconv.FormatInt(int64(s)/u.size, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10) + "B"
}

// ParseSize reads a whole or decimal number with a unit: B, kB, MB, GB, TB
// (powers of 1000) or KiB, MiB, GiB, TiB (powers of 1024).
func ParseSize(s string) (Size, error) {
	m := sizeRE.FindStringSubmatch(s)
	if m == nil {
		return 0, errors.New("not a size")
	}
	for _, u := range sizeUnits {
		if u.name == m[2] {
			n, ok := scaled(strings.TrimSuffix(s, u.name), u.size)
			if !ok {
				return 0, errors.New("too large")
			}
			return Size(n), nil
		}
	}
	return 0, errors.New("not a size")
}

// MarshalJSON gives String.
func (s Size) MarshalJSON() ([]byte, error) { return json.Marshal(s.String()) }

// UnmarshalJSON reads what ParseSize reads, or a whole number of bytes.
func (s *Size) UnmarshalJSON(b []byte) error {
	var n int64
	if json.Unmarshal(b, &n) == nil {
		*s = Size(n)
		return nil
	}
	var text string
	if err := json.Unmarshal(b, &text); err != nil {
		return err
	}
	v, err := ParseSize(text)
	if err != nil {
		return fmt.Errorf("size %q: %w", text, err)
	}
	*s = v
	return nil
}

// Ratio is a share of a whole, in millionths, that people write as 99.9%.
type Ratio int64

// unit is the whole.
const unit = 1_000_000

const ratioPattern = `^[0-9]{1,3}(\.[0-9]{1,4})?%$`

var ratioRE = regexp.MustCompile(ratioPattern)

// Share returns the ratio as a number from 0 to 1.
func (r Ratio) Share() float64 { return float64(r) / unit }

// String returns the exact shortest form, for example 99.9%.
func (r Ratio) String() string {
	whole, part := int64(r)/(unit/100), int64(r)%(unit/100)
	text := strconv.FormatInt(whole, 10)
	if part > 0 {
		text += "." + strings.TrimRight(fmt.Sprintf("%04d", part), "0")
	}
	return text + "%"
}

// ParseRatio reads a percentage with up to four decimals, for example 99.95%.
func ParseRatio(s string) (Ratio, error) {
	if !ratioRE.MatchString(s) {
		return 0, errors.New("not a percentage with at most four decimals")
	}
	n, ok := scaled(strings.TrimSuffix(s, "%"), unit/100)
	if !ok {
		return 0, errors.New("not a percentage")
	}
	return Ratio(n), nil
}

// MarshalText gives String.
func (r Ratio) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText is ParseRatio.
func (r *Ratio) UnmarshalText(b []byte) error {
	v, err := ParseRatio(string(b))
	if err != nil {
		return fmt.Errorf("percentage %q: %w", b, err)
	}
	*r = v
	return nil
}

// scaled multiplies a decimal number exactly, rounding down; false if the
// result does not fit. Long digit strings are refused, since big.Rat would
// spend memory on them.
func scaled(number string, unit int64) (int64, bool) {
	if len(number) > 40 {
		return 0, false
	}
	r, ok := new(big.Rat).SetString(number)
	if !ok {
		return 0, false
	}
	r.Mul(r, new(big.Rat).SetInt64(unit))
	q := new(big.Int).Quo(r.Num(), r.Denom())
	return q.Int64(), q.IsInt64()
}

// ratioHint guesses the percentage that a bare number stands for.
func ratioHint(digits, unit string) string {
	if v, err := strconv.ParseFloat(digits, 64); err != nil || unit != "" || v <= 0 || v >= 100 {
		return ""
	} else if v < 1 { // a share of one
		if r, ok := scaled(digits, 1_000_000); ok && r > 0 {
			return Ratio(r).String()
		}
		return ""
	}
	if hint := digits + "%"; ratioRE.MatchString(hint) {
		return hint
	}
	return ""
}

// unitHint guesses what was meant by a size or duration without a proper unit.
func unitHint(k kind, s string) string {
	s = strings.TrimSpace(s)
	digits := strings.TrimRight(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
	if !bareNumber.MatchString(digits) {
		return ""
	}
	unit := strings.ToLower(strings.TrimSpace(s[len(digits):]))
	table := map[string]string{"k": "KiB", "kib": "KiB", "kb": "KB", "m": "MiB", "mib": "MiB", "mb": "MB",
		"g": "GiB", "gib": "GiB", "gb": "GB", "t": "TiB", "tib": "TiB", "tb": "TB", "b": "B", "bytes": "B", "": "B"}
	if k == kindRatio {
		return ratioHint(digits, unit)
	}
	if k == kindDuration {
		table = map[string]string{"": "s", "sec": "s", "secs": "s", "second": "s", "seconds": "s", "s": "s",
			"min": "m", "mins": "m", "minute": "m", "minutes": "m", "m": "m", "hour": "h", "hours": "h", "hr": "h", "h": "h",
			"day": "d", "days": "d", "d": "d", "week": "w", "weeks": "w", "w": "w", "ms": "ms", "millis": "ms", "milliseconds": "ms"}
	}
	if u, ok := table[unit]; ok {
		return digits + u
	}
	return ""
}
