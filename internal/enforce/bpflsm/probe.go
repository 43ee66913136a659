package bpflsm

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
	"github.com/cordon-project/cordon/internal/enforce/bpflsm/sample"
	"github.com/cordon-project/cordon/internal/enforce/mount"
)

// Prove finds out whether the programs are really called: a kernel with BPF LSM
// that was booted without bpf in its lsm= list loads and attaches them, reports
// success, and never calls them. The guardian runs two canaries on a file
// system that nobody else can reach, which alone is enforced on meanwhile. It is
// called once at most, before anything else.
func (e *Enforcer) Prove(g *enforce.Guardian) enforce.Finding {
	e.called = e.prove(g)
	return e.called
}

func (e *Enforcer) prove(g *enforce.Guardian) enforce.Finding {
	if e.Mode() == cordon.ModeEnforce {
		// What an earlier agent left decides before ours is asked; that ours is
		// called was seen when it was asked for names (see ask).
		return enforce.Finding{Answer: cordon.Yes, Reason: "the kernel calls the programs; an earlier agent's are in force"}
	}
	if why, err := e.askGround("/proc/self/exe"); err != nil {
		return unknown(err)
	} else if why == sample.Measured {
		return enforce.Finding{Answer: cordon.No, Reason: "BPF LSM cannot be used: the kernel's integrity measurement (IMA) measures programs here, and tells of what it has measured what it was"}
	}
	dir, err := mount.Detached("tmpfs")
	if err != nil {
		return unknown(fmt.Errorf("make a file system for a canary: %w", err))
	}
	defer func() { _ = unix.Close(dir) }() // the file system goes with it
	canary, err := enforce.NewCanary()
	if err != nil {
		return enforce.Finding{Answer: cordon.No, Reason: err.Error()}
	}
	e.proven.Store(math.MaxInt64)
	err = e.proveIn(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), dir), canary, g)
	if err = errors.Join(err, e.put(cordon.ModeOff, nil), e.setScope()); err != nil {
		return enforce.Finding{Answer: cordon.No, Reason: err.Error()}
	}
	if e.base, err = e.counters(); err != nil {
		return unknown(err)
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return unknown(err)
	}
	e.proven.Store(now.Nano())
	return enforce.Finding{Answer: cordon.Yes, Reason: "the kernel refused a canary and ran a trusted one"}
}

// proveIn enforces in the directory at, whose file system nobody else uses.
func (e *Enforcer) proveIn(at string, canary *enforce.Canary, g *enforce.Guardian) error {
	dev, _, err := e.ask(at)
	if err != nil {
		return err
	}
	if err := e.maps["settings"].Put(settingScope, dev); err != nil {
		return err
	}
	if err := e.put(cordon.ModeEnforce, cordon.NewTrustSet([]cordon.TrustEntry{canary.Entry()}, nil)); err != nil {
		return err
	}
	return (&enforce.Tester{Guardian: g, Dir: at, Trusted: canary}).Test(cordon.ModeEnforce)
}

func unknown(err error) enforce.Finding {
	return enforce.Finding{Answer: cordon.Unknown, Reason: "BPF LSM could not be tried: " + err.Error()}
}
