// Package vm runs programs and tests in virtual machines with Debian kernels:
// the place for everything that enforces on a whole machine.
//
// There are two kinds of guests. Without [Config.Disk] a guest has busybox and
// what is given along, in memory, and runs programs some seconds after its start:
// for tests of what the kernel does, see [RunTest]. With it, a guest is a Debian
// server with systemd on a disk of its own that outlives [Machine.Reboot] and ends
// with the machine.
//
// Guests run under QEMU's software emulation on one processor: slow, and the same
// everywhere. Kernels and images come from Debian's archive, verified by its
// signatures, and are kept in the user's cache directory.
//
// The package owns the images, QEMU's process and the conversation with the guest.
// It promises: images are never written to; every wait has an end; a guest that
// ends or hangs is reported with what its console said last; no QEMU outlives
// the process that started it.
package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/cordon-project/cordon/internal/testkit/locked"
	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
	"github.com/cordon-project/cordon/internal/testkit/vm/host"
	"github.com/cordon-project/cordon/internal/testkit/vm/image"
)

// Kernels are the names of the kernels, see [image.Kernels].
func Kernels() []string { return image.Kernels() }

// Config describes a machine. Kernel alone is required.
type Config struct {
	// Kernel is one of Kernels.
	Kernel string
	// Disk asks for a Debian server with systemd instead of busybox in memory.
	Disk bool
	// Packages are installed on the disk beside those of the server: names of packages
	// of the guest's Debian. Each list makes an image of its own, which is kept.
	Packages []string
	// Memory in MiB; default 1536 with a disk and 1024 without.
	Memory int
	// Icount makes the guest's time a count of instructions, 1 ns each: ratios of
	// times then repeat, although each is slow.
	Icount bool
	// LSM is the kernel's lsm= list; default the kernel's own, which has bpf.
	LSM string
	// Append are further parameters of the kernel's command line.
	Append []string
	// Modules are kernel modules to load at the start, in addition to those for
	// the disks and for overlay and loop. With a disk, the system loads what it needs.
	Modules []string
	// Files are put into the guest before its first start: files of this machine
	// by absolute path in the guest, with their permissions and owned by root.
	Files map[string]string
	// Cordon installs cordon as built from this tree: a server that listens on the
	// guest's loopback, and an agent with --scope host that enrols there. Needs a disk.
	// The machine is called vm. See [Machine.Restrict].
	Cordon bool
	// Trust are files of this machine whose content the agent trusts, beside
	// what the guest's package database says.
	Trust []string
	// BootLimit is how long a start may take; default 10 minutes with a disk and
	// 3 minutes without: there may be much else to do on this machine.
	BootLimit time.Duration
	// Log is told what takes time; default nowhere.
	Log io.Writer
}

// Build makes and keeps what the kernel's guests need, if it is not there yet:
// the kernel alone without disk, else the Debian system too. It tells log what
// takes time.
func Build(ctx context.Context, kernel string, disk bool, log io.Writer) error {
	if err := host.Check(); err != nil {
		return err
	}
	if _, err := image.Fetch(ctx, kernel, log); err != nil || !disk {
		return err
	}
	_, err := image.Disk(ctx, kernel, nil, log)
	return err
}

// ErrEmulator says that QEMU itself crashed, which is not the guest's doing: try
// again once.
var ErrEmulator = errors.New("the emulator crashed")

// Machine is a running guest. Its methods may be called at once, except Reboot,
// Cut and Close.
type Machine struct {
	cfg     Config
	say     func(string, ...any)
	dir     string // of this run: initramfs, overlay
	qemu    []string
	append  []string
	process *process
}

// Boot starts a machine and waits until it runs programs. A crash of the emulator
// meanwhile is told and tried once more. The machine ends with ctx at the latest.
func Boot(ctx context.Context, cfg Config) (m *Machine, err error) {
	if err := host.Check(); err != nil {
		return nil, err
	}
	m = &Machine{cfg: cfg, say: func(format string, args ...any) { host.Say(cfg.Log, format, args...) }}
	if m.dir, err = os.MkdirTemp("", "cordon-vm-"); err != nil {
		return nil, fmt.Errorf("make directory of the machine: %w", err)
	}
	if err := m.prepare(ctx); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	params := []string{}
	if cfg.Disk {
		params = append(params, channel.ParamSystem, channel.ParamInstall)
	}
	err = m.start(ctx, params...)
	if errors.Is(err, ErrEmulator) {
		m.say("%v; starting once more", err)
		err = m.start(ctx, params...)
	}
	if err != nil {
		return nil, errors.Join(err, m.Close())
	}
	if cfg.Cordon {
		if err := m.enroll(ctx); err != nil {
			return nil, errors.Join(err, m.Close())
		}
	}
	return m, nil
}

