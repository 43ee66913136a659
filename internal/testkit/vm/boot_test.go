package vm_test

import (
	"context"
	"errors"
	"path/filepath"
	"syscall"

	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/testkit/vm"
	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

// A test finds itself in a guest with the kernel that it asked for, as root, with
// what tests of the kernel need.
func TestRunTest(t *testing.T) {
	for _, kernel := range []string{"6.1", "6.12"} {
		t.Run(kernel, func(t *testing.T) {
			vm.RunTest(t, vm.Config{Kernel: kernel, Modules: []string{"btrfs"}}, func(t *testing.T) {
				var uts unix.Utsname
				if err := unix.Uname(&uts); err != nil {
					t.Fatal(err)
				}
				release := unix.ByteSliceToString(uts.Release[:])
				t.Log("release", release)
				if !strings.HasPrefix(release, kernel+".") {
					t.Errorf("this is kernel %s", release)
				}
				for _, path := range []string{"/sys/kernel/btf/vmlinux", "/sys/kernel/security/lsm", "/sys/kernel/tracing/events", "/sys/fs/cgroup/cgroup.procs", "/proc/self/exe", "/bin/sh"} {
					if _, err := os.Stat(path); err != nil {
						t.Error(err)
					}
				}
				var fs unix.Statfs_t
				if err := unix.Statfs("/sys/fs/bpf", &fs); err != nil || fs.Type != unix.BPF_FS_MAGIC {
					t.Errorf("/sys/fs/bpf is file system %#x, %v", fs.Type, err)
				}
				lsm, err := os.ReadFile("/sys/kernel/security/lsm")
				if err != nil || !strings.Contains(string(lsm), "bpf") {
					t.Errorf("security modules are %s, %v", lsm, err)
				}
				known, err := os.ReadFile("/proc/filesystems")
				if err != nil || !strings.Contains(string(known), "btrfs") || !strings.Contains(string(known), "overlay") {
					t.Errorf("file systems are %s, %v", known, err)
				}
			})
		})
	}
}

// A guest that gets nowhere is an error with what its console said.
func TestBootFails(t *testing.T) {
	for name, test := range map[string]struct {
		cfg  vm.Config
		want string
	}{
		"panic":   {vm.Config{Append: []string{"rdinit=/nonexistent"}}, "the guest's kernel panicked"},
		"slow":    {vm.Config{BootLimit: 1}, "did not get ready within 1ns"},
		"modules": {vm.Config{Modules: []string{"nosuch"}}, "find module nosuch"},
		"file":    {vm.Config{Files: map[string]string{"/x": "/nonexistent"}}, "put a file into the guest"},
		"agent":   {vm.Config{Cordon: true}, "only be installed in a guest with a disk"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("TMPDIR", t.TempDir())
			test.cfg.Kernel = "6.1"
			m, err := vm.Boot(t.Context(), test.cfg)
			if err == nil {
				_ = m.Close() // the test has failed already
				t.Fatal("the guest booted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v does not have %q", err, test.want)
			}
			if name == "panic" && !strings.Contains(err.Error(), "Kernel panic") {
				t.Errorf("error does not have the console's last lines: %v", err)
			}
			if left, _ := filepath.Glob(os.TempDir() + "/cordon-vm-*/*"); len(left) > 0 {
				t.Errorf("files stay behind: %v", left)
			}
		})
	}
}

