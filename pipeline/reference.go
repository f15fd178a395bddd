package pipeline

import (
	"fmt"
	"strings"
)

// Reference returns a Markdown table of every field, from the field table.
func Reference() string {
	var b strings.Builder
	b.WriteString("| Field | Type | Default | Meaning | A change while it runs |\n|---|---|---|---|---|\n")
	reference(&b, root, "")
	return b.String()
}

func reference(b *strings.Builder, f *field, path string) {
	for _, c := range f.fields {
		p := join(path, c.name)
		effect := string(c.effect)
		if c.effectNote != "" {
			effect += ": " + c.effectNote
		}
		doc := c.doc
		if c.when != "" {
			doc = "(" + c.when + ") " + doc
		}
		row := []string{"`" + p + "`", c.typeText(), c.defaultText(f), doc, effect}
		for i := range row {
			row[i] = strings.ReplaceAll(row[i], "|", `\|`)
		}
		fmt.Fprintf(b, "| %s |\n", strings.Join(row, " | "))
		switch {
		case c.kind == kindObject:
			reference(b, c, p)
		case c.kind == kindList && c.elem.kind == kindObject:
			reference(b, c.elem, p+"[]")
		}
	}
}

func (f *field) typeText() string {
	switch {
	case len(f.enum) > 0:
		return "`" + strings.Join(f.enum, "`, `") + "`"
	case f.kind == kindList && f.elem.kind != kindObject:
		return "list of " + string(f.elem.kind)
	case f.kind == kindInteger && f.max > 0 && f.max != f.min:
		return fmt.Sprintf("integer, %d–%d", f.min, f.max)
	}
	return string(f.kind)
}

func (f *field) defaultText(parent *field) string {
	switch {
	case f.required:
		return "**required**"
	case f.derived != "":
		return f.derived
	case f.def == true:
		return ""
	case f.def != nil:
		return fmt.Sprintf("`%v`", f.def)
	}
	for _, a := range parent.choice {
		if contains(a.needs, f.name) {
			return "**required**, this or the alternative"
		}
	}
	return ""
}
