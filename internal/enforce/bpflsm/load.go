package bpflsm

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// object holds the compiled programs; bpf/ has their source. It is the same for
// all little-endian processors: what differs is filled in when it is loaded.
//
//go:generate make -C ../../.. bpf
//go:embed cordon.bpf.o
var object []byte

// optional are programs that need not be there, with what is missing without
// them, if anything is. What the kernel does not have a hook or a reason for is left out, since
// each program costs time whenever its hook is passed; any other is needed.
var optional = map[string]string{
	"check":       "Interpreters cannot ask whether a script is trusted (AT_EXECVE_CHECK, Linux 6.14).",
	"passed32":    "", // before it was, file_ioctl was called for both
	"passed_ring": "", // before it was, io_uring had no such commands
	sysctls:       "Who had opened the switch of function tracing (kernel.ftrace_enabled) before the agent was started could end a restriction by it; what it did is found within a minute.",
	"backing":     "A program below an overlay that runs through it is kept from being changed by a list of limited length (the hook mmap_backing_file is missing).",
}

// anonymous are the programs that judge code without a file and nothing else. Two
// of them are called at each mapping, which would cost every start of a program.
var anonymous = []string{"conjured", "filled", "placed"}

// deniesAnonymous says whether code without a file is refused to anybody. It stays
// as it is while this enforcer is there: with another answer, it takes another one.
func (c *Config) deniesAnonymous() bool {
	return c.Scope.Mount == "" && (c.DenyAnonymous || len(c.DenyAnonymousOf) > 0)
}

// spec returns what can be loaded here, and the names of what cannot. What cfg has
// no use for is in neither.
func spec(cfg *Config) (*ebpf.CollectionSpec, []string, error) {
	s, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, nil, fmt.Errorf("read the compiled programs: %w", err)
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, nil, fmt.Errorf("read the kernel's type information (CONFIG_DEBUG_INFO_BTF): %w", err)
	}
	if !cfg.deniesAnonymous() {
		for _, name := range anonymous {
			delete(s.Programs, name)
		}
	}
	var without []string
	for name, p := range s.Programs {
		var hook *btf.Func
		called := "bpf_lsm_" + p.AttachTo
		if name == sysctls {
			called = "__cgroup_bpf_run_filter_sysctl" // CONFIG_CGROUP_BPF
		}
		err := kernel.TypeByName(called, &hook)
		if err == nil && name == "check" {
			err = asks(kernel)
		}
		switch _, may := optional[name]; {
		case errors.Is(err, btf.ErrNotFound) && may:
			delete(s.Programs, name)
			without = append(without, name)
		case errors.Is(err, btf.ErrNotFound):
			return nil, nil, fmt.Errorf("this kernel has no hook %s: it takes Linux 5.18 or newer", p.AttachTo)
		case err != nil:
			return nil, nil, fmt.Errorf("find the hook %s in the kernel: %w", p.AttachTo, err)
		}
	}
	return s, without, nil
}

// What is filled in when programs are loaded: FILLED_IN of bpf/guard.h.
const (
	placeNames   = 0x73656d616e
	placeProcess = 0x676e697472617473
)

// fillIn gives all maps names that begin with names, and lets the programs know
// them by that, and this process.
func fillIn(s *ebpf.CollectionSpec, names string) {
	var begin [8]byte
	copy(begin[:], names)
	values := map[int64]int64{placeNames: int64(binary.LittleEndian.Uint64(begin[:])), placeProcess: int64(os.Getpid())}
	for _, m := range s.Maps {
		m.Name = names + m.Name
	}
	for _, p := range s.Programs {
		for i := range p.Instructions {
			if v, ok := values[p.Instructions[i].Constant]; ok && p.Instructions[i].IsConstantLoad(asm.DWord) {
				p.Instructions[i].Constant = v
			}
		}
	}
}

// takeFirst takes the programs that come first out of s.
func takeFirst(s *ebpf.CollectionSpec) []*ebpf.ProgramSpec {
	var first []*ebpf.ProgramSpec
	for _, name := range []string{"first_mapped", "first_traced"} {
		first = append(first, s.Programs[name])
		delete(s.Programs, name)
	}
	return first
}

