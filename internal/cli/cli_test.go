package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode"

	"github.com/alecthomas/kong"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cordon-project/cordon"
)

// The whole command as the tests know it.
type root struct{ Verbs }

// TestMain makes the test binary the command "cordon" in scripts. Its clock
// passes only when somebody sleeps; with TEST_CLOCK=stopped a sleep lasts until
// the interrupt. TEST_TERMINAL makes it believe that it has one.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"cordon": func() {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		defer stop()
		now := epoch
		os.Exit(Run(ctx, new(root), os.Args[1:], &Env{
			Stdout: os.Stdout, Stderr: os.Stderr, Terminal: os.Getenv("TEST_TERMINAL") != "", Getenv: os.Getenv,
			Now: func() time.Time { return now },
			Sleep: func(ctx context.Context, d time.Duration) error {
				if os.Getenv("TEST_CLOCK") == "stopped" {
					<-ctx.Done()
				}
				now = now.Add(d)
				return context.Cause(ctx)
			},
			Jitter: func() float64 { return 0 },
		}))
	}})
}

type fakeKey struct{}

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata", UpdateScripts: os.Getenv("UPDATE") != "",
		Setup: func(e *testscript.Env) error {
			f := newFake()
			e.Defer(f.release)
			e.Values[fakeKey{}] = f
			e.Defer(f.Close)
			e.Setenv("CORDON_PROFILE", "bootstrap.json")
			e.Setenv("URL", f.URL)
			for _, m := range f.machines {
				e.Setenv(strings.ToUpper(regexp.MustCompile(`^[a-z]+`).FindString(*m.ComputerDNSName)), m.ID)
			}
			e.Setenv("DEVICE", *f.machines[0].AADDeviceID)
			return f.writeProfile(e.WorkDir)
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":     exits,
			"interrupt": interrupt,
			"fake":      control,
		},
	})
}

// exits runs a command and checks its exit code: exits CODE COMMAND ARG...
func exits(ts *testscript.TestScript, _ bool, args []string) {
	err := ts.Exec(args[1], args[2:]...)
	checkExit(ts, args[0], err)
}

func checkExit(ts *testscript.TestScript, want string, err error) {
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if strconv.Itoa(got) != want {
		ts.Fatalf("exit code %d, want %s", got, want)
	}
}

// interrupt runs a command, interrupts it when its output matches, and checks
// its exit code: interrupt REGEXP CODE COMMAND ARG...
func interrupt(ts *testscript.TestScript, _ bool, args []string) {
	cmd := exec.Command(lookPath(ts, args[2]), args[3:]...)
	cmd.Dir = ts.MkAbs(".")
	cmd.Env = append(os.Environ(), "CORDON_PROFILE="+ts.Getenv("CORDON_PROFILE"), "TEST_CLOCK="+ts.Getenv("TEST_CLOCK"), "TEST_TERMINAL="+ts.Getenv("TEST_TERMINAL"))
	w := &waiter{pattern: regexp.MustCompile(args[0]), matched: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = io.MultiWriter(ts.Stdout(), w), io.MultiWriter(ts.Stderr(), w)
	ts.Check(cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-w.matched:
		ts.Check(cmd.Process.Signal(os.Interrupt))
		checkExit(ts, args[1], <-ended)
	case err := <-ended:
		ts.Fatalf("it ended before its output matched: %v", err)
	}
}

func lookPath(ts *testscript.TestScript, name string) string {
	for dir := range strings.SplitSeq(ts.Getenv("PATH"), string(os.PathListSeparator)) {
		if _, err := os.Stat(dir + "/" + name); err == nil {
			return dir + "/" + name
		}
	}
	ts.Fatalf("no command %s", name)
	return ""
}

// waiter closes matched when what was written to it matches the pattern.
type waiter struct {
	pattern *regexp.Regexp
	matched chan struct{}
	mu      sync.Mutex
	text    []byte
	done    bool
}

func (w *waiter) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.text = append(w.text, p...)
	if !w.done && w.pattern.Match(w.text) {
		w.done = true
		close(w.matched)
	}
	return len(p), nil
}

