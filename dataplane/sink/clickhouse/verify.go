package clickhouse

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"syncline/dataplane/change"
	"syncline/dataplane/digest"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	"syncline/dataplane/verify"
)

var _ verify.Sink = (*Sink)(nil)

// digested is a table as it is digested: its layout, with the columns that it really
// has, and the version below which its rows are gone.
type digested struct {
	*layout
	floor  change.Position
	masked []digest.Form // of which Masked ones are texts that the source does not have as they are
}

// digesting runs f with the table as it is digested. The table is looked at once in a
// walk, and again after an error, which may be that it has changed: then that is told.
// The floor is read each time, since rows above an older one may be gone.
func (s *Sink) digesting(ctx context.Context, t *verify.Subject, f func(*digested) error) error {
	l, kept := t.Kept.Get().(*layout)
	if !kept {
		var err error
		if l, err = s.existingLayout(ctx, t.Schema, t.Options); err != nil {
			return err
		}
		t.Kept.Set(l)
	}
	d := &digested{layout: l, masked: t.Forms}
	var err error
	if d.floor, err = s.floor(ctx, t.Schema.Table.String()); err == nil {
		err = f(d)
	}
	if err == nil || !kept || ctx.Err() != nil {
		return err
	}
	t.Kept.Set(nil)
	if _, other := s.existingLayout(ctx, t.Schema, t.Options); other != nil {
		return other
	}
	return err
}

// Forms tells in which form each column is digested at both sides, and whether the
// sink has the source's order of primary keys: that of numbers it has.
func (s *Sink) Forms(ctx context.Context, t *verify.Subject) (forms []digest.Form, ordered bool, err error) {
	err = s.digesting(ctx, t, func(d *digested) error {
		ordered = true
		for i := range d.cols {
			f, _ := d.text(i, false)
			forms = append(forms, f)
			if !t.Schema.IsKey(i) {
				continue
			}
			if _, is := intBits(strings.TrimPrefix(d.cols[i].typ, "U")); !is || d.cols[i].shape != scalar {
				ordered = false
			}
			if kf, _ := d.text(i, true); kf != digest.Text {
				return fault.Permanent(sink.CodeTableMismatch, nil, "exclude the table from verification",
					"table %s: key column %q has type %s, which two servers do not print alike", t.Schema.Table, d.cols[i].name, t.Schema.Columns[i].Type.Name)
			}
		}
		return nil
	})
	return forms, ordered, err
}

// text is the form of a column and the expression of its text, which is NULL where
// the value is. Bytes of a key are printed, not hashed.
func (d *digested) text(i int, key bool) (digest.Form, string) {
	c, t := &d.cols[i], d.schema.Columns[i].Type.Root()
	name := ident(c.name)
	form, expr := digest.Text, ""
	switch {
	case c.typ == typeJSON:
		form, expr = digest.Paths, "CAST(toString("+name+"), 'Nullable(String)')"
	case c.shape == listOf:
		elem := t.Elem.Root()
		if c.typ == "Float32" || c.typ == "Float64" {
			form, _ = digest.FloatForm(t)
			expr = fmt.Sprintf("arrayStringConcat(arrayMap(v -> if(isNull(v), '~', %s), %s), ',')", floatBits(c.typ, "assumeNotNull(v)"), name)
			break
		}
		special := lit(`[{}"\\ \t\n\r\v\f` + string(c.delim) + `]`)
		expr = fmt.Sprintf(`concat('{', arrayStringConcat(arrayMap(v -> if(isNull(v), 'NULL', if(v = '' OR lower(v) = 'null' OR match(v, %s), concat('"', %s, '"'), v)), arrayMap(v -> %s, %s)), %s), '}')`,
			special, escaped("v"), c.printed("v", elem), name, lit(string(c.delim)))
	case c.shape == mapOf:
		expr = fmt.Sprintf(`arrayStringConcat(arrayMap((k, v) -> concat('"', %s, '"=>', if(isNull(v), 'NULL', concat('"', %s, '"'))), mapKeys(%s), mapValues(%s)), ', ')`,
			escaped("k"), escaped("assumeNotNull(v)"), name, name)
	case c.typ == "Float32" || c.typ == "Float64":
		form, _ = digest.FloatForm(t)
		expr = floatBits(c.typ, name)
	case c.typ == "String" && t.Base == "bytea" && c.reread != nil && !key:
		form, expr = digest.Bytes, "lower(hex(MD5("+name+")))"
	default:
		expr = c.printed(name, t)
		if i < len(d.masked) && d.masked[i] == digest.Masked {
			form = digest.Masked
		}
	}
	if c.clamps {
		// What the column cannot hold has its exact text beside it.
		exact := fmt.Sprintf("%s[%s]", colExact, lit(c.name))
		expr = fmt.Sprintf("multiIf(NOT mapContains(%s, %s), toNullable(%s), %s = %s, NULL, %s)", colExact, lit(c.name), expr, exact, lit(string(wordNull)), exact)
	}
	return form, expr
}