// prepare makes the initramfs and the disk, and decides on QEMU's arguments.
func (m *Machine) prepare(ctx context.Context) error {
	if m.cfg.Cordon && !m.cfg.Disk {
		return errors.New("an agent can only be installed in a guest with a disk")
	}
	kernel, err := image.Fetch(ctx, m.cfg.Kernel, m.cfg.Log)
	if err != nil {
		return err
	}
	guest, err := goBuild(ctx, m.dir, "internal/testkit/vm/guest")
	if err != nil {
		return err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	t := tree{"/init": {mode: 0o755, from: guest}, "/bin/busybox": {mode: 0o755, from: busybox}}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/root", "/tmp", "/mnt", "/etc"} {
		t[dir] = entry{mode: os.ModeDir | 0o755}
	}
	mods := []string{"virtio_pci", "virtio_console"}
	memory, base := 1024, "/"
	if m.cfg.Disk {
		memory, base = 1536, channel.InitPayload
		mods = append(mods, "virtio_blk", "ext4")
		t[base+channel.GuestProgram] = entry{mode: 0o755, from: guest}
		unit := "/etc/systemd/system/cordon-vm.service"
		t[base+unit] = entry{mode: 0o644, data: []byte(guestUnit)}
		t[base+"/etc/systemd/system/multi-user.target.wants/cordon-vm.service"] = entry{mode: os.ModeSymlink, data: []byte(unit)}
		if m.cfg.Cordon {
			if err := m.install(ctx, guest, t); err != nil {
				return err
			}
		}
	} else {
		mods = append(mods, "overlay", "loop")
		t["/etc/passwd"] = entry{mode: 0o644, data: fmt.Appendf(nil, "root:x:0:0::/root:/bin/sh\n%s:x:%d:%d::%s:/bin/sh\n", channel.UserName, channel.UserID, channel.UserID, channel.UserHome)}
		t["/etc/group"] = entry{mode: 0o644, data: fmt.Appendf(nil, "root:x:0:\n%s:x:%d:\n", channel.UserName, channel.UserID)}
	}
	for to, from := range m.cfg.Files {
		st, err := os.Stat(from)
		if err != nil {
			return fmt.Errorf("put a file into the guest: %w", err)
		}
		if !filepath.IsAbs(to) || filepath.Clean(to) != to || !st.Mode().IsRegular() {
			return fmt.Errorf("put %s into the guest as %s: a regular file and a clean absolute path are needed", from, to)
		}
		t[filepath.Join(base, to)] = entry{mode: st.Mode().Perm(), from: from}
	}
	loaded, err := kernel.Modules(ctx, append(mods, m.cfg.Modules...)...)
	if err != nil {
		return err
	}
	var order strings.Builder
	for _, mod := range loaded {
		t[channel.InitModules+"/"+mod.Name] = entry{mode: 0o644, data: mod.Data}
		order.WriteString(mod.Name + "\n")
	}
	t[channel.InitOrder] = entry{mode: 0o644, data: []byte(order.String())}
	initrd := filepath.Join(m.dir, "initramfs")
	f, err := os.Create(initrd)
	if err != nil {
		return err
	}
	if err := errors.Join(t.write(f), f.Close()); err != nil {
		return err
	}
	if m.cfg.Memory != 0 {
		memory = m.cfg.Memory
	}
	m.qemu = []string{
		"qemu-system-x86_64", "-accel", "tcg,thread=single", "-smp", "1", "-cpu", cpu(m.cfg), "-m", fmt.Sprint(memory), "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot",
		"-kernel", kernel.Path(), "-initrd", initrd,
		"-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console",
		"-device", "virtio-serial-pci", "-chardev", "socket,id=channel,fd=3", "-device", "virtserialport,chardev=channel,name=" + channel.Port,
	}
	if m.cfg.Icount {
		m.qemu = append(m.qemu, "-icount", "shift=0")
	}
	if m.cfg.Disk {
		disk, err := image.Disk(ctx, m.cfg.Kernel, m.cfg.Packages, m.cfg.Log)
		if err != nil {
			return err
		}
		overlay := filepath.Join(m.dir, "disk.qcow2")
		if _, err := host.Command(ctx, m.dir, "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", disk, overlay); err != nil {
			return err
		}
		m.qemu = append(m.qemu, "-drive", "if=virtio,format=qcow2,cache=unsafe,file="+overlay)
	}
	m.append = []string{"console=ttyS0", "loglevel=4", "panic=-1", "mitigations=off", "no_timer_check", "tsc=unstable", "systemd.show_status=false", "systemd.getty_auto=no",
		"systemd.mask=e2scrub_reap.service"} // it looks for LVM, and takes its time
	if m.cfg.LSM != "" {
		m.append = append(m.append, "lsm="+m.cfg.LSM)
	}
	m.append = append(m.append, m.cfg.Append...)
	return nil
}

