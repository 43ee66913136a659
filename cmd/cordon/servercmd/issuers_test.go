package servercmd

import (
	"os"
	"strings"
	"testing"

	"github.com/cordon-project/cordon/internal/config"
)

// TestDocumentedConfigurations holds that what the documentation shows can be
// copied, but for files that only its reader has.
func TestDocumentedConfigurations(t *testing.T) {
	text, err := os.ReadFile("../../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	issuers := 0
	for n, part := range strings.Split(string(text), "```toml\n")[1:] {
		block, _, _ := strings.Cut(part, "```")
		c, err := config.Parse(block)
		if err != nil {
			t.Errorf("example %d: %v", n+1, err)
			continue
		}
		for i := range c.Issuers {
			c.Issuers[i].CAFile = ""
		}
		issuers += len(c.Issuers)
		if err := checkIssuers(c); err != nil {
			t.Errorf("example %d: %v", n+1, err)
		}
		if _, err := limitTable(c); err != nil {
			t.Errorf("example %d: %v", n+1, err)
		}
	}
	if issuers < 5 {
		t.Errorf("%d issuers are shown", issuers)
	}
}
