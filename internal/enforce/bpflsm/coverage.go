package bpflsm

import (
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
)

// ways are the ways to run code that one of the programs judges.
var ways = []struct {
	what, program string
	machine       bool // it is judged for the whole machine only
}{
	{"programs and scripts that are executed", "exec", false},
	{"scripts that interpreters ask about (AT_EXECVE_CHECK)", "check", false},
	{"libraries and other files mapped as code", "map", false},
	{"files in memory made executable (mprotect)", "protect", false},
	{"memory files (memfd, System V)", "map", false},
	{"programs below overlays while they run", "backing", false},
	{"modules and kernels from files", "readfile", true},
	{"modules and kernels from memory", "loaddata", true},
	{"other processes' memory (ptrace, /proc/PID/mem)", "traced", true},
	{"the kernel's memory (/dev/mem, BPF programs that write)", "locked", true},
	{"disks beneath programs", "opened", true},
	{"commands to disks beneath programs (SG_IO, NVMe)", "passed", true},
}

// coverage says what is judged here and now.
func (e *Enforcer) coverage() []cordon.Coverage {
	all := make([]cordon.Coverage, 0, 24)
	for _, w := range ways {
		c := cordon.Coverage{What: w.what, Answer: e.called.Answer, Reason: e.called.Reason}
		_, attached := e.links[w.program]
		switch {
		case w.machine && e.cfg.Scope.Mount != "":
			c.Answer, c.Reason = cordon.No, "it is judged for the whole machine only, and the scope is "+e.cfg.Scope.String()
		case w.program == "check" && !e.kernel.asks:
			c.Answer, c.Reason = cordon.No, "this kernel has no such question (Linux 6.14)"
		case w.program == "backing" && !attached:
			c.Answer, c.Reason = cordon.Unknown, "kept in a list of limited length, as this kernel has no hook mmap_backing_file"
		case !attached:
			c.Answer, c.Reason = cordon.No, "this kernel has no such hook"
		}
		all = append(all, c)
	}
	anonymous := cordon.Coverage{What: "code without a file (JIT)", Answer: e.called.Answer, Reason: e.called.Reason}
	switch {
	case e.cfg.Scope.Mount != "":
		anonymous.Answer, anonymous.Reason = cordon.No, "it is judged for the whole machine only, and the scope is "+e.cfg.Scope.String()
	case e.cfg.DenyAnonymous:
	case len(e.cfg.DenyAnonymousOf) > 0:
		anonymous.What += " of programs that are trusted by " + strings.Join(e.cfg.DenyAnonymousOf, ", ")
	default:
		anonymous.Answer, anonymous.Reason = cordon.No, "allowed by choice, --anonymous-code deny refuses it"
	}
	text := cordon.Coverage{What: "program text that interpreters read", Answer: e.called.Answer, Reason: e.called.Reason}
	if !e.cfg.TrustedScripts || e.cfg.Scope.Mount != "" {
		text.Answer, text.Reason = cordon.No, "only where it is executed by name: --interpreters trusted-scripts, for the whole machine, judges it"
	}
	after := cordon.Coverage{What: "everything while the agent is away", Answer: cordon.Yes, Reason: "the programs are pinned"}
	if e.pinned == "" {
		after.Answer, after.Reason = cordon.No, "nothing is pinned with the scope "+e.cfg.Scope.String()
	}
	if why := e.loose.Load(); why != nil && *why != nil {
		after.Answer, after.Reason = cordon.Unknown, "what keeps a restriction could not be made anew: "+(*why).Error()
	}
	all = append(all, anonymous, text, after)
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return append(all, cordon.Coverage{What: "files on mounted file systems", Answer: cordon.Unknown, Reason: err.Error()})
	}
	return append(all, mounted(string(mounts), e.diskOf, e.kernel.overlay)...)
}

// keeps are the file systems that holds of bpf/past.h has, as mountinfo calls them.
var keeps = []string{
	"ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "tmpfs", "devtmpfs", "rootfs", "ramfs", "squashfs", "erofs", "iso9660", "udf", "msdos", "vfat", "exfat", "zfs", "bcachefs",
}

