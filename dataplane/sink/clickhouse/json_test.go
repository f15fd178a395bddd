package clickhouse

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/digest/jsontest"
	"syncline/dataplane/sink"
	"syncline/dataplane/sink/sinktest"
	"syncline/dataplane/verify"
)

// shapes are texts that a server may take in another way than they are meant.
var shapes = []string{
	`{}`, `[]`, `null`, `1`, `"x"`, `true`, `[{"a": 1}]`, ` {"a" : 1 } `,
	`{"a": null}`, `{"a": {}}`, `{"a": []}`, `{"a": {"b": null}}`, `{"a": [null]}`, `{"a": [{}]}`, `{"a": [{"b": null}]}`, `{"a": [[]]}`, `{"a": [[], [1]]}`, `{"a": [[null], []]}`,
	`{"a.b": 1}`, `{"a.b": 1, "a": {"c": 2}}`, `{"a.b": 1, "a": {"b": 2}}`, `{"a": 1, "a.b": 2}`, `{"a": 1, "a": 2}`, `{"a": {"b": 1}, "a": 2}`, `{"a": 1, "a": {"b": 2}}`, `{"a": null, "a": 1}`, `{"a": 1, "a": null}`,
	`{"a": {"b": 1}, "a": {"b": 2}}`, `{"a": {"b": 1}, "a": {"c": 2}}`, `{"a": [1], "a": [2]}`, `{"": 1}`, `{"": {"": 1}}`, `{".": 1}`, `{"a.": 1}`, `{"a..b": 1}`, `{"%2E": 1, "a%2Eb": 2}`, "{\"a`b\": 1}",
	`{"a": "2024-01-01"}`, `{"a": "2024-01-01 00:00:00"}`, `{"a": "2024-01-01T00:00:00.123Z"}`, `{"a": ["2024-01-01", "2024-01-01 00:00:00"]}`, `{"a": "1"}`, `{"a": ["1", "2"]}`, `{"a": "true"}`, `{"a": "null"}`, `{"a": "{}"}`,
	`{"a": [1, 1.5]}`, `{"a": [1, "x"]}`, `{"a": [true, 1]}`, `{"a": [true, "x", 1, 1.5, null, {"b": 1}, [1]]}`, `{"a": [true, 1.5]}`, `{"a": [1, null]}`, `{"a": [{"b": 1}, null]}`, `{"a": [{"b": 1}, {"b": "x"}, {"c": [1]}]}`, `{"a": [{"b": 1}, [1]]}`, `{"a": [[1], ["x"]]}`, `{"a": [[1, 1.5], [1]]}`, `{"a": [[1], 1]}`,
	`{"a": [{"b.c": 1}, {"b": {"c": 1}}]}`, `{"a": [1, [2, [3, ["x"]]]]}`, `{"a": [[{"b": 1}], [{"b": 2}]]}`, `{"a": {"b": [{"c": {"d": [1, {"e": 2}]}}]}}`,
	`{"a": 9223372036854775807}`, `{"a": 9223372036854775808}`, `{"a": 18446744073709551615}`, `{"a": 18446744073709551616}`, `{"a": -9223372036854775808}`, `{"a": -9223372036854775809}`, `{"a": 1e20}`, `{"a": 1e21}`, `{"a": 123456789012345678901234567890}`,
	`{"a": 9007199254740993.0}`, `{"a": 9223372036854775808.0}`, `{"a": 1e18}`, `{"a": [9007199254740993, 1.5]}`, `{"a": [9007199254740993, 1.0]}`, `{"a": [18446744073709551615, -1]}`, `{"a": [18446744073709551615, 1]}`, `{"a": [18446744073709551615]}`, `{"a": [1, 1e400]}`, `{"a": 1e400}`, `{"a": -1e400}`, `{"a": 1e-400}`,
	`{"a": [true, 9007199254740993, 1.5]}`, `{"a": [[9007199254740993], [1.5]]}`, `{"a": [[9007199254740993], 1.5]}`, `{"a": [9007199254740993, 1.5, []]}`, `{"a": [{"b": 9007199254740993}, {"b": 1.5}]}`, `{"a": [18446744073709551615, null, 1.0]}`, `{"a": [[9007199254740993], [], [null], [1.0]]}`,
	`{"a": [[9007199254740993, 1.5], ["x"]]}`, `{"a": [[9007199254740993], [1.5, "x"]]}`, `{"a": [18446744073709551615, -1, 1.5]}`, `{"a": [[[9007199254740993]], [[1.0]]]}`, `{"a": 100000000000000000000.5}`, `{"a": 999999999999999900000.0}`, `{"a": 1E5}`, `{"a": 1e-7}`, `{"a": 0.00001}`,
	`{"a.b": null, "a": {"b": 2}}`, `{"a": {}, "a": {"b": 1}}`, `{"a": {}, "a": 1}`, `{"a": [1], "a": {"b": 1}, "a": 3, "a": {"c": 1}}`, `{"a": [{"b": 1, "b": 2}]}`, `{"a": [{"b": 1, "b.c": 2}]}`, `{"a.x": {"z": 1}, "a": {"x": {"y": 1, "z": 3}}}`,
	`{"a": "\ud800"}`, `{"a": "\udc00\ud800"}`, `{"a": "\\ud800"}`, `{"a\u0000": "\u0000b"}`, `{"a": ` + strings.Repeat("[", 99) + strings.Repeat("]", 99) + `}`, `{"a": ` + strings.Repeat("[", 1100) + strings.Repeat("]", 1100) + `}`,
	`{"a": 0.1}`, `{"a": 0.1000000000000000055511151231257827}`, `{"a": 1.0}`, `{"a": -0.0}`, `{"a": -0}`, `{"a": 1e0}`, `{"a": 5e-324}`, `{"a": 1.7976931348623157e308}`, `{"a": 123456789.123456789}`,
	`{"a": "é\u00e9\ud83d\ude00/\/"}`, `{"\u00e9": 1}`, `{"a": "\u0001\b\f\n\r\t\"\\"}`, `{"a": ""}`, `{"a": "10.0.0.1", "b": "6e0dc1b0-7d3f-4f0c-8a4e-0b9c8a1d2e3f"}`,
}