// Programs get their input and keep their outputs apart; how they end is told.
func TestRun(t *testing.T) {
	ctx := t.Context()
	m := boot(t, vm.Config{Kernel: "6.1", LSM: "yama,bpf"})
	run := func(stdin string, p channel.Program) (int, string, string, error) {
		t.Helper()
		var out, said strings.Builder
		code, err := m.Run(ctx, vm.Cmd{Program: p, Stdin: strings.NewReader(stdin), Stdout: &out, Stderr: &said})
		return code, out.String(), said.String(), err
	}
	long := strings.Repeat("0123456789abcde\n", 40_000)
	if code, out, said, err := run(long, channel.Program{Args: []string{"sh", "-c", "cat; echo $X $PWD >&2; exit 7"}, Env: []string{"X=y"}, Dir: "/tmp"}); code != 7 || out != long || said != "y /tmp\n" || err != nil {
		t.Errorf("status %d, %d bytes of output, said %q, %v", code, len(out), said, err)
	}
	if code, _, _, err := run("", channel.Program{Args: []string{"sh", "-c", "kill -9 $$"}}); code != 137 || err != nil {
		t.Errorf("a killed program has status %d, %v", code, err)
	}
	if _, out, _, err := run("", channel.Program{Args: []string{"id", "-u"}, User: true}); out != "1000\n" || err != nil {
		t.Errorf("the ordinary user is %q, %v", out, err)
	}
	if _, _, _, err := run("", channel.Program{Args: []string{"/etc/passwd"}}); !errors.Is(err, syscall.EACCES) {
		t.Errorf("a program that cannot start is %v", err)
	}
	if out, err := m.Output(ctx, "cat", "/sys/kernel/security/lsm"); !strings.Contains(out, "yama,bpf") || strings.Contains(out, "apparmor") || err != nil {
		t.Errorf("lsm= gives %q, %v", out, err)
	}
	limited, cancel := context.WithTimeout(ctx, 1)
	defer cancel()
	if _, err := m.Run(limited, vm.Cmd{Program: channel.Program{Args: []string{"sleep", "1000"}}}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a program over its time ends with %v", err)
	}
	if out, err := m.Output(ctx, "pidof", "sleep"); err == nil {
		t.Errorf("it still runs as %s", out)
	}
	if err := m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if out, err := m.Output(ctx, "uname", "-r"); !strings.HasPrefix(out, "6.1.") || err != nil {
		t.Errorf("after a restart the kernel is %q, %v", out, err)
	}
	if err := m.Cut(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Output(ctx, "sh", "-c", "echo c > /proc/sysrq-trigger"); err == nil || !strings.Contains(err.Error(), "the guest's kernel panicked") {
		t.Errorf("a panic is %v", err)
	}
}

// An agent in a guest restricts it; what is on a disk outlives a restart, and the
// harness's own program runs on.
func TestDisk(t *testing.T) {
	ctx := t.Context()
	m := boot(t, vm.Config{Kernel: "6.1", Disk: true, Cordon: true})
	do := func(args ...string) string {
		t.Helper()
		out, err := m.Output(ctx, args...)
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	id := do("cat", "/proc/sys/kernel/random/boot_id")
	do("sh", "-c", "cp /bin/true /root/own && printf x >> /root/own && /root/own && sync")
	if err := m.Restrict(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Run(ctx, vm.Cmd{Program: channel.Program{Args: []string{"/root/own"}}}); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a program of one's own on a restricted guest is %v", err)
	}
	if err := m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if again := do("cat", "/proc/sys/kernel/random/boot_id"); again == id {
		t.Error("Reboot did not restart the guest")
	}
	do("test", "-s", "/root/own")
	if _, err := m.Run(ctx, vm.Cmd{Program: channel.Program{Args: []string{"/root/own"}}}); !errors.Is(err, syscall.EPERM) {
		t.Errorf("a program of one's own after the restart is %v", err)
	}
}

func boot(t *testing.T, cfg vm.Config) *vm.Machine {
	t.Helper()
	cfg.Log = t.Output()
	t.Setenv("TMPDIR", t.TempDir()) // for the console of a guest that ends
	m, err := vm.Boot(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

const helperVar = "CORDON_VM_HELPER"

// TestHelper fails or is skipped in a guest, for TestOutcome.
func TestHelper(t *testing.T) {
	if os.Getenv(helperVar) == "" && vm.Inside() == "" {
		t.Skip("it is a part of TestOutcome")
	}
	t.Run("fail", func(t *testing.T) {
		vm.RunTest(t, vm.Config{Kernel: "6.1"}, func(t *testing.T) { t.Fatal("the reason") })
	})
	t.Run("skip", func(t *testing.T) {
		vm.RunTest(t, vm.Config{Kernel: "6.1"}, func(t *testing.T) { t.Skip("the lack") })
	})
	t.Run("hang", func(t *testing.T) {
		vm.RunTest(t, vm.Config{Kernel: "6.1"}, func(t *testing.T) {
			t.Log("the last words")
			_ = syscall.Kill(os.Getpid(), syscall.SIGSTOP) // so that it does not even end itself
		})
	})
}

// A test ends as it ended in its guest, and its output is there.
func TestOutcome(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestHelper$", "-test.v", "-test.timeout=3m")
	cmd.Env = append(os.Environ(), helperVar+"=1")
	out, err := cmd.CombinedOutput()
	for _, want := range []string{"\n    --- FAIL: TestHelper/fail", "\n    --- SKIP: TestHelper/skip", "the reason", "the lack", "failed in the guest with exit status 1",
		"\n    --- FAIL: TestHelper/hang", "the last words", "did not end in its guest within"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%q is not in the output", want)
		}
	}
	if err == nil || t.Failed() {
		t.Errorf("it ended with %v:\n%s", err, out)
	}
}
