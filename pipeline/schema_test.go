package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"
)

func compiled(t testing.TB) *jsonschema.Schema {
	t.Helper()
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(JSONSchema()))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("pipeline.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("pipeline.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func validate(s *jsonschema.Schema, tree any) error {
	data, err := json.Marshal(tree)
	if err != nil {
		return err
	}
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		return err
	}
	return s.Validate(v)
}

func TestExamplesSatisfyTheSchema(t *testing.T) {
	s := compiled(t)
	files := declarations()
	for _, f := range append(files, "testdata/messy.yaml") {
		var tree any
		err := yaml.UnmarshalWithOptions(example(t, filepath.Join("../pipeline", f)), &tree, yaml.AllowDuplicateMapKey())
		if err != nil {
			t.Fatal(err)
		}
		if err := validate(s, tree); (err == nil) != !strings.Contains(f, "messy") {
			t.Errorf("%s: %v", f, err)
		}
	}
	if err := validate(s, mustParse(t, small)); err != nil {
		t.Errorf("the JSON form of a Spec: %v", err)
	}
}

// The field table and the Go types have the same fields, in the same places.
func TestFieldTableMatchesSpec(t *testing.T) {
	var compare func(f *field, typ reflect.Type, path string)
	compare = func(f *field, typ reflect.Type, path string) {
		for typ.Kind() == reflect.Pointer || typ.Kind() == reflect.Slice {
			typ = typ.Elem()
		}
		var inTable, inType []string
		for _, c := range f.fields {
			inTable = append(inTable, c.name)
			if c.doc == "" || c.effect == "" && c.kind != kindObject && c.name != "match" {
				t.Errorf("%s: no meaning or effect", join(path, c.name))
			}
		}
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			inType = append(inType, name)
			c := f.child(name)
			switch {
			case c == nil:
			case c.kind == kindObject:
				compare(c, typ.Field(i).Type, join(path, name))
			case c.kind == kindList && c.elem.kind == kindObject:
				compare(c.elem, typ.Field(i).Type, join(path, name))
			}
		}
		sort.Strings(inTable)
		sort.Strings(inType)
		if !reflect.DeepEqual(inTable, inType) {
			t.Errorf("%q: table has %v, type has %v", path, inTable, inType)
		}
	}
	compare(root, reflect.TypeOf(Spec{}), "")
}

// generator draws declarations from the field table, and plants mistakes of structure.
type generator struct {
	t       *rapid.T
	at      map[int]bool // which opportunities for a mistake are taken
	seen    int
	planted []string
	serial  int
}

func (g *generator) plant(path, what string) bool {
	g.seen++
	if !g.at[g.seen] {
		return false
	}
	g.planted = append(g.planted, path+": "+what)
	return true
}

func (g *generator) value(f *field, path string) any {
	if g.plant(path, "wrong type") {
		return rapid.SampledFrom([]any{nil, true, -7, 1.5, "", "\x00", []any{}, map[string]any{}, []any{map[string]any{}}, map[string]any{"x": 1}}).Draw(g.t, "wrong")
	}
	return g.right(f, path)
}

// right draws a value of the field's kind, perhaps with a mistake in it.
func (g *generator) right(f *field, path string) any {
	switch f.kind {
	case kindObject:
		return g.object(f, path)
	case kindList:
		n := rapid.IntRange(int(f.min), int(f.min)+2).Draw(g.t, "length")
		if f.min > 0 && g.plant(path, "too short") {
			n = 0
		}
		l := []any{}
		for i := range n {
			l = append(l, g.value(f.elem, fmt.Sprintf("%s[%d]", path, i)))
		}
		return l
	case kindInteger:
		if g.plant(path, "out of range") {
			return rapid.SampledFrom([]int64{f.min - 1, f.max + 1, -1 << 40}).Draw(g.t, "n")
		}
		return rapid.Int64Range(f.min, f.max).Draw(g.t, "n")
	case kindBoolean:
		return rapid.Bool().Draw(g.t, "b")
	case kindSize:
		if g.plant(path, "not a size") {
			return rapid.SampledFrom([]any{"64", "MiB", "64 MiB", "1e3B", "-1B", "64mib", -1}).Draw(g.t, "s")
		}
		return rapid.SampledFrom([]any{"17MiB", "0.125GiB", 1 << 25, "33MB"}).Draw(g.t, "s")
	case kindDuration:
		if g.plant(path, "not a duration") {
			return rapid.SampledFrom([]any{"5", "s", "1 h", "1y", "-1s", 5}).Draw(g.t, "d")
		}
		if f.min >= int64(1e9)*3600 {
			return rapid.SampledFrom([]any{"1h", "2d", "1.5h", "1w2d3h4m5s6ms7us8ns"}).Draw(g.t, "d")
		}
		return rapid.SampledFrom([]any{"1s", "59s", "1.5s", "0.5m"}).Draw(g.t, "d")
	case kindRatio:
		if g.plant(path, "not a ratio") {
			return rapid.SampledFrom([]any{"99", "99.9", "99.99999%", "-1%", "1000%", "%", 99}).Draw(g.t, "p")
		}
		return rapid.SampledFrom([]any{"99%", "99.9%", "0.5%", "99.9999%", "050.10%"}).Draw(g.t, "p")
	case kindRef:
		if g.plant(path, "not a reference") {
			return rapid.SampledFrom([]any{"hunter2", "env:", "env:1", "vault:kv/x", "postgres://u:p@h/d", "file:", "env: X"}).Draw(g.t, "r")
		}
		return rapid.SampledFrom([]any{"env:X", "file:/run/x y", "vault:kv/a/b#c"}).Draw(g.t, "r")
	case kindLogin:
		if g.plant(path, "not a login reference") {
			return rapid.SampledFrom([]any{"hunter2", "env:X", "vault:kv", "vault:kv/x#password", "vault:", "kv/x"}).Draw(g.t, "l")
		}
		return rapid.SampledFrom([]any{"vault:kv/b/c", "vault:database/creds/x"}).Draw(g.t, "l")
	case kindGlob:
		g.serial++
		return fmt.Sprintf("s%d.*", g.serial)
	}
	if len(f.enum) > 0 {
		if g.plant(path, "not in enum") {
			return rapid.SampledFrom([]string{"x", strings.ToUpper(f.enum[0]), f.enum[0] + " "}).Draw(g.t, "e")
		}
		return rapid.SampledFrom(f.enum).Draw(g.t, "e")
	}
	if f.pattern == anyText {
		return rapid.SampledFrom([]string{"x", "a b", "ü: [", "# no comment", "'\"\n\t\\"}).Draw(g.t, "text")
	}
	if g.plant(path, "refused by the pattern") {
		return strings.Repeat("A b@", 30)
	}
	if f.pattern == identPattern || f.pattern == namePattern {
		g.serial++
		return fmt.Sprintf("n%d", g.serial) // names must differ, which a schema cannot say
	}
	return rapid.StringMatching(f.pattern).Filter(func(s string) bool { return !strings.Contains(s, "${") && f.re.MatchString(s) }).Draw(g.t, "text")
}

