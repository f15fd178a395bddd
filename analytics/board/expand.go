package board

import "strings"

// Expanded is the query of a panel as Grafana would send it for pipelines that match, with the
// analytics tables in a database, over three hours and the next, since hourly rows bear
// the beginning of their hour, and the last one that is priced has ended.
func (p Panel) Expanded(database, pipeline string) string {
	if p.Source == Prometheus {
		return strings.NewReplacer("$pipeline", pipeline, "$__rate_interval", "1m").Replace(p.Query)
	}
	q := p.Query
	for macro, with := range map[string]string{
		"$__timeFilter(":   "(@ >= now() - INTERVAL 3 HOUR AND @ <= now() + INTERVAL 1 HOUR)",
		"$__timeInterval(": "toStartOfInterval(toDateTime(@), INTERVAL 15 second)",
	} {
		for {
			before, rest, found := strings.Cut(q, macro)
			if !found {
				break
			}
			column, after, _ := strings.Cut(rest, ")")
			q = before + strings.ReplaceAll(with, "@", column) + after
		}
	}
	return strings.NewReplacer(Database+".", database+".", "${pipeline:regex}", pipeline).Replace(q)
}
