// Command cordon is all of Cordon in one program: the server, the agent, and the
// verbs that people use.
//
// What belongs to the server and what belongs to the agent is wired in a package
// each, so that neither has anything of the other.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"golang.org/x/term"

	"github.com/cordon-project/cordon/cmd/cordon/agentcmd"
	"github.com/cordon-project/cordon/cmd/cordon/servercmd"
	"github.com/cordon-project/cordon/internal/cli"
)

// grammar is the whole command line.
type grammar struct {
	Server servercmd.Cmd `cmd:"" help:"Run the server, or check its configuration."`
	Agent  agentcmd.Cmd  `cmd:"" help:"Run the agent on this machine, or talk to the one that runs."`
	cli.Verbs
	Simulate servercmd.Simulate `cmd:"" help:"Run a server with simulated machines, to test programs against."`
	Version  versionCmd         `cmd:"" help:"Print the version."`
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends a process that hangs
	env := &cli.Env{Stdout: os.Stdout, Stderr: os.Stderr, Terminal: term.IsTerminal(int(os.Stderr.Fd())), Getenv: os.Getenv, Version: version()}
	code := cli.Run(ctx, new(grammar), os.Args[1:], env, servercmd.Vars)
	stop()
	os.Exit(code)
}

type versionCmd struct{}

// Run prints the version.
func (versionCmd) Run(env *cli.Env) error {
	_, err := fmt.Fprintln(env.Stdout, "cordon", env.Version)
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
