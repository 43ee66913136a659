// Command kernel measures what BPF LSM enforcement costs, in a virtual machine
// whose time is a count of instructions (docs/vm.md): 1 ns is one instruction of
// the emulated processor. So ratios repeat on any machine, to a fraction of a
// percent, and say nothing of caches and of the processor's own speed.
//
//	go run ./test/bench/kernel [KERNEL]
//
// KERNEL is one of Debian's that the harness has, 6.12 by default. It ends with
// status 1 only if something could not be measured at all.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cordon-project/cordon/internal/testkit/vm"
	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

// atMost bounds the bench.
const atMost = 30 * time.Minute

// Where the guest has what is needed, and by which name this program is the guest's part.
const (
	self    = "/bench/measure"
	work    = "/bench/work"
	static  = "/bench/static"
	dynamic = "/bench/dynamic"
	loader  = "/lib64/ld-linux-x86-64.so.2"
	libc    = "/lib/x86_64-linux-gnu/libc.so.6"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch {
	case os.Args[0] == self:
		err = measure(os.Args[1])
	case len(os.Args) == 1:
		err = boot(ctx, "6.12")
	case len(os.Args) == 2 && slices.Contains(vm.Kernels(), os.Args[1]):
		err = boot(ctx, os.Args[1])
	default:
		err = fmt.Errorf("usage: kernel [KERNEL], one of %s", strings.Join(vm.Kernels(), ", "))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// boot runs this program in a guest.
func boot(ctx context.Context, kernel string) (err error) {
	ctx, cancel := context.WithTimeout(ctx, atMost)
	defer cancel()
	dir, err := os.MkdirTemp("", "cordon-bench-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	files, err := build(ctx, dir)
	if err != nil {
		return err
	}
	began := time.Now()
	code, err := run(ctx, kernel, files)
	if errors.Is(err, vm.ErrEmulator) {
		fmt.Printf("%v; everything begins once more\n", err)
		code, err = run(ctx, kernel, files)
	}
	if err == nil && code != 0 {
		err = fmt.Errorf("in the guest: exit status %d", code)
	}
	fmt.Printf("It took %v.\n", time.Since(began).Round(time.Second))
	return err
}

func run(ctx context.Context, kernel string, files map[string]string) (code int, err error) {
	m, err := vm.Boot(ctx, vm.Config{Kernel: kernel, Icount: true, Memory: 3072, Files: files, BootLimit: 10 * time.Minute})
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	return m.Run(ctx, vm.Cmd{Program: channel.Program{Args: []string{self, kernel}, Dir: "/bench"}, Stdout: os.Stdout, Stderr: os.Stderr})
}

const pkg = "github.com/cordon-project/cordon/test/bench/kernel"

// build makes, in dir, what the guest needs, and returns it by its place there.
func build(ctx context.Context, dir string) (map[string]string, error) {
	source, err := command(ctx, "go", "list", "-f", "{{.Dir}}", pkg)
	if err != nil {
		return nil, err
	}
	at := func(name string) string { return filepath.Join(dir, name) }
	of := func(name string) string { return filepath.Join(strings.TrimSpace(source), "testdata", name) }
	for _, args := range [][]string{
		{"go", "build", "-trimpath", "-ldflags=-s -w", "-o", at("measure"), pkg},
		{"gcc", "-O1", "-static", "-o", at("work"), of("work.c")},
		{"gcc", "-O1", "-static", "-o", at("static"), of("nothing.c")},
		{"gcc", "-O1", "-o", at("dynamic"), of("nothing.c")},
	} {
		if _, err := command(ctx, args...); err != nil {
			return nil, err
		}
	}
	return map[string]string{self: at("measure"), work: at("work"), static: at("static"), dynamic: at("dynamic"), loader: loader, libc: libc}, nil
}

func command(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "LC_ALL=C")
	var errs strings.Builder
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, errs.String())
	}
	return string(out), nil
}