// alone keeps others from what this process is going to make, and from the
// process, until release is called.
func alone(first []*ebpf.ProgramSpec) (release func() error, err error) {
	var closers []io.Closer
	release = func() error {
		var errs []error
		for _, c := range slices.Backward(closers) {
			errs = append(errs, c.Close())
		}
		return errors.Join(errs...)
	}
	for _, spec := range first {
		p, err := ebpf.NewProgram(spec)
		if err != nil {
			return nil, errors.Join(unloadable(err), release())
		}
		closers = append(closers, p)
		l, err := link.AttachLSM(link.LSMOptions{Program: p})
		if err != nil {
			return nil, errors.Join(fmt.Errorf("attach %s: %w", spec.Name, err), release())
		}
		closers = append(closers, l)
	}
	return release, nil
}

// attached returns the names of the programs for hooks in the order in which they
// are to be attached: those that may sleep first. Of the programs of a hook the
// kernel calls the one first that was attached last, and calls
// the next of them also where that was detached, and freed, while one before it
// slept: it jumped into freed memory (seen on 6.12). Of ours, the one that may sleep is the last.
func attached(s *ebpf.CollectionSpec) []string {
	var names []string
	for name, p := range s.Programs {
		if p.Type == ebpf.LSM {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, func(a, b string) int {
		sleeps := func(name string) uint32 { return s.Programs[name].Flags & unix.BPF_F_SLEEPABLE }
		return cmp.Or(cmp.Compare(sleeps(b), sleeps(a)), cmp.Compare(a, b))
	})
	return names
}

// asks says whether the kernel's executions may be mere questions.
func asks(kernel *btf.Spec) error {
	var execution *btf.Struct
	if err := kernel.TypeByName("linux_binprm", &execution); err != nil {
		return err
	}
	if !slices.ContainsFunc(execution.Members, func(m btf.Member) bool { return m.Name == "is_check" }) {
		return fmt.Errorf("linux_binprm has no is_check: %w", btf.ErrNotFound)
	}
	return nil
}

// abilities are what this kernel has beside hooks.
type abilities struct {
	asks    bool // AT_EXECVE_CHECK
	overlay bool // the files below overlays are found
}

// modules returns the type information of modules that the programs look into.
func modules() ([]*btf.Spec, error) {
	// Overlay is a module on most machines and comes when the first container is
	// started, which is too late: asking for the file system loads it
	// (fsopen(2)). Without it, nothing on an overlay is trusted.
	if fd, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC); err == nil {
		if err := unix.Close(fd); err != nil {
			return nil, err
		}
	}
	overlay, err := btf.LoadKernelModuleSpec("overlay")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the overlay module's type information: %w", err)
	}
	return []*btf.Spec{overlay}, nil
}

// load loads all programs that this kernel can have.
func load(s *ebpf.CollectionSpec, replace map[string]*ebpf.Map) (*ebpf.Collection, abilities, error) {
	can := abilities{asks: s.Programs["check"] != nil}
	extra, err := modules()
	can.overlay = len(extra) > 0
	if err != nil {
		return nil, can, err
	}
	c, err := ebpf.NewCollectionWithOptions(s, ebpf.CollectionOptions{
		Programs:        ebpf.ProgramOptions{ExtraRelocationTargets: extra},
		MapReplacements: replace,
	})
	if err != nil {
		return nil, can, unloadable(err)
	}
	return c, can, nil
}

// unloadable says why programs could not be loaded.
func unloadable(err error) error {
	var refused *ebpf.VerifierError
	if errors.As(err, &refused) {
		last := refused.Log[max(0, len(refused.Log)-12):]
		return fmt.Errorf("load programs: %w: %s", err, strings.Join(last, " | "))
	}
	if lsm, unread := os.ReadFile("/sys/kernel/security/lsm"); unread == nil {
		if list := strings.TrimSpace(string(lsm)); !slices.Contains(strings.Split(list, ","), "bpf") {
			return fmt.Errorf("bpf is not among the kernel's active security modules: boot with lsm=%s,bpf", list)
		}
	}
	if errors.Is(err, unix.EPERM) {
		return errors.New("this kernel does not let the agent load BPF LSM programs (it takes root with CAP_BPF, CAP_PERFMON and CAP_SYS_ADMIN, and some machines refuse it to all)")
	}
	return fmt.Errorf("load programs: %w", err)
}
