package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	rw  = unix.PROT_READ | unix.PROT_WRITE
	rx  = unix.PROT_READ | unix.PROT_EXEC
	rwx = rw | unix.PROT_EXEC
)

// jump runs the code at m[at:], which ends the process.
func jump(m []byte, at int) {
	entry := unsafe.Pointer(&m[at])
	f := &entry // a func is a pointer to where its code's address is
	(*(*func())(unsafe.Pointer(&f)))()
}

// mapped maps the whole file and closes it.
func mapped(path string, prot, flags int) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return unix.Mmap(int(f.Fd()), 0, 4096, prot, flags)
}

func evilFile(marker, dir string) (string, error) {
	p := filepath.Join(dir, "evil")
	return p, put(p, program(fixed, marker))
}

// anonymous makes memory without a file, has the code in it, and runs it with the last of prots.
func anonymous(marker string, flags int, prots ...int) error {
	m, err := unix.Mmap(-1, 0, 4096, prots[0], flags|unix.MAP_ANON)
	if err != nil {
		return err
	}
	copy(m, code(marker))
	for _, p := range prots[1:] {
		if err := unix.Mprotect(m, p); err != nil {
			return err
		}
	}
	jump(m, 0)
	return nil
}

var (
	writtenThenCode = child("rw-rx", func(marker, _ string) error { return anonymous(marker, unix.MAP_PRIVATE, rw, rx) })
	writableCode    = child("rwx", func(marker, _ string) error { return anonymous(marker, unix.MAP_PRIVATE, rwx) })
	dirtyPages      = child("dirty", func(marker, _ string) error {
		m, err := mapped(libx, rw, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		copy(m, code(marker))
		if err := unix.Mprotect(m, rx); err != nil {
			return err
		}
		jump(m, 0)
		return nil
	})
)

// implied makes this process one whose reading implies executing (personality(2)).
func implied() error {
	runtime.LockOSThread()
	if _, _, errno := unix.Syscall(unix.SYS_PERSONALITY, 0x0400000 /* READ_IMPLIES_EXEC */, 0, 0); errno != 0 {
		return errno
	}
	return nil
}

// The ioctls of userfaultfd(2) with their structures.
const (
	uffdAPI      = 0xc018aa3f
	uffdRegister = 0xc020aa00
	uffdCopy     = 0xc028aa03
)

// filled has the page at m, which was not read yet, filled by userfaultfd(2).
func filled(m, page []byte) error {
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return errno
	}
	at := uint64(uintptr(unsafe.Pointer(&m[0])))
	if err := ioctl(fd, uffdAPI, []uint64{0xaa, 0, 0}); err != nil {
		return err
	}
	if err := ioctl(fd, uffdRegister, []uint64{at, 4096, 1 /* missing */, 0}); err != nil {
		return err
	}
	return ioctl(fd, uffdCopy, []uint64{at, uint64(uintptr(unsafe.Pointer(&page[0]))), 4096, 0, 0})
}

func ioctl(fd, request uintptr, arg []uint64) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(&arg[0]))); errno != 0 {
		return fmt.Errorf("ioctl %x: %w", request, errno)
	}
	return nil
}