// printed is what Postgres prints of a value of the mapping's own type.
func (m *mapping) printed(v string, t *change.Type) string {
	switch {
	case m.typ == "String" && t.Base == "bytea" && m.reread != nil:
		return "concat('\\\\x', lower(hex(" + v + ")))"
	case m.typ == "Bool":
		return "substring(toString(" + v + "), 1, 1)" // NULL stays NULL, unlike in a condition
	case strings.HasPrefix(m.typ, "Decimal("):
		_, scale, _ := t.NumericPrecision()
		return fmt.Sprintf("toDecimalString(%s, %d)", v, max(0, scale))
	case m.isTime():
		v = "trim(TRAILING '.' FROM trim(TRAILING '0' FROM toString(" + v + ")))"
		if t.Base == "timestamptz" {
			v = "concat(" + v + ", '+00')"
		}
		return v
	}
	return "toString(" + v + ")"
}

func floatBits(typ, v string) string {
	bits := strings.TrimPrefix(typ, "Float")
	n, _ := strconv.Atoi(bits)
	return fmt.Sprintf("if(isNaN(%s), 'NaN', leftPad(lower(hex(reinterpretAsUInt%s(%s))), %d, '0'))", v, bits, v, n/4)
}

func escaped(v string) string {
	return fmt.Sprintf(`replaceAll(replaceAll(%s, '\\', '\\\\'), '"', '\\"')`, v)
}

// part is the condition that selects a part's rows.
func (d *digested) part(p digest.Scope) (string, error) {
	var and []string
	bound := func(op string, key []string) error {
		names := make([]string, len(key))
		for n, i := range d.schema.Key {
			names[n] = ident(d.cols[i].name)
			if _, err := strconv.ParseInt(key[n], 10, 64); err != nil {
				if _, err := strconv.ParseUint(key[n], 10, 64); err != nil {
					return fmt.Errorf("a bound of table %s is no number", d.schema.Table)
				}
			}
		}
		and = append(and, fmt.Sprintf("tuple(%s) %s tuple(%s)", strings.Join(names, ", "), op, strings.Join(key, ", ")))
		// The first column alone again: an index knows what to do with that.
		and = append(and, fmt.Sprintf("%s %s= %s", names[0], strings.TrimSuffix(op, "="), key[0]))
		return nil
	}
	if p.After != nil {
		if err := bound(">", p.After); err != nil {
			return "", err
		}
	}
	if p.UpTo != nil {
		if err := bound("<=", p.UpTo); err != nil {
			return "", err
		}
	}
	if p.Slices > 1 {
		var texts []string
		for _, i := range d.schema.Key {
			_, v := d.text(i, true)
			v = "assumeNotNull(" + v + ")"
			texts = append(texts, "toString(length("+v+"))", "':'", v)
		}
		and = append(and, fmt.Sprintf("%s %% %d = %d", lane("MD5(concat("+strings.Join(texts, ", ")+"))", 1), p.Slices, p.Slice))
	}
	return strings.Join(and, " AND "), nil
}

// lane is a number of the first 60 bits from a byte of a hash on.
func lane(hash string, from int) string {
	return fmt.Sprintf("bitShiftRight(reinterpretAsUInt64(reverse(substring(%s, %d, 8))), 4)", hash, from)
}

// hash is the md5 of the row's text.
func (d *digested) hash() string {
	parts := []string{"''", "''"} // concat takes two at least
	for i := range d.cols {
		if form, v := d.text(i, false); !form.InGo() {
			parts = append(parts, fmt.Sprintf("ifNull(concat(toString(length(%s)), ':', %s), '~')", v, v))
		}
	}
	return "MD5(concat(" + strings.Join(parts, ", ") + "))"
}

