// Command vm runs a script of yours in a virtual machine with a Debian kernel,
// systemd and Cordon's agent, restricted if you like.
//
//	go run ./test/vm run --kernel 6.12 --restricted --copy ./tools -- ./try.sh
//
// docs/vm.md tells more.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cordon-project/cordon/internal/testkit/vm"
	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

// Exit statuses of our own, those of timeout(1) and of shells. All others are
// the script's.
const (
	exitTimeout     = 124 // the script took longer than --timeout
	exitHarness     = 125 // wrong use, or the machine failed
	exitNotStarted  = 126 // the guest refused to start the script
	exitInterrupted = 130
)

const usage = `usage: vm run [flags] -- SCRIPT [ARGS]...
       vm build [--kernel KERNEL]...

SCRIPT is a file of this machine, or else a line for the guest's shell.
"vm run --help" has the flags.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := Main(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if ctx.Err() != nil {
		code = exitInterrupted
	}
	stop()
	os.Exit(code)
}

// Main is the program: it returns its exit status.
func Main(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	code, err := dispatch(ctx, args, stdout, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	if err != nil && ctx.Err() == nil {
		_, _ = fmt.Fprintln(stderr, "vm:", err) // there is nobody else to tell
	}
	return code
}

func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) (int, error) {
	verb := ""
	if len(args) > 0 {
		verb = args[0]
	}
	switch verb {
	case "run":
		return run(ctx, args[1:], stdout, stderr)
	case "build":
		return build(ctx, args[1:], stderr)
	case "help", "-h", "--help":
		_, err := io.WriteString(stdout, usage)
		return 0, err
	case "":
		return exitHarness, fmt.Errorf("say what to do\n%s", usage)
	}
	return exitHarness, fmt.Errorf("there is no verb %q\n%s", verb, usage)
}

// options are the flags of run, and its arguments.
type options struct {
	kernel, lsm      string
	restricted, user bool
	icount           bool
	copies           []string
	memory           int
	timeout          time.Duration
	script           []string
}

func parseRun(args []string, stderr io.Writer) (options, error) {
	var o options
	f := flag.NewFlagSet("vm run", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&o.kernel, "kernel", "6.12", "the Debian kernel: "+strings.Join(vm.Kernels(), ", "))
	f.BoolVar(&o.restricted, "restricted", false, "restrict the guest before SCRIPT runs")
	f.BoolVar(&o.user, "user", false, "run SCRIPT as an ordinary user instead of root")
	f.Func("copy", "copy the directory `DIR` to /mnt/ and its name; may be repeated", func(s string) error {
		o.copies = append(o.copies, s)
		return nil
	})
	f.IntVar(&o.memory, "memory", 1536, "the guest's memory in `MiB`")
	f.DurationVar(&o.timeout, "timeout", 10*time.Minute, "end SCRIPT after this `time`")
	f.BoolVar(&o.icount, "icount", false, "let the guest's time count instructions, to compare costs")
	f.StringVar(&o.lsm, "lsm", "", "the kernel's `list` of security modules (lsm=) instead of its own")
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		_, _ = io.WriteString(stderr, usage+"\n") // there is nobody else to tell
		f.SetOutput(stderr)
		f.PrintDefaults()
		return o, err
	}
	o.script = f.Args()
	seen := map[string]bool{}
	switch {
	case err != nil:
	case !slices.Contains(vm.Kernels(), o.kernel):
		err = fmt.Errorf("there is no kernel %q: take one of %s", o.kernel, strings.Join(vm.Kernels(), ", "))
	case len(o.script) == 0:
		err = errors.New("no script: put -- and what to run behind the flags")
	case o.memory < 512 || o.memory > 65536:
		err = fmt.Errorf("--memory %d: 512 to 65536 MiB are possible", o.memory)
	case o.timeout <= 0:
		err = fmt.Errorf("--timeout %v: a positive time is needed", o.timeout)
	}
	for _, dir := range o.copies {
		if err != nil {
			break
		}
		name, e := nameOf(dir)
		switch {
		case e != nil:
			err = e
		case seen[name]:
			err = fmt.Errorf("--copy: two directories are called %s", name)
		}
		seen[name] = true
	}
	return o, err
}

// nameOf is what a copied directory is called in the guest.
func nameOf(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	st, err := os.Stat(abs)
	switch {
	case err != nil:
		return "", fmt.Errorf("--copy: %w", err)
	case !st.IsDir():
		return "", fmt.Errorf("--copy %s: this is no directory", dir)
	case filepath.Base(abs) == "/":
		return "", errors.New("--copy /: name a directory in it")
	}
	return filepath.Base(abs), nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) (code int, err error) {
	o, err := parseRun(args, stderr)
	if err != nil {
		return exitHarness, err
	}
	code, err = attempt(ctx, o, stdout, stderr)
	if errors.Is(err, vm.ErrEmulator) {
		_, _ = fmt.Fprintf(stderr, "vm: %v\nvm: everything begins once more\n", err) // there is nobody else to tell
		code, err = attempt(ctx, o, stdout, stderr)
	}
	return code, err
}

// attempt boots a machine and runs the script in it.
func attempt(ctx context.Context, o options, stdout, stderr io.Writer) (code int, err error) {
	began := time.Now()
	say := func(format string, args ...any) {
		_, _ = fmt.Fprintf(stderr, "vm: %3.0fs "+format+"\n", append([]any{time.Since(began).Seconds()}, args...)...) // there is nobody else to tell
	}
	cfg := vm.Config{Kernel: o.kernel, Disk: true, Cordon: true, Memory: o.memory, Icount: o.icount, LSM: o.lsm, Log: stderr, Files: map[string]string{}}
	program := channel.Program{Args: append([]string{"sh", "-c"}, strings.Join(o.script, " ")), User: o.user}
	if st, err := os.Stat(o.script[0]); err == nil && st.Mode().IsRegular() {
		cfg.Files[scriptPath] = o.script[0]
		cfg.Trust = []string{o.script[0]}
		program.Args = append([]string{scriptPath}, o.script[1:]...)
		if plain(o.script[0]) {
			program.Args = append([]string{"sh"}, program.Args...)
		}
	}
	if !o.user {
		program.Env = []string{"CORDON_PROFILE=" + vm.CordonProfile}
	}
	say("booting kernel %s", o.kernel)
	m, err := vm.Boot(ctx, cfg)
	if err != nil {
		return exitHarness, err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	if err := m.Settle(ctx); err != nil {
		return exitHarness, err
	}
	say("the guest is up")
	if o.restricted {
		if err := m.Restrict(ctx); err != nil {
			return exitHarness, err
		}
		say("the guest is restricted")
	}
	for _, dir := range o.copies {
		name, err := nameOf(dir)
		if err != nil {
			return exitHarness, err
		}
		if err := m.CopyIn(ctx, dir, "/mnt/"+name, o.user); err != nil {
			return exitHarness, err
		}
	}
	say("running the script")
	limited, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	code, err = m.Run(limited, vm.Cmd{Program: program, Stdout: stdout, Stderr: stderr})
	var refused *vm.StartError
	switch {
	case errors.As(err, &refused):
		return exitNotStarted, err
	case limited.Err() != nil && ctx.Err() == nil:
		return exitTimeout, fmt.Errorf("the script took longer than %v", o.timeout)
	case err != nil:
		return exitHarness, err
	}
	say("the script ended with status %d", code)
	return code, nil
}

// scriptPath is where a script file lies in the guest.
const scriptPath = "/usr/local/lib/cordon-vm/script"

// plain reports whether the file needs a shell that it does not name itself.
func plain(path string) bool {
	b, err := os.ReadFile(path)
	return err == nil && !strings.HasPrefix(string(b), "#!") && !strings.HasPrefix(string(b), "\x7fELF")
}

func build(ctx context.Context, args []string, stderr io.Writer) (int, error) {
	var kernels []string
	f := flag.NewFlagSet("vm build", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.Func("kernel", "", func(s string) error {
		kernels = append(kernels, s)
		return nil
	})
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		_, err := io.WriteString(stderr, usage)
		return 0, err
	} else if err != nil {
		return exitHarness, fmt.Errorf("%w\n%s", err, usage)
	}
	if f.NArg() > 0 {
		return exitHarness, fmt.Errorf("build takes flags only, not %q", f.Arg(0))
	}
	if kernels == nil {
		kernels = vm.Kernels()
	}
	for _, k := range kernels {
		if err := vm.Build(ctx, k, true, stderr); err != nil {
			return exitHarness, err
		}
	}
	return 0, nil
}
