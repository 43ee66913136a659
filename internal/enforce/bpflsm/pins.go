package bpflsm

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
)

// Pins is where the programs of an enforcer for the whole machine are kept, so
// that they outlive the process that loaded them. Each enforcer has a directory
// of its own in it, with a name for each link and the map of settings.
const Pins = "/sys/fs/bpf/cordon"

const (
	pinnedSettings = "settings"
	pinnedRuns     = "runs1"  // what processes interpret; another name whenever struct run is another
	pinnedDisks    = "disks1" // another name whenever enum disk means something else
)

// pinnedMaps are the names of the pins of maps, by those of the maps.
var pinnedMaps = map[string]string{"settings": pinnedSettings, "sets": "sets", "runs": pinnedRuns, "disks": pinnedDisks, "written": "written"}

// elder is an enforcer of an earlier process that may still be in force. It is
// never taken over, only replaced: its programs stay attached beside the new ones until
// the new ones are in force, so that both must allow. So whatever somebody has
// put there can make the machine stricter for a while, and nothing else.
type elder struct {
	dir       string
	maps      map[string]*ebpf.Map // like pinnedMaps; nil if it never came so far, or is older than such a pin
	enforcing bool
}

// LeftInForce reports whether the programs of an earlier agent, pinned at pins,
// restrict this machine. Then nothing lifts that but a reboot, or an enforcer with
// these pins.
func LeftInForce(pins string) (bool, error) {
	dirs, err := os.ReadDir(pins)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EACCES) { // nobody but root looks into a BPF file system, or restricts
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for pins: %w", err)
	}
	for _, d := range dirs {
		settings, err := ebpf.LoadPinnedMap(filepath.Join(pins, d.Name(), pinnedSettings), &ebpf.LoadPinOptions{ReadOnly: true})
		if errors.Is(err, fs.ErrNotExist) { // it may have ended before it had pinned all
			continue
		}
		if err != nil {
			return false, fmt.Errorf("read the pins of an earlier agent: %w", err)
		}
		var w uint64
		if err := errors.Join(settings.Lookup(settingWord, &w), settings.Close()); err != nil {
			return false, fmt.Errorf("read the pins of an earlier agent: %w", err)
		}
		if word(w).mode() == cordon.ModeEnforce {
			return true, nil
		}
	}
	return false, nil
}

// findElders finds what earlier processes left.
func (e *Enforcer) findElders() error {
	dirs, err := os.ReadDir(e.cfg.Pins)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look for pins: %w", err)
	}
	for _, d := range dirs {
		if !d.IsDir() {
			continue
		}
		old := elder{dir: filepath.Join(e.cfg.Pins, d.Name()), maps: make(map[string]*ebpf.Map)}
		for name, pin := range pinnedMaps {
			m, unread := pinnedMap(old.dir, pin)
			old.maps[name], err = m, errors.Join(err, unread)
		}
		if settings := old.maps["settings"]; err == nil && settings != nil {
			old.enforcing, err = e.examine(settings)
		}
		e.elders = append(e.elders, old)
		if err != nil {
			return fmt.Errorf("read the pins of an earlier agent: %w", err)
		}
	}
	return nil
}