var memoryCases = []Case{
	{ID: "B06", Name: "System V shared memory", Attempt: child("sysv", func(marker, _ string) error {
		id, err := unix.SysvShmGet(unix.IPC_PRIVATE, 4096, 0o700|unix.IPC_CREAT)
		if err != nil {
			return err
		}
		defer func() { _, _ = unix.SysvShmCtl(id, unix.IPC_RMID, nil) }()
		m, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			return err
		}
		copy(m, code(marker))
		at, _, errno := unix.Syscall(unix.SYS_SHMAT, uintptr(id), 0, 0o100000 /* SHM_EXEC */)
		if errno != 0 {
			return errno
		}
		f := &at
		(*(*func())(unsafe.Pointer(&f)))()
		return nil
	})},
	{ID: "B07", Name: "file mapped as code", Attempt: child("map", func(marker, dir string) error {
		p, err := evilFile(marker, dir)
		if err != nil {
			return err
		}
		m, err := mapped(p, rx, unix.MAP_PRIVATE)
		if err == nil {
			jump(m, codeAt)
		}
		return err
	})},
	{ID: "B07", Name: "file mapped, made code later", Attempt: child("protect", func(marker, dir string) error {
		p, err := evilFile(marker, dir)
		if err != nil {
			return err
		}
		m, err := mapped(p, unix.PROT_READ, unix.MAP_PRIVATE)
		if err == nil {
			err = unix.Mprotect(m, rx)
		}
		if err == nil {
			jump(m, codeAt)
		}
		return err
	})},
	{ID: "B07", Name: "file mapped by a process whose reading implies executing", Attempt: child("implies", func(marker, dir string) error {
		p, err := evilFile(marker, dir)
		if err != nil {
			return err
		}
		if err := implied(); err != nil {
			return err
		}
		m, err := mapped(p, unix.PROT_READ, unix.MAP_PRIVATE)
		if err == nil {
			jump(m, codeAt)
		}
		return err
	})},
	{ID: "B07", Name: "file mapped, and mapped anew where reading implies executing (remap_file_pages)", Attempt: child("remap", func(marker, dir string) error {
		p, err := evilFile(marker, dir)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(p, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
		if err := implied(); err != nil {
			return err
		}
		if _, _, errno := unix.Syscall6(unix.SYS_REMAP_FILE_PAGES, uintptr(unsafe.Pointer(&m[0])), 4096, 0, 0, 0, 0); errno != 0 {
			return errno
		}
		jump(m, codeAt)
		return nil
	})},
	{ID: "B07", Name: "trusted library, changed in memory, made code", Attempt: dirtyPages},
	{ID: "B07", Name: "memory file, written through one mapping, run through another", Attempt: child("dual", func(marker, _ string) error {
		fd, err := unix.MemfdCreate("m", 0)
		if err != nil {
			return err
		}
		if err := unix.Ftruncate(fd, 4096); err != nil {
			return err
		}
		w, err := unix.Mmap(fd, 0, 4096, rw, unix.MAP_SHARED)
		if err != nil {
			return err
		}
		copy(w, code(marker))
		m, err := unix.Mmap(fd, 0, 4096, rx, unix.MAP_SHARED)
		if err == nil {
			jump(m, 0)
		}
		return err
	})},
	{ID: "B07", Name: "shared anonymous memory, written, made code", Attempt: child("shared-anon", func(marker, _ string) error {
		return anonymous(marker, unix.MAP_SHARED, rw, rx)
	})},
	{ID: "B07", Name: "anonymous memory, written, made code", Attempt: writtenThenCode},
	{ID: "B07", Name: "anonymous memory, writable and code", Attempt: writableCode},
	{ID: "B07", Name: "anonymous memory, written, made code (--anonymous-code deny)", Strict: true, Attempt: writtenThenCode},
	{ID: "B07", Name: "anonymous memory, writable and code (--anonymous-code deny)", Strict: true, Attempt: writableCode},
	{ID: "B07", Name: "heap grown where reading implies executing (--anonymous-code deny)", Strict: true, Attempt: child("brk", func(marker, _ string) error {
		if err := implied(); err != nil {
			return err
		}
		end, _, _ := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
		end = (end + 4095) &^ 4095
		if got, _, _ := unix.Syscall(unix.SYS_BRK, end+4096, 0, 0); got != end+4096 {
			return unix.EPERM // brk(2) tells only that it did not
		}
		m := unsafe.Slice(*(**byte)(unsafe.Pointer(&end)), 4096)
		copy(m, code(marker))
		jump(m, 0)
		return nil
	})},
	{ID: "B07", Name: "trusted library, mapped as code, made writable (--anonymous-code deny)", Strict: true, Attempt: child("rx-rwx", func(marker, _ string) error {
		m, err := mapped(libx, rx, unix.MAP_PRIVATE)
		if err != nil {
			return fmt.Errorf("map: %s", err)
		}
		if err := unix.Mprotect(m, rwx); err != nil {
			return err
		}
		copy(m, code(marker))
		jump(m, 0)
		return nil
	})},
	{ID: "B07", Name: "trusted program, mapped as code, filled by userfaultfd (--anonymous-code deny)", Strict: true, Attempt: child("uffd", func(marker, _ string) error {
		m, err := mapped(good, rx, unix.MAP_PRIVATE)
		if err != nil {
			return fmt.Errorf("map: %s", err)
		}
		page := make([]byte, 4096)
		copy(page, code(marker))
		if err := filled(m, page); err != nil {
			return err
		}
		jump(m, 0)
		return nil
	})},

	{ID: "B18", Name: "ptrace, POKETEXT into a trusted process", Attempt: injected(func(pid int, code []byte) error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := unix.PtraceAttach(pid); err != nil {
			return err
		}
		var st unix.WaitStatus
		if _, err := unix.Wait4(pid, &st, 0, nil); err != nil {
			return err
		}
		var regs unix.PtraceRegs
		if err := unix.PtraceGetRegs(pid, &regs); err != nil {
			return err
		}
		if _, err := unix.PtracePokeText(pid, uintptr(regs.Rip), code); err != nil {
			return err
		}
		regs.Orig_rax = ^uint64(0) // no system call to start again
		if err := unix.PtraceSetRegs(pid, &regs); err != nil {
			return err
		}
		return unix.PtraceDetach(pid)
	})},
	{ID: "B18", Name: "trusted program started under a tracer (PTRACE_TRACEME)", Attempt: func(w *World) error {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		cmd := w.command(good)
		cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
		if err := cmd.Start(); err != nil {
			return err
		}
		pid := cmd.Process.Pid
		var st unix.WaitStatus
		if _, err := unix.Wait4(pid, &st, 0, nil); err != nil {
			return err
		}
		var regs unix.PtraceRegs
		if err := unix.PtraceGetRegs(pid, &regs); err != nil {
			return err
		}
		if _, err := unix.PtracePokeText(pid, uintptr(regs.Rip), code(w.marker)); err != nil {
			return err
		}
		return errors.Join(unix.PtraceDetach(pid), cmd.Wait())
	}},
	{ID: "B18", Name: "/proc/PID/mem of a trusted process", Attempt: injected(func(pid int, code []byte) error {
		mem, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", pid), os.O_RDWR, 0)
		if err != nil {
			return err
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		if err != nil {
			return err
		}
		f := strings.Fields(string(text))
		pc, err := strconv.ParseInt(strings.TrimPrefix(f[len(f)-1], "0x"), 16, 64)
		if err != nil {
			return err
		}
		_, err = mem.WriteAt(code, pc)
		return errors.Join(err, mem.Close())
	}), Lacks: sealedMemory},
	{ID: "B18", Name: "/proc/self/mem, code written over by the process itself", Attempt: child("own-mem", func(marker, _ string) error {
		m, err := mapped(libx, rx, unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		f, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
		if err != nil {
			return err
		}
		if _, err = f.WriteAt(code(marker), int64(uintptr(unsafe.Pointer(&m[0])))); err != nil {
			return err
		}
		jump(m, 0)
		return nil
	}), Lacks: sealedMemory},
	{ID: "B18", Name: "process_vm_writev into code that a trusted process made", Attempt: func(w *World) error {
		cmd := w.command(self)
		cmd.Env = append(cmd.Env, roleVar+"=in:jit")
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		w.later(func() { _ = cmd.Process.Kill() })
		var at uintptr
		if _, err := fmt.Fscan(out, &at); err != nil {
			return err
		}
		b := code(w.marker)
		_, err = unix.ProcessVMWritev(cmd.Process.Pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}}, []unix.RemoteIovec{{Base: at, Len: len(b)}}, 0)
		if err != nil {
			return err
		}
		return cmd.Wait()
	}},
	{ID: "B18", Name: "program that the kernel starts (core_pattern)", Silent: true, Refusals: anyNumber, Attempt: func(w *World) error {
		p, err := w.evil("evil")
		if err != nil {
			return err
		}
		if err := w.set("/proc/sys/kernel/core_pattern", "|"+p); err != nil {
			return err
		}
		victim := w.command(busybox, "sh", "-c", "ulimit -c unlimited; kill -SEGV $$")
		_ = victim.Run() // it is meant to crash; the kernel waits for what it starts
		return nil
	}},
	{ID: "B18", Name: "program that the kernel starts (modprobe)", Silent: true, Refusals: anyNumber, Attempt: func(w *World) error {
		p, err := w.evil("evil")
		if err != nil {
			return err
		}
		if err := w.set("/proc/sys/kernel/modprobe", p); err != nil {
			return err
		}
		_ = unix.Mount("none", w.Dir, "no-such-file-system", 0, "") // has the kernel ask for a module
		return nil
	}},
}

