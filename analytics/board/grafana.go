package board

import (
	"bytes"
	"encoding/json"
)

type object = map[string]any

func source(p Panel) object {
	kind := "prometheus"
	if p.Source == ClickHouse {
		kind = "grafana-clickhouse-datasource"
	}
	return object{"type": kind, "uid": p.Source}
}

func target(p Panel) object {
	t := object{"refId": "A", "datasource": source(p)}
	if p.Source == Prometheus {
		t["expr"], t["legendFormat"], t["instant"], t["range"] = p.Query, p.Legend, p.Type != Graph, p.Type == Graph
		return t
	}
	t["editorType"], t["rawSql"] = "sql", p.Query
	t["queryType"], t["format"] = "table", 1
	if p.Type == Graph {
		t["queryType"], t["format"] = "timeseries", 0
	}
	return t
}

// width and height of a panel; 24 is the whole page.
func size(p Panel) (w, h int) {
	switch p.Type {
	case Stat:
		return 6, 4
	case Table:
		return 24, 8
	}
	return 12, 8
}

// JSON is the dashboard as Grafana's provisioning takes it.
func (d Dashboard) JSON() string {
	var panels []object
	x, y, row := 0, 0, 0 // where the next one goes, and how high its row is
	for i, p := range d.Panels {
		w, h := size(p)
		if x+w > 24 || row != 0 && h != row {
			x, y, row = 0, y+row, 0
		}
		panel := object{
			"id": i + 1, "title": p.Title, "description": p.Description, "type": p.Type, "datasource": source(p),
			"gridPos": object{"x": x, "y": y, "w": w, "h": h}, "targets": []object{target(p)},
			"fieldConfig": object{"defaults": object{"unit": p.Unit}, "overrides": []object{}},
		}
		panels = append(panels, panel)
		x, row = x+w, h
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(object{
		"uid": d.UID, "title": d.Title, "description": d.Description, "tags": []string{"syncline"}, "editable": false,
		"schemaVersion": 39, "timezone": "utc", "refresh": "10s", "time": object{"from": "now-1h", "to": "now"},
		"templating": object{"list": []object{{
			"name": "pipeline", "label": "Pipeline", "type": "query", "datasource": object{"type": "prometheus", "uid": Prometheus},
			"query": object{"query": "label_values(syncline_changes_captured_total, pipeline)", "refId": "pipeline"},
			"multi": true, "includeAll": true, "allValue": ".*", "current": object{"text": "All", "value": "$__all"}, "refresh": 2, "sort": 1,
		}}},
		"panels": panels,
	})
	if err != nil { // strings, numbers and maps of them
		panic(err)
	}
	return b.String()
}

// datasources and the provider of dashboards, for docker/compose.yaml. The password
// is that of the demonstration's databases.
const datasources = header + `apiVersion: 1
datasources:
  - name: Prometheus
    uid: prometheus
    type: prometheus
    access: proxy
    url: http://prometheus:9090
    isDefault: true
    jsonData:
      timeInterval: 5s
  - name: ClickHouse
    uid: clickhouse
    type: grafana-clickhouse-datasource
    jsonData:
      host: clickhouse
      port: 9000
      protocol: native
      username: $CLICKHOUSE_USER
      defaultDatabase: ` + Database + `
    secureJsonData:
      password: $CLICKHOUSE_PASSWORD
`

const provider = header + `apiVersion: 1
providers:
  - name: syncline
    folder: Syncline
    type: file
    allowUiUpdates: false
    options:
      path: /var/lib/grafana/dashboards
`
