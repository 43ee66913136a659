package main

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/enforce/bpflsm"
	"github.com/cordon-project/cordon/internal/enforce/fanotify"
)

// The agent is a program of its own, as the guard knows an agent by its content.
const (
	agentProgram = "/agent"
	agentHome    = "/run/agent"
	trustList    = "/trusted/list" // a path a line
)

// The mechanisms: what enforces.
const (
	bpf       = "bpf"
	notify    = "fanotify"
	fapolicyd = "fapolicyd"
)

// agentMain enforces as it is told on standard input and answers each line.
func agentMain(mechanism string) error {
	set, err := trustSet()
	if err != nil {
		return err
	}
	e, err := openEnforcer(mechanism)
	if err != nil {
		return err
	}
	if err := showAll(e); err != nil {
		return err
	}
	fmt.Println("ok 0")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		var err error
		switch what, path, _ := strings.Cut(in.Text(), " "); what {
		case "enforce":
			err = e.Apply(cordon.ModeEnforce, set)
		case "off":
			err = e.Apply(cordon.ModeOff, nil)
		case "show":
			err = show(e, path)
		}
		if err != nil {
			return err
		}
		fmt.Println("ok", e.Stats().Refused)
	}
	return e.Close()
}

func openEnforcer(mechanism string) (enforce.Enforcer, error) {
	if mechanism == notify {
		if err := os.Setenv(roleVar, "guardian"); err != nil {
			return nil, err
		}
		g, err := enforce.StartGuardian(agentProgram)
		if err != nil {
			return nil, err
		}
		if err := g.Leave(); err != nil {
			return nil, err
		}
		e, err := fanotify.Open(enforce.Scope{}, slog.Default())
		if err != nil {
			return nil, err
		}
		go func() { _ = enforce.Watch(g, e.Beat) }() // ends with the guardian
		return e, nil
	}
	return bpflsm.Open(bpflsm.Config{Log: slog.Default(), Pins: bpflsm.Pins, Home: agentHome, DenyAnonymous: mechanism == bpf+"-strict", TrustedScripts: true})
}

// show shows an enforcer a text that interpreters may run, if that is its way.
func show(e enforce.Enforcer, path string) error {
	if l, ok := e.(interface{ Learn(path string) error }); ok {
		return l.Learn(path)
	}
	return nil
}

func showAll(e enforce.Enforcer) error {
	list, err := os.ReadFile(trustList)
	if err != nil {
		return err
	}
	for path := range strings.FieldsSeq(string(list)) {
		if cordon.IsProgramText(path) {
			err = errors.Join(err, show(e, path))
		}
	}
	return err
}

func trustSet() (*cordon.TrustSet, error) {
	list, err := os.ReadFile(trustList)
	if err != nil {
		return nil, err
	}
	var entries []cordon.TrustEntry
	for path := range strings.FieldsSeq(string(list)) {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		e := cordon.TrustEntry{Digest: sha256.Sum256(b), Size: int64(len(b)), Origin: "rule:bypass", Role: cordon.RoleOf(filepath.Base(path))}
		if path == agentProgram {
			e.Origin = "cordon"
		}
		entries = append(entries, e)
	}
	return cordon.NewTrustSet(entries, nil), nil
}

// enforcer is a process that enforces: an agent, or fapolicyd.
type enforcer struct {
	mechanism string
	cgroup    string // the agent's alone
	cmd       *exec.Cmd
	in        io.WriteCloser
	out       *bufio.Scanner
	enforcing bool
}

func startEnforcer(mechanism string) (*enforcer, error) {
	// Attempts before changed what is trusted.
	if err := errors.Join(makeVictims(), os.MkdirAll(agentHome, 0o700), makeState()); err != nil {
		return nil, err
	}
	// A new one each time: what is started into one whose processes were killed is killed (seen on 6.12).
	group, err := os.MkdirTemp("/sys/fs/cgroup", "agent")
	if err != nil {
		return nil, err
	}
	e := &enforcer{mechanism: mechanism, cgroup: group, cmd: exec.Command(agentProgram)}
	if mechanism == fapolicyd {
		return e, e.startFapolicyd()
	}
	e.cmd.Env = append(os.Environ(), roleVar+"=agent:"+mechanism)
	e.cmd.Stderr = os.Stderr
	cgroup, err := os.Open(group)
	if err != nil {
		return nil, err
	}
	defer func() { _ = cgroup.Close() }()
	e.cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(cgroup.Fd())}
	out, err := e.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if e.in, err = e.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	e.out = bufio.NewScanner(out)
	_, err = e.answer()
	return e, err
}

// makeState makes a file in the agent's data directory, to be attacked; an enforcer may be there that forbids it.
func makeState() error {
	if err := os.WriteFile(agentHome+"/state", nil, 0o600); !errors.Is(err, fs.ErrPermission) {
		return err
	}
	return nil
}

func (e *enforcer) answer() (int, error) {
	if !e.out.Scan() {
		return 0, fmt.Errorf("the agent ended: %w", e.cmd.Wait())
	}
	n, ok := strings.CutPrefix(e.out.Text(), "ok ")
	if !ok {
		return 0, errors.New("the agent said: " + e.out.Text())
	}
	return strconv.Atoi(n)
}

// tell has the agent do something and returns its count of refusals.
func (e *enforcer) tell(what string) (int, error) {
	if _, err := io.WriteString(e.in, what+"\n"); err != nil {
		return 0, err
	}
	e.enforcing = e.enforcing || what == "enforce"
	return e.answer()
}

// refusals returns the count, and anyNumber if it is not known.
func (e *enforcer) refusals() int {
	if e == nil || e.mechanism == fapolicyd {
		return anyNumber
	}
	n, err := e.tell("count")
	if err != nil {
		return anyNumber
	}
	return n
}

func (e *enforcer) pid() int { return e.cmd.Process.Pid }

// alive reports whether it runs: neither ended, nor stopped, nor frozen.
func (e *enforcer) alive() bool {
	if frozen, _ := os.ReadFile(e.cgroup + "/cgroup.freeze"); strings.TrimSpace(string(frozen)) == "1" {
		return false
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", e.pid()))
	if err != nil {
		return false
	}
	_, rest, _ := strings.Cut(string(stat), ") ")
	return !strings.ContainsAny(rest[:1], "TtZX")
}

// kill ends it whatever its state, so that nobody waits for it. It returns when it is gone.
func (e *enforcer) kill() {
	_ = os.WriteFile(e.cgroup+"/cgroup.freeze", []byte("0"), 0) // may be refused
	_ = unix.Kill(e.pid(), unix.SIGKILL)
	_ = unix.Kill(e.pid(), unix.SIGCONT)
	_ = e.cmd.Wait()
}

// stop releases the machine and ends the agent.
func (e *enforcer) stop() error {
	if e.mechanism == fapolicyd {
		e.kill()
		return nil
	}
	_, err := e.tell("off")
	return errors.Join(err, e.in.Close(), e.cmd.Wait())
}

// pins returns the directory in which an agent has its pins.
func pins() (string, error) {
	dirs, err := os.ReadDir(bpflsm.Pins)
	if err != nil || len(dirs) == 0 {
		return "", errors.Join(errors.New("no pins"), err)
	}
	return filepath.Join(bpflsm.Pins, dirs[0].Name()), nil
}