// sealedMemory says whether the kernel writes through /proc/PID/mem only to what
// can be written to anyway: newer ones may be built or booted so.
func sealedMemory(*World) string {
	m, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = unix.Munmap(m) }()
	f, err := os.OpenFile("/proc/self/mem", os.O_RDWR, 0)
	if errors.Is(err, unix.EPERM) {
		return "" // it was seen before there was an enforcer
	}
	if err != nil {
		return err.Error()
	}
	defer func() { _ = f.Close() }()
	if _, err := f.WriteAt([]byte{1}, int64(uintptr(unsafe.Pointer(&m[0])))); err != nil {
		return "the kernel does not let memory be written to that is not writable: " + err.Error()
	}
	return ""
}

func init() {
	inner["jit"] = func([]string) error {
		m, err := unix.Mmap(-1, 0, 4096, rwx, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return err
		}
		m[0] = 0xc3 // ret
		fmt.Println(uintptr(unsafe.Pointer(&m[0])))
		for {
			jump(m, 0)
			runtime.Gosched()
		}
	}
}

// injected starts a trusted program that reads from a pipe, has write put code
// where it will go on, and lets it.
func injected(write func(pid int, code []byte) error) func(*World) error {
	return func(w *World) error {
		cmd := w.command(busybox, "sed", "p")
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		err = reading(cmd.Process.Pid)
		if err == nil {
			err = write(cmd.Process.Pid, code(w.marker))
		}
		_, _ = in.Write([]byte("\n")) // it may have gone on by itself
		return errors.Join(err, in.Close(), cmd.Wait())
	}
}

// reading returns when the process waits in read(2).
func reading(pid int) error {
	for {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/wchan", pid)) // to be looked at by all who may look
		if err != nil {
			return err
		}
		if strings.Contains(string(b), "pipe_read") {
			return nil
		}
		runtime.Gosched()
	}
}