// inGo are the forms and the expressions of the columns that are compared in Go.
func (d *digested) inGo() (forms []digest.Form, exprs []string) {
	for i := range d.cols {
		if form, v := d.text(i, false); form.InGo() {
			forms, exprs = append(forms, form), append(exprs, v)
		}
	}
	return forms, exprs
}

// Sum digests a part of a table.
func (s *Sink) Sum(ctx context.Context, t *verify.Subject, p digest.Scope) (out digest.Sum, err error) {
	err = s.digesting(ctx, t, func(d *digested) error {
		where, err := d.part(p)
		if err != nil {
			return err
		}
		if forms, _ := d.inGo(); len(forms) > 0 {
			var sum digest.Summer
			err := s.stream(ctx, d, where, func(_ []string, h digest.Digest) error { return sum.Add(h) })
			out = sum.Sum()
			return err
		}
		q := fmt.Sprintf("SELECT toInt64(count()), toString(sum(toUInt128(%s))), toString(sum(toUInt128(%s))) FROM (%s)", lane("h", 1), lane("h", 9), d.live(d.floor, d.hash()+" AS h", where))
		return s.conn.query(ctx, "digest table "+d.at.String(), q, func(scan func(...any) error) error { return scan(&out.Rows, &out.A, &out.B) })
	})
	return out, err
}

// Keys gives the key and the digest of each row of a part.
func (s *Sink) Keys(ctx context.Context, t *verify.Subject, p digest.Scope, each func(change.Key, digest.Digest) error) error {
	return s.digesting(ctx, t, func(d *digested) error {
		where, err := d.part(p)
		if err != nil {
			return err
		}
		return s.stream(ctx, d, where, func(key []string, h digest.Digest) error {
			k, err := verify.KeyOf(d.schema, key)
			if err != nil {
				return err
			}
			return each(k, h)
		})
	})
}

// stream gives the texts of the key and the digest of each row, which is finished here
// where columns are compared in Go.
func (s *Sink) stream(ctx context.Context, d *digested, where string, each func([]string, digest.Digest) error) error {
	var key []string
	for _, i := range d.schema.Key {
		_, v := d.text(i, true)
		key = append(key, "assumeNotNull("+v+")")
	}
	pick := fmt.Sprintf("[%s], lower(hex(%s))", strings.Join(key, ", "), d.hash())
	forms, exprs := d.inGo()
	if len(forms) > 0 {
		pick += fmt.Sprintf(", [%s]", strings.Join(exprs, ", "))
	}
	inGo := digest.Texts{Forms: forms}
	return s.conn.query(ctx, "digest table "+d.at.String(), d.live(d.floor, pick, where)+textSettings, func(scan func(...any) error) error {
		var key []string
		var h string
		if len(forms) == 0 {
			if err := scan(&key, &h); err != nil {
				return err
			}
			return each(key, digest.Digest(h))
		}
		var texts []*string
		if err := scan(&key, &h, &texts); err != nil {
			return err
		}
		return each(key, inGo.Row(h, texts))
	})
}

// Read returns those of the rows that are there.
func (s *Sink) Read(ctx context.Context, t *verify.Subject, keys []change.Key) (out []verify.Row, err error) {
	if len(keys) == 0 {
		return nil, nil
	}
	rows, ask := make([]sink.Row, len(keys)), make([]int, len(keys))
	for i, k := range keys {
		rows[i].Key, ask[i] = k, i
	}
	err = s.digesting(ctx, t, func(d *digested) error {
		texts, err := keyTexts(d.layout, rows, ask)
		if err != nil {
			return err
		}
		in := d.inKeys(d.withKeys(ask, texts))
		q := d.live(d.floor, "toString("+colVersion+"), "+d.pickTexts()+", "+colExact, in) + textSettings
		return s.conn.query(ctx, "SELECT from "+d.at.String(), q, func(scan func(...any) error) error {
			var version string
			return d.scanTexts(func(dest ...any) error { return scan(append([]any{&version}, dest...)...) }, func(r change.Row) error {
				k, err := change.MakeKey(d.schema, r)
				out = append(out, verify.Row{Key: k, Values: r, Version: version})
				return err
			})
		})
	})
	return out, err
}
