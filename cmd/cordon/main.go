// Command cordon is all of Cordon in one program: the server, the agent, and the
// verbs that people use.
//
// This package only wires: it reads flags, makes the parts, and hands them to
// each other. It is the one place that knows all of them.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/alecthomas/kong"
	"golang.org/x/term"

	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/config"
)

// grammar is the whole command line.
type grammar struct {
	Server serverCmd `cmd:"" help:"Run the server, or check its configuration."`
	Agent  agentCmd  `cmd:"" help:"Run the agent on this machine, or talk to the one that runs."`
	cli.Verbs
	Simulate simulateCmd `cmd:"" help:"Run a server with simulated machines, to test programs against."`
	Version  versionCmd  `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends a process that hangs
	env := &cli.Env{Stdout: os.Stdout, Stderr: os.Stderr, Terminal: term.IsTerminal(int(os.Stderr.Fd())), Getenv: os.Getenv}
	code := cli.Run(ctx, new(grammar), os.Args[1:], env, kong.Vars{"default_listen": config.DefaultListen})
	stop()
	os.Exit(code)
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(env *cli.Env) error {
	_, err := fmt.Fprintln(env.Stdout, "cordon", version())
	return err
}

// packaged is the version of the package that the program was built for; make
// packages sets it.
var packaged string

// version is the package's version or the module's where the program was built as
// one, else the revision that it was built from.
func version() string {
	if packaged != "" {
		return packaged
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "0.1.0-dev+" + s.Value[:12]
		}
	}
	return "0.1.0-dev"
}

// newLog makes the log of a daemon: text on standard error.
func newLog(env *cli.Env) *slog.Logger {
	return slog.New(slog.NewTextHandler(env.Stderr, nil))
}
