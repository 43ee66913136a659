package bpflsm

import (
	"fmt"
	"os"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce/bpflsm/sample"
	"github.com/cordon-project/cordon/internal/enforce/ground"
	"github.com/cordon-project/cordon/internal/enforce/mount"
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
	table, err := mount.Table()
	if err != nil {
		return append(all, cordon.Coverage{What: "files on mounted file systems", Answer: cordon.Unknown, Reason: err.Error()})
	}
	return append(all, ground.Coverage(table, e.standing, e.kernel.overlay)...)
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
		case sample.Measured:
			return cordon.Errorf(cordon.Unavailable, "", "nothing was restricted, because %s could not run any more: the kernel's integrity measurement (IMA) has measured it, and tells of such files what they were. Start the agent with --enforcer fanotify, or boot without that IMA policy", path)
		default:
			return cordon.Errorf(cordon.Unavailable, "", "nothing was restricted, because %s could not run any more: it lies on a file system that may show something else the next time (a network, FUSE, a loop device, an overlay over an overlay)", path)
		}
	}
	return nil
}
