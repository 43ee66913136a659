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
	"time"

	"golang.org/x/sys/unix"
)

var busy = []syscall.Errno{syscall.ETXTBSY}

func evilRuns(w *World) error {
	p, err := w.evil("evil")
	if err != nil {
		return err
	}
	return w.run(p)
}

// overwritten runs a trusted file once, changes it, and runs it again.
func overwritten(path string, change func(w *World, path string, evil []byte) error) func(*World) error {
	return func(w *World) error {
		evil := program(fixed, w.marker)
		if path == theScript {
			evil = []byte("#!/bin/sh\n: > " + w.marker + "\n")
		}
		if err := w.run(path); err != nil {
			return fmt.Errorf("before the change: %s", err) // not the decisive call
		}
		return errors.Join(change(w, path, evil), w.run(path))
	}
}

func rewrite(w *World, path string, evil []byte) error { return os.WriteFile(path, evil, 0o755) }

// inPlace writes over a file of the same size and restores its times.
func inPlace(w *World, path string, evil []byte) error {
	fi, err := os.Stat(path)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(evil, 0)
	return errors.Join(err, f.Close(), os.Chtimes(path, fi.ModTime(), fi.ModTime()))
}

func sharedMapping(w *World, path string, evil []byte) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, len(evil), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	copy(m, evil)
	return unix.Munmap(m)
}

// disk is a file system and a way to write to what it is on.
type disk struct {
	dev   string   // to be mounted
	write string   // a device or a file
	start int64    // of the file system in write
	open  *os.File // write, from before it is mounted; nil: it is opened afterwards
}

// beneath runs a trusted program on ext4, changes its blocks where the file system
// is, and has the kernel forget what it has of the content in memory (drop_caches,
// 3: and of the file).
func beneath(what string, on func(w *World) (disk, error)) func(*World) error {
	return func(w *World) error {
		where, err := on(w)
		if err != nil {
			return err
		}
		at, err := w.ext4(where.dev)
		if err != nil {
			return err
		}
		path := filepath.Join(at, "program")
		if err := put(path, program(fixed, goodMark)); err != nil {
			return err
		}
		unix.Sync()
		if err := w.run(path); err != nil {
			return fmt.Errorf("before the change: %w", err)
		}
		d := where.open
		if d == nil {
			if d, err = os.OpenFile(where.write, os.O_RDWR|os.O_SYNC, 0); err != nil {
				return err
			}
			w.later(func() { _ = d.Close() })
		}
		image := make([]byte, 8<<20)
		n, _ := d.ReadAt(image, where.start)
		changed := strings.ReplaceAll(string(image[:n]), goodMark+"\x00", w.marker+"\x00")
		for i := 0; i < n; i += 4096 {
			if end := min(n, i+4096); changed[i:end] != string(image[i:end]) {
				if _, err := d.WriteAt([]byte(changed[i:end]), where.start+int64(i)); err != nil {
					return err
				}
			}
		}
		unix.Sync()
		if f, err := os.Open(where.dev); err == nil { // it has pages of its own
			_ = unix.IoctlSetInt(int(f.Fd()), unix.BLKFLSBUF, 0)
			_ = f.Close()
		}
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte(what), 0); err != nil {
			return err
		}
		return w.run(path)
	}
}

func onDevice(w *World) (disk, error) {
	dev, _, err := w.disk(0)
	return disk{dev: dev, write: dev}, err
}

func onOpenDevice(w *World) (disk, error) {
	d, err := onDevice(w)
	if err == nil {
		d.open, err = os.OpenFile(d.write, os.O_RDWR|os.O_SYNC, 0)
		w.later(func() { _ = d.open.Close() })
	}
	return d, err
}

func onPartition(w *World) (disk, error) {
	whole, part, err := w.disk(1 << 20)
	return disk{dev: part, write: whole, start: 1 << 20}, err
}

func onFile(w *World) (disk, error) {
	file := w.path("image")
	dev, err := w.loop(file)
	return disk{dev: dev, write: file}, err
}

func onVolume(w *World) (disk, error) {
	d, err := onFile(w)
	if err == nil {
		d.dev, _, err = w.volume(d.dev)
	}
	return d, err
}

