package shape

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
)

var keys = Keys{"env:K": []byte("0123456789abcdef"), "env:SHORT": []byte("short")}

func people(full bool) *change.Schema {
	col := func(name, base string) change.Column {
		return change.Column{Name: name, Type: change.Type{Name: base, Kind: change.Base, Base: base, Mod: -1}}
	}
	s := &change.Schema{Table: change.TableID{Schema: "public", Name: "people"}, Key: []int{0}, Full: full,
		Columns: []change.Column{col("id", "int4"), col("country", "text"), col("email", "text"), col("note", "text"), col("age", "int4"), col("device", "uuid")}}
	s.Columns[3].NotNull = true
	return s
}

type fataler interface {
	Helper()
	Fatal(args ...any)
}

func compiled(t fataler, s *change.Schema, stage Stage, rules ...Rule) *Shape {
	t.Helper()
	sh, err := Compile(s, rules, keys, stage)
	if err != nil {
		t.Fatal(err)
	}
	return sh
}

// rules are drawn so that what they ask for is not what another changes before the log.
func genRules(t *rapid.T) []Rule {
	var out []Rule
	log := func() bool { return rapid.Bool().Draw(t, "in log") }
	where := func() string {
		return rapid.SampledFrom([]string{"", "country = 'DE'", "country is null or age > 1", "id in (1, 3)", "not (country = 'US' and id = 2)"}).Draw(t, "where")
	}
	if w := where(); w != "" {
		out = append(out, Rule{Of: "residency[0]", Do: Withhold, Where: w, InLog: log()})
	}
	if rapid.Bool().Draw(t, "mask") {
		out = append(out, Rule{Of: "residency[1]", Do: Mask, Columns: []string{"email", "note"}, Where: where(), Key: "env:K", InLog: log()})
	}
	if rapid.Bool().Draw(t, "omit") {
		out = append(out, Rule{Of: "residency[2]", Do: Omit, Columns: []string{"note", "device"}, Where: where(), InLog: log()})
	}
	by := func() []string { return []string{rapid.SampledFrom([]string{"id", "country"}).Draw(t, "by")} }
	thin := rapid.Bool().Draw(t, "sample")
	if thin {
		out = append(out, Rule{Of: "thin[0]", Do: Sample, Columns: by(), Rate: 500_000, Salt: "x"})
	}
	// Of two tiers each row is of one at most.
	var asked []string
	var decides []int
	for range rapid.IntRange(0, 4).Draw(t, "classes") {
		asked = append(asked, where())
		decides = append(decides, rapid.IntRange(0, 2).Draw(t, "tier"))
	}
	for tier, name := range []string{"hourly", "daily"} {
		var cases []Case
		for i, w := range asked {
			cases = append(cases, Case{N: i, Where: w, Is: decides[i] == tier})
		}
		if rapid.Bool().Draw(t, "tier omits") {
			out = append(out, Rule{Of: "tiers[0]", Do: Omit, Columns: []string{"email", "note"}[tier:], Tier: name, Cases: cases})
		}
		if !thin && rapid.Bool().Draw(t, "tier samples") {
			out = append(out, Rule{Of: "tiers[0]", Do: Sample, Columns: by(), Rate: int64(500_000 + 200_000*tier), Salt: name, Tier: name, Cases: cases})
		}
	}
	return out
}

func genRow(t *rapid.T, id int) change.Row {
	text := func(name string, null bool, of ...string) change.Value {
		v := rapid.SampledFrom(of).Draw(t, name)
		if null && v == "" {
			return change.Value{}
		}
		return change.TextValue(v)
	}
	return change.Row{change.TextValue(strconv.Itoa(id)), text("country", true, "", "DE", "US", "FR"), text("email", true, "", "a@x", "!b", "=c", "t\tn\n\\"),
		text("note", false, "", "n", "it's"), text("age", true, "", "1", "2"), text("device", true, "", "00000000-0000-0000-0000-000000000001")}
}

