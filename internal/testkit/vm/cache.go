package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// cacheDir returns the directory of what was built: cordon-vm in the user's
// cache directory.
func cacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache directory (set HOME or XDG_CACHE_HOME): %w", err)
	}
	dir := filepath.Join(base, "cordon-vm")
	return dir, os.MkdirAll(dir, 0o755)
}

// cached returns the directory of the artifact called name and built by recipe,
// a text that changes with everything that decides the result. If it is not there,
// build fills a directory, which becomes the artifact only when build succeeds;
// who comes meanwhile waits, so that each is built once.
func cached(ctx context.Context, name, recipe string, build func(dir string) error) (string, error) {
	base, err := cacheDir()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256([]byte(recipe))
	final := filepath.Join(base, fmt.Sprintf("%s-%x", name, sum[:8]))
	if _, err := os.Stat(final); err == nil {
		return final, nil
	}
	unlock, err := lock(ctx, final+".lock")
	if err != nil {
		return "", err
	}
	defer unlock()
	if _, err := os.Stat(final); err == nil {
		return final, nil // somebody else built it
	}
	partial := final + ".partial"
	if err := os.RemoveAll(partial); err != nil { // of a build that was killed
		return "", err
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return "", err
	}
	if err := build(partial); err != nil {
		return "", errors.Join(fmt.Errorf("build %s: %w", name, err), os.RemoveAll(partial))
	}
	return final, os.Rename(partial, final)
}

// lock takes an exclusive lock on a file, which the kernel lets go with the process.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	for tick := time.NewTicker(200 * time.Millisecond); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			tick.Stop()
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("wait for another build of the same image: %w", ctx.Err()), f.Close())
		case <-tick.C:
		}
	}
}

// command runs a program of this machine in dir and returns what it printed.
// The program ends with this process; an error has the end of its output.
func command(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	return runCommand(cmd)
}

func runCommand(cmd *exec.Cmd) (string, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	var out, both strings.Builder
	cmd.Stdout, cmd.Stderr = tee{&out, &both}, &both
	err := cmd.Run()
	if err != nil {
		text := both.String()
		err = fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args[:min(len(cmd.Args), 3)], " "), err, text[max(0, len(text)-2000):])
	}
	return out.String(), err
}

// tee writes to two builders, the way io.MultiWriter does, with one lock for
// neither: os/exec writes standard output and error from two goroutines.
type tee struct{ a, b *strings.Builder }

// Write appends p to both.
func (t tee) Write(p []byte) (int, error) { t.a.Write(p); return t.b.Write(p) }

// tools are the programs of this machine that the harness uses, with the Debian
// package of each.
var tools = [][2]string{
	{"qemu-system-x86_64", "qemu-system-x86"}, {"qemu-img", "qemu-utils"}, {"busybox", "busybox-static"}, {"debootstrap", "debootstrap"},
	{"mke2fs", "e2fsprogs"}, {"depmod", "kmod"}, {"modprobe", "kmod"}, {"xz", "xz-utils"}, {"zstd", "zstd"}, {"apt-get", "apt"},
}

// checkTools says which packages to install if something is missing.
func checkTools() error {
	var missing []string
	for _, t := range tools {
		if _, err := look(t[0]); err != nil {
			missing = append(missing, t[1])
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("the VM harness needs more programs: run make deps, or apt-get install --no-install-recommends %s", strings.Join(missing, " "))
	}
	return nil
}

// look finds a program, also where only root's PATH has it.
func look(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if p, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return p, nil
		}
	}
	return "", err
}
