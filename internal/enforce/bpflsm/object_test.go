package bpflsm

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestWord(t *testing.T) {
	w := word(7)<<32 | wordSlot | wordAnySize
	for _, m := range modes {
		w = w.withMode(m)
		if w.mode() != m || w.slot() != 1 || w.policy() != 7 || w&wordAnySize == 0 {
			t.Errorf("mode %s: word %#x", m, uint64(w))
		}
	}
}

// The committed object is what the committed source says.
func TestObjectIsFresh(t *testing.T) {
	for line := range strings.Lines(string(read(t, "cordon.bpf.sum"))) {
		sum, name, ok := strings.Cut(strings.TrimSpace(line), "  ")
		if got := fmt.Sprintf("%x", sha256.Sum256(read(t, name))); !ok || got != sum {
			t.Errorf("%s changed since the object was compiled: run make bpf with clang-19", name)
		}
	}
	if _, err := exec.LookPath("clang-19"); err != nil {
		t.Logf("not compiled again: %v", err)
		return
	}
	out := filepath.Join(t.TempDir(), "o")
	for _, args := range [][]string{
		{"clang-19", "-target", "bpfel", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-fdebug-compilation-dir=.", "-c", "cordon.bpf.c", "-o", out},
		{"llvm-strip-19", "-g", out},
	} {
		cmd := exec.Command(args[0], args[1:]...)
		cmd.Dir = "bpf"
		if text, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, text)
		}
	}
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, read(t, "cordon.bpf.o")) {
		t.Errorf("the compiler makes another object (%v): run make bpf", err)
	}
}
