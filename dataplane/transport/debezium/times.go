package debezium

import (
	"bytes"
	"errors"
	"strconv"
)

var errForm = errors.New("not in the type's text form")

// daysOf returns the days from 1970-01-01 to a date of the proleptic Gregorian
// calendar; years before 1 are 0, -1, ….
func daysOf(y, m, d int64) int64 {
	if m <= 2 {
		y--
	}
	era := y / 400
	if y < 0 {
		era = (y - 399) / 400
	}
	yoe := y - era*400
	doy := (153*((m+9)%12)+2)/5 + d - 1
	return era*146097 + yoe*365 + yoe/4 - yoe/100 + doy - 719468
}

// civil is the inverse of daysOf.
func civil(days int64) (y, m, d int64) {
	days += 719468
	era := days / 146097
	if days < 0 {
		era = (days - 146096) / 146097
	}
	doe := days - era*146097
	yoe := (doe - doe/1460 + doe/36524 - doe/146096) / 365
	doy := doe - (365*yoe + yoe/4 - yoe/100)
	mp := (5*doy + 2) / 153
	d = doy - (153*mp+2)/5 + 1
	m = (mp+2)%12 + 1
	y = yoe + era*400
	if m <= 2 {
		y++
	}
	return y, m, d
}

// parseDate reads 2026-03-01 or 0044-03-15 BC.
func parseDate(s []byte) (int64, error) {
	s, bc := bytes.CutSuffix(s, []byte(" BC"))
	y, rest, ok1 := bytes.Cut(s, []byte("-"))
	m, d, ok2 := bytes.Cut(rest, []byte("-"))
	year, err1 := strconv.ParseInt(string(y), 10, 32)
	month, err2 := strconv.ParseInt(string(m), 10, 8)
	day, err3 := strconv.ParseInt(string(d), 10, 8)
	if !ok1 || !ok2 || err1 != nil || err2 != nil || err3 != nil || year < 1 || month < 1 || month > 12 || day < 1 || day > 31 {
		return 0, errForm
	}
	if bc {
		year = 1 - year
	}
	return daysOf(year, month, day), nil
}

// parseClock reads 12:34:56.789 as microseconds; 24:00:00 is legal.
func parseClock(s []byte) (int64, error) {
	s, fraction, _ := bytes.Cut(s, []byte("."))
	if len(s) != 8 || s[2] != ':' || s[5] != ':' || len(fraction) > 6 {
		return 0, errForm
	}
	h, err1 := strconv.ParseUint(string(s[:2]), 10, 8)
	m, err2 := strconv.ParseUint(string(s[3:5]), 10, 8)
	sec, err3 := strconv.ParseUint(string(s[6:]), 10, 8)
	if err1 != nil || err2 != nil || err3 != nil || h > 24 || m > 59 || sec > 60 {
		return 0, errForm
	}
	micros := int64(h*3600+m*60+sec) * 1_000_000
	scale := int64(100_000)
	for _, c := range fraction {
		if c < '0' || c > '9' {
			return 0, errForm
		}
		micros += int64(c-'0') * scale
		scale /= 10
	}
	return micros, nil
}

// parseZone cuts +05:30 or -08 from the end of s and returns its seconds.
func parseZone(s []byte) (rest []byte, seconds int64, err error) {
	i := bytes.LastIndexAny(s, "+-")
	if i < 0 {
		return nil, 0, errForm
	}
	scale := int64(3600)
	for _, f := range bytes.Split(s[i+1:], []byte(":")) {
		n, err := strconv.ParseUint(string(f), 10, 8)
		if err != nil || scale == 0 {
			return nil, 0, errForm
		}
		seconds += int64(n) * scale
		scale /= 60
	}
	if s[i] == '-' {
		seconds = -seconds
	}
	return s[:i], seconds, nil
}

const dayMicros = 86400 * 1_000_000

// parseTimestamp reads 2026-03-01 12:00:00.25[+00] [BC] as microseconds since 1970.
func parseTimestamp(s []byte, zoned bool) (int64, error) {
	s, bc := bytes.CutSuffix(s, []byte(" BC"))
	date, clock, ok := bytes.Cut(s, []byte(" "))
	if !ok {
		return 0, errForm
	}
	if bc {
		date = append(append([]byte{}, date...), " BC"...)
	}
	var offset int64
	var err error
	if zoned {
		if clock, offset, err = parseZone(clock); err != nil {
			return 0, err
		}
	}
	days, err1 := parseDate(date)
	micros, err2 := parseClock(clock)
	if err1 != nil || err2 != nil {
		return 0, errForm
	}
	return days*dayMicros + micros - offset*1_000_000, nil
}

func floorDiv(a, b int64) (q, r int64) {
	q, r = a/b, a%b
	if r < 0 {
		q, r = q-1, r+b
	}
	return q, r
}

func appendPadded(dst []byte, v int64, width int) []byte {
	digits := strconv.AppendInt(nil, v, 10)
	for i := len(digits); i < width; i++ {
		dst = append(dst, '0')
	}
	return append(dst, digits...)
}

// appendISO writes microseconds since 1970 as 2026-03-01T12:00:00.250000Z.
func appendISO(dst []byte, micros int64) []byte {
	days, rest := floorDiv(micros, dayMicros)
	y, m, d := civil(days)
	switch { // years beyond four digits carry a sign, as in ISO 8601
	case y < 0:
		dst = append(dst, '-')
		y = -y
	case y > 9999:
		dst = append(dst, '+')
	}
	dst = append(appendPadded(dst, y, 4), '-')
	dst = append(appendPadded(dst, m, 2), '-')
	dst = append(appendPadded(dst, d, 2), 'T')
	return append(appendClock(dst, rest, true), 'Z')
}

func appendClock(dst []byte, micros int64, padded bool) []byte {
	seconds := micros / 1_000_000
	dst = append(appendPadded(dst, seconds/3600, 2), ':')
	dst = append(appendPadded(dst, seconds/60%60, 2), ':')
	dst = appendPadded(dst, seconds%60, 2)
	if f := micros % 1_000_000; f != 0 || padded {
		dst = appendPadded(append(dst, '.'), f, 6)
	}
	return dst
}

// parseInterval reads intervalstyle postgres (1 year 2 mons -3 days +04:05:06.7)
// as microseconds, with months of 365.25/12 days, as Debezium has them.
func parseInterval(s []byte) (int64, error) {
	fields := bytes.Fields(s)
	var months, days, micros int64
	for i := 0; i < len(fields); i++ {
		f := fields[i]
		if bytes.IndexByte(f, ':') >= 0 {
			negative := f[0] == '-'
			f = bytes.TrimLeft(f, "+-")
			h, rest, _ := bytes.Cut(f, []byte(":"))
			hours, err := strconv.ParseInt(string(h), 10, 40)
			if err != nil {
				return 0, errForm
			}
			m, err := parseClock(append([]byte("00:"), rest...))
			if err != nil {
				return 0, errForm
			}
			m += hours * 3_600_000_000
			if negative {
				m = -m
			}
			micros += m
			continue
		}
		n, err := strconv.ParseInt(string(f), 10, 40)
		if err != nil || i+1 == len(fields) {
			return 0, errForm
		}
		i++
		switch string(bytes.TrimSuffix(fields[i], []byte("s"))) {
		case "year":
			months += 12 * n
		case "mon":
			months += n
		case "day":
			days += n
		default:
			return 0, errForm
		}
	}
	if len(fields) == 0 {
		return 0, errForm
	}
	return int64(float64(months)*365.25/12*dayMicros) + days*dayMicros + micros, nil
}
