package bpflsm

import (
	"path/filepath"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// The probe finds the programs called, and what it refused is nobody's business.
func TestProve(t *testing.T) {
	eachKernel(t, vm.Config{}, func(t *testing.T) {
		guardian, err := enforce.StartGuardian("/proc/self/exe", enforce.GuardianArg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := guardian.Close(); err != nil {
				t.Error(err)
			}
		})
		g := openGuest(t)
		if found := g.Prove(guardian); found.Answer != cordon.Yes {
			t.Fatalf("%+v", found)
		}
		if n := g.Stats().Refused; n != 0 {
			t.Errorf("it counts %d refused programs", n)
		}
		g.apply(t, cordon.ModeEnforce)
		evil := g.write(t, "evil", g.evil("prove"))
		g.refused(t, "a program", func() error { return run(evil) })
		if r := <-g.Refusals(); filepath.Base(r.Path) != "evil" {
			t.Errorf("the first program that is told of is %q", r.Path)
		}
	})
}
