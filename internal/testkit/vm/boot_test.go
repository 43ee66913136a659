package vm_test

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/testkit/vm"
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
