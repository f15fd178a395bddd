package activities

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"syncline/activities/contract"
	"syncline/dataplane/change"
	"syncline/dataplane/fault"
	"syncline/dataplane/sink"
	source "syncline/dataplane/source/postgres"
	"syncline/pipeline"
	"syncline/secrets"
	"syncline/tiers"
	"syncline/tiers/shape"
)

// Inspect looks at source, log and sinks and says what a pipeline would do. What
// cannot be reached is a failed check, not an error: the rest is reported all the same.
func (a *Activities) Inspect(ctx context.Context, in contract.PlanInput) (r contract.Report, err error) {
	defer func() { err = ended(ctx, err) }()
	spec := &in.Spec
	r.Running = in.Running != nil
	r.Changes = pipeline.Diff(in.Running, spec)
	schemas, sel := a.inspectSource(ctx, spec, &r)
	for _, d := range schemas {
		i := slices.IndexFunc(r.Tables, func(t contract.TableReport) bool { return t.Table == d.Table })
		tierReport(spec, d, &r.Tables[i])
		a.shapeReport(ctx, spec, d, &r.Tables[i])
		if in.Schemas {
			r.Tables[i].Schema = d
		}
	}
	if err := spec.UnmatchedResidency(tablesOf(schemas)); err != nil && len(schemas) > 0 {
		r.Source.Checks = append(r.Source.Checks, contract.Check{Name: "residency", Detail: err.Error(), Fix: "correct the pattern, or leave the class out until there is such a table"})
	}
	a.inspectKafka(ctx, spec, &r)
	for i := range spec.Sinks {
		a.inspectSink(ctx, spec, &spec.Sinks[i], schemas, sel, &r)
	}
	r.OK = passed(&r)
	return r, nil
}

func passed(r *contract.Report) bool {
	bad := func(c contract.Check) bool { return !c.OK }
	if slices.ContainsFunc(r.Source.Checks, bad) || !r.Kafka.OK {
		return false
	}
	for _, s := range r.Sinks {
		if slices.ContainsFunc(s.Checks, bad) {
			return false
		}
	}
	for _, t := range r.Tables {
		if len(t.Problems) > 0 {
			return false
		}
	}
	for _, c := range r.Changes {
		if c.Effect == pipeline.Refused {
			return false
		}
	}
	return len(r.Tables) > 0
}

func failed(name string, err error) contract.Check {
	c := contract.Check{Name: name, Detail: secrets.Redact(err.Error())}
	var f *fault.Error
	if errors.As(err, &f) {
		c.Detail, c.Fix = string(f.Code)+": "+f.What, f.Fix
		if f.Err != nil {
			c.Detail += ": " + secrets.Redact(f.Err.Error())
		}
	}
	return c
}

func (a *Activities) inspectSource(ctx context.Context, spec *pipeline.Spec, r *contract.Report) ([]*change.Schema, *selection) {
	add := func(ok bool, name, format string, args ...any) {
		r.Source.Checks = append(r.Source.Checks, contract.Check{Name: name, OK: ok, Detail: fmt.Sprintf(format, args...)})
	}
	fail := func(name string, err error) ([]*change.Schema, *selection) {
		r.Source.Checks = append(r.Source.Checks, failed(name, err))
		return nil, nil
	}
	srv, err := a.source(ctx, spec.Name, spec.Source)
	if err != nil {
		return fail("connection", err)
	}
	defer srv.Close()
	sel, err := choose(ctx, srv, spec, nil)
	if err != nil {
		return fail("connection", err)
	}
	i := sel.inspection
	r.Source.Version = i.VersionText
	add(true, "connection", "database %s as %s", i.Database, i.Role.Name)
	add(i.WALLevel == "logical", "wal_level", "%s", i.WALLevel)
	add(i.Slot != nil || i.Slots.Used < i.Slots.Max, "replication slots", "%d of %d used", i.Slots.Used, i.Slots.Max)
	add(i.Slot != nil || i.Senders.Used < i.Senders.Max, "WAL senders", "%d of %d used", i.Senders.Used, i.Senders.Max)
	add(i.Role.Replication || i.Role.Superuser, "replication right", "role %s", i.Role.Name)
	switch {
	case i.Slot == nil:
		add(true, "slot", "%s will be created", spec.SlotName())
	case !r.Running:
		r.Source.Checks = append(r.Source.Checks, contract.Check{Name: "slot", Detail: fmt.Sprintf("%s exists, but no pipeline of this name runs", spec.SlotName()),
			Fix: "drop it if nothing else uses it, or set source.slot to another name"})
	default:
		add(true, "slot", "%s, %s, %d bytes of WAL kept", i.Slot.Name, i.Slot.WALStatus, i.Slot.RetainedBytes)
	}
	for _, p := range i.Problems {
		if !slices.ContainsFunc(r.Source.Checks, func(c contract.Check) bool { return !c.OK && c.Name == problemCheck(p.Code) }) {
			r.Source.Checks = append(r.Source.Checks, failed(string(p.Code), p))
		} else {
			for j := range r.Source.Checks {
				if r.Source.Checks[j].Name == problemCheck(p.Code) {
					r.Source.Checks[j].Fix = p.Fix
				}
			}
		}
	}
	if len(sel.tables) == 0 {
		r.Source.Checks = append(r.Source.Checks, contract.Check{Name: "tables", Detail: "the declaration selects no table", Fix: "check tables.include"})
		return nil, nil
	}
	for _, u := range sel.unused {
		r.Unused = append(r.Unused, u.Glob)
	}
	tables, err := sel.published(ctx, srv)
	if err != nil {
		return fail("tables", err)
	}
	schemas, err := srv.Describe(ctx, tables)
	if err != nil {
		return fail("tables", err)
	}
	var publish []source.PublishedTable
	for n, t := range sel.tables {
		rep := tableReport(t, sel.infos[t.Table])
		if len(rep.Problems) == 0 {
			publish = append(publish, tables[n])
		}
		r.Tables = append(r.Tables, rep)
	}
	for _, c := range sel.collisions {
		r.Source.Checks = append(r.Source.Checks, contract.Check{Name: "targets", Detail: fmt.Sprintf("tables %v would share %s of sink %s", c.Tables, c.Target, c.Sink), Fix: "give one of them another target"})
	}
	if inUse(i.Publication) && !r.Running {
		r.Source.Checks = append(r.Source.Checks, failed("publication", publicationExists(spec.PublicationName())))
		return schemas, sel
	}
	if err := srv.CheckPublication(ctx, spec.PublicationName(), publish); err != nil {
		return fail("publication", err)
	}
	add(true, "publication", "%s, %d tables", spec.PublicationName(), len(publish))
	return schemas, sel
}

