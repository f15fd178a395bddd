package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"syncline/dataplane/change"
)

// firstUserOID: below it, type OIDs mean the same on every server.
const firstUserOID = 16384

func builtin(t *change.Type) bool { return t.OID > 0 && t.OID < firstUserOID }

// sinkType says how values of a source's type are kept.
type sinkType struct {
	sql   string // as in CREATE TABLE
	note  string // what has been or would be created
	lossy string
}

// resolve finds the sink's type for t. With create, missing enums, domains,
// ranges and extensions are made; without, only reported.
func (s *Sink) resolve(ctx context.Context, q querier, t *change.Type, create bool) (sinkType, error) {
	if builtin(t) {
		return sinkType{sql: t.Name}, nil
	}
	if t.Kind == change.Array && t.Elem != nil {
		e, err := s.resolve(ctx, q, t.Elem, create)
		if err == nil && e.lossy != "" { // an array of a type that is kept as text is kept as one text
			return asText(t), nil
		}
		e.sql += "[]"
		return e, err
	}
	id, ok := typeID(t.Name)
	if !ok {
		return asText(t), nil
	}
	full := pgx.Identifier{id.Schema, id.Name}.Sanitize()
	var oid *uint32
	var labels []string
	err := q.QueryRow(ctx, `SELECT to_regtype($1)::oid, ARRAY(SELECT enumlabel::text FROM pg_enum WHERE enumtypid = to_regtype($1) ORDER BY enumsortorder)`, full).Scan(&oid, &labels)
	if err != nil {
		return sinkType{}, err
	}
	if t.Kind == change.Enum && oid != nil {
		return s.extendEnum(ctx, q, t, full, labels, create)
	}
	if oid != nil {
		return sinkType{sql: full}, nil
	}
	var ddl string
	switch {
	case t.Kind == change.Enum:
		ls := make([]string, len(t.Labels))
		for i, l := range t.Labels {
			ls[i] = literal(l)
		}
		ddl = "CREATE TYPE " + full + " AS ENUM (" + strings.Join(ls, ", ") + ")"
	case t.Kind == change.Domain && t.Elem != nil:
		e, err := s.resolve(ctx, q, t.Elem, create)
		if err != nil {
			return sinkType{}, err
		}
		ddl = "CREATE DOMAIN " + full + " AS " + e.sql
	case t.Kind == change.Range && t.Elem != nil:
		e, err := s.resolve(ctx, q, t.Elem, create)
		if err != nil {
			return sinkType{}, err
		}
		ddl = "CREATE TYPE " + full + " AS RANGE (subtype = " + e.sql + ")"
	case t.Kind == change.Base:
		return s.extension(ctx, q, t, create)
	default:
		return asText(t), nil
	}
	if create {
		ddl = "CREATE SCHEMA IF NOT EXISTS " + ident(id.Schema) + "; " + ddl
		if _, err := q.Exec(ctx, ddl); err != nil {
			return sinkType{}, fmt.Errorf("create type %s: %w", full, err)
		}
	}
	return sinkType{sql: full, note: fmt.Sprintf("type %s is created as %s", full, t.Kind)}, nil
}

func asText(t *change.Type) sinkType {
	return sinkType{sql: "text", lossy: fmt.Sprintf("type %s does not exist at the sink: values are kept as their text", t.Name)}
}

// extendEnum adds the labels that the sink's enum lacks.
func (s *Sink) extendEnum(ctx context.Context, q querier, t *change.Type, full string, have []string, create bool) (sinkType, error) {
	out := sinkType{sql: full}
	for i, l := range t.Labels {
		if slices.Contains(have, l) {
			continue
		}
		out.note = fmt.Sprintf("type %s gets the labels that it lacks", full)
		if !create {
			continue
		}
		ddl := "ALTER TYPE " + full + " ADD VALUE IF NOT EXISTS " + literal(l)
		if i > 0 {
			ddl += " AFTER " + literal(t.Labels[i-1])
		} else if len(have) > 0 {
			ddl += " BEFORE " + literal(have[0])
		}
		if _, err := q.Exec(ctx, ddl); err != nil {
			return sinkType{}, fmt.Errorf("add a label to type %s: %w", full, err)
		}
	}
	return out, nil
}

// extension finds or makes the extension that has the type, for example citext.
func (s *Sink) extension(ctx context.Context, q querier, t *change.Type, create bool) (sinkType, error) {
	installed := func() (string, error) {
		var nsp string
		err := q.QueryRow(ctx, `SELECT n.nspname FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
			JOIN pg_depend d ON d.classid = 'pg_type'::regclass AND d.objid = t.oid AND d.deptype = 'e'
			WHERE t.typname = $1 LIMIT 1`, t.Base).Scan(&nsp)
		if errors.Is(err, pgx.ErrNoRows) {
			return "", nil
		}
		return nsp, err
	}
	nsp, err := installed()
	if err != nil {
		return sinkType{}, err
	}
	out := sinkType{}
	if nsp == "" {
		var available bool
		if err := q.QueryRow(ctx, "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = $1)", t.Base).Scan(&available); err != nil {
			return sinkType{}, err
		}
		if !available {
			return asText(t), nil
		}
		out.note = fmt.Sprintf("extension %s is created, if the role may; else values are kept as text", t.Base)
		if !create {
			out.sql = ident(t.Base)
			return out, nil
		}
		if _, err := q.Exec(ctx, "SAVEPOINT extension"); err != nil {
			return sinkType{}, err
		}
		if _, err := q.Exec(ctx, "CREATE EXTENSION IF NOT EXISTS "+ident(t.Base)); err != nil {
			if _, rerr := q.Exec(ctx, "ROLLBACK TO extension"); rerr != nil {
				return sinkType{}, rerr
			}
			return asText(t), nil
		}
		if nsp, err = installed(); err != nil || nsp == "" {
			return asText(t), err
		}
	}
	// Keep what the source's name has behind the type's own name: modifiers.
	out.sql = pgx.Identifier{nsp, t.Base}.Sanitize()
	if i := strings.IndexByte(t.Name, '('); i > 0 && strings.HasSuffix(t.Name, ")") {
		out.sql += t.Name[i:]
	}
	return out, nil
}

