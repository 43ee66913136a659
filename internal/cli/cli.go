// Package cli is Cordon's command line for people: the verbs that call a server
// as a client, and the way every verb of the command speaks, fails and exits.
//
// # What it owns
//
// [Verbs] is embedded in the grammar of the command (kong); [Run] parses,
// runs and turns what went wrong into a sentence, a hint and one of the Exit
// codes. The verbs themselves are thin callers of package mde.
//
// # What it promises
//
// Data goes to standard output and nothing else does; with --json it is JSON:
// one object, one array, or for "actions watch" one object on each line, and
// nothing at all if there is no answer. Prose goes to standard error. What the
// network sent is printed to people with control characters escaped.
//
// The package touches nothing but what [Env] gives it and the files that its
// arguments name. It starts no goroutine and never exits the process. An
// interrupt (the end of the context) stops the waiting, never the action.
package cli

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"regexp"
	"time"

	"github.com/alecthomas/kong"
)

// Verbs are the client verbs, to be embedded in the grammar of the command.
type Verbs struct {
	Machines   MachinesCmd   `cmd:"" help:"List, show, find and label machines."`
	Restrict   RestrictCmd   `cmd:"" help:"Let only trusted programs run on a machine."`
	Unrestrict UnrestrictCmd `cmd:"" help:"Let any program run on a machine again."`
	Actions    ActionsCmd    `cmd:"" help:"List, show, follow, cancel and verify machine actions."`
	Apps       AppsCmd       `cmd:"" help:"Manage the applications that may call the server."`
	Trust      TrustCmd      `cmd:"" help:"Have machines trust files by their SHA-256, whatever packages say."`
	Groups     GroupsCmd     `cmd:"" help:"Manage device groups, for which files can be trusted."`
	Audit      AuditCmd      `cmd:"" help:"Read who changed what: applications, trust, groups, labels, releases."`
	BreakGlass BreakGlassCmd `cmd:"" help:"Sign a release for one machine, to be used there without a network."`
}

// Help is shown by the help of the whole command.
func (Verbs) Help() string {
	return `The verbs that call a server take its address and their credentials from a profile, which is the bootstrap.json that a server writes at its first start (--profile FILE or CORDON_PROFILE), and from CORDON_URL, CORDON_CA_FILE, CORDON_TENANT_ID, CORDON_CLIENT_ID and CORDON_CLIENT_SECRET, which override it.

A machine is named by its id, its device id or its DNS name.

Exit codes:

    0    done
    1    something unexpected
    2    wrong usage, or input that the server does not take
    3    not authenticated, or not permitted
    4    no such machine, action, group or application
    5    conflict: such an action is in progress, or it has already ended; nobody could manage applications; there is such a group, or it is in use
    6    the server cannot be reached, is unavailable, or throttles
    7    the action ended Failed, TimeOut or Cancelled (--wait, actions watch ID)
    8    the action was still open when --timeout was over
    9    not proven (actions verify)
    130  interrupted; an action that was begun goes on`
}

// The exit codes of the command. They are stable.
const (
	ExitOK           = 0
	ExitInternal     = 1
	ExitUsage        = 2
	ExitDenied       = 3
	ExitNotFound     = 4
	ExitConflict     = 5
	ExitUnavailable  = 6
	ExitActionFailed = 7
	ExitStillOpen    = 8
	ExitNotProven    = 9
	ExitInterrupted  = 130
)

// Env is all that the verbs know of the world around them.
type Env struct {
	Stdout, Stderr io.Writer
	// Terminal is whether Stderr is a terminal; only there progress is shown.
	Terminal bool
	Getenv   func(string) string
	Version  string // of this program

	// The clock and the dice, as in mde.Config; nil: the real ones.
	Now    func() time.Time
	Sleep  func(ctx context.Context, d time.Duration) error
	Jitter func() float64
}

// Log is the log of a daemon: text on standard error.
func (env *Env) Log() *slog.Logger { return slog.New(slog.NewTextHandler(env.Stderr, nil)) }

func (env *Env) now() time.Time {
	if env.Now == nil {
		return time.Now()
	}
	return env.Now()
}

// Run is the whole command: it parses args into grammar, a pointer to a struct
// that embeds [Verbs], runs the verb that they select, and returns the exit code. A
// verb's Run method may take a [context.Context], an [*Env], and what options
// bind. What it returns is said on standard error, see [Error].
func Run(ctx context.Context, grammar any, args []string, env *Env, options ...kong.Option) int {
	err := run(ctx, grammar, args, env, options)
	if err == nil {
		return ExitOK
	}
	e := describe(ctx, err)
	env.report(e)
	return e.Code
}

func run(ctx context.Context, grammar any, args []string, env *Env, options []kong.Option) error {
	helped := false
	parser, err := newParser(grammar, append([]kong.Option{
		kong.Writers(env.Stdout, env.Stderr),
		kong.Exit(func(int) { helped = true }),
		kong.BindTo(ctx, (*context.Context)(nil)),
		kong.Bind(env),
	}, options...)...)
	if err != nil {
		return err
	}
	selected, err := parser.Parse(args)
	if helped { // kong goes on parsing after it has printed the help
		return nil
	}
	var wrong *kong.ParseError
	if errors.As(err, &wrong) {
		hint := "see " + command(wrong.Context) + " --help"
		if format.MatchString(wrong.Error()) {
			hint = "--json prints JSON; " + hint
		}
		return &Error{Code: ExitUsage, Message: wrong.Error(), Hint: hint}
	}
	if err != nil {
		return err
	}
	return selected.Run()
}

// format finds who asks for JSON in the way of other tools. Here --output is
// where it exists the file to write to, so it cannot mean a format elsewhere.
var format = regexp.MustCompile(`^unknown flag (-o|--output)\b`)

func newParser(grammar any, options ...kong.Option) (*kong.Kong, error) {
	return kong.New(grammar, append([]kong.Option{
		kong.Name("cordon"),
		kong.Description("Cordon lets only trusted programs run on a machine, from the moment you say so until you take it back."),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
	}, options...)...)
}

// command returns as much of the command as was understood.
func command(c *kong.Context) string {
	if c == nil {
		return "cordon"
	}
	for i := len(c.Path) - 1; i >= 0; i-- {
		if c.Path[i].Command != nil {
			return c.Path[i].Command.FullPath()
		}
	}
	return c.Model.Name
}

// common are the flags of every verb that calls a server.
type common struct {
	Profile string `placeholder:"FILE" help:"Take the server's address and the credentials from this bootstrap.json."`
	JSON    bool   `name:"json" help:"Print JSON instead of text."`
}