func (g *generator) object(f *field, path string) any {
	if f.short != "" && rapid.Bool().Draw(g.t, "short") {
		return g.value(f.child(f.short), path)
	}
	out := map[string]any{}
	way := map[string]bool{} // fields of the alternative that is not taken
	if n := len(f.choice); n > 0 {
		take := rapid.IntRange(0, n-1).Draw(g.t, "way")
		for i, a := range f.choice {
			for _, name := range a.owns {
				way[name] = i != take
			}
		}
		for _, name := range f.choice[take].needs {
			if !g.plant(join(path, name), "missing") {
				out[name] = g.value(f.child(name), join(path, name))
			}
		}
	}
	for _, c := range f.fields {
		p := join(path, c.name)
		if _, set := out[c.name]; set || strings.HasPrefix(c.name, "max_batch") || c.name == "order" || c.name == "lanes" || slices.Contains([]string{"cert_file", "key", "sslcert", "sslkey"}, c.name) || c.name == "order_by" || c.name == "tiers" || c.name == "classify" || c.name == "residency" || c.name == "thin" {
			continue // rules between fields, which a schema cannot say
		}
		kind, _ := out[f.selects()].(string)
		wanted := c.required && (c.when == "" || c.when == kind) || c.name == "name" || rapid.Bool().Draw(g.t, "give") // names must differ, also those that default to another field
		if wanted && c.required && g.plant(p, "missing") || !wanted && !g.plant(p, "perhaps not allowed") {
			continue
		}
		if typ, ok := out[f.selects()].(string); (way[c.name] || c.when != "" && ok && c.when != typ) && !g.plant(p, "not allowed") {
			continue
		}
		out[c.name] = g.value(c, p)
	}
	budget, _ := out["budget"].(map[string]any)
	_, slows := budget["slow"] // tiers, which must be there then
	if path == "" && (slows || rapid.Bool().Draw(g.t, "tiers")) {
		g.tiers(out)
	}
	if path == "" && rapid.Bool().Draw(g.t, "shapes") {
		g.shapes(out)
	}
	if g.plant(path, "unknown field") {
		out[rapid.SampledFrom([]string{"rules", "tears", "x", "Name", "", "0"}).Draw(g.t, "unknown")] = 1
	}
	return out
}

// tiers adds tiers and what is given to them: each must know of the other.
func (g *generator) tiers(out map[string]any) {
	list := []any{}
	classes := []any{map[string]any{"match": "t.*", "where": "a = 1", "tier": "stream"}}
	for i := range rapid.IntRange(1, 2).Draw(g.t, "tiers") {
		path := fmt.Sprintf("tiers[%d]", i)
		name := fmt.Sprintf("tier-%d", i)
		tier := map[string]any{"name": name, "every": rapid.SampledFrom([]any{"59s", "0.5m", "10m"}).Draw(g.t, "every")}
		if g.plant(path, "period") {
			tier["every"] = rapid.SampledFrom([]any{"5", nil, 5, "-1s"}).Draw(g.t, "wrong period")
		}
		if rapid.Bool().Draw(g.t, "jitter") {
			tier["jitter"] = "2s"
		}
		list = append(list, tier)
		class := map[string]any{"match": g.value(classifyField.elem.child("match"), path), "tier": name}
		if rapid.Bool().Draw(g.t, "columns") {
			class["columns"] = g.value(classifyField.elem.child("columns"), path)
		}
		if g.plant(path, "unknown field of a class") {
			class["unless"] = "x"
		}
		classes = append(classes, class)
	}
	out["tiers"], out["classify"] = list, classes
}

