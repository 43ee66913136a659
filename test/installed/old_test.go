package installed

import (
	"strings"
	"testing"

	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// On a kernel that is too old for BPF LSM the agent takes fanotify, says why, and
// restricts with it.
func TestOldKernel(t *testing.T) {
	vm.Require(t)
	m, err := vm.Boot(t.Context(), vm.Config{Kernel: "5.10", Disk: true, Cordon: true, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	status, err := m.Output(t.Context(), "cordon", "agent", "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fanotify, scope host", "it takes Linux 5.18 or newer"} {
		if !strings.Contains(status, want) {
			t.Errorf("%q is not in what the agent says:\n%s", want, status)
		}
	}
	if err := m.Restrict(t.Context()); err != nil {
		t.Fatal(err)
	}
	out, err := m.Output(t.Context(), "sh", "-c", "cp /bin/true /root/t && /root/t && echo a copy ran; printf x >> /root/t; /root/t || echo status $?")
	if err != nil || !strings.Contains(out, "a copy ran") || !strings.Contains(out, "status 126") {
		t.Errorf("%v: %s", err, out)
	}
}
