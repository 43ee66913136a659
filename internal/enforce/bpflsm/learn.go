package bpflsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce/ground"
	"github.com/cordon-project/cordon/internal/enforce/mount"
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
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return errors.Join(e.learn(path, fd, 0), unix.Close(fd))
}

// wasRefused says to the programs why they are shown a file: they keep only some of
// those that are not trusted.
const wasRefused = 1 << 32

// maxRefused is how large a file may be that is shown because it was refused, in bytes.
const maxRefused = 64 << 20

// LearnRefused does the same with a file that an interpreter was refused: who trusts
// a content has not said in which files it is. Its path is chosen by whoever made it,
// so nothing is opened that could keep the agent waiting: no file system but those
// whose files can be trusted, no links, nothing large.
func (e *Enforcer) LearnRefused(path string) error {
	table, err := mount.Table()
	if err != nil {
		return fmt.Errorf("learn %s: %w", path, err)
	}
	m, ok := mount.Of(table, path)
	if !ok || !ground.Keeps(m.Type) {
		return fmt.Errorf("learn %s: it is on no file system whose files can be trusted", path)
	}
	f, err := m.Open(path, maxRefused)
	if err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	return errors.Join(e.learn(path, int(f.Fd()), wasRefused), f.Close())
}

// learn is called with 0 or wasRefused.
func (e *Enforcer) learn(path string, fd int, why uint64) error {
	e.apply.Lock()
	defer e.apply.Unlock()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	settings := e.maps["settings"]
	if err := settings.Put(settingReader, uint64(unix.Gettid())|why); err != nil {
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

// inherit takes over what an earlier agent's programs know of the processes:
// which of them are interpreters, and who vouches for them. Both agents'
// programs are in force, so whatever is started meanwhile is known to ours.
func (e *Enforcer) inherit(runs *ebpf.Map) error {
	for more := true; more; { // who was listed before its parent was known may have children that were not
		more = false
		tasks, err := filepath.Glob("/proc/[0-9]*/task/[0-9]*")
		if err != nil {
			return err
		}
		for _, path := range tasks {
			process := filepath.Base(filepath.Dir(filepath.Dir(path)))
			took, err := e.inheritTask(runs, filepath.Base(path), filepath.Base(path) == process)
			if err != nil {
				return fmt.Errorf("take over what process %s interprets: %w", process, err)
			}
			more = more || took
		}
	}
	return nil
}

// pidfdThread is PIDFD_THREAD: a thread that is not its process's first (Linux 6.9).
const pidfdThread = unix.O_EXCL

// inheritTask reports whether there was something to take over.
func (e *Enforcer) inheritTask(runs *ebpf.Map, task string, first bool) (bool, error) {
	id, err := strconv.Atoi(task)
	if err != nil {
		return false, err
	}
	flags := pidfdThread
	if first {
		flags = 0
	}
	fd, err := unix.PidfdOpen(id, flags)
	if errors.Is(err, unix.ESRCH) || (!first && errors.Is(err, unix.EINVAL)) { // it has ended, or the kernel cannot name it
		return false, nil
	}
	if err != nil {
		return false, err
	}
	run := make([]byte, runs.ValueSize())
	if err = runs.Lookup(uint32(fd), &run); err == nil {
		ours := make([]byte, e.maps["runs"].ValueSize())
		copy(ours, run) // they differ at most in the room for work at the end
		err = e.maps["runs"].Update(uint32(fd), ours, ebpf.UpdateNoExist)
	}
	took := err == nil
	if errors.Is(err, ebpf.ErrKeyNotExist) || errors.Is(err, ebpf.ErrKeyExist) || errors.Is(err, unix.ESRCH) {
		err = nil
	}
	return took, errors.Join(err, unix.Close(fd))
}
