// Package host runs the programs of this machine that the VM harness needs, and
// knows in which Debian packages they are. What it runs ends with this process,
// and an error has the end of what was printed.
package host

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// Command runs a program in dir and returns what it printed on standard output.
func Command(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
	return Run(cmd)
}

// Run is Command for a program that is described already.
func Run(cmd *exec.Cmd) (string, error) {
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

// Check says which packages to install if something is missing.
func Check() error {
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

// Tool is the path of one of the tools, which Check has seen.
func Tool(name string) string {
	path, err := look(name)
	if err != nil {
		return name
	}
	return path
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

// Say tells w, which may be nil, what takes time.
func Say(w io.Writer, format string, args ...any) {
	if w != nil {
		_, _ = fmt.Fprintf(w, "vm: "+format+"\n", args...) // only progress
	}
}
