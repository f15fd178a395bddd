package pgtext_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/big"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/pgtext"
)

func escapeCopy(s string) string {
	return strings.NewReplacer("\\", `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`, "\b", `\b`, "\f", `\f`, "\v", `\v`).Replace(s)
}

func TestCopyReadsWhatPostgresWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		columns := rapid.IntRange(1, 5).Draw(t, "columns")
		value := rapid.Custom(func(t *rapid.T) *string {
			if rapid.IntRange(0, 4).Draw(t, "null") == 0 {
				return nil
			}
			s := rapid.SampledFrom([]string{"", `\N`, `\.`, "\\", "a\tb", "x\n", "\x00\x01", "é"}).Draw(t, "s") + rapid.String().Draw(t, "t")
			return &s
		})
		rows := rapid.SliceOfN(rapid.SliceOfN(value, columns, columns), 0, 6).Draw(t, "rows")
		var text strings.Builder
		for _, r := range rows {
			for i, v := range r {
				if i > 0 {
					text.WriteByte('\t')
				}
				if v == nil {
					text.WriteString(`\N`)
				} else if rapid.Bool().Draw(t, "ours") {
					text.Write(pgtext.AppendCopyField(nil, []byte(*v)))
				} else {
					text.WriteString(escapeCopy(*v))
				}
			}
			text.WriteByte('\n')
		}
		at := 0
		var again strings.Builder
		var w *pgtext.CopyWriter
		w = pgtext.NewCopyWriter(columns, 1<<20, func(row change.Row) error {
			again.Write(w.Line())
			again.WriteByte('\n')
			for i, v := range row {
				want := rows[at][i]
				if (want == nil) != (v.Kind == change.Null) || want != nil && *want != string(v.Data) {
					t.Fatalf("row %d column %d: got %q, want %v", at, i, v.Data, want)
				}
				if want != nil && v.Data == nil {
					t.Fatal("a text has nil data")
				}
			}
			at++
			return nil
		})
		step := rapid.IntRange(1, 9).Draw(t, "step")
		for s := []byte(text.String()); len(s) > 0; s = s[min(step, len(s)):] {
			if _, err := w.Write(s[:min(step, len(s))]); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil || at != len(rows) || w.Rows() != int64(len(rows)) {
			t.Fatalf("%d of %d rows, err %v", at, len(rows), err)
		}
		if again.String() != text.String() {
			t.Fatalf("lines %q of %q", again.String(), text.String())
		}
	})
}

func TestCopyRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		text string
		why  string
	}{
		"too few":    {"a\n", "fewer"},
		"too many":   {"a\tb\tc\n", "more"},
		"cut":        {"a\tb", "inside a row"},
		"backslash":  {"a\tb\\\n", "backslash"},
		"too long":   {strings.Repeat("s", 101) + "\tb\n", "longer"},
		"after end":  {"\\.\na\tb\n", "after the end"},
		"long, open": {strings.Repeat("s", 200), "longer"},
	} {
		w := pgtext.NewCopyWriter(2, 100, func(change.Row) error { return nil })
		_, err := w.Write([]byte(c.text))
		if err == nil {
			err = w.Close()
		}
		if err == nil || !strings.Contains(err.Error(), c.why) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func formatArray(elems []*string, dims []pgtext.Dim, withBounds bool) string {
	var b strings.Builder
	if withBounds {
		for _, d := range dims {
			fmt.Fprintf(&b, "[%d:%d]", d.Lower, d.Lower+d.Len-1)
		}
		b.WriteByte('=')
	}
	var level func(d int)
	level = func(d int) {
		b.WriteByte('{')
		for i := 0; i < dims[d].Len; i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			if d+1 < len(dims) {
				level(d + 1)
				continue
			}
			e := elems[0]
			elems = elems[1:]
			switch {
			case e == nil:
				b.WriteString("NULL")
			case *e == "" || strings.EqualFold(*e, "null") || strings.ContainsAny(*e, "{},\"\\ \t\n\r\v\f"):
				b.WriteString(`"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(*e) + `"`)
			default:
				b.WriteString(*e)
			}
		}
		b.WriteByte('}')
	}
	level(0)
	return b.String()
}

func TestArrayReadsWhatPostgresWrites(t *testing.T) {
	var a pgtext.Array
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 3).Draw(t, "dims")
		dims, total := make([]pgtext.Dim, n), 1
		bounds := rapid.Bool().Draw(t, "bounds")
		for i := range dims {
			dims[i] = pgtext.Dim{Lower: 1, Len: rapid.IntRange(1, 3).Draw(t, "len")}
			if bounds {
				dims[i].Lower = rapid.IntRange(-3, 3).Draw(t, "lower")
			}
			total *= dims[i].Len
		}
		elems := make([]*string, total)
		for i := range elems {
			if rapid.IntRange(0, 3).Draw(t, "null") > 0 {
				s := rapid.SampledFrom([]string{"", "NULL", "null", `"`, `\`, "{", "},", " x ", "plain"}).Draw(t, "s") + rapid.StringN(0, 4, -1).Draw(t, "t")
				elems[i] = &s
			}
		}
		text := formatArray(elems, dims, bounds)
		if err := a.Parse([]byte(text), ','); err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		if len(a.Elems) != total || fmt.Sprint(a.Dims) != fmt.Sprint(dims) {
			t.Fatalf("%s: %d elements, dims %v", text, len(a.Elems), a.Dims)
		}
		for i, e := range a.Elems {
			if e.Null != (elems[i] == nil) || !e.Null && string(e.Text) != *elems[i] {
				t.Fatalf("%s: element %d is %q", text, i, e.Text)
			}
		}
	})
}

func TestArrayShapes(t *testing.T) {
	var a pgtext.Array
	for _, ok := range []string{"{}", "{1}", "{NULL}", "{{1,2},{3,4}}", "[0:1]={1,2}", `{""}`, "{{{1}}}", `{\N\U\L\L}`} {
		if err := a.Parse([]byte(ok), ','); err != nil {
			t.Errorf("%s: %v", ok, err)
		}
	}
	if a.Elems[0].Null {
		t.Error("an escaped word is not NULL")
	}
	for _, no := range []string{"", "{", "}", "{1", "{1,}", "{,1}", "{{1},2}", "{1,{2}}", "{{1},{2,3}}", "{1}x", "{1}}", "[0:1]={1}", "[1]={1}", "{{}}", `{"a"b}`, `{"a}`, "{1 {2}}", "[2:1]={}", "{a\\", "{{{{{{{1}}}}}}}"} {
		if err := a.Parse([]byte(no), ','); err == nil {
			t.Errorf("%s: accepted", no)
		}
	}
	if err := a.Parse([]byte("{(1,1),(0,0);(2,2),(0,0)}"), ';'); err != nil || len(a.Elems) != 2 || string(a.Elems[0].Text) != "(1,1),(0,0)" {
		t.Errorf("boxes: %v %v", a.Elems, err)
	}
}

func TestNumericIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		precision := rapid.IntRange(1, 76).Draw(t, "p")
		scale := rapid.IntRange(0, precision).Draw(t, "s")
		digits := rapid.SliceOfN(rapid.ByteRange('0', '9'), 1, precision).Draw(t, "digits")
		want, _ := new(big.Int).SetString(string(digits), 10)
		s := string(digits)
		if len(s) <= scale {
			s = strings.Repeat("0", scale+1-len(s)) + s
		}
		text := s[:len(s)-scale]
		if scale > 0 {
			text += "." + s[len(s)-scale:]
		}
		neg := rapid.Bool().Draw(t, "neg")
		if neg {
			text = "-" + text
		}
		n, err := pgtext.ParseNumeric([]byte(text))
		if err != nil || n.Neg != neg {
			t.Fatalf("%s: %v", text, err)
		}
		u, exact, ok := n.Unscaled(precision, scale)
		got := new(big.Int)
		for i := 3; i >= 0; i-- {
			got.Or(got.Lsh(got, 64), new(big.Int).SetUint64(u[i]))
		}
		if !ok || !exact || got.Cmp(want) != 0 {
			t.Fatalf("%s as (%d,%d): got %s exact=%v ok=%v", text, precision, scale, got, exact, ok)
		}
	})
}

func TestNumericEdges(t *testing.T) {
	for text, class := range map[string]pgtext.Class{"NaN": pgtext.NaN, "Infinity": pgtext.Infinity, "-Infinity": pgtext.NegInfinity, "0": pgtext.Finite, ".5": pgtext.Finite, "-0.00": pgtext.Finite} {
		if n, err := pgtext.ParseNumeric([]byte(text)); err != nil || n.Class != class {
			t.Errorf("%s: %v %v", text, n.Class, err)
		}
	}
	for _, no := range []string{"", "-", ".", "1e5", "1.2.3", "nan", "1,0", "--1", "+1"} {
		if _, err := pgtext.ParseNumeric([]byte(no)); err == nil {
			t.Errorf("%s: accepted", no)
		}
	}
	n, _ := pgtext.ParseNumeric([]byte("1.25"))
	if _, exact, ok := n.Unscaled(5, 1); exact || !ok {
		t.Error("a digit beyond the scale must not pass as exact")
	}
	n, _ = pgtext.ParseNumeric([]byte("1000"))
	if _, _, ok := n.Unscaled(5, 2); ok {
		t.Error("six digits do not fit five")
	}
}

func TestTimestampsOfAllYears(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		year := rapid.IntRange(-4712, 294276).Draw(t, "year") // astronomical
		at := time.Date(year, 1, 1, 0, 0, 0, 0, time.UTC).Add(time.Duration(rapid.Int64Range(0, 365*86400*1e6-1).Draw(t, "us")) * 1000)
		y, suffix := at.Year(), ""
		if y <= 0 {
			y, suffix = 1-y, " BC"
		}
		frac := ""
		if us := at.Nanosecond() / 1000; us > 0 {
			frac = strings.TrimRight(fmt.Sprintf(".%06d", us), "0")
		}
		east := rapid.IntRange(-12*60, 14*60).Draw(t, "east") * 60
		date := fmt.Sprintf("%04d-%02d-%02d", y, at.Month(), at.Day())
		clock := fmt.Sprintf(" %02d:%02d:%02d%s", at.Hour(), at.Minute(), at.Second(), frac)
		sign, off := '+', east
		if off < 0 {
			sign, off = '-', -off
		}
		zone := fmt.Sprintf("%c%02d:%02d", sign, off/3600, off/60%60)
		ts, err := pgtext.ParseTimestamp([]byte(date+clock+suffix), false)
		if err != nil || ts.Seconds != at.Unix() || int(ts.Micros) != at.Nanosecond()/1000 {
			t.Fatalf("%s: got %v, %v", date+clock+suffix, ts, err)
		}
		tz, err := pgtext.ParseTimestamp([]byte(date+clock+zone+suffix), true)
		if err != nil || tz.Seconds != at.Unix()-int64(east) {
			t.Fatalf("%s: got %v, %v", date+clock+zone+suffix, tz, err)
		}
		d, err := pgtext.ParseDate([]byte(date + suffix))
		if err != nil || d.Days*86400 != at.Unix()-(at.Unix()%86400+86400)%86400 {
			t.Fatalf("%s: got %v, %v", date+suffix, d, err)
		}
	})
}