// pinnedMap returns nil if it is not there: an earlier process may have ended
// before it had pinned all, or restricts nothing and does not know this program.
func pinnedMap(dir, name string) (*ebpf.Map, error) {
	m, err := ebpf.LoadPinnedMap(filepath.Join(dir, name), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return m, err
}

// examine refuses to replace what another agent restricted: this program, with
// a directory of somebody's choice, must not be a way to lift a restriction.
func (e *Enforcer) examine(settings *ebpf.Map) (enforcing bool, err error) {
	var w, dev, file uint64
	err = errors.Join(settings.Lookup(settingWord, &w), settings.Lookup(settingHome, &dev), settings.Lookup(settingHomeFile, &file))
	enforcing = word(w).mode() == cordon.ModeEnforce
	if err == nil && enforcing && (dev != e.home[0] || file != e.home[1]) {
		err = errors.New("this machine is restricted by an agent with another data directory: start this program with that one")
	}
	return enforcing, err
}

// lingering is how long the programs of an elder stay loaded after they were
// detached. Who was in a hook meanwhile, and waits there in one of ours for a file
// to be hashed, calls those of the elder afterwards, whether or not they still are:
// see attached. The kernel waits for such tasks with what calls the programs, but
// with the programs themselves only until each processor has moved on.
const lingering = 10 * time.Minute

// keepLoaded has the programs that are pinned in dir stay loaded for a while. An
// agent that cannot have that starts all the same.
func (e *Enforcer) keepLoaded(dir string) {
	names, err := os.ReadDir(dir)
	var programs []*ebpf.Program
	for _, n := range names {
		if n.Name() == sysctls || slices.Contains(slices.Collect(maps.Values(pinnedMaps)), n.Name()) { // no links
			continue
		}
		p, unread := pinnedProgram(filepath.Join(dir, n.Name()))
		if err = errors.Join(err, unread); p != nil {
			programs = append(programs, p)
		}
	}
	if err != nil {
		e.cfg.Log.Warn("programs of an earlier agent are unloaded at once", "err", err)
	}
	time.AfterFunc(lingering, func() {
		for _, p := range programs {
			_ = p.Close() // nothing can be done where it fails
		}
	})
}

// pinnedProgram returns the program of the link that is pinned at path.
func pinnedProgram(path string) (*ebpf.Program, error) {
	l, err := link.LoadPinnedLink(path, nil)
	if err != nil {
		return nil, fmt.Errorf("open the link %s: %w", path, err)
	}
	info, err := l.Info()
	if err = errors.Join(err, l.Close()); err != nil {
		return nil, fmt.Errorf("read the link %s: %w", path, err)
	}
	return ebpf.NewProgramFromID(info.Program)
}

// dismiss ends the elders. The kernel detaches programs some time after their
// pins are gone (seen on 6.12), so they are switched off first.
func (e *Enforcer) dismiss() error {
	_, err := e.inheritDisks()
	errs := []error{err}
	for _, old := range e.elders {
		if runs := old.maps["runs"]; runs != nil {
			errs = append(errs, e.inherit(runs))
		}
		if settings := old.maps["settings"]; settings != nil {
			errs = append(errs, settings.Put(settingWord, uint64(0)))
		}
		if sets := old.maps["sets"]; sets != nil {
			errs = append(errs, empty(sets))
		}
		e.keepLoaded(old.dir)
		errs = append(errs, freeElderSysctls(old.dir), os.RemoveAll(old.dir))
	}
	errs = append(errs, e.forget())
	return errors.Join(errs...)
}

// empty takes the trust sets away from programs that are switched off, and need
// none: they may stay loaded for a while.
func empty(sets *ebpf.Map) error {
	var errs []error
	for slot := range sets.MaxEntries() {
		if err := sets.Delete(slot); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			errs = append(errs, fmt.Errorf("empty the trust sets of an earlier agent: %w", err))
		}
	}
	return errors.Join(errs...)
}

// forget lets go of what was opened of the elders.
func (e *Enforcer) forget() error {
	var errs []error
	for _, old := range e.elders {
		for _, m := range old.maps {
			errs = append(errs, m.Close())
		}
	}
	e.elders = nil
	return errors.Join(errs...)
}

// pinnable is what can be kept beyond the process.
type pinnable interface {
	Pin(path string) error
	Unpin() error
}

// pins returns what this enforcer keeps, by the names of the pins.
func (e *Enforcer) pins() map[string]pinnable {
	all := make(map[string]pinnable)
	for name, pin := range pinnedMaps {
		all[pin] = e.maps[name]
	}
	for name, l := range e.links {
		all[name] = l
	}
	if p := e.progs[sysctls]; p != nil {
		all[sysctls] = p
	}
	return all
}