// guestUnit runs our program in a guest with systemd. If it fails, the machine
// ends, so that nobody waits for it.
const guestUnit = `[Unit]
Description=Channel of the VM harness
FailureAction=reboot-force

[Service]
ExecStart=` + channel.GuestProgram + ` serve
OOMScoreAdjust=-1000
TasksMax=infinity
`

// start starts QEMU and waits until the guest says hello.
func (m *Machine) start(ctx context.Context, params ...string) error {
	limit := m.cfg.BootLimit
	if limit == 0 {
		limit = 3 * time.Minute
		if m.cfg.Disk {
			limit = 10 * time.Minute
		}
	}
	p, err := startProcess(ctx, append(m.qemu, "-append", strings.Join(append(m.append, params...), " ")))
	if err != nil {
		return err
	}
	m.process = p
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-p.hello:
		return nil
	case <-p.done:
	case <-timer.C:
		p.stop(fmt.Errorf("the guest did not get ready within %v", limit))
	}
	return p.ended()
}

// Cmd is a program to run in the guest.
type Cmd struct {
	channel.Program
	Stdin          io.Reader // default nothing
	Stdout, Stderr io.Writer // default nowhere; they may be the same
}

// StartError says that the guest could not start a program. It unwraps to the
// guest's errno, if there was one: syscall.EPERM where its kernel refused.
type StartError struct {
	Message string
	Errno   syscall.Errno
}

// Error is what the guest said.
func (e *StartError) Error() string { return "in the guest: " + e.Message }

// Unwrap returns the errno.
func (e *StartError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}

// Run runs a program in the guest until it ends, and returns its exit status:
// 128 and the signal's number if a signal ended it. When ctx ends before, it is
// killed. The error is a *StartError if it did not start, else it says why the
// machine is no more.
func (m *Machine) Run(ctx context.Context, c Cmd) (int, error) { return m.process.run(ctx, c) }

// Output runs a program as root and returns what it printed on both outputs, and
// an error that has it too unless it exits with 0.
func (m *Machine) Output(ctx context.Context, args ...string) (string, error) {
	var out locked.Buffer
	code, err := m.Run(ctx, Cmd{Program: channel.Program{Args: args}, Stdout: &out, Stderr: &out})
	if err == nil && code != 0 {
		err = fmt.Errorf("in the guest: %s: exit status %d\n%s", strings.Join(args, " "), code, out.String())
	}
	return out.String(), err
}

// Reboot restarts the guest in an orderly way, as an administrator would, and
// waits until it runs programs again. A disk keeps what is on it; without one,
// everything starts anew.
func (m *Machine) Reboot(ctx context.Context) error {
	if m.cfg.Disk {
		if _, err := m.Output(ctx, "systemctl", "reboot"); err != nil && ctx.Err() == nil && !m.process.isDone() {
			return err
		}
	} else if err := m.process.send(channel.Message{Kind: channel.Reset}); err != nil {
		return err
	}
	timer := time.NewTimer(shutdownLimit)
	defer timer.Stop()
	select {
	case <-m.process.done:
	case <-timer.C:
		m.process.stop(errors.New("the guest did not shut down within " + shutdownLimit.String()))
		<-m.process.done
		return m.process.ended()
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if m.process.failed() {
		return m.process.ended()
	}
	return m.restart(ctx)
}

// Cut takes the power from the guest and starts it again, as [Machine.Reboot]
// otherwise.
func (m *Machine) Cut(ctx context.Context) error {
	m.process.stop(errors.New("the power was cut"))
	return m.restart(ctx)
}

func (m *Machine) restart(ctx context.Context) error {
	if m.cfg.Disk {
		return m.start(ctx, channel.ParamSystem)
	}
	return m.start(ctx)
}

// Close ends the machine and removes its disk.
func (m *Machine) Close() error {
	if m.process != nil {
		m.process.stop(errors.New("the machine was closed"))
	}
	return os.RemoveAll(m.dir)
}

// cpu is the emulated processor. A kernel 6.12 was seen to crash at a cmpxchg16b
// under QEMU 7.2, so there is none; kernel 7.2 cannot do without (its inode storage
// for BPF cannot be allocated then). What costs time is left out: five-level page
// tables, and vector instructions of AVX, each of which the emulator calls a
// function for, so that hashing with them takes two to ten times as long. Where
// instructions are counted that time does not matter, but those that repeat count as
// often as they do: without the ones for bytes, the kernel clears and copies memory
// in words.
func cpu(cfg Config) string {
	model := "max,la57=off"
	if cfg.Kernel != "newest" {
		model += ",cx16=off"
	}
	if cfg.Icount {
		return model + ",erms=off,fsrm=off"
	}
	return model + ",avx=off,avx2=off"
}

// shutdownLimit is how long an orderly shutdown may take.
const shutdownLimit = 5 * time.Minute
