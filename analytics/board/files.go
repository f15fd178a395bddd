package board

// Files are all that is printed, by their path in the folder docker.
func Files() map[string]string {
	return map[string]string{
		"prometheus/rules.yml":      Rules(Plain()),
		"prometheus/rules_test.yml": RulesTest(),
	}
}