func key(t fataler, s *change.Schema, r change.Row) change.Key {
	k, err := change.MakeKey(s, r)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// follow lets a sink take a change, as all of them do.
func follow(rows map[change.Key]change.Row, c *change.Change) {
	switch c.Op {
	case change.Truncate:
		clear(rows)
	case change.Delete:
		delete(rows, c.Key)
	default:
		rows[c.Key] = c.New
	}
}

// Whatever changes come, in however many stages and whichever of them were captured before
// the rules were declared, what they leave of the rows is what they leave of the changes.
func TestChangesComeToTheShapeOfTheRows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := people(true)
		rules := genRules(t)
		all := compiled(t, s, All, rules...)
		toLog := compiled(t, s, ToLog, rules...)
		inLog := s
		if toLog != nil {
			inLog = toLog.Schema()
		}
		fromLog, fromOld := compiled(t, inLog, FromLog, rules...), compiled(t, s, FromLog, rules...)
		source, sink, log := map[change.Key]change.Row{}, map[change.Key]change.Row{}, map[change.Key]change.Row{}
		old := rapid.IntRange(0, 20).Draw(t, "captured before the rules")
		for i := range rapid.IntRange(1, 30).Draw(t, "changes") {
			row := genRow(t, rapid.IntRange(1, 4).Draw(t, "id"))
			k := key(t, s, row)
			c := &change.Change{Op: change.Insert, Key: k, New: row, Pos: change.Position{Epoch: 1, Commit: change.LSN(i + 1)}}
			if had := source[k]; had != nil {
				c.Op, c.Old = change.Update, had
				if rapid.IntRange(0, 3).Draw(t, "delete") == 0 {
					c.Op, c.New = change.Delete, nil
				}
			}
			if rapid.IntRange(0, 30).Draw(t, "truncate") == 0 {
				c = &change.Change{Op: change.Truncate}
			}
			follow(source, c)
			step := func(sh *Shape) bool {
				if sh == nil {
					return true
				}
				before := fmt.Sprint(*c)
				out, withheld, err := sh.Apply(c)
				if err != nil {
					t.Fatal(err)
				}
				if fmt.Sprint(*c) != before {
					t.Fatal("a change was altered in place")
				}
				// Images are of rows that are there, and as they are there.
				if c.Op != change.Truncate && !withheld {
					old, had, _ := sh.Row(c.Old)
					row, has, _ := sh.Row(c.New)
					had, has = had && c.Op != change.Insert, has && c.Op != change.Delete
					if fmt.Sprint(out.Op) != fmt.Sprint(map[[2]bool]change.Op{{true, true}: change.Update, {true, false}: change.Delete, {false, true}: change.Insert}[[2]bool{had, has}]) ||
						had != (out.Old != nil) || has != (out.New != nil) || had && fmt.Sprint(out.Old) != fmt.Sprint(old) || has && fmt.Sprint(out.New) != fmt.Sprint(row) {
						t.Fatalf("%+v comes to be %+v", c, out)
					}
				}
				c = out
				return !withheld
			}
			if i < old {
				if step(fromOld) {
					follow(sink, c)
				}
				continue
			}
			if !step(toLog) {
				continue
			}
			follow(log, c)
			if step(fromLog) {
				follow(sink, c)
			}
		}
		want, have := map[change.Key]string{}, map[change.Key]string{}
		for k, row := range source {
			out, ok := row, true
			if all != nil {
				var err error
				if out, ok, err = all.Row(row); err != nil {
					t.Fatal(err)
				}
			}
			if ok {
				want[k] = fmt.Sprint(out)
			}
		}
		for k, row := range sink {
			have[k] = fmt.Sprint(row)
		}
		if fmt.Sprint(have) != fmt.Sprint(want) {
			t.Fatalf("%v:\nhave %v\nwant %v", rules, have, want)
		}
		if all != nil && fromLog != nil {
			if x, y := all.Schema(), fromLog.Schema(); x.Version() != y.Version() {
				t.Fatalf("%+v\n%+v", x, y)
			}
		}
	})
}