// typeID parses a name as format_type prints it. A type that is printed without
// its schema was in the source's search path: public.
func typeID(name string) (change.TableID, bool) {
	parts, rest := []string{}, name
	for {
		var part string
		if strings.HasPrefix(rest, `"`) {
			i := 1
			var b strings.Builder
			for ; i < len(rest); i++ {
				if rest[i] == '"' {
					if i+1 < len(rest) && rest[i+1] == '"' {
						i++
					} else {
						break
					}
				}
				b.WriteByte(rest[i])
			}
			if i >= len(rest) {
				return change.TableID{}, false
			}
			part, rest = b.String(), rest[i+1:]
		} else {
			i := strings.IndexAny(rest, ".(")
			if i < 0 {
				i = len(rest)
			}
			part, rest = rest[:i], rest[i:]
		}
		parts = append(parts, part)
		if !strings.HasPrefix(rest, ".") {
			break
		}
		rest = rest[1:]
	}
	switch {
	case slices.Contains(parts, ""):
		return change.TableID{}, false
	case len(parts) == 1:
		return change.TableID{Schema: "public", Name: parts[0]}, true
	case len(parts) == 2:
		return change.TableID{Schema: parts[0], Name: parts[1]}, true
	}
	return change.TableID{}, false
}

func literal(s string) string {
	s = strings.ReplaceAll(s, "'", "''")
	if strings.Contains(s, `\`) {
		return "E'" + strings.ReplaceAll(s, `\`, `\\`) + "'"
	}
	return "'" + s + "'"
}

// wider lists, for a source's type, other sink types that hold all of its values.
var wider = map[string][]string{
	"int2":    {"int4", "int8", "numeric"},
	"int4":    {"int8", "numeric"},
	"int8":    {"numeric"},
	"float4":  {"float8"},
	"varchar": {"text", "citext"},
	"bpchar":  {"text", "varchar"},
	"name":    {"text", "varchar"},
	"cidr":    {"inet"},
	"json":    {"jsonb"},
	"citext":  {"text", "varchar"},
	"text":    {"varchar", "citext"},
	"macaddr": {"macaddr8"},
}

// assignable says whether a column of the sink can take the values of t, and
// what may be lost.
func assignable(t *change.Type, c *column) (ok bool, lossy string) {
	r := t.Root()
	typ, kind := c.typ, c.kind
	if c.base != 0 {
		typ, kind = c.btp, "b"
	}
	if typ != r.Base {
		switch {
		case typ == "text":
			return true, "" // every value travels as its text
		case typ == "jsonb" && r.Base == "json":
			return true, "key order, spaces and duplicate keys of json"
		case !slices.Contains(wider[r.Base], typ):
			return false, ""
		}
	} else if r.Kind == change.Enum && kind != "e" {
		return false, ""
	}
	if c.mod >= 0 && c.mod != r.Mod {
		switch typ {
		case "varchar", "bpchar", "bit", "varbit":
			if typ == "varchar" && (r.Base == "varchar" || r.Base == "bpchar") && r.Mod >= 0 && r.Mod <= c.mod {
				return true, ""
			}
			return true, fmt.Sprintf("values that do not fit %s are set aside", c.format)
		case "numeric":
			st := change.Type{Base: "numeric", Mod: c.mod}
			sp, ss, _ := st.NumericPrecision()
			if p, sc, ok := r.NumericPrecision(); ok && sc <= ss && p-sc <= sp-ss {
				return true, ""
			}
			return true, fmt.Sprintf("values are rounded to, or do not fit, %s", c.format)
		case "timestamp", "timestamptz", "time", "timetz", "interval":
			if r.Mod < 0 || r.Mod > c.mod {
				return true, fmt.Sprintf("fractions of seconds are rounded to %s", c.format)
			}
		}
	}
	return true, ""
}

// binaryEqual reports whether the binary COPY form of t is that of the column.
func binaryEqual(t *change.Type, c *column) bool {
	if !builtin(t) {
		// hstore, citext and enums have no OIDs in their binary form; arrays, composites
		// and whatever else a user may have made do.
		switch {
		case t.Kind == change.Domain && t.Elem != nil:
			return binaryEqual(t.Elem, c)
		case t.Kind == change.Enum:
			return c.kind == "e" && c.typ == t.Base
		case t.Kind == change.Base && (t.Base == "citext" || t.Base == "hstore"):
			return c.typ == t.Base
		}
		return false
	}
	if strings.HasPrefix(strings.TrimPrefix(t.Base, "_"), "reg") {
		return false // the binary form is an OID of the source's catalog
	}
	return c.oid == t.OID || c.base == t.OID
}