// shapes adds classes of data that say what becomes of them, and entries that say something
// of their tables.
func (g *generator) shapes(out map[string]any) {
	class := func(name string) *field { return residencyField.elem.child(name) }
	rows := map[string]any{"name": "rows", "match": g.value(class("match"), "residency[0].match"), "where": "a = 1", "regions": g.value(class("regions"), "residency[0].regions"), "otherwise": "withhold"}
	columns := map[string]any{"name": "columns", "match": "t.*", "columns": g.value(class("columns"), "residency[1].columns"), "regions": []any{"eu"}, "otherwise": "drop"}
	if rapid.Bool().Draw(g.t, "mask") {
		columns["otherwise"], columns["key"] = "mask", g.value(class("key"), "residency[1].key")
	}
	if g.plant("residency[1]", "what becomes of it") {
		columns["otherwise"] = "encrypt"
	}
	out["residency"] = []any{rows, columns}
	thin := map[string]any{"match": "t.*", "sample": g.value(thinField.elem.child("sample"), "thin[0].sample")}
	if rapid.Bool().Draw(g.t, "omit") {
		thin["omit"] = g.value(thinField.elem.child("omit"), "thin[0].omit")
	}
	if g.plant("thin[0]", "unknown field of an entry") {
		thin["keep"] = "x"
	}
	out["thin"] = []any{thin}
}

func TestParserAcceptsWhatTheSchemaAccepts(t *testing.T) {
	s := compiled(t)
	accepted, refused := 0, 0
	rapid.Check(t, func(t *rapid.T) {
		g := &generator{t: t, at: map[int]bool{}}
		for _, n := range rapid.SliceOfN(rapid.IntRange(0, 160), 0, 2).Draw(t, "mistakes") {
			g.at[n] = true
		}
		tree := g.value(root, "")
		data, err := json.Marshal(tree)
		if err != nil {
			t.Fatal(err)
		}
		spec, perr := Parse("g.json", data, vars())
		serr := validate(s, tree)
		if (perr == nil) != (serr == nil) {
			t.Fatalf("parser: %v\nschema: %v\nplanted: %v\n%s", perr, serr, g.planted, data)
		}
		if perr != nil {
			refused++
			return
		}
		accepted++
		sameAgain(t, spec)
	})
	t.Logf("%d accepted, %d refused", accepted, refused)
	if accepted == 0 || refused == 0 {
		t.Errorf("%d accepted, %d refused: the test says nothing", accepted, refused)
	}
}

func sameAgain(t interface{ Fatalf(string, ...any) }, spec *Spec) {
	form, err := json.Marshal(spec)
	if err != nil {
		t.Fatalf("%v", err)
	}
	back, err := Decode(form)
	if err != nil || !reflect.DeepEqual(back, spec) {
		t.Fatalf("Decode(JSON) differs: %v\n%s", err, form)
	}
	if d := Diff(spec, back); len(d) > 0 {
		t.Fatalf("Diff with itself: %v", d)
	}
}

// Forms that the generator does not draw: variables, and brokers in one text.
func TestSchemaAcceptsVariablesAndShortForms(t *testing.T) {
	s := compiled(t)
	for text, ok := range map[string]bool{
		with(t, "[kafka:9092]", "a:1, b:2"):                               true,
		with(t, "[kafka:9092]", "a:1, b"):                                 false,
		with(t, "[kafka:9092]", "a:1,"):                                   false,
		with(t, "[kafka:9092]", "${X}\n  partitions: ${N}"):               true,
		with(t, "name: shop", "name: ${NAME}"):                            true,
		with(t, "env:SRC", "'env:${NAME}'"):                               true,
		small + "stream: {status_interval: '${D}', memory_limit: '${S}'}": true,
		small + "stream: {status_interval: 1, memory_limit: 1}":           false,
		with(t, "[shop.*]", "{include: [shop.*], exclude: []}"):           true,
		with(t, "[shop.*]", "{include: [shop.*], exclude: [shop]}"):       false,
		with(t, "[shop.*]", "shop.*"):                                     false,
	} {
		_, perr := Parse("f.yaml", []byte(text), vars("X", "a:1,b:2", "N", "5", "NAME", "shop", "D", "1s", "S", "64MiB"))
		var tree any
		if err := yaml.Unmarshal([]byte(text), &tree); err != nil {
			t.Fatal(err)
		}
		serr := validate(s, tree)
		if (perr == nil) != ok || (serr == nil) != ok {
			t.Errorf("want %v; parser: %v; schema: %v\n%s", ok, perr, serr, text)
		}
	}
}

func TestReference(t *testing.T) {
	golden(t, "reference.golden.md", Reference())
	golden(t, "schema.golden.json", string(JSONSchema()))
}
