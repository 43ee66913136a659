package bpflsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce/mount"
)

// sysctls is the program that decides about writes to sysctls, and the name of
// its pin. It is not attached by a link: others could detach that by a descriptor
// of it, and nobody tells of which link a command is without a race. As it is,
// every command that concerns it says so (see command of bpf/guard.h), and it
// stays attached until it is detached, so the next agent has to find it by a pin.
const sysctls = "switched"

// guardSysctls attaches the program for sysctls to all processes there are, in
// whatever cgroup, be the hierarchies of version 1 or 2: each is below the root of
// version 2. Of several programs there the last one has the last word, so it is
// attached anew when a restriction begins: after that, nobody else attaches any.
func (e *Enforcer) guardSysctls() error {
	root, err := mount.Cgroups()
	if err != nil {
		return err
	}
	p := e.progs[sysctls]
	err = detachSysctls(root, p)
	if err == nil {
		err = link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(root.Fd()), Program: p, Attach: ebpf.AttachCGroupSysctl, Flags: unix.BPF_F_ALLOW_MULTI})
	}
	if err = errors.Join(err, root.Close()); err != nil {
		return fmt.Errorf("attach %s: %w", sysctls, err)
	}
	return nil
}

// freeSysctls detaches p.
func freeSysctls(p *ebpf.Program) error {
	root, err := mount.Cgroups()
	if err != nil {
		return err
	}
	return errors.Join(detachSysctls(root, p), root.Close())
}

func detachSysctls(root *os.File, p *ebpf.Program) error {
	err := link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(root.Fd()), Program: p, Attach: ebpf.AttachCGroupSysctl})
	if err != nil && !errors.Is(err, unix.ENOENT) { // it is not attached
		return fmt.Errorf("detach %s: %w", sysctls, err)
	}
	return nil
}

// freeElderSysctls detaches what an elder's pins in dir name, if there is any.
func freeElderSysctls(dir string) error {
	p, err := ebpf.LoadPinnedProgram(filepath.Join(dir, sysctls), nil)
	if errors.Is(err, fs.ErrNotExist) { // an older agent, or one that could not have it
		return nil
	}
	if err != nil {
		return fmt.Errorf("open the pin of %s: %w", sysctls, err)
	}
	return errors.Join(freeSysctls(p), p.Close())
}