// control changes the fake server: fake down | trouble WHAT | roles ROLE... |
// posts N | forge
func control(ts *testscript.TestScript, _ bool, args []string) {
	f := ts.Value(fakeKey{}).(*fake)
	if args[0] == "down" {
		f.Close()
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch args[0] {
	case "trouble":
		f.trouble = args[1]
	case "roles":
		f.roles = args[1:]
	case "posts":
		if strconv.Itoa(f.posts) != args[1] {
			ts.Fatalf("%d actions were created, want %s", f.posts, args[1])
		}
	case "freed": // somebody used a release at the first machine
		o := &f.machines[0].state.Observed
		o.Generation, o.Order, o.Action = 4, cordon.BreakGlass, "7a26e700-0000-8000-8000-000000000001"
	case "leased", "lapsed", "stranded": // how the fourth machine stands with a lease of a day
		o := &f.machines[3].state.Observed
		o.Mode, o.ClockOffset, o.Lease = cordon.ModeEnforce, 0, cordon.LeaseState{Action: "a", Seconds: 86400, Silent: 90}
		switch args[0] {
		case "lapsed":
			o.Mode, o.Lease.Silent, o.Lease.Lapsed, o.ClockOffset = cordon.ModeAudit, 86400, true, time.Hour.Milliseconds()
		case "stranded":
			f.machines[3].LastSeen = epoch.Add(-48 * time.Hour)
		}
	case "forge": // the server says Succeeded without a report
		a := f.actions[len(f.actions)-1]
		f.deliver(a)
		a.Status = "Succeeded"
	default:
		ts.Fatalf("unknown: %v", args)
	}
}

// TestHelp holds the help of every command, flag and argument to one style.
func TestHelp(t *testing.T) {
	parser, err := newParser(new(root))
	if err != nil {
		t.Fatal(err)
	}
	sentence := func(path, help string) {
		t.Helper()
		first, _ := firstRune(help)
		if !unicode.IsUpper(first) || !strings.HasSuffix(help, ".") || strings.Contains(help, "..") || strings.Contains(help, "\n") {
			t.Errorf("%s: the help %q is not one sentence after the other", path, help)
		}
		if len(help) > 130 {
			t.Errorf("%s: the help has %d characters, which is for the Help method", path, len(help))
		}
	}
	commands := 0
	err = kong.Visit(parser.Model, func(n kong.Visitable, next kong.Next) error {
		switch n := n.(type) {
		case *kong.Application:
			sentence("cordon", n.Help)
		case *kong.Node:
			commands++
			sentence(n.FullPath(), n.Help)
			for _, arg := range n.Positional {
				sentence(n.FullPath()+" "+arg.Name, arg.Help)
			}
			var out bytes.Buffer
			if code := Run(t.Context(), new(root), append(strings.Fields(n.Path()), "--help"), &Env{Stdout: &out, Stderr: &out}); code != ExitOK {
				t.Errorf("%s --help exits with %d", n.FullPath(), code)
			}
			if text := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(text, n.Help) || n.Leaf() && !strings.Contains(text, "--json") {
				t.Errorf("%s --help prints\n%s", n.FullPath(), out.String())
			}
		case *kong.Flag:
			sentence("--"+n.Name, n.Help)
			if !n.IsBool() && n.PlaceHolder == "" {
				t.Errorf("--%s has no name for its value", n.Name)
			}
		}
		return next(nil)
	})
	if err != nil || commands != 44 {
		t.Errorf("walked %d commands: %v", commands, err)
	}
}

func firstRune(s string) (rune, bool) {
	for _, r := range s {
		return r, true
	}
	return 0, false
}

// TestExitCodesAreDocumented compares the constants with the help.
func TestExitCodesAreDocumented(t *testing.T) {
	var documented []int
	for line := range strings.Lines(Verbs{}.Help()) {
		var n int
		if _, err := fmt.Sscanf(line, "    %d ", &n); err == nil {
			documented = append(documented, n)
		}
	}
	want := []int{ExitOK, ExitInternal, ExitUsage, ExitDenied, ExitNotFound, ExitConflict, ExitUnavailable, ExitActionFailed, ExitStillOpen, ExitNotProven, ExitInterrupted}
	if !slices.Equal(documented, want) {
		t.Errorf("documented are %v, want %v", documented, want)
	}
}

// failing is a verb of another package.
type failing struct {
	Other struct {
		Fail failVerb `cmd:"" help:"Fail."`
	} `cmd:"" help:"Other."`
}

type failVerb struct{}

type failure struct{ err error }

// Run fails as the test says.
func (f *failVerb) Run(with *failure) error { return with.err }

// TestErrorsOfOtherVerbs gives Run what the server and agent verbs return.
func TestErrorsOfOtherVerbs(t *testing.T) {
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range errorCases() {
		ctx := t.Context()
		if test.interrupted {
			ctx = stopped
		}
		var out, said bytes.Buffer
		code := Run(ctx, new(failing), []string{"other", "fail"}, &Env{Stdout: &out, Stderr: &said}, kong.Bind(&failure{test.err}))
		if code != test.code || said.String() != test.said || out.Len() > 0 {
			t.Errorf("%v: exit code %d, want %d, said %q", test.err, code, test.code, said.String())
		}
	}
}

// TestNothingIsSentInTheClear has a profile with an http address.
func TestNothingIsSentInTheClear(t *testing.T) {
	vars := map[string]string{"CORDON_URL": "http://cordon.example.org", "CORDON_TENANT_ID": "t", "CORDON_CLIENT_ID": "c", "CORDON_CLIENT_SECRET": "s"}
	var said bytes.Buffer
	code := Run(t.Context(), new(root), []string{"machines", "list"}, &Env{Stdout: io.Discard, Stderr: &said, Getenv: func(k string) string { return vars[k] }})
	if code != ExitUsage || !strings.Contains(said.String(), "unencrypted") {
		t.Errorf("exit code %d, said %s", code, said.String())
	}
}
