package bpflsm

import (
	"errors"
	"fmt"
	"log/slog"
	"testing"

	"github.com/cilium/ebpf"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// TestRoomForScripts has more texts refused and shown than the kernel keeps of
// those: that takes no room from what is trusted.
func TestRoomForScripts(t *testing.T) {
	eachKernel(t, vm.Config{}, func(t *testing.T) {
		g := openGuest(t)
		allowed(t, "close", g.Close())
		var err error
		if g.Enforcer, err = Open(Config{Log: slog.New(slog.DiscardHandler), TrustedScripts: true}); err != nil {
			t.Fatal(err)
		}
		g.apply(t, cordon.ModeEnforce)
		trusted := g.write(t, "trusted.sh", []byte(trustedScript))
		know := func(when string, inScripts int) {
			t.Helper()
			if n := entries(t, g.maps["scripts"]); n != inScripts {
				t.Errorf("%s: %d texts take room", when, n)
			}
		}
		const some = 50
		for i := range some {
			allowed(t, "show a text that was refused", g.LearnRefused(g.write(t, fmt.Sprint(i, ".sh"), fmt.Append(nil, "echo ", i))))
		}
		know("not trusted", 0)
		if n := entries(t, g.maps["strange_scripts"]); n != some {
			t.Errorf("%d texts are known not to be trusted", n)
		}
		allowed(t, "show a trusted one that was refused", g.LearnRefused(trusted))
		know("one trusted", 1)
		allowed(t, "show a text of a set to come", g.Learn(g.write(t, "0.sh", []byte("echo 0"))))
		know("one to come", 2)
		if n := entries(t, g.maps["strange_scripts"]); n != some-1 {
			t.Errorf("%d texts are known not to be trusted", n)
		}
		_ = g.write(t, "1.sh", []byte("echo 1"))
		_ = g.write(t, "0.sh", []byte("echo 0"))
		know("one forgotten, as it was opened for writing", 1)
		if n := entries(t, g.maps["strange_scripts"]); n != some-2 {
			t.Errorf("%d texts are known not to be trusted", n)
		}
	})
}

// entries counts what is in a map.
func entries(t *testing.T, m *ebpf.Map) (n int) {
	t.Helper()
	key := make([]byte, m.KeySize())
	err := m.NextKey(nil, key)
	for ; err == nil; err = m.NextKey(key, key) {
		n++
	}
	if !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Fatal(err)
	}
	return n
}
