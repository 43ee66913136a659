package vm

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cordon-project/cordon/internal/testkit/locked"
	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
	"github.com/cordon-project/cordon/internal/testkit/vm/host"
)

// insideVar tells a test program that it runs in a guest, and on which kernel.
const insideVar = "CORDON_VM_KERNEL"

// testLimit bounds a test in a guest, which may hang where nothing of the test
// program can end it (in the kernel): the others have their time still.
const testLimit = 10 * time.Minute

// testDir is where a test program lies in a guest, with the package's testdata.
const testDir = "/test"

// Inside returns the name of the kernel in whose guest this program was started
// by RunTest, and "" on the machine itself.
func Inside() string { return os.Getenv(insideVar) }

// RunTest runs body in a guest as root: it boots one, starts this test program
// there with the same test selected, prints what it prints, and lets t end as the
// test ended there, a skip included. The body runs in the guest only; it finds
// the package's testdata, busybox, and the file systems that a system has
// mounted: securityfs, tracefs, bpf and cgroup2. Subtests of body share the boot.
//
//	func TestHook(t *testing.T) {
//		for _, k := range vm.Kernels() {
//			t.Run(k, func(t *testing.T) {
//				vm.RunTest(t, vm.Config{Kernel: k}, func(t *testing.T) { … })
//			})
//		}
//	}
//
// What RunTest needs is installed by make deps; without it the test fails.
func RunTest(t *testing.T, cfg Config, body func(t *testing.T)) {
	t.Helper()
	if Inside() != "" {
		body(t)
		return
	}
	Require(t)
	limit := testLimit
	if deadline, ok := t.Deadline(); ok {
		// Before the testing package panics, to say what the guest said.
		limit = min(limit, time.Until(deadline)*19/20)
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	cfg, err := withTestProgram(ctx, t.TempDir(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	out, code, err := runTest(ctx, t, cfg)
	if errors.Is(err, ErrEmulator) {
		t.Logf("%v\nrunning the test once more", err)
		out, code, err = runTest(ctx, t, cfg)
	}
	t.Logf("in a guest with kernel %s:\n%s", cfg.Kernel, out)
	switch {
	case ctx.Err() != nil:
		t.Fatalf("the test did not end in its guest within %s: %v", limit.Round(time.Second), err)
	case err != nil:
		t.Fatal(err)
	case code != 0:
		t.Fatalf("the test failed in the guest with exit status %d", code)
	case ended(out, t.Name(), "SKIP"):
		t.Skip("it was skipped in the guest, see above for the reason")
	case !ended(out, t.Name(), "PASS"):
		t.Fatal("the guest did not run this test: is RunTest called under the same name there?")
	}
}

// Require fails the test if what the harness needs is not installed.
func Require(t *testing.T) {
	t.Helper()
	if err := host.Check(); err != nil {
		t.Fatal(err)
	}
}

func runTest(ctx context.Context, t *testing.T, cfg Config) (string, int, error) {
	m, err := Boot(ctx, cfg)
	if err != nil {
		return "", 0, err
	}
	defer func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}()
	args := []string{testDir + "/program", "-test.v", "-test.run=" + pattern(t.Name()), fmt.Sprintf("-test.short=%v", testing.Short())}
	if until, ok := ctx.Deadline(); ok { // a little earlier, to tell what waits for what
		args = append(args, "-test.timeout="+(time.Until(until)*19/20).Round(time.Second).String())
	}
	var out locked.Buffer
	code, err := m.Run(ctx, Cmd{Program: channel.Program{Args: args, Dir: testDir, Env: []string{insideVar + "=" + cfg.Kernel}}, Stdout: &out, Stderr: &out})
	if err == nil && code != 0 {
		if text := m.process.console.lines(20); strings.Contains(text, "Oops") || strings.Contains(text, "BUG:") {
			t.Logf("console:\n%s", text)
		}
	}
	return out.String(), code, err
}

// pattern selects one test by its full name, subtests by each part.
func pattern(name string) string {
	parts := strings.Split(name, "/")
	for i, p := range parts {
		parts[i] = "^" + regexp.QuoteMeta(p) + "$"
	}
	return strings.Join(parts, "/")
}

// ended reports whether the verbose output has the result of the test.
func ended(out, name, result string) bool {
	for line := range strings.Lines(out) {
		if strings.HasPrefix(strings.TrimSpace(line), "--- "+result+": "+name+" (") {
			return true
		}
	}
	return false
}

// withTestProgram adds this test program and the package's testdata to the files.
func withTestProgram(ctx context.Context, tmp string, cfg Config) (Config, error) {
	self, err := os.Executable()
	if err != nil {
		return cfg, err
	}
	if ok, err := static(self); err != nil {
		return cfg, err
	} else if !ok { // with cgo or the race detector; the guest has no libraries
		self = filepath.Join(tmp, "program")
		if _, err := goTool(ctx, "test", "-c", "-o", self, "."); err != nil {
			return cfg, err
		}
	}
	files := map[string]string{testDir + "/program": self}
	for to, from := range cfg.Files {
		files[to] = from
	}
	wd, err := os.Getwd()
	if err != nil {
		return cfg, err
	}
	err = filepath.Walk(filepath.Join(wd, "testdata"), func(path string, info os.FileInfo, err error) error {
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err == nil && info.Mode().IsRegular() {
			files[testDir+strings.TrimPrefix(path, wd)] = path
		}
		return err
	})
	cfg.Files = files
	return cfg, err
}

// static reports whether the program needs no interpreter.
func static(path string) (bool, error) {
	f, err := elf.Open(path)
	if err != nil {
		return false, fmt.Errorf("read this test program: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false, nil
		}
	}
	return true, nil
}
