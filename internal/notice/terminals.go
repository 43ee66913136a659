package notice

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// process is what the kernel says of one.
type process struct {
	parent   int
	terminal int // its number, 0: none
}

// terminalsBelow returns the terminals at which the processes that leader has
// started are. It is for logins that tell logind no terminal because they have
// none yet: those of sshd. Whoever has a terminal may have made others, which are
// shown on it.
func terminalsBelow(leader int, all map[int]process) []string {
	started := map[int][]int{}
	for pid, p := range all {
		started[p.parent] = append(started[p.parent], pid)
	}
	at := map[string]bool{}
	for todo, seen := []int{leader}, map[int]bool{}; len(todo) > 0; todo = todo[1:] {
		pid := todo[0]
		if seen[pid] { // numbers are used again while we look
			continue
		}
		seen[pid] = true
		if n := all[pid].terminal; n != 0 {
			if name := pts(n); name != "" {
				at[name] = true
			}
			continue
		}
		todo = append(todo, started[pid]...)
	}
	return slices.Sorted(maps.Keys(at))
}

// pts returns the name of the pseudo-terminal with a device number as in
// proc_pid_stat(5), empty if it is none.
func pts(n int) string {
	major, minor := n>>8&0xfff, n&0xff|n>>12&0xfff00
	if major < 136 || major > 143 { // UNIX98 slaves (devices.txt of the kernel)
		return ""
	}
	return fmt.Sprintf("pts/%d", (major-136)<<8+minor)
}

// processes reads all of a proc(5). Who ends meanwhile may be missing.
func processes(proc string) (map[int]process, error) {
	dirs, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	all := map[int]process{}
	for _, d := range dirs {
		pid, err := strconv.Atoi(d.Name())
		if err != nil {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(proc, d.Name(), "stat"))
		if err != nil {
			continue
		}
		if p, err := parseStat(string(stat)); err == nil {
			all[pid] = p
		}
	}
	return all, nil
}

// parseStat reads proc_pid_stat(5): a number, a name in parentheses that the
// process has chosen, its state, parent, group, session, terminal.
func parseStat(stat string) (p process, err error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 5 {
		return p, errors.New("it is too short")
	}
	p.parent, err = strconv.Atoi(fields[1])
	if err == nil {
		p.terminal, err = strconv.Atoi(fields[4])
	}
	return p, err
}