func problemCheck(c fault.Code) string {
	switch c {
	case source.CodeWALLevel:
		return "wal_level"
	case source.CodeNoReplication:
		return "replication right"
	case source.CodeSlotsExhausted:
		return "replication slots"
	}
	return string(c)
}

var identities = map[string]string{"d": "default", "f": "full", "n": "nothing", "i": "index"}

func tableReport(t pipeline.Selected, i source.TableInfo) contract.TableReport {
	rep := contract.TableReport{Table: t.Table, Rows: max(i.Rows, 0), Bytes: i.Bytes, Key: i.Key, Identity: identities[i.Identity], Sinks: map[string]sink.TableCheck{}}
	add := func(ok bool, problem string) {
		if !ok {
			rep.Problems = append(rep.Problems, problem)
		}
	}
	add(len(i.Key) > 0 || t.AppendOnly, "TableWithoutKey: add a primary key, exclude the table, or set append_only for it")
	add(t.AppendOnly || i.Identity != "n", "ReplicaIdentity: updates and deletes would fail at the source; ALTER TABLE … REPLICA IDENTITY DEFAULT")
	add(i.Readable, "SourcePrivilege: GRANT SELECT on the table and USAGE on its schema to this role")
	add(i.Owned, "SourcePrivilege: only the owner can publish the table; make this role a member of the owner")
	add(!i.Unlogged, "Unlogged: the table is not in the WAL; ALTER TABLE … SET LOGGED")
	add(!i.RowSecurity, "RowSecurity: policies hide rows from this role; grant BYPASSRLS")
	return rep
}

// longestName is how many bytes a name has at most in Postgres.
const longestName = 63

// tierReport says how the table's changes are classified, and what of that cannot be.
func tierReport(spec *pipeline.Spec, s *change.Schema, rep *contract.TableReport) {
	rules := spec.Rules(s.Table)
	if len(rules) == 0 {
		return
	}
	c, err := tiers.Compile(s, rules)
	if err != nil {
		rep.Problems = append(rep.Problems, "Tiers: "+err.Error())
		return
	}
	at := cmp.Or(spec.Options(s.Table).Target, s.Table.Name)
	for _, p := range c.Aggregates() {
		if name := p.Partials(at); len(name) > longestName {
			rep.Problems = append(rep.Problems, fmt.Sprintf("Tiers: aggregates by tier %s would be in table %s, whose name is longer than %d bytes; give the tier a shorter name", p.Tier, name, longestName))
		}
	}
	blind := c.Blind()
	for _, r := range rules {
		line := r.String()
		if slices.Contains(blind, r.N) {
			line += "; CANNOT BE TOLD: the log does not say which columns an update changed, so updates that come to this rule stream (ALTER TABLE … REPLICA IDENTITY FULL)"
		}
		rep.Tiers = append(rep.Tiers, line)
	}
}

func (a *Activities) inspectKafka(ctx context.Context, spec *pipeline.Spec, r *contract.Report) {
	r.Kafka = contract.Check{Name: "brokers"}
	admin, err := a.admin(ctx, spec)
	if err == nil {
		defer admin.Close()
		var n int
		if n, err = admin.Check(ctx); err == nil {
			r.Kafka.OK, r.Kafka.Detail = true, fmt.Sprintf("%d reachable, %d partitions a topic, kept for %s", n, spec.Kafka.Partitions, spec.Kafka.Retention)
			return
		}
	}
	r.Kafka = failed("brokers", err)
}