// lent has a disk read into the memory of a trusted program, which is mapped when
// it begins and neither mapped nor open any more when the disk answers.
func lent(w *World) error {
	dev, err := w.loop(w.path("disk"))
	if err != nil {
		return err
	}
	dev, hold, err := w.volume(dev)
	if err != nil {
		return err
	}
	disk, err := unix.Open(dev, unix.O_RDWR|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	w.later(func() { _ = unix.Close(disk) })
	page, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	copy(page, program(fixed, w.marker))
	_, err = unix.Pwrite(disk, page, 0)
	path := w.path("program")
	if err = errors.Join(err, unix.Munmap(page), put(path, program(fixed, goodMark))); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	m, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = hold(true); err != nil {
		return errors.Join(err, unix.Munmap(m))
	}
	read, thread := make(chan error, 1), make(chan int)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		thread <- unix.Gettid()
		_, err := unix.Pread(disk, m, 0)
		read <- err
	}()
	answer := sync.OnceValue(func() error { return errors.Join(hold(false), <-read) })
	w.later(func() { _ = answer() })
	for stat := fmt.Sprintf("/proc/self/task/%d/stat", <-thread); len(read) == 0; time.Sleep(10 * time.Millisecond) {
		if b, err := os.ReadFile(stat); err != nil || bytes.Contains(b, []byte(") D ")) { // it waits for the disk
			break
		}
	}
	if err := errors.Join(unix.Munmap(m), w.run(path)); err != nil {
		return err
	}
	return errors.Join(answer(), w.run(path))
}

// lib runs f with a copy of the untrusted library.
func lib(f func(w *World, evil string) error) func(*World) error {
	return func(w *World) error {
		p, err := w.copy(evilLib, "libevil.so")
		if err != nil {
			return err
		}
		return f(w, p)
	}
}

// memfd returns a memory file with the content, by its name below /proc.
func memfd(w *World, content []byte, flags int) (string, error) {
	fd, err := unix.MemfdCreate("m", flags)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), "m")
	w.later(func() { _ = f.Close() })
	_, err = f.Write(content)
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd), err
}

// readOnly returns the file opened for reading, by its name below /proc.
func readOnly(w *World, path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	w.later(func() { _ = f.Close() })
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd()), nil
}

func isolated(flags uintptr) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Cloneflags: flags}
	if flags&unix.CLONE_NEWUSER != 0 {
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	}
	return a
}

// rounds is how often races are tried: an emulated processor is slow. Without an
// enforcer they are tried until they are won.
const (
	rounds    = 60
	allRounds = 600
)

// racing runs path while swap changes what it means, over and over.
func racing(path string, w *World, swap func() error) error {
	stop := make(chan struct{})
	var swaps sync.WaitGroup
	var failed error
	swaps.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if failed = swap(); failed != nil {
				return
			}
		}
	})
	var last error
	for n := 0; n < rounds || w.victim == nil && n < allRounds; n++ {
		if err := w.run(path); errors.Is(err, unix.EPERM) || errors.Is(err, unix.EACCES) {
			last = err
		}
		if w.ran() {
			break
		}
	}
	close(stop)
	swaps.Wait()
	if w.ran() {
		return failed
	}
	return errors.Join(last, failed)
}

