package agentcmd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/local"
)

// The verbs that package managers call.

type agentAdmit struct {
	agentDir
	Dpkg  bool     `name:"dpkg" help:"Admit what the dpkg that runs this as its pre-invoke hook is about to unpack."`
	Files []string `arg:"" optional:"" name:"file" help:"Package archives (.deb, .rpm); - for a list on standard input, one path a line, as apt's DPkg::Pre-Install-Pkgs gives it."`
}

// Help says what is admitted.
func (agentAdmit) Help() string {
	return `A .deb is admitted if one of apt's package lists has its SHA-256, and the list is signed by a key that the machine had when it was restricted; an .rpm if such a key has signed its header; both if the server trusts their SHA-256 (cordon trust add). apt, dpkg and dnf (4) ask by themselves; rpm does not. On a machine that is not restricted there is nothing to do.`
}

// Run asks the agent. A package manager must go on where there is nothing to
// admit, so an agent that does not run is an error only on a restricted machine.
func (c agentAdmit) Run(ctx context.Context, env *cli.Env) error {
	if c.Dpkg && slices.Contains([]string{"configure", "triggers-only"}, os.Getenv("DPKG_HOOK_ACTION")) {
		// What it has unpacked is about to run. It is trusted or not, whether the agent answers or not.
		_, _ = local.Dial(c.DataDir).Admit(ctx, nil)
		return nil
	}
	paths, err := c.paths()
	if err != nil || len(paths) == 0 {
		return err
	}
	r, err := local.Dial(c.DataDir).Admit(ctx, paths)
	if err != nil {
		s, perr := restriction(c.DataDir)
		if perr == nil && s == nil {
			return nil
		}
		return &cli.Error{
			Code: cli.ExitUnavailable, Message: errors.Join(err, perr).Error(),
			Hint: "this machine is restricted, and only its agent can admit packages: see \"systemctl status cordon-agent\" and try again",
		}
	}
	if r.Error != "" {
		return &cli.Error{Code: cli.ExitDenied, Message: r.Error}
	}
	return nil
}

func (c agentAdmit) paths() ([]string, error) {
	if c.Dpkg {
		return dpkgArchives(os.Getenv("DPKG_HOOK_ACTION"), os.Getppid())
	}
	if len(c.Files) == 0 {
		return nil, &cli.Error{Code: cli.ExitUsage, Message: "no package archive was named", Hint: "cordon agent admit FILE.deb"}
	}
	var paths []string
	for _, f := range c.Files {
		if f != "-" {
			abs, err := filepath.Abs(f)
			if err != nil {
				return nil, fmt.Errorf("find %s: %w", f, err)
			}
			paths = append(paths, abs)
			continue
		}
		lines := bufio.NewScanner(os.Stdin)
		for lines.Scan() {
			if lines.Text() != "" {
				paths = append(paths, lines.Text())
			}
		}
		if err := lines.Err(); err != nil {
			return nil, fmt.Errorf("read the list of archives: %w", err)
		}
	}
	return paths, nil
}

// dpkgArchives returns the archives that a dpkg unpacks: it tells its hook what it
// does, but not with which files (dpkg(1), --pre-invoke), so they are read from
// its command line. pid is the hook's parent, dpkg itself or its shell. This helps
// who installs a package not to break the machine; it is no barrier, and need not
// be: what nobody admitted does not run.
func dpkgArchives(action string, pid int) ([]string, error) {
	if action != "install" && action != "unpack" {
		return nil, nil
	}
	for range 3 {
		proc := fmt.Sprintf("/proc/%d", pid)
		comm, err := os.ReadFile(proc + "/comm")
		if err != nil {
			return nil, fmt.Errorf("find dpkg: %w", err)
		}
		if string(comm) != "dpkg\n" {
			stat, err := os.ReadFile(proc + "/stat")
			if err != nil {
				return nil, fmt.Errorf("find dpkg: %w", err)
			}
			if pid, err = parentIn(string(stat)); err != nil {
				return nil, fmt.Errorf("find dpkg: %w", err)
			}
			continue
		}
		line, err := os.ReadFile(proc + "/cmdline")
		if err != nil {
			return nil, fmt.Errorf("read dpkg's command line: %w", err)
		}
		dir, err := os.Readlink(proc + "/cwd")
		if err != nil {
			return nil, fmt.Errorf("find dpkg's directory: %w", err)
		}
		return archivesIn(dir, strings.Split(strings.TrimRight(string(line), "\x00"), "\x00")[1:])
	}
	return nil, errors.New("find dpkg: it is not among the parents of this process; --dpkg is for dpkg's pre-invoke hook")
}

// parentIn returns the parent in a proc_pid_stat(5): a number, a name in
// parentheses that the process has chosen, its state, its parent.
func parentIn(stat string) (pid int, err error) {
	var state string
	_, err = fmt.Sscan(stat[strings.LastIndexByte(stat, ')')+1:], &state, &pid)
	return pid, err
}

// archivesIn returns the files among a dpkg's arguments, and the archives in
// its directories.
func archivesIn(dir string, args []string) ([]string, error) {
	var paths []string
	for _, arg := range args {
		if strings.HasPrefix(arg, "-") {
			continue
		}
		if !filepath.IsAbs(arg) {
			arg = filepath.Join(dir, arg)
		}
		st, err := os.Stat(arg)
		if err != nil {
			continue // an option's value, or dpkg will say it
		}
		if !st.IsDir() {
			paths = append(paths, arg)
			continue
		}
		err = filepath.WalkDir(arg, func(path string, d fs.DirEntry, err error) error {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, ".deb") { // as dpkg does with --recursive
				paths = append(paths, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("look for archives: %w", err)
		}
	}
	return paths, nil
}

// restriction returns how the machine stands by what its agent has persisted, if
// it is restricted or may be, whether the agent runs or not. A restriction whose
// lease lapsed is none (ADR 0020); while it lapses it may still be in force.
func restriction(dataDir string) (*cordon.Standing, error) {
	s, err := disk.Persisted(dataDir)
	if err != nil {
		return nil, err
	}
	unfinished := s.Outcome == "" && s.Previous == cordon.ModeEnforce
	if s.Mode != cordon.ModeEnforce && !unfinished && !s.Lease.Open {
		return nil, nil
	}
	return &s, nil
}

type agentCheckRemoval struct{ agentDir }

// Run looks at what the agent has persisted, whether it runs or not.
func (c agentCheckRemoval) Run() error {
	s, err := restriction(c.DataDir)
	if err != nil || s == nil {
		return err
	}
	return &cli.Error{
		Code:    cli.ExitConflict,
		Message: fmt.Sprintf("this machine is restricted (generation %d, action %s), and stays so only with its agent", s.Generation, s.Action),
		Hint:    "unrestrict it first, then remove the agent",
	}
}
