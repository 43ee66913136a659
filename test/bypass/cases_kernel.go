package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

const binfmt = "/run/binfmt"

// handler registers an interpreter with binfmt_misc for the attempt.
func (w *World) handler(magic, interpreter, flags string) error {
	if err := w.mount("none", binfmt, "binfmt_misc", 0, ""); err != nil {
		return err
	}
	if err := os.WriteFile(binfmt+"/register", fmt.Appendf(nil, ":bypass:M::%s::%s:%s", magic, interpreter, flags), 0); err != nil {
		return err
	}
	w.later(func() { _ = os.WriteFile(binfmt+"/bypass", []byte("-1"), 0) })
	return nil
}

// check asks the kernel whether the file could be executed (AT_EXECVE_CHECK, Linux 6.14).
func check(path string) error {
	p, err := unix.BytePtrFromString(path)
	if err != nil {
		return err
	}
	argv := []*byte{p, nil}
	_, _, errno := unix.Syscall6(unix.SYS_EXECVEAT, ^uintptr(99), uintptr(unsafe.Pointer(p)), uintptr(unsafe.Pointer(&argv[0])), uintptr(unsafe.Pointer(&argv[1])), 0x10000, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// module is one that was loaded at the start, to be unloaded and loaded again.
const module = "/modules/dummy.ko"

func unload(w *World) error {
	if err := unix.DeleteModule("dummy", 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("unload: %s", err)
	}
	w.later(func() { _ = unix.DeleteModule("dummy", 0) })
	return nil
}

// inNamespaces has a child in new namespaces mount a tmpfs and run something on it.
func inNamespaces(name string, flags uintptr) func(*World) error {
	return childIn(name, isolated(flags), func(marker, dir string) error {
		at := filepath.Join(dir, "new")
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("make private: %s", err)
		}
		if err := unix.Mount("t", at, "tmpfs", 0, ""); err != nil {
			return fmt.Errorf("mount: %s", err)
		}
		p, err := evilFile(marker, at)
		if err != nil {
			return err
		}
		return (&World{Dir: at, marker: marker}).run(p)
	})
}

var kernelCases = []Case{
	{ID: "B10", Name: "asking for an untrusted script (AT_EXECVE_CHECK)", Attempt: func(w *World) error {
		p, err := w.text("s", "#!/bin/sh\n: > %s\n", w.marker)
		return errors.Join(err, w.mark(check(p)))
	}, Lacks: func(*World) string {
		if err := check(busybox); errors.Is(err, unix.EINVAL) {
			return "this kernel has no AT_EXECVE_CHECK: it answers EINVAL"
		}
		return ""
	}},
	{ID: "B11", Name: "data of a registered format with a trusted interpreter (binfmt_misc)", Attempt: func(w *World) error {
		p, err := w.text("data", "BYPASS\n: > %s\n", w.marker)
		return errors.Join(err, w.handler("BYPASS", "/bin/sh", ""), w.run(p))
	}},
	{ID: "B11", Name: "trusted data with an untrusted interpreter, opened at registration", Attempt: func(w *World) error {
		p, err := w.evil("evil")
		return errors.Join(err, w.handler("BYPASS-TRUSTED", p, "F"), w.run(theData))
	}},
	{ID: "B16", Name: "on a tmpfs that was just mounted", Attempt: func(w *World) error {
		if err := w.mount("t", w.path("new"), "tmpfs", 0, ""); err != nil {
			return err
		}
		return errors.Join(put(w.path("new/evil"), program(fixed, w.marker)), w.run(w.path("new/evil")))
	}},
	{ID: "B16", Name: "on a loop image that was just mounted", Attempt: func(w *World) error {
		dev, err := w.loop(w.path("image"))
		if err != nil {
			return err
		}
		at, err := w.ext4(dev)
		if err != nil {
			return err
		}
		return errors.Join(put(at+"/evil", program(fixed, w.marker)), w.run(at+"/evil"))
	}},
	{ID: "B16", Name: "through a bind mount", Attempt: func(w *World) error {
		_, err := w.evil("evil")
		return errors.Join(err, w.mount(w.Dir, "/run/bind", "", unix.MS_BIND, ""), w.run("/run/bind/evil"))
	}},
	{ID: "B16", Name: "on a mount without exec that was remounted with it", Race: true, Attempt: func(w *World) error {
		at := w.path("new")
		if err := w.mount("t", at, "tmpfs", unix.MS_NOEXEC, ""); err != nil {
			return err
		}
		return errors.Join(put(at+"/evil", program(fixed, w.marker)), unix.Mount("", at, "", unix.MS_REMOUNT, ""), w.run(at+"/evil"))
	}},
	{ID: "B16", Name: "on a mount that is attached nowhere (fsmount)", Attempt: func(w *World) error {
		fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
		if err != nil {
			return err
		}
		defer func() { _ = unix.Close(fs) }()
		if err := unix.FsconfigCreate(fs); err != nil {
			return err
		}
		dir, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
		if err != nil {
			return err
		}
		w.later(func() { _ = unix.Close(dir) })
		p := fmt.Sprintf("/proc/%d/fd/%d/evil", os.Getpid(), dir)
		return errors.Join(put(p, program(fixed, w.marker)), w.run(p))
	}},
	{ID: "B16", Name: "on an overlay over an overlay", Attempt: func(w *World) error {
		at, err := w.overlay()
		if err != nil {
			return err
		}
		if err := put(at+"/evil", program(fixed, w.marker)); err != nil {
			return err
		}
		if err := w.mount("o", w.path("second"), "overlay", 0, "lowerdir="+at+":"+victims); err != nil {
			return err
		}
		return w.run(w.path("second/evil"))
	}},
	{ID: "B17", Name: "on a tmpfs in new user, mount and pid namespaces", Attempt: inNamespaces("user-ns", unix.CLONE_NEWUSER|unix.CLONE_NEWNS|unix.CLONE_NEWPID)},
	{ID: "B17", Name: "on a tmpfs in a new mount namespace", Attempt: inNamespaces("mount-ns", unix.CLONE_NEWNS)},
	{ID: "B17", Name: "on the machine's file systems in new user and pid namespaces", Attempt: childIn("ns-run", isolated(unix.CLONE_NEWUSER|unix.CLONE_NEWPID|unix.CLONE_NEWNS|unix.CLONE_NEWUTS), func(marker, dir string) error {
		p, err := evilFile(marker, dir)
		if err != nil {
			return err
		}
		return (&World{Dir: dir, marker: marker}).run(p)
	})},
	{ID: "B17", Name: "after chroot", Attempt: func(w *World) error {
		if err := w.mount(markers, w.path("run/m"), "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if _, err := w.evil("evil"); err != nil {
			return err
		}
		cmd := w.command("/evil")
		cmd.Dir, cmd.SysProcAttr = "/", &syscall.SysProcAttr{Chroot: w.Dir}
		return ended(cmd)
	}},

	{ID: "B19", Name: "module from a file", Attempt: func(w *World) error {
		if err := unload(w); err != nil {
			return err
		}
		p, err := w.copy(module, "m.ko")
		if err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		return w.mark(unix.FinitModule(int(f.Fd()), "", 0))
	}},
	{ID: "B19", Name: "module from memory", Attempt: func(w *World) error {
		b, err := os.ReadFile(module)
		if err = errors.Join(err, unload(w)); err != nil {
			return err
		}
		return w.mark(unix.InitModule(b, ""))
	}},
	{ID: "B19", Name: "memory of the machine (/dev/mem)", Refusals: anyNumber, Attempt: func(w *World) error {
		f, err := os.OpenFile("/dev/mem", os.O_RDWR, 0)
		if err == nil {
			err = f.Close()
		}
		return w.mark(err)
	}, Lacks: func(*World) string {
		if _, err := os.Stat("/dev/mem"); err != nil {
			return "this kernel has none: " + err.Error()
		}
		return ""
	}},
	{ID: "B19", Name: "memory of the machine, written back from an image (hibernation)", Also: []syscall.Errno{unix.EPERM} /* no event: who only looks asks as well */, Attempt: func(w *World) error {
		f, err := os.OpenFile(snapshot, os.O_WRONLY, 0)
		if err == nil {
			err = f.Close()
		}
		return w.mark(err)
	}, Lacks: func(*World) string {
		if _, err := os.Stat(snapshot); err != nil {
			return "this kernel cannot hibernate: " + err.Error()
		}
		return ""
	}},
	{ID: "B19", Name: "ports of the machine's devices (iopl)", Refusals: anyNumber, Attempt: func(w *World) error {
		runtime.LockOSThread() // which alone may use them then
		defer runtime.UnlockOSThread()
		if _, _, errno := unix.Syscall(unix.SYS_IOPL, 3, 0, 0); errno != 0 {
			return errno
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOPL, 0, 0, 0); errno != 0 {
			return errno
		}
		return w.mark(nil)
	}},
	{ID: "B19", Name: "ports of the machine's devices (a serial line elsewhere)", Refusals: anyNumber, Attempt: func(w *World) error {
		f, err := os.OpenFile(serialLine, os.O_RDWR|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		line := make([]uint32, 32) // struct serial_struct of linux/serial.h: the third is the port
		set := func() error {
			if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x541f /* TIOCSSERIAL */, uintptr(unsafe.Pointer(&line[0]))); errno != 0 {
				return errno
			}
			return nil
		}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), 0x541e /* TIOCGSERIAL */, uintptr(unsafe.Pointer(&line[0]))); errno != 0 {
			return errno
		}
		line[2] ^= 0x100
		err = set()
		if err == nil {
			line[2] ^= 0x100
			err = set()
		}
		return w.mark(err)
	}, Lacks: func(*World) string {
		if _, err := os.Stat(serialLine); err != nil {
			return "this machine has no second serial line: " + err.Error()
		}
		return ""
	}},
	{ID: "B19", Name: "configuration of a device (PCI)", Refusals: anyNumber, Attempt: func(w *World) error {
		devices, err := filepath.Glob("/sys/bus/pci/devices/*/config")
		if err != nil || len(devices) == 0 {
			return fmt.Errorf("there is no device: %v", err)
		}
		f, err := os.OpenFile(devices[0], os.O_RDWR, 0)
		if err != nil {
			return err
		}
		line := make([]byte, 1) // of its interrupt, which means nothing to the device
		if _, err = f.ReadAt(line, 0x3c); err == nil {
			_, err = f.WriteAt(line, 0x3c)
		}
		return w.mark(errors.Join(err, f.Close()))
	}},
	{ID: "B19", Name: "what the kernel has for debugging (debugfs)", Refusals: anyNumber, Attempt: func(w *World) error {
		const at = "/run/debugfs"
		if err := w.mount("none", at, "debugfs", 0, ""); err != nil {
			return err
		}
		f, err := os.OpenFile(at+"/x86/tlb_single_page_flush_ceiling", os.O_RDWR, 0)
		if err == nil {
			err = f.Close()
		}
		return w.mark(err)
	}},
	{ID: "B19", Name: "BPF program that writes to the memory of processes", Silent: true, Refusals: anyNumber, Attempt: func(w *World) error {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Kprobe, License: "GPL", Instructions: asm.Instructions{
			asm.Mov.Imm(asm.R1, 0), asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, -8), asm.Mov.Imm(asm.R3, 8), asm.StoreMem(asm.R2, 0, asm.R3, asm.DWord),
			asm.FnProbeWriteUser.Call(), asm.Mov.Imm(asm.R0, 0), asm.Return(),
		}})
		if err == nil {
			err = p.Close()
		}
		return w.mark(err)
	}},
	{ID: "B19", Name: "kernel from memory (kexec_load)", Attempt: func(w *World) error {
		// No segments: what was loaded before is unloaded. Who may do so is asked first.
		_, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		return w.mark(nil)
	}, Lacks: func(*World) string {
		if _, _, errno := unix.Syscall6(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0xffff<<16, 0, 0); errno == unix.ENOSYS {
			return "this kernel has no kexec_load: " + errno.Error()
		}
		return ""
	}},
	{ID: "B19", Name: "kernel from a file (kexec_file_load)", Attempt: func(w *World) error {
		p, err := w.copy(kernelImage, "vmlinuz")
		if err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer func() { _ = f.Close() }()
		_, _, errno := unix.Syscall6(unix.SYS_KEXEC_FILE_LOAD, f.Fd(), ^uintptr(0), 1, uintptr(unsafe.Pointer(&[]byte{0}[0])), 4 /* KEXEC_FILE_NO_INITRAMFS */, 0)
		if errno != 0 {
			return errno
		}
		w.later(func() { _, _, _ = unix.Syscall6(unix.SYS_KEXEC_FILE_LOAD, 0, 0, 0, 0, 1 /* KEXEC_FILE_UNLOAD */, 0) })
		return w.mark(nil)
	}},

	{ID: "B22", Name: "path of nearly 4096 bytes", Attempt: func(w *World) error {
		dir := w.Dir
		for len(dir) < 4000-200 {
			dir = filepath.Join(dir, strings.Repeat("d", 200))
		}
		p := filepath.Join(dir, strings.Repeat("e", 90))
		return errors.Join(os.MkdirAll(dir, 0o755), put(p, program(fixed, w.marker)), w.run(p))
	}},
	{ID: "B22", Name: "name with a line feed, an escape and bytes that are no UTF-8", Attempt: func(w *World) error {
		p, err := w.evil("a\nb\x1b[2J\xff\xfe | x")
		return errors.Join(err, w.run(p))
	}},
	{ID: "B22", Name: "64 at once", Refusals: 64, Long: true, Attempt: func(w *World) error {
		p, err := w.evil("evil")
		if err != nil {
			return err
		}
		return atOnce(w, p)
	}},
	{ID: "B22", Name: "64 at once, trusted", Allow: true, Long: true, Attempt: func(w *World) error { return atOnce(w, good) }},
	{ID: "B25", Name: "flood of 1000, counted", Refusals: 1000, Long: true, Attempt: func(w *World) error {
		p, err := w.evil("evil")
		if err != nil {
			return err
		}
		// Executed by a shell, which forks faster than this program.
		out, err := w.command(busybox, "sh", "-c", "n=0; while [ $n -lt 1000 ]; do "+p+" || r=$?; n=$((n+1)); done 2>/dev/null; echo $r").Output()
		if err == nil && bytes.Equal(bytes.TrimSpace(out), []byte("126")) {
			return unix.EACCES // the shell's word for: found, and not allowed
		}
		return err
	}},
}

// serialLine is one that is not the console.
const serialLine = "/dev/ttyS1"

// snapshot takes an image of the whole memory, and puts it in the memory's place.
const snapshot = "/dev/snapshot"

const kernelImage = "/evil/vmlinuz"

func atOnce(w *World, path string) error {
	var all sync.WaitGroup
	errs := make([]error, 64)
	for i := range errs {
		all.Go(func() { errs[i] = w.run(path) })
	}
	all.Wait()
	return errors.Join(errs...)
}