var fileCases = []Case{
	{ID: "B01", Name: "static program", Attempt: evilRuns},
	{ID: "B01", Name: "static-pie program", Attempt: func(w *World) error {
		return errors.Join(put(w.path("pie"), program(anywhere, w.marker)), w.run(w.path("pie")))
	}},
	{ID: "B01", Name: "dynamic program", Attempt: func(w *World) error {
		p, err := w.copy(evilProg, "dyn")
		if err != nil {
			return err
		}
		return w.run(p)
	}},
	{ID: "B01", Name: "as an ordinary user", Attempt: func(w *World) error {
		p, err := w.evil("evil")
		if err != nil {
			return err
		}
		cmd := w.command(p)
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 1000, Gid: 1000}}
		return ended(cmd)
	}},
	{ID: "B02", Name: "trusted program", Allow: true, Attempt: func(w *World) error { return w.run(good) }},
	{ID: "B02", Name: "trusted program by symbolic link", Allow: true, Attempt: func(w *World) error {
		return errors.Join(os.Symlink(good, w.path("l")), w.run(w.path("l")))
	}},
	{ID: "B02", Name: "trusted program by a new hard link", Allow: true, Attempt: func(w *World) error {
		l := good + ".link"
		w.later(func() { _ = os.Remove(l) })
		return errors.Join(os.Link(good, l), w.run(l))
	}},
	{ID: "B02", Name: "trusted program by a bind mount", Allow: true, Attempt: func(w *World) error {
		if err := w.mount(victims, w.path("bind"), "", unix.MS_BIND, ""); err != nil {
			return err
		}
		return w.run(w.path("bind/good"))
	}},
	{ID: "B03", Name: "renamed over a trusted program", Attempt: func(w *World) error {
		evil := victims + "/new"
		return errors.Join(w.run(good), put(evil, program(fixed, w.marker)), os.Rename(evil, good), w.run(good))
	}},
	{ID: "B03", Name: "bind mount over a trusted program", Attempt: func(w *World) error {
		p, err := w.evil("evil")
		if err == nil {
			err = unix.Mount(p, good, "", unix.MS_BIND, "")
		}
		if err != nil {
			return err
		}
		w.later(func() { _ = unix.Unmount(good, unix.MNT_DETACH) })
		return w.run(good)
	}},
	{ID: "B03", Name: "upper layer of an overlay over a trusted program", Attempt: func(w *World) error {
		for _, d := range []string{"up", "work"} {
			if err := os.Mkdir(w.path(d), 0o755); err != nil {
				return err
			}
		}
		if err := put(w.path("up/good"), program(fixed, w.marker)); err != nil {
			return err
		}
		if err := w.mount("o", w.path("all"), "overlay", 0, "lowerdir="+victims+",upperdir="+w.path("up")+",workdir="+w.path("work")); err != nil {
			return err
		}
		return w.run(w.path("all/good"))
	}},
	{ID: "B04", Name: "program written in place, size and times as before", Also: busy, Attempt: overwritten(good, inPlace)},
	{ID: "B04", Name: "script written in place, size and times as before", Also: busy, Attempt: overwritten(theScript, inPlace)},
	{ID: "B04", Name: "program written through a shared mapping", Also: busy, Attempt: overwritten(good, sharedMapping)},
	{ID: "B04", Name: "script written through a shared mapping", Also: busy, Attempt: overwritten(theScript, sharedMapping)},
	{ID: "B04", Name: "program truncated and written again", Also: busy, Attempt: overwritten(good, rewrite)},
	{ID: "B04", Name: "script truncated and written again", Also: busy, Attempt: overwritten(theScript, rewrite)},
	{ID: "B04", Name: "program changed by a read into its memory that was under way (direct I/O)", Attempt: lent},
	{ID: "B04", Name: "script changed while it is read", Race: true, Refusals: anyNumber, Silent: true, Also: busy, Attempt: func(w *World) error {
		evil := "#!/bin/sh\n: > " + w.marker + "\n"
		turn := 0
		return racing(theScript, w, func() error {
			turn++
			f, err := os.OpenFile(theScript, os.O_WRONLY, 0) // nobody executes what is open for writing
			if errors.Is(err, unix.ETXTBSY) {                // somebody reads it to run it
				return nil
			}
			if err != nil {
				return err
			}
			_, err = f.WriteAt([]byte([]string{script, evil}[turn%2]), 0)
			return errors.Join(err, f.Close())
		})
	}},
	{ID: "B04", Name: "blocks of the device changed, file forgotten by the kernel", Attempt: beneath("3", onDevice)},
	{ID: "B04", Name: "blocks of the device changed, pages forgotten by the kernel", Attempt: beneath("1", onDevice)},
	{ID: "B04", Name: "blocks of the device changed by who had opened it before", Attempt: beneath("1", onOpenDevice)},
	{ID: "B04", Name: "blocks of the disk changed that the device is a part of", Attempt: beneath("1", onPartition)},
	{ID: "B04", Name: "blocks of the file changed that is the device (loop)", Attempt: beneath("1", onFile)},
	{ID: "B04", Name: "blocks of the file changed that is beneath the device (loop, device mapper)", Attempt: beneath("1", onVolume)},

	{ID: "B05", Name: "program given to its loader", Refusals: anyNumber, Silent: true, Attempt: func(w *World) error {
		p, err := w.copy(evilProg, "dyn")
		if err != nil {
			return err
		}
		return w.run(loader, p)
	}},
	{ID: "B05", Name: "loader with --preload", Refusals: anyNumber, Silent: true, Attempt: lib(func(w *World, evil string) error {
		return w.run(loader, "--preload", evil, linked)
	})},
	{ID: "B05", Name: "LD_PRELOAD", Refusals: anyNumber, Silent: true, Attempt: lib(func(w *World, evil string) error {
		return w.runWith("LD_PRELOAD="+evil, linked)
	})},
	{ID: "B05", Name: "LD_AUDIT", Refusals: anyNumber, Silent: true, Attempt: lib(func(w *World, evil string) error {
		return w.runWith("LD_AUDIT="+evil, linked)
	})},
	{ID: "B05", Name: "LD_LIBRARY_PATH", Refusals: anyNumber, Silent: true, Attempt: lib(func(w *World, evil string) error {
		return errors.Join(os.Rename(evil, w.path("libx.so")), w.runWith("LD_LIBRARY_PATH="+w.Dir, linked))
	})},
	{ID: "B05", Name: "/etc/ld.so.preload", Refusals: anyNumber, Silent: true, Attempt: lib(func(w *World, evil string) error {
		if err := put("/etc/ld.so.preload", []byte(evil+"\n")); err != nil {
			return err
		}
		w.later(func() { _ = os.Remove("/etc/ld.so.preload") })
		return w.run(linked)
	})},
	{ID: "B05", Name: "dlopen", Refusals: anyNumber, Silent: true, Attempt: lib(func(w *World, evil string) error { return w.run(load, evil) })},
	{ID: "B05", Name: "RUNPATH of a trusted program", Refusals: anyNumber, Silent: true, Attempt: lib(func(w *World, evil string) error {
		b, err := os.ReadFile(linked)
		return errors.Join(err, os.Rename(evil, w.path("libx.so")), put(w.path("linked"), b), w.run(w.path("linked")))
	})},

	{ID: "B06", Name: "memfd executed", Attempt: func(w *World) error {
		p, err := memfd(w, program(fixed, w.marker), 0)
		return errors.Join(err, w.run(p))
	}},
	{ID: "B06", Name: "memfd with trusted content, not sealed", Attempt: func(w *World) error {
		p, err := memfd(w, program(fixed, goodMark), 0)
		return errors.Join(err, w.mark(w.run(p)))
	}},
	{ID: "B06", Name: "memfd with a script", Attempt: func(w *World) error {
		p, err := memfd(w, []byte("#!/bin/sh\n: > "+w.marker+"\n"), 0)
		return errors.Join(err, w.run(p))
	}},
	{ID: "B06", Name: "memfd as a library", Refusals: anyNumber, Silent: true, Attempt: func(w *World) error {
		b, err := os.ReadFile(evilLib)
		if err != nil {
			return err
		}
		p, err := memfd(w, append(b, w.marker...), 0)
		return errors.Join(err, w.run(load, p))
	}},
	{ID: "B06", Name: "file without a name (O_TMPFILE)", Attempt: func(w *World) error {
		fd, err := unix.Open(w.Dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o755)
		if err != nil {
			return err
		}
		f := os.NewFile(uintptr(fd), "tmp")
		_, err = f.Write(program(fixed, w.marker))
		p, err2 := readOnly(w, fmt.Sprintf("/proc/self/fd/%d", fd))
		return errors.Join(err, err2, f.Close(), w.run(p))
	}},
	{ID: "B06", Name: "deleted file by its descriptor", Attempt: func(w *World) error {
		p, err := w.evil("evil")
		if err != nil {
			return err
		}
		fd, err := readOnly(w, p)
		return errors.Join(err, os.Remove(p), w.run(fd))
	}},
	{ID: "B06", Name: "POSIX shared memory", Attempt: func(w *World) error {
		p := "/dev/shm/evil"
		w.later(func() { _ = os.Remove(p) })
		return errors.Join(put(p, program(fixed, w.marker)), w.run(p))
	}},

	{ID: "B12", Name: "symbolic link that changes its target", Race: true, Refusals: anyNumber, Attempt: func(w *World) error {
		evil, err := w.evil("evil")
		if err != nil {
			return err
		}
		turn := 0
		swap := func() error {
			turn++
			return errors.Join(os.Symlink([]string{good, evil}[turn%2], w.path("new")), os.Rename(w.path("new"), w.path("link")))
		}
		return errors.Join(swap(), racing(w.path("link"), w, swap))
	}},
	{ID: "B12", Name: "files that change places (RENAME_EXCHANGE)", Race: true, Refusals: anyNumber, Attempt: func(w *World) error {
		evil, err := w.evil("evil")
		if err != nil {
			return err
		}
		if err := put(w.path("good"), program(fixed, goodMark)); err != nil {
			return err
		}
		return racing(w.path("good"), w, func() error {
			return unix.Renameat2(unix.AT_FDCWD, evil, unix.AT_FDCWD, w.path("good"), unix.RENAME_EXCHANGE)
		})
	}},
	{ID: "B13", Name: "inode number of a trusted program used again (ext4)", Refusals: anyNumber, Attempt: onExt4(reused)},
	{ID: "B13", Name: "changed where the kernel's integrity measurement does not notice", Refusals: anyNumber, Attempt: onExt4(measured)},
	{ID: "B15", Name: "trusted program on an overlay", Allow: true, Attempt: func(w *World) error {
		at, err := w.overlay()
		if err != nil {
			return err
		}
		return w.run(at + "/good")
	}},
	// Programs, not scripts: interpreters read nothing from overlays.
	{ID: "B15", Name: "changed on an overlay after its copy-up", Also: busy, Attempt: func(w *World) error {
		at, err := w.overlay()
		if err != nil {
			return err
		}
		return overwritten(at+"/good", inPlace)(w)
	}},
	{ID: "B15", Name: "changed below the overlay", Also: busy, Attempt: func(w *World) error {
		at, err := w.overlay()
		if err != nil {
			return err
		}
		return overwritten(at+"/good", func(w *World, _ string, evil []byte) error { return inPlace(w, good, evil) })(w)
	}},
}