func TestDateTimeEdges(t *testing.T) {
	for _, no := range []string{"", "2024", "2024-02-30", "2023-02-29", "1900-02-29", "0000-01-01", "2024-13-01", "99999999-01-01", "2024-01-01x", "Infinity", "24-01-01", "2024-00-01", "2024-01-00"} {
		if _, err := pgtext.ParseDate([]byte(no)); err == nil {
			t.Errorf("date %s: accepted", no)
		}
	}
	for _, no := range []string{"2024-01-01", "2024-01-01 24:00:01", "2024-01-01 00:60:00", "2024-01-01 00:00:00.", "2024-01-01 00:00:00.1234567", "2024-01-01 00:00:00+00", "2024-01-01  00:00:00"} {
		if _, err := pgtext.ParseTimestamp([]byte(no), false); err == nil {
			t.Errorf("timestamp %s: accepted", no)
		}
	}
	if d, err := pgtext.ParseDate([]byte("-infinity")); err != nil || d.Class != pgtext.NegInfinity {
		t.Error(d, err)
	}
	if d, err := pgtext.ParseDate([]byte("5874897-12-31")); err != nil || d.Days != 2145042905 {
		t.Error(d, err)
	}
	if v, err := pgtext.ParseTime([]byte("24:00:00"), false); err != nil || v.Micros != 86400e6 {
		t.Error(v, err)
	}
	if v, err := pgtext.ParseTime([]byte("01:02:03.5-08:30:15"), true); err != nil || v.Micros != 3723500000 || v.East != -(8*3600+30*60+15) {
		t.Error(v, err)
	}
	if v, err := pgtext.ParseTimestamp([]byte("1883-11-18 12:03:57-04:56:02"), true); err != nil || v.Seconds != time.Date(1883, 11, 18, 16, 59, 59, 0, time.UTC).Unix() {
		t.Error(v, err)
	}
}