// Where the log has but keys of rows before a change, conditions on keys are decided all the
// same, and rows that are withheld leave no trace of values.
func TestKeysAlone(t *testing.T) {
	s := people(false)
	sh := compiled(t, s, FromLog, Rule{Of: "r", Do: Withhold, Where: "id >= 3"}, Rule{Of: "m", Do: Mask, Columns: []string{"email"}, Key: "env:K"})
	row := func(id string, email change.Value) change.Row {
		return change.Row{change.TextValue(id), {}, email, change.TextValue("n"), {}, {}}
	}
	oldKey := change.Row{change.TextValue("3"), {}, {}, {}, {}, {}}
	for name, x := range map[string]struct {
		c        change.Change
		withheld bool
	}{
		"withheld":         {change.Change{Op: change.Insert, New: row("3", change.TextValue("e"))}, true},
		"withheld, gone":   {change.Change{Op: change.Delete, Old: oldKey, Moved: change.Row{change.TextValue("4")}}, true},
		"withheld, again":  {change.Change{Op: change.Update, New: row("3", change.Value{Kind: change.Unchanged})}, true},
		"kept, gone":       {change.Change{Op: change.Delete, Old: change.Row{change.TextValue("2"), {}, {}, {}, {}, {}}}, false},
		"kept, not sent":   {change.Change{Op: change.Update, New: row("1", change.Value{Kind: change.Unchanged})}, false},
		"kept, with value": {change.Change{Op: change.Update, New: row("1", change.TextValue("e")), Moved: change.Row{change.TextValue("3")}}, false},
	} {
		out, withheld, err := sh.Apply(&x.c)
		if err != nil || withheld != x.withheld {
			t.Errorf("%s: %v, %v", name, withheld, err)
			continue
		}
		if withheld && (out.New != nil || out.Old != nil || out.Moved != nil || out.Key != "") {
			t.Errorf("%s: %+v is left", name, out)
		}
		if out.Moved != nil {
			t.Errorf("%s: another row's key is left", name)
		}
		if !withheld && out.Op == change.Update && out.New[2].Kind != change.Unchanged && len(out.New[2].Data) != maskLength {
			t.Errorf("%s: %+v", name, out.New)
		}
	}
	if _, _, err := compiled(t, people(true), FromLog, Rule{Of: "r", Do: Withhold, Where: "age = 1"}).Apply(&change.Change{Op: change.Update, New: row("1", change.Value{})}); err == nil {
		t.Error("an update without the row before it was decided")
	}
}

