package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon/internal/enforce"
)

// fapolicyd does the same work beside the peer, where its package can be had.
//
// It is installed into an overlay of the machine's file system, whose changes
// are in memory and end with the bench, and runs there with its root changed to
// it. It is told to watch ramfs alone, of which exactly one is to be seen
// from there. timeout(1) ends it should this process not be able to.
func (b *bench) fapolicyd() error {
	root, err := b.overlay()
	if err != nil {
		say("   left out: no overlay of the file system can be made: %v", err)
		return nil
	}
	held := filepath.Join(root, "cordon-bench")
	if err := os.Mkdir(held, 0o755); err != nil {
		return err
	}
	if err := unix.Mount("cordon-bench", held, "ramfs", 0, "mode=0755"); err != nil {
		return err
	}
	b.stops = append(b.stops, func() error { return unix.Unmount(held, unix.MNT_DETACH) })
	if why := b.installFapolicyd(root); why != nil {
		say("   left out: fapolicyd cannot be had: %v", why)
		return nil
	}
	seen, err := exec.CommandContext(b, "chroot", root, "cat", "/proc/self/mounts").Output()
	if err != nil {
		return err
	}
	if n := strings.Count(string(seen), " ramfs "); n != 1 {
		say("   left out: %d file systems of the type ramfs are mounted, and only the bench's own may be watched", n)
		return nil
	}
	free, err := b.mount("ramfs-free", "cordon-bench", "ramfs", 0, "mode=0755")
	if err != nil {
		return err
	}
	made, _, err := places(free, held)
	if err != nil {
		return err
	}
	var trusted strings.Builder
	for _, path := range made[1].programs {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&trusted, "/cordon-bench/%s %d %x\n", filepath.Base(path), len(content), sha256.Sum256(content))
	}
	for _, integrity := range []string{"none", "sha256"} {
		if err := b.withFapolicyd(root, integrity, trusted.String(), made[0], made[1]); err != nil {
			return fmt.Errorf("integrity = %s: %w\n%s", integrity, err, b.tail("fapolicyd"))
		}
	}
	return nil
}

// overlay mounts the machine's root with a layer over it that takes all changes.
func (b *bench) overlay() (string, error) {
	layer, err := b.mount("layer", "cordon-bench", "tmpfs", 0, "mode=0755")
	if err != nil {
		return "", err
	}
	for _, dir := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(layer, dir), 0o755); err != nil {
			return "", err
		}
	}
	root, err := b.mount("root", "cordon-bench", "overlay", 0, fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%[1]s/work", layer))
	if err != nil {
		return "", err
	}
	for _, m := range []struct {
		at, source, fstype string
		flags              uintptr
	}{{"proc", "proc", "proc", 0}, {"dev", "/dev", "", unix.MS_BIND}, {"run", "cordon-bench", "tmpfs", 0}, {"tmp", "cordon-bench", "tmpfs", 0}} {
		at := filepath.Join(root, m.at)
		if err := unix.Mount(m.source, at, m.fstype, m.flags, ""); err != nil {
			return "", fmt.Errorf("mount %s: %w", m.at, err)
		}
		b.stops = append(b.stops, func() error { return unix.Unmount(at, unix.MNT_DETACH) })
	}
	return root, nil
}

// installFapolicyd installs the package into the overlay, without starting it.
func (b *bench) installFapolicyd(root string) error {
	inside := func(command string) error {
		ctx, cancel := context.WithTimeout(b, 90*time.Second)
		defer cancel()
		cmd := exec.CommandContext(ctx, "chroot", root, "sh", "-c", command)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive")
		cmd.WaitDelay = time.Second
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command, err, out[max(0, len(out)-300):])
		}
		return nil
	}
	if inside("command -v fapolicyd") == nil {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return errors.New("it is not installed, and there is no apt-get to get it with")
	}
	// The words of Debian's policy-rc.d for "start nothing".
	if err := os.WriteFile(filepath.Join(root, "usr/sbin/policy-rc.d"), []byte("#!/bin/sh\nexit 101\n"), 0o755); err != nil {
		return err
	}
	const install = "apt-get install -y -qq --no-install-recommends fapolicyd"
	if inside(install) == nil {
		return nil
	}
	return inside("apt-get update -qq && " + install)
}

// withFapolicyd runs it with one setting and measures.
func (b *bench) withFapolicyd(root, integrity, trusted string, free, held place) error {
	dir := filepath.Join(root, "etc/fapolicyd")
	for _, stale := range []string{"rules.d", "trust.d", "compiled.rules"} {
		if err := os.RemoveAll(filepath.Join(dir, stale)); err != nil {
			return err
		}
	}
	for name, text := range map[string]string{
		"fapolicyd.conf": `permissive = 0
nice_val = 14
q_size = 800
uid = root
gid = root
do_stat_report = 0
detailed_report = 0
db_max_size = 50
subj_cache_size = 4099
obj_cache_size = 8191
watch_fs = ramfs
trust = file
integrity = ` + integrity + `
syslog_format = rule,dec,perm,pid,exe,:,path
rpm_sha256_only = 0
allow_filesystem_mark = 0
`,
		"fapolicyd.rules": "allow perm=any all : trust=1\ndeny_audit perm=execute all : all\nallow perm=open all : all\n",
		"fapolicyd.trust": trusted,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	p, err := b.start("fapolicyd", "timeout", "--signal=KILL", "90", "chroot", root, "fapolicyd", "--debug-deny", "--no-details")
	if err != nil {
		return err
	}
	untrusted := filepath.Join(held.dir, "untrusted-"+integrity)
	c, err := enforce.NewCanary()
	if err != nil {
		return err
	}
	if err := c.WriteFile(untrusted); err != nil {
		return err
	}
	err = wait(b, 20*time.Second, "fapolicyd refuses a program that is not trusted", func() (bool, error) {
		return errors.Is(execute(untrusted), unix.EPERM), nil
	})
	if err != nil {
		return err
	}
	err = three(b, controlTurns, free, held, func(name string, p paired) { b.figure("integrity = "+integrity+": "+name, "%v", p) })
	return errors.Join(err, p.stop())
}