func TestScalars(t *testing.T) {
	if u, err := pgtext.ParseUUID([]byte("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11")); err != nil || u[0] != 0xa0 || u[15] != 0x11 {
		t.Error(u, err)
	}
	for _, no := range []string{"", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1g", "a0eebc999c0b-4ef8-bb6d-6bb9bd380a111-"} {
		if _, err := pgtext.ParseUUID([]byte(no)); err == nil {
			t.Errorf("uuid %s: accepted", no)
		}
	}
	if b, err := pgtext.AppendBytea([]byte("x"), []byte(`\x00fF`)); err != nil || string(b) != "x\x00\xff" {
		t.Error(b, err)
	}
	for _, no := range []string{"", "00", `\x0`, `\x0g`} {
		if b, err := pgtext.AppendBytea([]byte("x"), []byte(no)); err == nil || string(b) != "x" {
			t.Errorf("bytea %s: %v", no, err)
		}
	}
	for _, v := range []int64{0, 1, -1, 32767, -32768, 1<<63 - 1, -1 << 63} {
		for _, size := range []int{16, 32, 64} {
			got, err := pgtext.ParseInt(fmt.Append(nil, v), size)
			fits := v >= -1<<(size-1) && v <= 1<<(size-1)-1
			if fits != (err == nil) || fits && got != v {
				t.Errorf("%d in %d bits: %d %v", v, size, got, err)
			}
		}
	}
	if _, err := pgtext.ParseInt([]byte("9223372036854775808"), 64); err == nil {
		t.Error("out of range accepted")
	}
	if v, err := pgtext.ParseUint([]byte("18446744073709551615"), 64); err != nil || v != 1<<64-1 {
		t.Error(v, err)
	}
	for _, no := range []string{"", "-1", "4294967296", "99999999999"} {
		if _, err := pgtext.ParseUint([]byte(no), 32); err == nil {
			t.Errorf("unsigned %s: accepted", no)
		}
	}
	if v, err := pgtext.ParseBool([]byte("t")); err != nil || !v {
		t.Error(v, err)
	}
	if pgtext.CheckBit([]byte("0101")) != nil || pgtext.CheckBit([]byte("012")) == nil {
		t.Error("bit strings")
	}
}