// pin keeps this enforcer's programs beyond the process.
func (e *Enforcer) pin() error {
	dir, err := os.MkdirTemp(e.cfg.Pins, "")
	if err != nil {
		return fmt.Errorf("make a directory for pins: %w", err)
	}
	e.pinned = dir
	for name, p := range e.pins() {
		if err := p.Pin(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
	}
	return nil
}

// unpin takes back what keeps this enforcer's programs beyond the process. Where
// another agent has taken over and restricts, it has done that, and lets nobody else.
func (e *Enforcer) unpin() error {
	_, gone := os.Stat(e.pinned)
	err := os.RemoveAll(e.pinned)
	if p := e.progs[sysctls]; p != nil {
		kept := freeSysctls(p)
		if !errors.Is(gone, fs.ErrNotExist) || !errors.Is(kept, unix.EPERM) {
			err = errors.Join(err, kept)
		}
	}
	return err
}

// hold makes anew what keeps a restriction: root may have removed or replaced it
// while the machine was not restricted. It is called when that is refused.
func (e *Enforcer) hold() error {
	if e.progs[sysctls] != nil {
		if err := e.guardSysctls(); err != nil {
			return err
		}
	}
	if err := e.guardPlaces(); err != nil {
		return err
	}
	for name, p := range e.pins() { // whatever lies there by that name
		if err := p.Unpin(); err != nil {
			return fmt.Errorf("unpin %s: %w", name, err)
		}
	}
	if err := os.RemoveAll(e.pinned); err != nil {
		return fmt.Errorf("remove pins: %w", err)
	}
	return e.pin()
}

// guardPlaces tells the programs where the pins are, and the agent's data.
func (e *Enforcer) guardPlaces() error {
	if err := os.MkdirAll(e.cfg.Pins, 0o700); err != nil {
		return fmt.Errorf("make a directory for pins (is bpf mounted at /sys/fs/bpf?): %w", err)
	}
	dev, file, err := e.ask(e.cfg.Pins)
	if err != nil {
		return fmt.Errorf("ask what the pins are: %w", err)
	}
	if e.home[0], e.home[1], err = e.ask(e.cfg.Home); err != nil {
		return fmt.Errorf("ask what the data directory is: %w", err)
	}
	settings := e.maps["settings"]
	return errors.Join(settings.Put(settingPins, dev), settings.Put(settingPinsFile, file),
		settings.Put(settingHome, e.home[0]), settings.Put(settingHomeFile, e.home[1]))
}

// guard tells the programs what to keep others from: see bpf/guard.h.
func (e *Enforcer) guard() error {
	var err error
	for _, pid := range append([]int{os.Getpid()}, e.cfg.Kin...) {
		err = errors.Join(err, e.adopt(pid))
	}
	return errors.Join(err, e.claim(), e.guardCgroups())
}

// claim keeps others from answering for what asks the programs, where an answer
// that is no error has them not called.
func (e *Enforcer) claim() error {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return fmt.Errorf("read the kernel's type information: %w", err)
	}
	for _, name := range []string{"security_bpf", "security_bpf_map", "security_locked_down", "security_bprm_committed_creds", "bpf_lsm_bpf", "bpf_lsm_bpf_map", "bpf_lsm_locked_down"} {
		var function *btf.Func
		err := kernel.TypeByName(name, &function)
		if errors.Is(err, btf.ErrNotFound) { // then nobody finds it
			continue
		}
		var id btf.TypeID
		if err == nil {
			id, err = kernel.TypeID(function)
		}
		if err == nil {
			err = e.maps["askers"].Put(uint32(id), uint32(1))
		}
		if err != nil {
			return fmt.Errorf("guard %s: %w", name, err)
		}
	}
	return nil
}

// adopt makes a process count as the agent that was started before there was
// anybody to see what it executed.
func (e *Enforcer) adopt(pid int) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("guard process %d: %w", pid, err)
	}
	defer func() { _ = unix.Close(fd) }() // only names
	if err = e.maps["kin"].Put(uint32(fd), [2]uint32{1, 0}); err == nil {
		err = untraced(pid) // nobody begins to from now on
	}
	if err != nil {
		return fmt.Errorf("guard process %d: %w", pid, err)
	}
	return nil
}

// untraced is an error if somebody traces a thread of the process, who could do all that it may.
func untraced(pid int) error {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
	for _, path := range tasks {
		status, unread := os.ReadFile(path)
		if errors.Is(unread, fs.ErrNotExist) || errors.Is(unread, unix.ESRCH) { // it has ended
			continue
		}
		err = errors.Join(err, unread)
		if _, tracer, _ := strings.Cut(string(status), "\nTracerPid:\t"); unread == nil && !strings.HasPrefix(tracer, "0\n") {
			tracer, _, _ = strings.Cut(tracer, "\n")
			return fmt.Errorf("process %s traces it: an agent that restricts a machine is started without a debugger", tracer)
		}
	}
	return err
}

// guardCgroups keeps others from freezing and killing by cgroup.
func (e *Enforcer) guardCgroups() error {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return fmt.Errorf("find own cgroup: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		for ok && path != "" && path != "." {
			var st unix.Stat_t
			if err := unix.Stat(filepath.Join("/sys/fs/cgroup", path), &st); err != nil {
				return fmt.Errorf("find own cgroup: %w", err)
			}
			if err := e.maps["cgroups"].Put(st.Ino, uint32(1)); err != nil {
				return fmt.Errorf("guard own cgroup: %w", err)
			}
			path = filepath.Dir(path)
		}
	}
	return nil
}
