package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cordon-project/cordon/internal/testkit/vm"
	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
	"github.com/cordon-project/cordon/internal/testkit/vm/image"
)

// Column is a boot: a kernel, and what enforces on it.
type Column struct{ Mechanism, Kernel string }

func (c Column) String() string { return c.Mechanism + " " + c.Kernel }

// columns are what the full table has.
var columns = []Column{{bpf, "6.1"}, {bpf, "6.12"}, {bpf, "newest"}, {notify, "6.12"}, {fapolicyd, "6.12"}}

const pkg = "github.com/cordon-project/cordon/test/bypass"

// build makes, in dir, what the guest needs, and returns it by its place there.
func build(ctx context.Context, dir string) (map[string]string, error) {
	source, err := command(ctx, dir, "go", "list", "-f", "{{.Dir}}", pkg)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(strings.TrimSpace(source), "testdata")
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("ext4.img"), nil, 0o644); err != nil {
		return nil, err
	}
	for _, args := range [][]string{
		{"go", "build", "-trimpath", "-ldflags=-s -w", "-o", at("bypass"), pkg},
		{"gcc", "-O1", "-o", at("program"), "-DPROGRAM", data + "/evil.c"},
		{"gcc", "-O1", "-shared", "-fPIC", "-nostdlib", "-o", at("libevil.so"), data + "/evil.c"},
		{"gcc", "-O1", "-shared", "-fPIC", "-o", at("libx.so"), data + "/x.c"},
		{"gcc", "-O1", "-o", at("load"), data + "/load.c"},
		{"gcc", "-O1", "-o", at("linked"), data + "/linked.c", "-L" + dir, "-lx", "-Wl,-rpath,$ORIGIN"},
		{"mke2fs", "-q", "-F", "-t", "ext4", "-O", "^metadata_csum", at("ext4.img"), "8M"},
	} {
		if _, err := command(ctx, dir, args...); err != nil {
			return nil, err
		}
	}
	files := map[string]string{
		self: at("bypass"), load: at("load"), linked: at("linked"), libx: at("libx.so"), evilLib: at("libevil.so"), evilProg: at("program"), ext4Image: at("ext4.img"),
		loader: loader, libc: libc,
	}
	for _, path := range []string{perl, python, mawk, tclsh} {
		if _, err := os.Stat(path); err != nil {
			continue
		}
		files[path] = path
		if err := addLibraries(ctx, files, path); err != nil {
			return nil, err
		}
	}
	// What they cannot start without.
	for _, pattern := range []string{"/usr/lib/python3.11/*.py", "/usr/lib/python3.11/encodings/*.py", "/usr/share/tcltk/tcl8.6/*.tcl"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return nil, err
		}
		for _, path := range found {
			files[path] = path
		}
	}
	return files, nil
}

// addLibraries adds the libraries that a program of this machine needs.
func addLibraries(ctx context.Context, files map[string]string, program string) error {
	out, err := command(ctx, "/", "ldd", program)
	if err != nil {
		return err
	}
	for line := range strings.Lines(out) {
		name, path, ok := strings.Cut(strings.TrimSpace(line), " => ")
		path, _, _ = strings.Cut(path, " ")
		if ok && filepath.IsAbs(path) {
			if path, err = filepath.EvalSymlinks(path); err != nil {
				return err
			}
			files[filepath.Join("/lib/x86_64-linux-gnu", filepath.Base(name))] = path
		}
	}
	return nil
}

func command(ctx context.Context, dir string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if args[0] == "go" {
		cmd.Dir = "" // in this module
	} else {
		cmd.Dir = dir
	}
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}

// try boots a guest for the column and tries the cases whose names begin with
// one of names, or all. progress is told each result.
func try(ctx context.Context, col Column, names []string, progress func(Result)) error {
	dir, err := os.MkdirTemp("", "cordon-bypass-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // of this program's own making
	files, err := build(ctx, dir)
	if err == nil && col.Mechanism == fapolicyd {
		err = addFapolicyd(ctx, dir, files)
	}
	if err != nil {
		return err
	}
	kernel, err := image.Fetch(ctx, col.Kernel, nil)
	if err != nil {
		return err
	}
	files[kernelImage] = kernel.Path()
	m, err := vm.Boot(ctx, vm.Config{Kernel: col.Kernel, Files: files, Modules: []string{"ext4", "brd", "dummy", "binfmt_misc", "fuse", "dm_mod"}})
	if err != nil {
		return err
	}
	results, stdout := io.Pipe()
	decoded := make(chan error, 1)
	go func() {
		var err error
		for d := json.NewDecoder(results); err == nil; {
			var r Result
			if err = d.Decode(&r); err == nil {
				progress(r)
			}
		}
		if errors.Is(err, io.EOF) {
			err = nil
		}
		_ = results.CloseWithError(err)
		decoded <- err
	}()
	var stderr strings.Builder
	// Everything in the guest belongs to a login, as what people start does.
	args := append([]string{busybox, "sh", "-c", `echo 0 > /proc/self/loginuid && exec "$0" "$@"`, self}, names...)
	code, err := m.Run(ctx, vm.Cmd{Program: channel.Program{Args: args, Env: []string{roleVar + "=guest:" + col.Mechanism}, Dir: "/"}, Stdout: stdout, Stderr: &stderr})
	if err == nil && code != 0 {
		err = fmt.Errorf("in the guest: exit status %d: %s", code, stderr.String())
	}
	return errors.Join(err, stdout.Close(), <-decoded, m.Close())
}
