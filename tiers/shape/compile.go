package shape

import (
	"errors"
	"fmt"
	"slices"
	"strconv"

	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/tiers/predicate"
)

// Shape is what becomes of the rows of one definition of a table in one stage. It may be
// used concurrently.
type Shape struct {
	raw, out *change.Schema
	rows     condition // of rows that are withheld
	samples  []sample  // of rows that no other of them is of; none: all are there
	cols     []column  // per column of raw
	masked   []int
	byKey    bool // whether a row is held is told by its key alone
}

// column is what becomes of one.
type column struct {
	omit, mask condition
	key        []byte
}

// condition holds for a row if any of its parts does.
type condition struct {
	always bool
	parts  []part
}

// part holds for a row if the first of its tests that does says so.
type part struct {
	tier  string // that the tests tell; "": there is one, of a rule's own
	tests []test
}

type test struct {
	m    *predicate.Matcher // nil: it holds for every row
	text string
	is   bool
}

func (c *condition) none() bool { return !c.always && len(c.parts) == 0 }

func (c *condition) add(p part) {
	if p.tests[0].m == nil { // and then there is no other
		c.always = true
		return
	}
	c.parts = append(c.parts, p)
}

// holds reports whether it does, or cannot be decided.
func (c *condition) holds(img *change.Change) (bool, error) {
	if c.always {
		return true, nil
	}
	for i := range c.parts {
		if holds, err := c.parts[i].holds(img); err != nil || holds {
			return true, err
		}
	}
	return false, nil
}

func (p *part) holds(img *change.Change) (bool, error) {
	for i := range p.tests {
		t := &p.tests[i]
		if t.m == nil {
			return t.is, nil
		}
		switch a, err := t.m.Match(img); {
		case err != nil:
			return true, err
		case a == predicate.True:
			return t.is, nil
		case a == predicate.Open && p.tier == "":
			return true, nil
		case a == predicate.Open: // Postgres, which has the row, knows
			return true, fault.Permanent(CodeUndecided, nil, "ALTER TABLE … REPLICA IDENTITY FULL, and resync the table",
				"a change lacks what classify asks for (%s), so it cannot be told whether the row is of tier %s", t.text, p.tier)
		}
	}
	return false, nil
}

// Compile makes the shape of a table at a sink, of all rules for it there, in a stage: s
// is the definition where the stage begins, or where it ends, which comes to the same
// shape. It is nil if the stage leaves everything as it is. The error is an *Error.
func Compile(s *change.Schema, rules []Rule, keys Keys, stage Stage) (*Shape, error) {
	if len(rules) == 0 {
		return nil, nil
	}
	raw := Own(s)
	k := &compiler{sh: &Shape{raw: raw, cols: make([]column, len(raw.Columns)), byKey: true}, keys: keys, stage: stage, s: raw, masks: map[int]string{}, early: map[int]string{}}
	for i := range rules { // before conditions are looked at
		for c := range raw.Columns {
			if rules[i].InLog && rules[i].Changes(raw.Columns[c].Name) {
				k.early[c] = rules[i].Of
			}
		}
	}
	for i := range rules {
		if err := k.rule(&rules[i]); err != nil {
			return nil, err
		}
	}
	sh := k.sh
	if !k.any {
		return nil, nil
	}
	return sh, k.finish()
}

// Own returns the definition without what a shape added to it.
func Own(s *change.Schema) *change.Schema {
	if n := len(s.Columns) - 1; n >= 0 && s.Columns[n].Name == RateColumn {
		cut := *s
		cut.Columns = s.Columns[:n:n]
		return &cut
	}
	return s
}

type compiler struct {
	sh    *Shape
	s     *change.Schema
	keys  Keys
	stage Stage
	masks map[int]string // what masks a column
	early map[int]string // what changes a column before the log
	any   bool
}

func (k *compiler) rule(r *Rule) error {
	bad := func(field, format string, args ...any) error {
		return &Error{r.Of, r.Field(field), k.s.Table, fmt.Errorf(format, args...)}
	}
	if r.Tier != "" && !slices.ContainsFunc(r.asked(), func(c Case) bool { return c.Is }) {
		return nil // no row is of the tier
	}
	when, err := k.when(r)
	if err != nil {
		return err
	}
	applies := k.stage.has(r)
	k.any = k.any || applies
	switch r.Do {
	case Withhold:
		if applies {
			k.sh.rows.add(when)
		}
		return nil
	case Sample:
		return k.sampled(r, applies, when)
	case Omit, Mask:
	default:
		return bad("do", "%q is not known to this release", r.Do)
	}
	for n, name := range r.all() {
		i := k.s.Column(name)
		switch {
		case i < 0 && n >= len(r.Columns):
			continue
		case i < 0:
			return bad("columns", "it has no column %q", name)
		case k.s.IsKey(i):
			return bad("columns", "column %q is of the primary key, by which rows are told apart; withhold the rows, or take the column out of the key", name)
		}
		c := &k.sh.cols[i]
		if r.Do == Omit {
			if applies {
				c.omit.add(when)
			}
			continue
		}
		if err := maskable(&k.s.Columns[i].Type); err != nil {
			return bad("columns", "column %q %w", name, err)
		}
		if other := k.masks[i]; other != "" && other != r.Of {
			return bad("columns", "column %q is masked by %s as well", name, other)
		}
		k.masks[i] = r.Of
		// A mask of a mask would be another one; the log's definition tells.
		if !applies || k.stage == FromLog && k.s.Columns[i].Masked {
			continue
		}
		if len(k.keys[r.Key]) < leastKey {
			return bad("key", "%s has %d bytes, which can be guessed; give it %d at least", r.Key, len(k.keys[r.Key]), leastKey)
		}
		c.key = k.keys[r.Key]
		c.mask.add(when)
	}
	return nil
}