func (a *Activities) inspectSink(ctx context.Context, spec *pipeline.Spec, s *pipeline.Sink, schemas []*change.Schema, sel *selection, r *contract.Report) {
	rep := contract.SinkReport{Sink: s.Name, Type: s.Type}
	defer func() { r.Sinks = append(r.Sinks, rep) }()
	sk, err := a.sink(ctx, spec.Name, *s)
	if err != nil {
		rep.Checks = append(rep.Checks, failed("connection", err))
		return
	}
	defer sk.Close()
	if len(schemas) == 0 {
		rep.Checks = append(rep.Checks, contract.Check{Name: "connection", Detail: "not looked at: no table of the source could be read"})
		return
	}
	for _, d := range schemas {
		i := slices.IndexFunc(r.Tables, func(t contract.TableReport) bool { return t.Table == d.Table })
		j := slices.IndexFunc(sel.tables, func(t pipeline.Selected) bool { return t.Table == d.Table })
		as, err := a.shapeAt(ctx, spec, d, s.Name)
		if err != nil {
			continue // told with the table
		}
		c, err := sk.Check(ctx, as, target(spec, &sel.tables[j], s))
		if code := fault.CodeOf(err); code == sink.CodeUnreachable || code == sink.CodeAuth {
			rep.Checks = append(rep.Checks, failed("connection", err))
			return
		}
		if err != nil {
			r.Tables[i].Problems = append(r.Tables[i].Problems, s.Name+": "+failed("", err).Detail)
			continue
		}
		if c.Problem != "" {
			r.Tables[i].Problems = append(r.Tables[i].Problems, s.Name+": "+c.Problem)
		}
		if c.Rows && target(spec, &sel.tables[j], s).Existing == sink.Refuse && !r.Running {
			r.Tables[i].Problems = append(r.Tables[i].Problems, s.Name+": TableNotEmpty: the table has rows; empty it, or set on_existing to truncate or append")
		}
		if s.QuarantineViews {
			name, problem, err := sk.HeldView(ctx, as, target(spec, &sel.tables[j], s))
			if err != nil {
				problem = failed("", err).Detail
			}
			if problem != "" {
				r.Tables[i].Problems = append(r.Tables[i].Problems, s.Name+": "+problem)
			}
			if name != "" {
				c.Notes = append(c.Notes, fmt.Sprintf("view %s shows the keys that a repair holds", name))
			}
		}
		r.Tables[i].Sinks[s.Name] = c
	}
	rep.Checks = append(rep.Checks, contract.Check{Name: "connection", OK: true, Detail: "reachable"})
	if note := uncompressed(spec, s); note != "" {
		rep.Checks = append(rep.Checks, contract.Check{Name: "compression", OK: true, Detail: note})
	}
}

// uncompressed says of which tiers the compression has no effect at a sink.
func uncompressed(spec *pipeline.Spec, s *pipeline.Sink) string {
	var names []string
	for _, t := range spec.Tiers {
		if t.Compression != "" && s.Type != pipeline.SinkClickHouse {
			names = append(names, fmt.Sprintf("tiers[%s].compression", t.Name))
		}
	}
	if len(names) == 0 {
		return ""
	}
	return strings.Join(names, " and ") + ": no effect here: only batches to ClickHouse are compressed"
}

// shapeAt is a definition as a sink has it.
func (a *Activities) shapeAt(ctx context.Context, spec *pipeline.Spec, d *change.Schema, sink string) (*change.Schema, error) {
	of, err := a.shapes(ctx, spec, sink, shape.All)
	if err != nil {
		return nil, err
	}
	return shapedAs(of, d)
}

// shapeReport says what Kafka and the sinks hold of a table, and what of that cannot be.
func (a *Activities) shapeReport(ctx context.Context, spec *pipeline.Spec, d *change.Schema, rep *contract.TableReport) {
	say := func(at, region, name string, rules []shape.Rule) {
		if len(rules) == 0 {
			return
		}
		if region != "" {
			at += " (" + region + ")"
		}
		for _, r := range rules {
			line := at + ": " + r.String()
			if n := spec.ResidencyClass(r.Of); n != "" {
				line += " (class " + n + ")"
			}
			rep.Shape = append(rep.Shape, line)
		}
		if _, err := a.shapeAt(ctx, spec, d, name); err != nil {
			problem := failed("", err).Detail
			if !slices.Contains(rep.Problems, problem) {
				rep.Problems = append(rep.Problems, problem)
			}
		}
	}
	say("kafka", spec.Kafka.Region, "", spec.LogShape(d.Table))
	for i := range spec.Sinks {
		k := &spec.Sinks[i]
		say(k.Name, k.Region, k.Name, spec.Shape(d.Table, k.Name))
	}
}
