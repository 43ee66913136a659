package bpflsm

import (
	"errors"
	"fmt"
	"runtime"

	"golang.org/x/sys/unix"
)

// interpreterLimits are what stays open with trusted scripts; bpf/interpret.h
// has what does not.
var interpreterLimits = []string{
	"Shells take commands from -c, a terminal or a pipe, and read files whose names do not end as those of scripts do (. FILE, start-up files).",
	"What a trusted script or package manager of root starts, and services, may give interpreters code by -c, -e or standard input.",
	"Program text that an interpreter reads from a file with another name than scripts have, when the name is not its first argument, is not seen (awk one-liners, options that name files, environment variables).",
	"Files on overlays (containers), and files that the agent has not yet shown to the kernel after its start, are refused to interpreters.",
}

// Learn shows the kernel a file that interpreters are going to open. The kernel
// hashes it by itself; whether it is trusted is decided when it is opened. It is
// forgotten when somebody opens it for writing, so it has to be shown again when it has changed.
func (e *Enforcer) Learn(path string) error {
	e.apply.Lock()
	defer e.apply.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }() // only read
	settings := e.maps["settings"]
	if err := settings.Put(settingReader, uint64(unix.Gettid())); err != nil {
		return fmt.Errorf("ask the kernel to learn: %w", err)
	}
	m, err := unix.Mmap(fd, 0, 1, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err == nil { // the programs are not called
		err = errors.Join(errors.New("the kernel did not learn it"), unix.Munmap(m))
	} else if errors.Is(err, unix.EPERM) {
		err = nil
	}
	if err = errors.Join(err, settings.Put(settingReader, uint64(0))); err != nil {
		return fmt.Errorf("learn %s: %w", path, err)
	}
	return nil
}
