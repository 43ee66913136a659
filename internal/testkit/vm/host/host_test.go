package host

import (
	"strings"
	"testing"
)

func TestMissingTools(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	err := Check()
	if err == nil || !strings.Contains(err.Error(), "make deps") || !strings.Contains(err.Error(), "qemu-system-x86 qemu-utils") {
		t.Errorf("without QEMU: %v", err)
	}
}
