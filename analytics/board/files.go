package board

// Files are all that is printed, by their path in the folder docker.
func Files() map[string]string {
	out := map[string]string{
		"prometheus/rules.yml":                              Rules(Plain()),
		"prometheus/rules_test.yml":                         RulesTest(),
		"grafana/provisioning/datasources/datasources.yaml": datasources,
		"grafana/provisioning/dashboards/dashboards.yaml":   provider,
	}
	for _, d := range Dashboards() {
		out["grafana/dashboards/"+d.UID+".json"] = d.JSON()
	}
	return out
}
