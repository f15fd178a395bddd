package pgtext

import "bytes"

// Date is a day of the proleptic Gregorian calendar.
type Date struct {
	Class Class
	Days  int64 // since 1970-01-01
}

// Timestamp is a point in time, or on a clock without a zone. Postgres' whole
// range in microseconds since 1970 would not fit 64 bits, hence two parts.
type Timestamp struct {
	Class   Class
	Seconds int64 // since 1970-01-01 00:00:00
	Micros  int32 // 0..999999
}

// Time is a time of day with its zone, if it has one.
type Time struct {
	Micros int64 // since midnight; 24:00:00 is allowed
	East   int32 // of a timetz: seconds east of UTC
}

// ParseDate reads the ISO form of a date: 2024-02-29, 10000-01-01,
// 0044-03-15 BC, infinity.
func ParseDate(b []byte) (Date, error) {
	if c, ok := infinity(b); ok {
		return Date{Class: c}, nil
	}
	rest, bc := cutBC(b)
	days, n, err := day("date", rest, bc)
	if err == nil && n != len(rest) {
		err = bad("date", n, "more text than a date")
	}
	return Date{Days: days}, err
}

// ParseTimestamp reads the ISO form of a timestamp, with a zone's offset from
// UTC if zoned is set (timestamptz).
func ParseTimestamp(b []byte, zoned bool) (Timestamp, error) {
	const form = "timestamp"
	if c, ok := infinity(b); ok {
		return Timestamp{Class: c}, nil
	}
	rest, bc := cutBC(b)
	days, n, err := day(form, rest, bc)
	if err != nil {
		return Timestamp{}, err
	}
	if n >= len(rest) || rest[n] != ' ' && rest[n] != 'T' {
		return Timestamp{}, bad(form, n, "want a space and a time")
	}
	us, n, err := clock(form, rest, n+1)
	if err != nil {
		return Timestamp{}, err
	}
	east := int32(0)
	if zoned {
		if east, n, err = zone(form, rest, n); err != nil {
			return Timestamp{}, err
		}
	}
	if n != len(rest) {
		return Timestamp{}, bad(form, n, "more text than a timestamp")
	}
	return Timestamp{Seconds: days*86400 + us/1e6 - int64(east), Micros: int32(us % 1e6)}, nil
}

// ParseTime reads a time, with an offset from UTC if zoned is set (timetz).
func ParseTime(b []byte, zoned bool) (t Time, err error) {
	us, n, err := clock("time", b, 0)
	if err != nil {
		return t, err
	}
	t.Micros = us
	if zoned {
		if t.East, n, err = zone("time", b, n); err != nil {
			return Time{}, err
		}
	}
	if n != len(b) {
		return Time{}, bad("time", n, "more text than a time")
	}
	return t, nil
}

func infinity(b []byte) (Class, bool) {
	if len(b) < 8 || isDigit(b[0]) {
		return Finite, false
	}
	switch string(b) {
	case "infinity":
		return Infinity, true
	case "-infinity":
		return NegInfinity, true
	}
	return Finite, false
}

var suffixBC = []byte(" BC")

func cutBC(b []byte) ([]byte, bool) {
	if n := len(b); n > 0 && b[n-1] == 'C' {
		return bytes.CutSuffix(b, suffixBC)
	}
	return b, false
}

// day reads year-month-day and returns days since 1970-01-01 and where it ends.
func day(form string, b []byte, bc bool) (days int64, n int, err error) {
	var y int64
	for n < len(b) && isDigit(b[n]) {
		if n >= 7 { // Postgres ends at the year 5874897
			return 0, n, bad(form, n, "year out of range")
		}
		y = y*10 + int64(b[n]-'0')
		n++
	}
	switch {
	case n < 4:
		return 0, n, bad(form, n, "want a year of four digits or more")
	case y == 0:
		return 0, n, bad(form, 0, "there is no year 0")
	}
	m, n, err := pair(form, b, n, '-')
	if err != nil {
		return 0, n, err
	}
	d, n, err := pair(form, b, n, '-')
	if err != nil {
		return 0, n, err
	}
	if bc {
		y = 1 - y
	}
	if m < 1 || m > 12 {
		return 0, n, bad(form, n, "month out of range")
	}
	if d < 1 || d > daysIn(y, m) {
		return 0, n, bad(form, n, "day out of range")
	}
	return civil(y, m, d), n, nil
}

