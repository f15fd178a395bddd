package predicate

import "fmt"

// maxDepth keeps a text of nothing but parentheses from filling the stack.
const maxDepth = 100

// Parse reads a predicate. The error is an *Error.
func Parse(text string) (*Predicate, error) {
	tokens, err := lex(text)
	if err != nil {
		return nil, err
	}
	p := parser{tokens: tokens}
	root, err := p.or()
	if err != nil {
		return nil, err
	}
	if t := p.peek(); t.kind != 0 {
		return nil, mistake(t.at, "AND and OR join conditions", "%s does not belong here", t.name())
	}
	return &Predicate{text: text, root: root}, nil
}

type parser struct {
	tokens []token
	n      int
	depth  int
}

func (p *parser) peek() token { return p.tokens[p.n] }

func (p *parser) next() token {
	t := p.tokens[p.n]
	if t.kind != 0 {
		p.n++
	}
	return t
}

// word takes the next token if it is that word.
func (p *parser) word(w string) bool {
	if t := p.peek(); t.kind == 'w' && t.text == w {
		p.n++
		return true
	}
	return false
}

func (p *parser) op(o string) bool {
	if t := p.peek(); t.kind == 'o' && t.text == o {
		p.n++
		return true
	}
	return false
}

// name says what a token is, without a constant's value: predicates are not secret, but
// they quote data.
func (t token) name() string {
	switch t.kind {
	case 0:
		return "the end"
	case 's':
		return "a string"
	case 'q':
		return quote(t.text)
	}
	return fmt.Sprintf("%q", t.text)
}

func (p *parser) or() (node, error)  { return p.chain("or", true, p.and) }
func (p *parser) and() (node, error) { return p.chain("and", false, p.not) }

func (p *parser) chain(word string, or bool, part func() (node, error)) (node, error) {
	first, err := part()
	if err != nil {
		return nil, err
	}
	all := []node{first}
	for p.word(word) {
		n, err := part()
		if err != nil {
			return nil, err
		}
		all = append(all, n)
	}
	if len(all) == 1 {
		return first, nil
	}
	return &logic{or: or, parts: all}, nil
}

func (p *parser) not() (node, error) {
	if p.depth++; p.depth > maxDepth {
		return nil, mistake(p.peek().at, "", "more than %d levels of parentheses and NOT", maxDepth)
	}
	defer func() { p.depth-- }()
	if p.word("not") {
		n, err := p.not()
		return &negation{n}, err
	}
	if at := p.peek().at; p.op("(") {
		n, err := p.or()
		if err != nil {
			return nil, err
		}
		if !p.op(")") {
			return nil, mistake(at, "", "a parenthesis is not closed before %s", p.peek().name())
		}
		return n, nil
	}
	return p.test()
}

// reserved words cannot be columns without quotes.
var reserved = map[string]bool{
	"and": true, "or": true, "not": true, "in": true, "between": true, "like": true, "ilike": true, "is": true, "null": true,
	"true": true, "false": true, "distinct": true, "from": true, "case": true, "cast": true, "select": true, "array": true, "similar": true,
}

var comparisons = map[string]string{"=": "=", "<>": "<>", "!=": "<>", "<": "<", "<=": "<=", ">": ">", ">=": ">="}

// turned is what an operator becomes when its sides change places.
var turned = map[string]string{"=": "=", "<>": "<>", "<": ">", "<=": ">=", ">": "<", ">=": "<="}