// pseudo are file systems that have no files of anybody's.
var pseudo = []string{
	"autofs", "binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "devpts", "efivarfs", "fusectl", "hugetlbfs", "mqueue", "nsfs", "proc", "pstore", "rpc_pipefs",
	"securityfs", "selinuxfs", "sysfs", "tracefs",
}

// mounted says which files can be trusted, by the kinds of file systems in
// mountinfo. disk names the device with a number like "8:1" that a file system is on, "" if it is on none.
func mounted(mountinfo string, disk func(dev, fs string) string, overlay bool) []cordon.Coverage {
	type kind struct {
		name   string
		answer cordon.Answer
		reason string
	}
	var kinds []kind
	at := make(map[kind][]string)
	for line := range strings.Lines(mountinfo) {
		// 36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw (proc_pid_mountinfo(5))
		before, after, ok := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if !ok || len(f) < 5 || len(g) < 1 || slices.Contains(pseudo, g[0]) {
			continue
		}
		k := kind{name: g[0]}
		device := disk(f[2], g[0])
		switch {
		case k.name == "overlay" && overlay:
			k.answer, k.reason = cordon.Yes, "judged by the file below, refused where that cannot be relied on"
		case k.name == "overlay":
			k.answer, k.reason = cordon.No, "always refused: the overlay module's type information is missing"
		case !slices.Contains(keeps, k.name):
			k.answer, k.reason = cordon.No, "always refused: it may show something else the next time"
		case k.name == "erofs" && device == "":
			k.answer, k.reason = cordon.No, "always refused: it lies on a file"
		case served(device):
			k.name += " on " + strings.TrimRight(device, "0123456789")
			k.answer, k.reason = cordon.No, "always refused: the device is a file or a program"
		case device == lateVolume:
			k.name += " on " + device
			k.answer, k.reason = cordon.No, "refused until the machine is restricted anew: what lies beneath could be written to"
		default:
			k.answer, k.reason = cordon.Yes, "judged by content, which is remembered until it can have changed"
		}
		if at[k] == nil {
			kinds = append(kinds, k)
		}
		if point := unescape(f[4]); !slices.Contains(at[k], point) {
			at[k] = append(at[k], point)
		}
	}
	const most = 3
	all := make([]cordon.Coverage, len(kinds))
	for i, k := range kinds {
		points := at[k]
		more := ""
		if n := len(points) - most; n > 0 {
			points, more = points[:most], fmt.Sprintf(" and %d more", n)
		}
		all[i] = cordon.Coverage{What: fmt.Sprintf("files on %s (%s%s)", k.name, strings.Join(points, ", "), more), Answer: k.answer, Reason: k.reason}
	}
	return all
}

// served is what served of bpf/disk.h goes by.
func served(device string) bool {
	return strings.HasPrefix(device, "loop") || strings.HasPrefix(device, "nbd") || strings.HasPrefix(device, "ublk")
}

// unescape undoes what mountinfo does to blanks and backslashes.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// needed is what a machine cannot do without.
var needed = []string{"/proc/self/exe", "/sbin/init", "/bin/sh"}

// grounded refuses to enforce where nothing of what is needed could run: what
// they lie on cannot be relied on, whatever the trust set says. The kernel says so.
func (e *Enforcer) grounded() error {
	for _, path := range needed {
		if _, err := os.Stat(path); err != nil {
			continue // it is not needed here
		}
		why, err := e.askGround(path)
		if err != nil {
			return fmt.Errorf("ask what %s lies on: %w", path, err)
		}
		switch why {
		case 0:
		case measured:
			return cordon.Errorf(cordon.Unavailable, "", "nothing was restricted, because %s could not run any more: the kernel's integrity measurement (IMA) has measured it, and tells of such files what they were. Start the agent with --enforcer fanotify, or boot without that IMA policy", path)
		default:
			return cordon.Errorf(cordon.Unavailable, "", "nothing was restricted, because %s could not run any more: it lies on a file system that may show something else the next time (a network, FUSE, a loop device, an overlay over an overlay)", path)
		}
	}
	return nil
}