// pair reads a separator and two digits.
func pair(form string, b []byte, n int, sep byte) (int64, int, error) {
	if n+3 > len(b) || b[n] != sep || !isDigit(b[n+1]) || !isDigit(b[n+2]) {
		return 0, n, bad(form, n, "want a separator and two digits")
	}
	return int64(b[n+1]-'0')*10 + int64(b[n+2]-'0'), n + 3, nil
}

func daysIn(y, m int64) int64 {
	switch m {
	case 4, 6, 9, 11:
		return 30
	case 2:
		if y%4 == 0 && (y%100 != 0 || y%400 == 0) {
			return 29
		}
		return 28
	}
	return 31
}

// civil returns days since 1970-01-01, for astronomical years (0 is 1 BC). It
// counts in years that begin in March, so that the leap day is the last.
func civil(y, m, d int64) int64 {
	if m <= 2 {
		y--
		m += 12
	}
	era := y / 400
	if y < 0 && y%400 != 0 {
		era--
	}
	yoe := y - era*400
	doy := (153*(m-3)+2)/5 + d - 1
	return era*146097 + yoe*365 + yoe/4 - yoe/100 + doy - 719468
}

// clock reads hh:mm:ss[.ffffff] from n on and returns microseconds.
func clock(form string, b []byte, n int) (int64, int, error) {
	if n+2 > len(b) || !isDigit(b[n]) || !isDigit(b[n+1]) {
		return 0, n, bad(form, n, "want two digits of hours")
	}
	h := int64(b[n]-'0')*10 + int64(b[n+1]-'0')
	m, n, err := pair(form, b, n+2, ':')
	if err != nil {
		return 0, n, err
	}
	s, n, err := pair(form, b, n, ':')
	if err != nil {
		return 0, n, err
	}
	var us int64
	if n < len(b) && b[n] == '.' {
		start := n + 1
		for n = start; n < len(b) && isDigit(b[n]); n++ {
			us = us*10 + int64(b[n]-'0')
			if n-start >= 6 {
				return 0, n, bad(form, n, "more than six digits of a second")
			}
		}
		if n == start {
			return 0, n, bad(form, n, "no digits after the point")
		}
		us *= int64(pow10[6-(n-start)])
	}
	us += ((h*60+m)*60 + s) * 1e6
	if m > 59 || s > 60 || us > 86400*1e6 {
		return 0, n, bad(form, n, "time out of range")
	}
	return us, n, nil
}

// zone reads ±hh[:mm[:ss]] from n on.
func zone(form string, b []byte, n int) (east int32, end int, err error) {
	if n >= len(b) || b[n] != '+' && b[n] != '-' {
		return 0, n, bad(form, n, "want an offset from UTC")
	}
	sign := b[n]
	h, n, err := pair(form, b, n, sign)
	if err != nil {
		return 0, n, err
	}
	s := h * 3600
	for _, unit := range []int64{60, 1} {
		if n >= len(b) || b[n] != ':' {
			break
		}
		var v int64
		if v, n, err = pair(form, b, n, ':'); err != nil {
			return 0, n, err
		}
		if v > 59 {
			return 0, n, bad(form, n, "offset out of range")
		}
		s += v * unit
	}
	if h > 15 { // Postgres' own limit is below 16 hours
		return 0, n, bad(form, n, "offset out of range")
	}
	if sign == '-' {
		s = -s
	}
	return int32(s), n, nil
}
