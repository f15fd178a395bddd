package components

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"

	"syncline/devstack/internal/problem"
)

//go:embed kafka-pom.xml
var kafkaPOM []byte

// Kafka is the folder with Apache Kafka's jars and the path of a fit Java.
func (c *Components) Kafka(ctx context.Context) (libs, java string, err error) {
	java, err = tool("java", "Apache Kafka", "openjdk-17-jre-headless")
	if err != nil {
		return "", "", err
	}
	out, err := exec.CommandContext(ctx, java, "-version").CombinedOutput()
	if err != nil {
		return "", "", fmt.Errorf("java -version: %w", err)
	}
	if v := javaVersion(string(out)); v < 17 {
		return "", "", problem.New("install Java 17 or later, or use --kafka embedded", "Apache Kafka %s needs Java 17, and this is Java %d", KafkaVersion, v)
	}
	name := "kafka-" + KafkaVersion
	if !c.Cache.Has(name) {
		if _, err := tool("mvn", "fetching Apache Kafka", "maven"); err != nil {
			return "", "", err
		}
	}
	libs, err = c.Cache.Get(ctx, name, func(ctx context.Context, tmp string) error {
		c.Cache.Say("fetching Apache Kafka %s, once for all clones", KafkaVersion)
		pom := filepath.Join(tmp, "pom.xml")
		if err := os.WriteFile(pom, kafkaPOM, 0o644); err != nil {
			return fmt.Errorf("write pom: %w", err)
		}
		if err := run(ctx, tmp, nil, "mvn", "-q", "-B", "-f", pom, "dependency:copy-dependencies", "-DoutputDirectory="+tmp); err != nil {
			return fmt.Errorf("fetch Apache Kafka: %w", err)
		}
		return nil
	})
	return libs, java, err
}

var javaPattern = regexp.MustCompile(`version "(?:1\.)?(\d+)`)

// javaVersion reads the major version; 0 if the text names none.
func javaVersion(s string) int {
	if m := javaPattern.FindStringSubmatch(s); m != nil {
		v, _ := strconv.Atoi(m[1])
		return v
	}
	return 0
}
