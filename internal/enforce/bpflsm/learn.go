package bpflsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/cilium/ebpf"
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
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	point, ok := keptAt(string(mounts), path)
	if !ok {
		return fmt.Errorf("learn %s: it is on no file system whose files can be trusted", path)
	}
	fd, err := openWithin(point, path)
	if err != nil {
		return fmt.Errorf("open %s: %w", path, err)
	}
	return errors.Join(e.learn(path, fd, wasRefused), unix.Close(fd))
}

// openWithin opens the regular file at path, which is on the mount at point. It goes
// name by name, and asks no other file system for anything: openat2(2) would do it,
// but what keeps our service from making setuid files (RestrictSUIDSGID) refuses that.
func openWithin(point, path string) (int, error) {
	at, err := unix.Open(point, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(at) }() // only a name
	var mount, st unix.Statx_t
	look := func(st *unix.Statx_t) error {
		return unix.Statx(at, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_SIZE|unix.STATX_MNT_ID, st)
	}
	if err := look(&mount); err != nil {
		return -1, err
	}
	for name := range strings.SplitSeq(strings.Trim(strings.TrimPrefix(path, point), "/"), "/") {
		next, err := unix.Openat(at, name, unix.O_PATH|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return -1, err
		}
		_ = unix.Close(at) // only a name
		at = next
		if err := look(&st); err != nil {
			return -1, err
		}
		if kind := st.Mode & unix.S_IFMT; name == ".." || st.Mnt_id != mount.Mnt_id || kind != unix.S_IFDIR && kind != unix.S_IFREG {
			return -1, errors.New("it is not where it was")
		}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size > maxRefused {
		return -1, errors.New("it is no regular file of up to 64 MiB")
	}
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", at), unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
}

// keptAt returns the mount point of the file at path, if its file system is one of keeps.
func keptAt(mountinfo, path string) (point string, ok bool) {
	for line := range strings.Lines(mountinfo) {
		before, after, _ := strings.Cut(strings.TrimSpace(line), " - ")
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(g) < 1 {
			continue
		}
		at := unescape(f[4])
		if strings.HasPrefix(path, strings.TrimSuffix(at, "/")+"/") && len(at) >= len(point) { // the last of one place is on top
			point, ok = at, slices.Contains(keeps, g[0])
		}
	}
	return point, ok
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