func TestHstore(t *testing.T) {
	var h pgtext.Hstore
	rapid.Check(t, func(t *rapid.T) {
		type pair struct {
			k string
			v *string
		}
		pairs := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) pair {
			p := pair{k: rapid.String().Draw(t, "k")}
			if rapid.Bool().Draw(t, "null") {
				v := rapid.String().Draw(t, "v") + rapid.SampledFrom([]string{"", `"`, `\`, "=>", ", "}).Draw(t, "w")
				p.v = &v
			}
			return p
		}), 0, 5).Draw(t, "pairs")
		esc := strings.NewReplacer(`\`, `\\`, `"`, `\"`)
		var parts []string
		for _, p := range pairs {
			s := `"` + esc.Replace(p.k) + `"=>`
			if p.v == nil {
				s += "NULL"
			} else {
				s += `"` + esc.Replace(*p.v) + `"`
			}
			parts = append(parts, s)
		}
		text := strings.Join(parts, ", ")
		if err := h.Parse([]byte(text)); err != nil || len(h.Pairs) != len(pairs) {
			t.Fatalf("%s: %v", text, err)
		}
		for i, p := range h.Pairs {
			if string(p.Key) != pairs[i].k || p.Null != (pairs[i].v == nil) || !p.Null && string(p.Value) != *pairs[i].v {
				t.Fatalf("%s: pair %d is %v", text, i, p)
			}
		}
	})
	for _, no := range []string{`a=>1`, `"a"`, `"a"=>`, `"a"=>"b`, `"a"=>"b" "c"=>"d"`, `"a"=>"b",`, `"a\`} {
		if err := h.Parse([]byte(no)); err == nil {
			t.Errorf("%s: accepted", no)
		}
	}
}

func TestRanges(t *testing.T) {
	for text, want := range map[string]pgtext.Range{
		"empty":          {Empty: true},
		"[1,5)":          {HasLower: true, HasUpper: true, LowerInc: true, Lower: []byte("1"), Upper: []byte("5")},
		"(,5]":           {HasUpper: true, UpperInc: true, Upper: []byte("5")},
		"(,)":            {},
		`["a ""b\",",]`:  {HasLower: true, LowerInc: true, UpperInc: true, Lower: []byte(`a "b",`)},
		`["",infinity]`:  {HasLower: true, HasUpper: true, LowerInc: true, UpperInc: true, Upper: []byte("infinity")},
		`(a""b,"x"y"z")`: {HasLower: true, HasUpper: true, Lower: []byte("ab"), Upper: []byte("xyz")},
	} {
		got, err := pgtext.ParseRange([]byte(text))
		if err != nil || got.Empty != want.Empty || got.HasLower != want.HasLower || got.HasUpper != want.HasUpper ||
			got.LowerInc != want.LowerInc || got.UpperInc != want.UpperInc || !bytes.Equal(got.Lower, want.Lower) || !bytes.Equal(got.Upper, want.Upper) {
			t.Errorf("%s: got %+v, %v", text, got, err)
		}
	}
	for _, no := range []string{"", "[", "[1", "[1,", "[1,2", "1,2", "[1,2)x", `["a,2)`, "[1,2,3)", `[a\`} {
		if _, err := pgtext.ParseRange([]byte(no)); err == nil {
			t.Errorf("%s: accepted", no)
		}
	}
	if rs, err := pgtext.ParseMultirange([]byte("{[1,2),[5,6)}")); err != nil || len(rs) != 2 {
		t.Error(rs, err)
	}
	for _, no := range []string{"", "{", "{[1,2)", "{[1,2);}", "{[1,2),}", "{}}"} {
		if _, err := pgtext.ParseMultirange([]byte(no)); err == nil {
			t.Errorf("%s: accepted", no)
		}
	}
}

func TestErrorsHoldNoValues(t *testing.T) {
	_, err := pgtext.ParseNumeric([]byte("12secret"))
	var e *pgtext.Error
	if !errors.As(err, &e) || e.Off != 2 || strings.Contains(err.Error(), "secret") {
		t.Error(err)
	}
}
