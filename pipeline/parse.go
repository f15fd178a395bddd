package pipeline

import (
	"encoding/json"
	"fmt"
	"strings"
)

// Parse reads a declaration in YAML (or JSON, which is YAML). ${VAR} and
// ${VAR:-default} are replaced by what env returns, for example os.LookupEnv;
// a nil env defines no variable. The error is of type Problems.
func Parse(filename string, data []byte, env func(string) (string, bool)) (*Spec, error) {
	if env == nil {
		env = func(string) (string, bool) { return "", false }
	}
	n, problems := fromYAML(data, aPipeline)
	spec := new(Spec)
	if n != nil {
		var more Problems
		spec, more = build(n, env)
		problems = append(problems, more...)
	}
	if len(problems) == 0 {
		return spec, nil
	}
	for i := range problems {
		problems[i].File = filename
	}
	return nil, problems.sorted()
}

// Decode reads the JSON form of a Spec, such as a workflow's input. It fills in
// defaults and replaces no variables. The error is of type Problems.
func Decode(data []byte) (*Spec, error) {
	n, err := fromJSON(data)
	if err != nil {
		return nil, Problems{{Message: err.Error(), Expected: "the JSON form of a pipeline"}}
	}
	spec, problems := build(n, nil)
	if len(problems) > 0 {
		return nil, problems.sorted()
	}
	return spec, nil
}

// Normalise fills in the defaults of a Spec that did not come from Parse and
// reports its mistakes as Problems. It changes nothing in a Spec that did.
func (s *Spec) Normalise() error {
	data, err := json.Marshal(s)
	if err != nil {
		return Problems{{Message: "has no JSON form"}}
	}
	// Zero values that the JSON form spells out mean "not given" in a Spec made by hand.
	var tree map[string]any
	if err := json.Unmarshal(data, &tree); err != nil {
		return Problems{{Message: "has no JSON form"}}
	}
	prune(root, tree)
	if data, err = json.Marshal(tree); err != nil {
		return Problems{{Message: "has no JSON form"}}
	}
	full, err := Decode(data)
	if err != nil {
		return err
	}
	*s = *full
	return nil
}

// prune removes zero values from a JSON tree where zero is not a valid value.
func prune(f *field, tree map[string]any) {
	for _, c := range f.fields { // not over the map: workflows call this, and it must be repeatable
		name := c.name
		switch v := tree[name].(type) {
		case nil:
			delete(tree, name)
		case string:
			if v == "" && !c.emptyOK || c.min > 0 && (v == "0s" || v == "0B" || v == "0%") {
				delete(tree, name)
			}
		case float64:
			if v == 0 && c.min > 0 {
				delete(tree, name)
			}
		case map[string]any:
			prune(c, v)
		case []any:
			for _, item := range v {
				if m, ok := item.(map[string]any); ok && c.elem != nil {
					prune(c.elem, m)
				}
			}
		}
	}
}

func build(n *node, env func(string) (string, bool)) (*Spec, Problems) {
	d := &decoder{env: env, at: map[string]pos{}, kept: map[string][]int{}}
	start := n.pos
	if start.line > 0 {
		start = pos{1, 1}
	}
	tree, ok := d.value(root, n, "", start)
	spec := new(Spec)
	if !ok {
		return spec, d.problems
	}
	data, err := json.Marshal(tree)
	if err == nil {
		err = json.Unmarshal(data, spec)
	}
	if err != nil { // the field table and Spec disagree; a test holds that they do not
		d.problem(start, "", "cannot be represented: "+err.Error(), "", "")
		return spec, d.problems
	}
	d.relations(spec)
	return spec, d.problems
}

// relations fills in the defaults that depend on other fields and checks the
// rules between fields. It runs on what is valid even if other parts are not.
func (d *decoder) relations(s *Spec) {
	if s.Name != "" {
		if s.Source.Slot == "" && !d.given("source.slot") {
			s.Source.Slot = derivedName(s.Name)
		}
		if s.Source.Publication == "" && !d.given("source.publication") {
			s.Source.Publication = derivedName(s.Name)
		}
	}
	if s.Stream.Order == OrderTransaction {
		if !d.given("kafka.partitions") {
			s.Kafka.Partitions = 1
		} else if s.Kafka.Partitions > 1 {
			d.problem(d.at["kafka.partitions"], "kafka.partitions", "is more than 1, but stream.order is transaction", "1, since only one partition keeps the order of transactions", "")
		}
	}
	if s.Stream.MaxBatchBytes > s.Stream.MemoryLimit && s.Stream.MemoryLimit > 0 {
		p := d.at["stream.max_batch_bytes"]
		if p.line == 0 {
			p = d.at["stream.memory_limit"]
		}
		d.problem(p, "stream.max_batch_bytes", fmt.Sprintf("is %s, more than stream.memory_limit (%s)", s.Stream.MaxBatchBytes, s.Stream.MemoryLimit), "at most the memory limit", "")
	}
	d.sinks(s)
	d.tables(s)
	d.tiers(s)
	d.residency(s)
	d.thin(s)
	d.objectives(s)
	if b := s.Budget; b != nil && b.Slow > 0 && len(s.Tiers) == 0 && !d.given("tiers") {
		d.problem(d.at["budget.slow"], "budget.slow", "is given, but there is no batch tier, and what streams is never slowed", "tiers and classify, or a budget without slow", "")
	}
}