// A row that moves between tiers comes to be as its new one leaves it, and has its rate beside it.
func TestRowsMoveBetweenTiers(t *testing.T) {
	s := people(true)
	in := func(tier string) []Case {
		return []Case{{N: 0, Where: "age = 1", Is: tier == "bulk"}, {N: 1, Where: "country = 'DE'", Is: tier == "rare"}, {N: 2, Where: "age = 2", Is: tier == "bulk"}}
	}
	sh := compiled(t, s, FromLog,
		Rule{Of: "tiers[0]", Do: Omit, Columns: []string{"note"}, Tier: "bulk", Cases: in("bulk")},
		Rule{Of: "tiers[1]", Do: Sample, Columns: []string{"id"}, Rate: 1, Tier: "rare", Cases: in("rare")})
	row := func(country, age string) change.Row {
		return change.Row{change.TextValue("7"), change.TextValue(country), {}, change.TextValue("n"), change.TextValue(age), {}}
	}
	full, bulk, rare := row("US", "3"), row("DE", "1"), row("DE", "2")
	for name, x := range map[string]struct {
		old, new change.Row
		op       change.Op
		note     string // of the row after it
	}{
		"whole, and then not":       {full, bulk, change.Update, ""},
		"not whole, and then whole": {bulk, full, change.Update, "n"},
		"not in the sample":         {full, rare, change.Delete, ""},
		"in no sample any more":     {rare, full, change.Insert, "n"},
		"from a sample to less":     {rare, bulk, change.Insert, ""},
	} {
		out, withheld, err := sh.Apply(&change.Change{Op: change.Update, Old: x.old, New: x.new})
		if err != nil || withheld || out.Op != x.op {
			t.Errorf("%s: %+v, %v, %v", name, out, withheld, err)
			continue
		}
		if out.New != nil && (string(out.New[3].Data) != x.note || string(out.New[6].Data) != "1") || out.New == nil && string(out.Old[3].Data) != "n" {
			t.Errorf("%s: %v after %v", name, out.New, out.Old)
		}
	}
	if _, withheld, err := sh.Apply(&change.Change{Op: change.Update, Old: rare, New: rare}); err != nil || !withheld {
		t.Errorf("out of the sample before and after: %v, %v", withheld, err)
	}
	if d := sh.Schema(); *d.Columns[6].Missing != "1" || d.Columns[3].NotNull || sh.Omitted("note") {
		t.Errorf("definition: %+v", d.Columns)
	}
	open := row("US", "3")
	open[4] = change.Value{Kind: change.Unchanged}
	if _, _, err := sh.Apply(&change.Change{Op: change.Insert, New: open}); !fault.Is(err, CodeUndecided) {
		t.Errorf("a row without what its tier is told by: %v", err)
	}
}

func TestDefinition(t *testing.T) {
	s := people(true)
	missing := "raw"
	for _, i := range []int{2, 3} {
		s.Columns[i].Missing = &missing
	}
	sh := compiled(t, s, All, Rule{Of: "m", Do: Mask, Columns: []string{"email"}, Key: "env:K"}, Rule{Of: "o", Do: Omit, Columns: []string{"note"}}, Rule{Of: "s", Do: Sample, Columns: []string{"id"}, Rate: 10_000})
	d := sh.Schema()
	if d.Columns[3].NotNull || d.Columns[3].Missing != nil || !sh.Omitted("note") || sh.Omitted("email") {
		t.Errorf("left out: %+v", d.Columns[3])
	}
	if c := d.Columns[2]; !c.Masked || c.Missing == nil || len(*c.Missing) != maskLength {
		t.Errorf("masked: %+v", c)
	}
	if c := d.Columns[6]; c.Name != RateColumn || *c.Missing != "0.01" {
		t.Errorf("rate: %+v", c)
	}
	if Own(d).Column(RateColumn) >= 0 || len(s.Columns) != 6 || s.Columns[2].Masked {
		t.Error("the table's own columns")
	}
	if sh := compiled(t, s, All, Rule{Of: "o", Do: Omit, Present: []string{"mail", "note"}}); !sh.Omitted("note") {
		t.Error("a column that may be there, and is")
	}
	if again := compiled(t, d, All, Rule{Of: "o", Do: Omit, Columns: []string{"note"}}); len(again.Schema().Columns) != 6 {
		t.Error("what another shape added is there")
	}
	if sh, err := Compile(s, []Rule{{Of: "o", Do: Omit, Columns: []string{"note"}}}, nil, ToLog); sh != nil || err != nil {
		t.Error("nothing to do before the log", sh, err)
	}
}

