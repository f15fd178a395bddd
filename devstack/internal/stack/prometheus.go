package stack

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"syncline/devstack/internal/proc"
)

func (c *Config) prometheusDir() string { return filepath.Join(c.Data, "prometheus") }

// prometheusConfig looks often: tests wait for what it sees. Targets and rules come
// from files that others write.
func (c *Config) prometheusConfig() string {
	dir := c.prometheusDir()
	rules := "  - " + strconv.Quote(filepath.Join(dir, "rules", "*.yml")) + "\n"
	if c.Rules != "" {
		rules += "  - " + strconv.Quote(c.Rules) + "\n"
	}
	return fmt.Sprintf(`global:
  scrape_interval: 1s
  scrape_timeout: 1s
  evaluation_interval: 1s
rule_files:
%sscrape_configs:
  - job_name: syncline
    file_sd_configs:
      - files: [%q]
`, rules, filepath.Join(dir, "targets", "*.json"))
}

func prometheusService(c *Config, p programs) *service {
	dir := c.prometheusDir()
	s := &service{name: Prometheus, address: loopback(c.Ports.Prometheus), note: "targets and rules in " + dir}
	file := filepath.Join(dir, "prometheus.yml")
	s.spec = proc.Spec{
		Path: filepath.Join(p.prometheus, "prometheus"), Log: c.log(Prometheus),
		Args: []string{
			"--config.file", file, "--storage.tsdb.path", filepath.Join(dir, "data"), "--storage.tsdb.retention.time", "1d",
			"--web.listen-address", s.address, "--web.enable-lifecycle", "--log.level", "warn",
		},
	}
	s.setup = func(context.Context) error {
		for _, sub := range []string{"rules", "targets"} {
			if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
				return err
			}
		}
		return os.WriteFile(file, []byte(c.prometheusConfig()), 0o644)
	}
	s.ready = func(ctx context.Context) error { return getOK(ctx, "http://"+s.address+"/-/ready") }
	return s
}
