package agentcmd

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon/internal/trust"
)

// A restriction keeps the policy for interpreters for which its set was built.
func TestBegunWith(t *testing.T) {
	root := t.TempDir()
	write := func(path, text string) {
		t.Helper()
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("opt/tool", "#!/bin/sh\n")
	write("rules", "path /opt\n")
	builder := func(text bool) *trust.Builder {
		return &trust.Builder{Root: root, RulesFile: filepath.Join(root, "rules"), CacheFile: filepath.Join(root, "cache"), Log: slog.New(slog.DiscardHandler), ProgramText: text}
	}
	if got := begunWith(builder(true)); got != "" {
		t.Errorf("there was no set yet: %s", got)
	}
	for policy, text := range map[string]bool{"open": false, "trusted-scripts": true} {
		if _, _, err := builder(text).Build(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := begunWith(builder(true)); got != policy {
			t.Errorf("built for %s, and it is said to be %s", policy, got)
		}
	}
}