func (p *parser) test() (node, error) {
	t := p.peek()
	if t.kind == 's' || t.kind == 'n' || t.kind == 'o' && (t.text == "-" || t.text == "+") || t.kind == 'w' && (t.text == "null" || t.text == "true" || t.text == "false") {
		return p.constantFirst()
	}
	col, err := p.column()
	if err != nil {
		return nil, err
	}
	out := &test{at: t.at, column: col}
	o := p.peek()
	if op, ok := comparisons[o.text]; ok && o.kind == 'o' {
		p.n++
		out.op = op
		return out, p.constants(out, 1)
	}
	out.not = p.word("not")
	switch {
	case p.word("in"):
		out.op = "in"
		at := p.peek().at
		if !p.op("(") {
			return nil, mistake(at, "IN (1, 2, 3)", "IN wants a list in parentheses, not %s", p.peek().name())
		}
		if err := p.constants(out, 1); err != nil {
			return nil, err
		}
		for p.op(",") {
			if err := p.constants(out, 1); err != nil {
				return nil, err
			}
		}
		if !p.op(")") {
			return nil, mistake(at, "", "the list is not closed before %s", p.peek().name())
		}
		return out, nil
	case p.word("between"):
		out.op = "between"
		if p.word("symmetric") {
			return nil, mistake(p.tokens[p.n-1].at, "", "BETWEEN SYMMETRIC is not supported")
		}
		if err := p.constants(out, 1); err != nil {
			return nil, err
		}
		if t := p.peek(); !p.word("and") {
			return nil, mistake(t.at, "BETWEEN 1 AND 9", "BETWEEN wants AND, not %s", t.name())
		}
		return out, p.constants(out, 1)
	case p.word("like"):
		out.op = "like"
		return out, p.constants(out, 1)
	case p.word("ilike"):
		return nil, mistake(o.at, "use LIKE, or IN with each spelling", "ILIKE depends on the database's locale, which the log does not carry")
	case out.not:
		return nil, mistake(o.at, "NOT IN, NOT BETWEEN and NOT LIKE follow a column", "NOT does not belong here")
	case p.word("is"):
		out.not = p.word("not")
		switch {
		case p.word("null"):
			out.op = "null"
		case p.word("true"):
			out.op = "true"
		case p.word("false"):
			out.op = "false"
		case p.word("unknown"):
			out.op = "unknown"
		case p.word("distinct"):
			if t := p.peek(); !p.word("from") {
				return nil, mistake(t.at, "IS DISTINCT FROM 1", "IS DISTINCT wants FROM, not %s", t.name())
			}
			out.op = "distinct"
			return out, p.constants(out, 1)
		default:
			return nil, mistake(p.peek().at, "", "IS wants NULL, TRUE, FALSE, UNKNOWN or DISTINCT FROM, not %s", p.peek().name())
		}
		return out, nil
	}
	if o.kind == 'o' && (o.text == "-" || o.text == "+") {
		return nil, mistake(o.at, "", "arithmetic is not supported")
	}
	out.op = "true"
	return &bare{out}, nil
}

// bare is a boolean column alone: it is NULL where IS TRUE is false.
type bare struct{ *test }

// constantFirst reads 5 < column.
func (p *parser) constantFirst() (node, error) {
	at := p.peek().at
	out := &test{}
	if err := p.constants(out, 1); err != nil {
		return nil, err
	}
	o := p.peek()
	op, ok := comparisons[o.text]
	if !ok || o.kind != 'o' {
		return nil, mistake(at, "a condition begins with a column", "a constant alone is no condition")
	}
	p.n++
	out.at, out.op = p.peek().at, turned[op]
	var err error
	out.column, err = p.column()
	return out, err
}

func (p *parser) column() (string, error) {
	t := p.next()
	switch {
	case t.kind == 'q':
	case t.kind == 'w' && reserved[t.text]:
		return "", mistake(t.at, "a column of that name is written "+quote(t.text), "%q is a word of SQL, where a column is wanted", t.text)
	case t.kind == 'w':
		if n := p.peek(); n.kind == 'o' && n.text == "(" {
			return "", mistake(t.at, "", "functions are not supported, and %s is followed by a parenthesis", t.text)
		}
	default:
		return "", mistake(t.at, "", "a column is wanted, not %s", t.name())
	}
	return t.text, nil
}

// constants reads so many of them.
func (p *parser) constants(out *test, n int) error {
	for range n {
		t := p.next()
		c := constant{at: t.at, text: t.text}
		sign := ""
		for t.kind == 'o' && (t.text == "-" || t.text == "+") {
			if t.text == "-" && sign == "-" {
				sign = ""
			} else if t.text == "-" {
				sign = "-"
			}
			if t = p.next(); t.kind != 'n' && t.kind != 'o' {
				return mistake(t.at, "", "a number is wanted after a sign, not %s", t.name())
			}
		}
		switch {
		case t.kind == 's':
			c.kind = 's'
		case t.kind == 'n':
			c.kind, c.text = 'n', sign+t.text
		case t.kind == 'w' && (t.text == "true" || t.text == "false"):
			c.kind = 'b'
		case t.kind == 'w' && t.text == "null":
		case t.kind == 'w' || t.kind == 'q':
			return mistake(t.at, "texts stand in single quotes: '"+t.text+"'", "a constant is wanted, not the name %s", t.name())
		default:
			return mistake(t.at, "", "a constant is wanted, not %s", t.name())
		}
		out.consts = append(out.consts, c)
	}
	return nil
}
