// Command generate writes the files that package board describes.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"

	"syncline/analytics/board"
)

func main() {
	to := flag.String("to", "docker", "folder to write into")
	flag.Parse()
	if err := write(*to); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func write(to string) error {
	for name, text := range board.Files() {
		path := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}