func (d *decoder) given(path string) bool { _, ok := d.at[path]; return ok }

func (d *decoder) sinks(s *Spec) {
	for i := range s.Sinks {
		k := &s.Sinks[i]
		p := d.item("sinks", i)
		if k.Lanes == 0 && !d.given(p+".lanes") && s.Kafka.Partitions > 0 {
			k.Lanes = min(2, s.Kafka.Partitions)
		}
		if k.Lanes > s.Kafka.Partitions && s.Kafka.Partitions > 0 {
			d.problem(d.at[p+".lanes"], p+".lanes", fmt.Sprintf("is %d, more than kafka.partitions (%d): lanes without a partition have nothing to do", k.Lanes, s.Kafka.Partitions), "at most the number of partitions", "")
		}
		if k.MaxBatchRows == 0 {
			k.MaxBatchRows = s.Stream.MaxBatchRows
		}
		if k.MaxBatchBytes == 0 {
			k.MaxBatchBytes = s.Stream.MaxBatchBytes
		}
		if k.Port == 0 && k.DSN.IsZero() && k.Host != "" {
			k.Port = defaultPort(k)
		}
		d.clientCertificate(k.TLS, p+".tls")
		d.both(p, "sslcert", "sslkey")
	}
	d.both("source", "sslcert", "sslkey")
	d.clientCertificate(s.Kafka.TLS, "kafka.tls")
}

// both reports one of two fields that is given without the other.
func (d *decoder) both(path, one, other string) {
	if d.given(path+"."+one) == d.given(path+"."+other) {
		return
	}
	have, lack := one, other
	if d.given(path + "." + other) {
		have, lack = lack, have
	}
	d.problem(d.at[path+"."+have], path+"."+have, "is given without "+lack, "both or none", "")
}

func (d *decoder) clientCertificate(t *TLS, path string) {
	if t != nil {
		d.both(path, "cert_file", "key")
	}
}

func defaultPort(k *Sink) int {
	switch {
	case k.Type == SinkPostgres:
		return 5432
	case k.Protocol == "native" && k.TLS != nil:
		return 9440
	case k.Protocol == "native":
		return 9000
	case k.TLS != nil:
		return 8443
	}
	return 8123
}

func (d *decoder) tables(s *Spec) {
	excluded := map[string]bool{}
	for _, g := range s.Tables.Exclude {
		excluded[g] = true
	}
	for i, g := range s.Tables.Include {
		if p := d.item("tables.include", i); excluded[g] {
			d.problem(d.at[p], p, "is excluded as well, and excludes win", "", "")
		}
	}
	for i, o := range s.Tables.Options {
		path := d.item("tables.options", i)
		for j, c := range o.OrderBy {
			if kept, _ := o.Columns.Pick([]string{c}); o.Columns != nil && len(kept) == 0 {
				p := d.item(path+".order_by", j)
				d.problem(d.at[p], p, "is a column that columns leaves out", "", "")
			}
		}
		// The predicate is put in parentheses; a comment at its end would swallow the closing one.
		if p := path + ".where"; strings.Contains(o.Where, "--") || strings.Contains(o.Where, "/*") {
			d.problem(d.at[p], p, "holds an SQL comment", "a predicate without comments", "")
		}
	}
}

// objectives names those without a name after their indicator.
func (d *decoder) objectives(s *Spec) {
	first := map[string]string{}
	for i := range s.Objectives {
		o := &s.Objectives[i]
		p := d.item("objectives", i)
		if o.Name == "" && !d.given(p+".name") {
			o.Name = o.Indicator
		}
		if other, dup := first[o.Name]; dup && o.Name != "" {
			message := fmt.Sprintf("is called %q as %s is", o.Name, other)
			if !d.given(p + ".name") {
				message += ": without a name an objective has that of its indicator"
			}
			d.problem(d.at[p], p, message, "a name for each one", "")
		}
		first[o.Name] = p
	}
}
