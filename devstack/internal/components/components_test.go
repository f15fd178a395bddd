package components

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"syncline/devstack/internal/problem"
)

func TestMissingToolSaysHowToInstallIt(t *testing.T) {
	_, err := tool("no-such-tool-here", "the test", "some-package")
	if !problem.Is(err) || !strings.Contains(err.Error(), "apt-get install some-package") {
		t.Errorf("got %v", err)
	}
}

func TestJavaVersion(t *testing.T) {
	for in, want := range map[string]int{
		`openjdk version "17.0.15" 2025-04-15`: 17, `java version "1.8.0_392"`: 8, `openjdk version "21" 2023-09-19`: 21, "what": 0,
	} {
		if got := javaVersion(in); got != want {
			t.Errorf("%s: %d, want %d", in, got, want)
		}
	}
}

func TestKeyFollowsTheModulesContent(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := contentKey(dir)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	first, second, third := write("go.mod", "a"), write("go.mod", "b"), write("go.mod", "a")
	if first == second || first != third {
		t.Errorf("%s %s %s", first, second, third)
	}
	if _, err := contentKey(filepath.Join(dir, "missing")); err == nil {
		t.Error("a module that is not there has a key")
	}
}

func TestPOMHasTheVersionThatNamesTheCacheEntry(t *testing.T) {
	if !bytes.Contains(kafkaPOM, []byte("<version>"+KafkaVersion+"</version>")) {
		t.Errorf("the POM does not fetch Kafka %s", KafkaVersion)
	}
	for module, line := range map[string]string{"temporal": "github.com/temporalio/cli v" + TemporalVersion, "vault": "github.com/hashicorp/vault v" + VaultVersion, "prometheus": "github.com/prometheus/prometheus v" + PrometheusVersion} {
		b, err := os.ReadFile(filepath.Join("..", "..", module, "go.mod"))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(b, []byte(line)) {
			t.Errorf("module %s does not require %s", module, line)
		}
	}
}

func TestArchivesStayInTheirFolder(t *testing.T) {
	archive := func(name string) *bytes.Buffer {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		_ = w.WriteHeader(&tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755})
		_ = w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o755, Size: 2})
		_, _ = w.Write([]byte("hi"))
		_ = w.WriteHeader(&tar.Header{Name: "lib/link.so", Linkname: "real.so", Typeflag: tar.TypeSymlink})
		_ = w.Close()
		return &b
	}
	dir := t.TempDir()
	if err := untar(archive("bin/prog"), dir); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "bin", "prog"))
	if err != nil || info.Mode()&0o111 == 0 {
		t.Errorf("%v, %v", info, err)
	}
	if link, err := os.Readlink(filepath.Join(dir, "lib", "link.so")); err != nil || link != "real.so" {
		t.Errorf("%s, %v", link, err)
	}
	if err := untar(archive("../out"), dir); err == nil {
		t.Error("a file outside was written")
	}
}