// A sample keeps about its share of entities, and always the same ones.
func TestSample(t *testing.T) {
	s := people(true)
	sh := compiled(t, s, All, Rule{Of: "s", Do: Sample, Columns: []string{"country", "id"}, Rate: 100_000, Salt: "a"})
	other := compiled(t, s, All, Rule{Of: "s", Do: Sample, Columns: []string{"country", "id"}, Rate: 100_000, Salt: "b"})
	all := compiled(t, s, All, Rule{Of: "s", Do: Sample, Columns: []string{"id"}, Rate: 1_000_000})
	n, both := 0, 0
	for i := range 20_000 {
		row := change.Row{change.TextValue(strconv.Itoa(i)), {}, {}, change.TextValue(""), {}, {}}
		_, a, err := sh.Row(row)
		_, b, _ := other.Row(row)
		_, whole, _ := all.Row(row)
		if err != nil || !whole {
			t.Fatal(err, whole)
		}
		if a {
			n++
			if b {
				both++
			}
		}
	}
	if n < 1800 || n > 2200 || both < 120 || both > 280 {
		t.Errorf("%d of 20000, %d of another salt as well", n, both)
	}
}

func TestCompileRefuses(t *testing.T) {
	for want, x := range map[string]struct {
		full  bool
		rules []Rule
	}{
		`x.columns: table public.people: it has no column "mail"`:           {true, []Rule{{Do: Omit, Columns: []string{"mail"}}}},
		`column "id" is of the primary key`:                                 {true, []Rule{{Do: Omit, Columns: []string{"id"}}}},
		`column "age" is of type int4 and cannot hold a mask`:               {true, []Rule{{Do: Mask, Columns: []string{"age"}, Key: "env:K"}}},
		"env:SHORT has 5 bytes":                                             {true, []Rule{{Do: Mask, Columns: []string{"email"}, Key: "env:SHORT"}}},
		"env:NONE has 0 bytes":                                              {true, []Rule{{Do: Mask, Columns: []string{"email"}, Key: "env:NONE"}}},
		"is masked by x as well":                                            {true, []Rule{{Do: Mask, Columns: []string{"email"}, Key: "env:K"}, {Of: "y", Do: Mask, Columns: []string{"email"}, Key: "env:K"}}},
		"x.where: table public.people: at character 1":                      {true, []Rule{{Do: Withhold, Where: "nothing = 1"}}},
		"REPLICA IDENTITY FULL, or ask for columns of the primary key":      {false, []Rule{{Do: Withhold, Where: "id = 1 or age = 1"}}},
		`y.where: table public.people: it asks for column "email", which x`: {true, []Rule{{Do: Mask, Columns: []string{"email"}, Key: "env:K", InLog: true}, {Of: "y", Do: Withhold, Where: "email is null"}}},
		"x.by: table public.people: it asks for column \"country\"":         {false, []Rule{{Do: Sample, Columns: []string{"country"}, Rate: 1}}},
		"sampled by another entry":                                          {true, []Rule{{Do: Sample, Columns: []string{"id"}, Rate: 1}, {Do: Sample, Columns: []string{"id"}, Rate: 2}}},
		`classify[3].where: table public.people: it asks for column "age", which the log does not tell of rows that are deleted or were changed (tier bulk`: {false, []Rule{{Of: "tiers[0]", Do: Omit, Columns: []string{"note"}, Tier: "bulk", Cases: []Case{{N: 2, Where: "id = 1"}, {N: 3, Where: "age = 1", Is: true}}}}},
		`classify[0].where: table public.people: at character 1`:                                   {true, []Rule{{Of: "tiers[0]", Do: Omit, Columns: []string{"note"}, Tier: "bulk", Cases: []Case{{Where: "nothing = 1", Is: true}}}}},
		`tiers[1].omit: table public.people: it has no column "mail"`:                              {true, []Rule{{Of: "tiers[1]", Do: Omit, Columns: []string{"mail"}, Tier: "bulk", Cases: []Case{{Is: true}}}}},
		`tiers[1].sample.by: table public.people: it asks for column "country"`:                    {false, []Rule{{Of: "tiers[1]", Do: Sample, Columns: []string{"country"}, Rate: 1, Tier: "bulk", Cases: []Case{{Is: true}}}}},
		"tiers[1].sample.rate: table public.people: the table is sampled by another entry as well": {true, []Rule{{Of: "thin[0]", Do: Sample, Columns: []string{"id"}, Rate: 1}, {Of: "tiers[1]", Do: Sample, Columns: []string{"id"}, Rate: 2, Tier: "bulk", Cases: []Case{{Is: true}}}}},
		"are no share": {true, []Rule{{Do: Sample, Columns: []string{"id"}}}},
	} {
		for i := range x.rules {
			if x.rules[i].Of == "" {
				x.rules[i].Of = "x"
			}
		}
		_, err := Compile(people(x.full), x.rules, keys, All)
		var e *Error
		if !errors.As(err, &e) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	short := people(true)
	short.Columns[2].Type = change.Type{Name: "character varying(60)", Kind: change.Base, Base: "varchar", Mod: 64}
	if _, err := Compile(short, []Rule{{Of: "x", Do: Mask, Columns: []string{"email"}, Key: "env:K"}}, keys, All); err == nil {
		t.Error("a mask does not fit a varchar(60)")
	}
}

// COPY output in either format, in pieces of any size, comes to be the rows of the sink.
func TestFinisher(t *testing.T) {
	s := people(true)
	sh := compiled(t, s, All, Rule{Of: "m", Do: Mask, Columns: []string{"email", "note"}, Where: "id > 2", Key: "env:K"}, Rule{Of: "s", Do: Sample, Columns: []string{"id"}, Rate: 1_000_000})
	escape := strings.NewReplacer("\\", `\\`, "\t", `\t`, "\n", `\n`)
	rapid.Check(t, func(t *rapid.T) {
		bin := rapid.Bool().Draw(t, "binary")
		var in, want bytes.Buffer
		if bin {
			in.WriteString("PGCOPY\n\xff\r\n\x00\x00\x00\x00\x00\x00\x00\x00\x03ext")
			want.Write(in.Bytes())
		}
		write := func(b *bytes.Buffer, row change.Row) {
			if !bin {
				for i, v := range row {
					if i > 0 {
						b.WriteByte('\t')
					}
					if v.Kind == change.Null {
						b.WriteString(`\N`)
					} else {
						b.WriteString(escape.Replace(string(v.Data)))
					}
				}
				b.WriteByte('\n')
				return
			}
			_ = binary.Write(b, binary.BigEndian, int16(len(row)))
			for _, v := range row {
				if v.Kind == change.Null {
					_ = binary.Write(b, binary.BigEndian, int32(-1))
					continue
				}
				_ = binary.Write(b, binary.BigEndian, int32(len(v.Data)))
				b.Write(v.Data)
			}
		}
		for range rapid.IntRange(0, 5).Draw(t, "rows") {
			row := genRow(t, rapid.IntRange(1, 4).Draw(t, "id"))
			out, _, err := sh.Row(row)
			if err != nil {
				t.Fatal(err)
			}
			marked := append(slices.Clone(row), out[6])
			for _, i := range sh.Masked() {
				mark := "="
				if id := string(row[0].Data); id > "2" {
					mark = "!"
				}
				if row[i].Kind == change.Text {
					marked[i] = change.TextValue(mark + string(row[i].Data))
				}
			}
			write(&in, marked)
			write(&want, out)
		}
		if bin {
			in.Write([]byte{0xff, 0xff})
			want.Write([]byte{0xff, 0xff})
		}
		var have bytes.Buffer
		f := sh.Finisher(&have, bin)
		whole := bytes.Clone(in.Bytes())
		for in.Len() > 0 {
			if _, err := f.Write(in.Next(rapid.IntRange(1, 40).Draw(t, "piece"))); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Close(); err != nil || !bytes.Equal(have.Bytes(), want.Bytes()) {
			t.Fatalf("%v\nhave %q\nwant %q", err, have.Bytes(), want.Bytes())
		}
		cut := sh.Finisher(&have, bin)
		if len(whole) > 2 {
			if _, err := cut.Write(whole[:len(whole)-1]); err == nil && cut.Close() == nil {
				t.Fatal("an end within a row was not noticed")
			}
		}
	})
}
