package pipeline

import (
	"encoding/json"
	"slices"
)

// variable is how the JSON Schema admits ${VAR} in place of any scalar.
const variable = `\$\{`

// JSONSchema returns the JSON Schema (2020-12) of a declaration, for editors. It
// is made from the field table that Parse uses; what it cannot say (duplicate
// names, ranges of sizes, rules between sections) only Parse finds.
func JSONSchema() []byte {
	s := root.schema()
	s["$schema"] = "https://json-schema.org/draft/2020-12/schema"
	s["title"] = "Syncline pipeline"
	out, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		panic(err) // plain data: cannot fail
	}
	return append(out, '\n')
}

func (f *field) schema() map[string]any {
	s := f.shape()
	if f.doc != "" {
		s["description"] = f.doc
	}
	if f.def != nil && f.kind != kindObject {
		s["default"] = f.def
	}
	return s
}

func (f *field) shape() map[string]any {
	switch f.kind {
	case kindObject:
		return f.objectSchema()
	case kindList:
		list := map[string]any{"type": "array", "items": f.elem.schema()}
		if f.min > 0 {
			list["minItems"] = f.min
		}
		if f.set {
			list["uniqueItems"] = true
		}
		if f.commas {
			return anyOf(list, map[string]any{"type": "string", "pattern": `^\s*` + brokerPattern + `(\s*,\s*` + brokerPattern + `)*\s*$|` + variable})
		}
		return list
	case kindInteger:
		n := map[string]any{"type": "integer", "minimum": f.min}
		if f.max > 0 {
			n["maximum"] = f.max
		}
		return anyOf(n, variableSchema())
	case kindBoolean:
		return anyOf(map[string]any{"type": "boolean"}, variableSchema())
	case kindSize:
		n := map[string]any{"type": "integer", "minimum": f.min}
		if f.max > 0 {
			n["maximum"] = f.max
		}
		return anyOf(n, map[string]any{"type": "string", "pattern": sizePattern + "|" + variable})
	case kindDuration:
		return map[string]any{"type": "string", "pattern": durationPattern + "|" + variable}
	case kindRatio:
		return map[string]any{"type": "string", "pattern": ratioPattern + "|" + variable}
	case kindRef:
		return map[string]any{"type": "string", "pattern": `^(env:[A-Za-z_][A-Za-z0-9_]*|file:.*[^/]|vault:[^#]*[^#/][^#]*#[^#]+)$|` + variable}
	case kindLogin:
		return map[string]any{"type": "string", "pattern": `^vault:/?[^/# ?\\]+(/[^/# ?\\]+)+$|` + variable}
	}
	if len(f.enum) > 0 {
		return anyOf(map[string]any{"enum": f.enum}, variableSchema())
	}
	if f.kind == kindGlob {
		return map[string]any{"type": "string", "pattern": globPattern + "|" + variable}
	}
	return map[string]any{"type": "string", "pattern": f.pattern + "|" + variable}
}

func variableSchema() map[string]any { return map[string]any{"type": "string", "pattern": variable} }

func anyOf(s ...map[string]any) map[string]any { return map[string]any{"anyOf": s} }

func (f *field) objectSchema() map[string]any {
	props := map[string]any{}
	var required []string
	only, needed := map[string][]string{}, map[string][]string{} // by value of when
	for _, c := range f.fields {
		props[c.name] = c.schema()
		switch {
		case c.required && c.when != "":
			needed[c.when] = append(needed[c.when], c.name)
		case c.required:
			required = append(required, c.name)
		}
		if c.when != "" {
			only[c.when] = append(only[c.when], c.name)
		}
	}
	s := map[string]any{"type": "object", "additionalProperties": false, "properties": props}
	if len(required) > 0 {
		s["required"] = required
	}
	if len(f.choice) > 0 {
		var ways []any
		for i, a := range f.choice {
			others := map[string]any{}
			for j, b := range f.choice {
				if i != j {
					forbid(others, slices.DeleteFunc(slices.Clone(b.owns), func(name string) bool { return slices.Contains(a.owns, name) }))
				}
			}
			ways = append(ways, map[string]any{"required": a.needs, "properties": others})
		}
		s["oneOf"] = ways
	}
	if len(only) > 0 {
		var rules []any
		for _, typ := range f.child(f.selects()).enum {
			not := map[string]any{}
			for other, names := range only {
				if other != typ {
					forbid(not, names)
				}
			}
			then := map[string]any{"properties": not}
			if len(needed[typ]) > 0 {
				then["required"] = needed[typ]
			}
			rules = append(rules, map[string]any{
				"if":   map[string]any{"required": []string{f.selects()}, "properties": map[string]any{f.selects(): map[string]any{"const": typ}}},
				"then": then,
			})
		}
		s["allOf"] = rules
	}
	if f.short != "" {
		short := f.child(f.short).schema()
		description := s["description"]
		s = anyOf(s, short)
		if description != nil {
			s["description"] = description
		}
	}
	return s
}

func forbid(props map[string]any, names []string) {
	for _, n := range slices.Sorted(slices.Values(names)) {
		props[n] = false
	}
}