// documents are tables of JSON in one of the two layouts.
func documents(t *testing.T, protocol string, wide bool) *broken {
	sch := sinktest.Schema("docs", 1, sinktest.Col("id", sinktest.Int4), sinktest.Col("region", sinktest.TextT),
		sinktest.Col("doc", sinktest.Builtin("jsonb", "jsonb", 3802, -1)), sinktest.Col("more", sinktest.Builtin("json", "json", 114, -1)))
	sch.Columns[2].NotNull = true
	sch.Full = wide
	o := sink.TableOptions{}
	if wide {
		o.OrderBy = []string{"region"}
	}
	s := openTest(t, protocol, Options{JSON: true}, "")
	tab := add(t, s, sch, o)
	if err := s.FinishLoad(t.Context(), sch.Table); err != nil {
		t.Fatal(err)
	}
	l, _ := s.newLayout(sch, o)
	return &broken{t, s, tab, l}
}

// eachDocuments has each protocol and each layout once.
func eachDocuments(t *testing.T, f func(t *testing.T, b *broken)) {
	overBoth(t, func(t *testing.T, protocol string) { f(t, documents(t, protocol, protocol == "native")) })
}

// digests of the table at the sink, and those that its rows should have.
func (b *broken) digests(rows []change.Row) (have, should map[string]digest.Digest, sums [2]digest.Sum) {
	b.Helper()
	subject := &verify.Subject{Schema: b.tab.Schema, Options: b.tab.Options}
	var err error
	if subject.Forms, _, err = b.s.Forms(b.Context(), subject); err != nil {
		b.Fatal(err)
	}
	have, should = map[string]digest.Digest{}, map[string]digest.Digest{}
	err = b.s.Keys(b.Context(), subject, digest.Scope{}, func(k change.Key, d digest.Digest) error {
		texts, err := k.Values()
		have[texts[0]] = d
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	if sums[0], err = b.s.Sum(b.Context(), subject, digest.Scope{}); err != nil {
		b.Fatal(err)
	}
	var sum digest.Summer
	inGo := digest.Texts{Forms: []digest.Form{digest.Paths, digest.Paths}}
	for _, r := range rows {
		var text strings.Builder
		for _, v := range r[:2] {
			fmt.Fprintf(&text, "%d:%s", len(v.Data), v.Data)
		}
		var texts []*string
		for _, v := range r[2:] {
			var p *string
			if s := string(v.Data); v.Kind == change.Text {
				p = &s
			}
			texts = append(texts, p)
		}
		d := inGo.Row(md5Hex(text.String()), texts)
		if err := sum.Add(d); err != nil {
			b.Fatal(err)
		}
		should[string(r[0].Data)] = d
	}
	sums[1] = sum.Sum()
	return have, should, sums
}

func idOf(r change.Row) string { return string(r[0].Data) }

func md5Hex(text string) string {
	h := md5.Sum([]byte(text))
	return hex.EncodeToString(h[:])
}

// TestJSONIsCompared: whatever JSON a source has, its digest is that of the row at the
// sink. With a leaf changed it is not, nor are the rows the same; and a repair mends it.
func TestJSONIsCompared(t *testing.T) {
	eachDocuments(t, func(t *testing.T, b *broken) {
		sch := b.tab.Schema
		values := map[string]jsontest.Value{}
		var rows []change.Row
		// Below so many names that no path has values of more than 32 types: beyond, the
		// server has some as values of types that it knows.
		below := func(n int, text string) string { return fmt.Sprintf(`{"r%d": %s}`, n%16, text) }
		add := func(doc, more string) {
			rows = append(rows, sinktest.Values(fmt.Sprint(len(rows)), "eu", doc, more))
		}
		for n, s := range shapes {
			if add(below(n, s), below(n, s)); !strings.HasPrefix(s, `{"a`) {
				add(s, s)
			}
		}
		add(`{"a": 1}`, sinktest.NULL)
		spell := jsontest.Spelling{Doubles: true, Unkept: true}
		generated := rapid.Custom(func(t *rapid.T) jsontest.Value { return jsontest.Any(t, 4) })
		for n := range 80 {
			v := generated.Example(n)
			text := rapid.Custom(func(t *rapid.T) string { return spell.Text(t, v) }).Example(n)
			values[fmt.Sprint(len(rows))] = v
			add(`{}`, below(len(rows), text))
		}
		x := claim(t, b.s)
		var put []sink.Row
		for i, r := range rows {
			texts := make([]string, len(r))
			for c, v := range r {
				if texts[c] = string(v.Data); v.Kind == change.Null {
					texts[c] = sinktest.NULL
				}
			}
			put = append(put, sinktest.Put(sch, i+1, texts...))
		}
		if a, err := x.Apply(t.Context(), sinktest.Batch(b.tab, 1, put...)); err != nil || len(a.Dead) > 0 {
			t.Fatalf("%+v %v", a.Dead, err)
		}
		subject := &verify.Subject{Schema: sch, Options: b.tab.Options}
		forms, _, err := b.s.Forms(t.Context(), subject)
		if err != nil {
			t.Fatal(err)
		}
		read := func() map[string]change.Row {
			t.Helper()
			out := map[string]change.Row{}
			if err := b.s.ReadRows(t.Context(), sch, b.tab.Options, func(r change.Row) error {
				c := slices.Clone(r)
				for i := range c {
					c[i].Data = slices.Clone(c[i].Data)
				}
				out[string(r[0].Data)] = c
				return nil
			}); err != nil {
				t.Fatal(err)
			}
			return out
		}
		equal := func() {
			t.Helper()
			have, should, sums := b.digests(rows)
			stored := read()
			for _, r := range rows {
				id := idOf(r)
				if have[id] != should[id] || !verify.Same(forms, r, stored[id]) {
					t.Errorf("%s\nis at the sink\n%s", r[3].Data, stored[id][3].Data)
				}
			}
			if sums[0] != sums[1] || len(have) != len(rows) {
				t.Errorf("%d of %d rows, sums %+v", len(have), len(rows), sums)
			}
		}
		if equal(); t.Failed() {
			return
		}
		// One leaf of one row in two, past everything.
		changed := map[string]bool{}
		var again []sink.Row
		for i, r := range rows {
			v, is := values[fmt.Sprint(i)]
			if !is || i%2 == 0 {
				continue
			}
			text := rapid.Custom(func(t *rapid.T) string {
				rapid.Bool().Draw(t, "anything") // a generator has to draw
				other, ok := jsontest.Change(t, v)
				if !ok {
					return ""
				}
				return below(i, spell.Text(t, other))
			}).Example(i)
			if text == "" {
				continue
			}
			id := idOf(r)
			changed[id] = true
			b.stray(sinktest.Pos(5000), false, id, "eu", string(r[2].Data), text)
			ins := sinktest.Put(sch, 6000, id, "eu", string(r[2].Data), string(r[3].Data))
			ins.Op = change.Insert
			again = append(again, ins)
			if len(again) == 20 {
				break
			}
		}
		have, should, sums := b.digests(rows)
		stored := read()
		for _, r := range rows {
			id := idOf(r)
			if d := have[id] != should[id]; d != changed[id] || verify.Same(forms, r, stored[id]) == changed[id] {
				t.Errorf("row %s was changed: %v, and differs: %v\n%s\n%s", id, changed[id], d, r[3].Data, stored[id][3].Data)
			}
		}
		if len(changed) < 10 || sums[0] == sums[1] {
			t.Errorf("%d rows were changed, sums %+v", len(changed), sums)
		}
		b.hold(again...)
		b.mend(again...)
		equal()
	})
}

// TestJSONKeys: a key of jsonb is told from others by its text.
func TestJSONKeys(t *testing.T) {
	s := openTest(t, "http", Options{JSON: true}, "")
	sch := sinktest.Schema("keyed", 1, sinktest.Col("k", sinktest.Builtin("jsonb", "jsonb", 3802, -1)), sinktest.Col("tags", arrayOf(sinktest.Builtin("jsonb", "jsonb", 3802, -1))))
	tab := add(t, s, sch, sink.TableOptions{})
	if err := s.FinishLoad(t.Context(), sch.Table); err != nil {
		t.Fatal(err)
	}
	x := claim(t, s)
	rows := []sink.Row{sinktest.Put(sch, 1, `{"a": null}`, `{"{\"a\": null}",NULL}`), sinktest.Put(sch, 1, `{}`, `{}`), sinktest.Put(sch, 1, `[1]`, `{1}`), sinktest.Put(sch, 1, `[2]`, sinktest.NULL)}
	if a, err := x.Apply(t.Context(), sinktest.Batch(tab, 1, rows...)); err != nil || len(a.Dead) > 0 {
		t.Fatalf("%+v %v", a.Dead, err)
	}
	want(t, rowsOf(t, s, sch, tab.Options), `[1]|{1}`, `[2]|NULL`, `{}|{"{\"a\": null}",NULL}`, `{}|{}`)
}