// onExt4 has an attempt made in the root of an ext4 on a disk of its own.
func onExt4(attempt func(w *World, at string) error) func(*World) error {
	return func(w *World) error {
		dev, _, err := w.disk(0)
		if err != nil {
			return err
		}
		at, err := w.ext4(dev)
		if err != nil {
			return err
		}
		return attempt(w, at)
	}
}

// measured has the kernel measure a trusted file while it is mapped for writing (IMA,
// https://ima-doc.readthedocs.io), and changes it then: nothing moves its version
// any more, and what was measured is remembered.
func measured(w *World, at string) error {
	path := filepath.Join(at, "program")
	const owner = 4242 // whose files are measured
	policy := fmt.Sprintf("measure func=FILE_CHECK fowner=%d\n", owner)
	given := os.WriteFile("/sys/kernel/security/ima/policy", []byte(policy), 0) // once, for as long as the kernel runs
	if err := errors.Join(put(path, program(fixed, goodMark)), os.Chown(path, owner, owner)); err != nil {
		return err
	}
	unix.Sync()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	evil := program(fixed, w.marker)
	m, err := unix.Mmap(int(f.Fd()), 0, len(evil), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	m[len(evil)-1] = 0 // as it is
	if _, err := os.ReadFile(path); err != nil {
		return err
	}
	copy(m, evil)
	if err := unix.Munmap(m); err != nil {
		return err
	}
	list, err := os.ReadFile("/sys/kernel/security/ima/ascii_runtime_measurements")
	if !strings.Contains(string(list), path) {
		return fmt.Errorf("it was not measured: %v, %v", given, err)
	}
	return w.run(path)
}

func (w *World) overlay() (string, error) {
	for _, d := range []string{"up", "work"} {
		if err := os.Mkdir(w.path(d), 0o755); err != nil {
			return "", err
		}
	}
	at := w.path("all")
	return at, w.mount("o", at, "overlay", 0, "lowerdir="+victims+",upperdir="+w.path("up")+",workdir="+w.path("work"))
}

// reused runs a trusted program, deletes it, and makes files until one has its number.
func reused(w *World, dir string) error {
	path := filepath.Join(dir, "p")
	if err := put(path, program(fixed, goodMark)); err != nil {
		return err
	}
	var was, is unix.Stat_t
	if err := unix.Stat(path, &was); err != nil {
		return err
	}
	if err := w.run(path); err != nil {
		return fmt.Errorf("before: %s", err)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	for i := range 50 {
		path := filepath.Join(dir, fmt.Sprint("e", i))
		if err := errors.Join(put(path, program(fixed, w.marker)), unix.Stat(path, &is)); err != nil {
			return err
		}
		if is.Ino == was.Ino {
			return w.run(path)
		}
	}
	return errors.New("the number did not come again")
}