// when tells the rows that a rule is for.
func (k *compiler) when(r *Rule) (part, error) {
	cases := r.asked()
	if r.Tier == "" {
		cases = []Case{{Where: r.Where, Is: true}}
	}
	out := part{tier: r.Tier}
	for _, c := range cases {
		t := test{text: c.Where, is: c.Is}
		if c.Where != "" {
			of, p, err := r.Of, (*predicate.Predicate)(nil), error(nil)
			if r.Tier != "" {
				of = fmt.Sprintf("classify[%d]", c.N)
			}
			if p, err = predicate.Parse(c.Where); err == nil {
				t.m, err = p.Compile(k.s)
			}
			if err != nil {
				return out, &Error{of, "where", k.s.Table, err}
			}
			if err := k.decidable(r, p.Columns(), of, "where"); err != nil {
				return out, err
			}
		}
		out.tests = append(out.tests, t)
	}
	return out, nil
}

// decidable reports whether the log and the source alike tell the columns of rows before a
// change and after it; what asks for them is field of an entry of the declaration.
func (k *compiler) decidable(r *Rule, columns []string, entry, field string) error {
	why := ""
	if r.Tier != "" {
		why = fmt.Sprintf(" (tier %s does not keep its rows whole, so of every row it has to be told whether it is of it)", r.Tier)
	}
	for _, name := range columns {
		i := k.s.Column(name)
		if of := k.early[i]; of != "" && of != r.Of {
			return &Error{entry, field, k.s.Table, fmt.Errorf("it asks for column %q, which %s changes before Kafka, so that it cannot be told from there on%s", name, of, why)}
		}
		if k.s.IsKey(i) {
			continue
		}
		if k.stage.has(r) {
			k.sh.byKey = false
		}
		if len(k.s.Key) > 0 && !k.s.Full {
			return &Error{entry, field, k.s.Table, fmt.Errorf("it asks for column %q, which the log does not tell of rows that are deleted or were changed%s: "+
				"ALTER TABLE %s REPLICA IDENTITY FULL, or ask for columns of the primary key alone", name, why, k.s.Table)}
		}
	}
	return nil
}

var errNoMask = errors.New("cannot hold a mask, which is a text of 64 characters; leave it out (drop), or mask columns of type text or varchar without a shorter limit")

// maskable reports whether a column of the type can hold a mask.
func maskable(t *change.Type) error {
	t = t.Root()
	switch {
	case t.Kind != change.Base:
	case t.Base == "text", t.Base == "citext":
		return nil
	case t.Base == "varchar" && (t.Mod < 0 || int(t.Mod)-4 >= maskLength):
		return nil
	}
	return fmt.Errorf("is of type %s and %w", t.Name, errNoMask)
}

// printed are types whose values have one text, which Postgres gives by a cast too.
var printed = []string{"int2", "int4", "int8", "text", "varchar", "uuid"}

func (k *compiler) sampled(r *Rule, applies bool, when part) error {
	bad := func(field, format string, args ...any) error {
		return &Error{r.Of, r.Field(field), k.s.Table, fmt.Errorf(format, args...)}
	}
	if r.Rate <= 0 || r.Rate > whole {
		return bad("rate", "%d millionths are no share", r.Rate)
	}
	if len(r.Columns) == 0 {
		return bad("by", "it names no column")
	}
	smp := sample{tier: r.Tier, salt: r.Salt, below: threshold(r.Rate), rate: change.TextValue(strconv.FormatFloat(float64(r.Rate)/whole, 'g', -1, 64))}
	smp.of.add(when)
	for _, name := range r.Columns {
		i := k.s.Column(name)
		if i < 0 {
			return bad("by", "it has no column %q", name)
		}
		if t := k.s.Columns[i].Type.Root(); t.Kind != change.Base || !slices.Contains(printed, t.Base) {
			return bad("by", "column %q is of type %s; sample by columns of type int2, int4, int8, text, varchar or uuid", name, k.s.Columns[i].Type.Name)
		}
		smp.cols, smp.names = append(smp.cols, i), append(smp.names, name)
	}
	if err := k.decidable(r, r.Columns, r.Of, r.Field("by")); err != nil || !applies {
		return err
	}
	for i := range k.sh.samples { // rows are of one tier
		if other := k.sh.samples[i].tier; r.Tier == "" || other == "" || other == r.Tier {
			return bad("rate", "the table is sampled by another entry as well")
		}
	}
	k.sh.samples = append(k.sh.samples, smp)
	return nil
}

// finish makes the definition at the stage's end.
func (k *compiler) finish() error {
	sh := k.sh
	out := *sh.raw
	out.Columns = slices.Clone(out.Columns)
	for i := range sh.cols {
		c, to := &sh.cols[i], &out.Columns[i]
		if !c.mask.none() {
			sh.masked = append(sh.masked, i)
			to.Masked = true
			// What older rows have in the column is a value, too; that of a row cannot be told.
			if to.Missing != nil && c.mask.always {
				text := string(c.hash([]byte(*to.Missing)))
				to.Missing = &text
			} else {
				to.Missing = nil
			}
		}
		if !c.omit.none() {
			to.NotNull, to.Missing = false, nil
		}
	}
	if len(sh.samples) > 0 {
		rate := string(everyRow.Data)
		if s := &sh.samples[0]; s.of.always {
			rate = string(s.rate.Data)
		}
		out.Columns = append(out.Columns, change.Column{Name: RateColumn, NotNull: true, Missing: &rate,
			Type: change.Type{Name: "double precision", Kind: change.Base, Base: "float8", OID: 701, Mod: -1}})
	}
	sh.out = &out
	return nil
}
