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
)

// fapolicyd does the same work beside the peer, where its package can be had.
//
// It is installed into an overlay over the machine's root, whose changes are in
// memory and end with the bench, and runs there with its root changed to it. It
// is told to watch ramfs alone, of which exactly one is to be seen from there;
// timeout(1) ends it should this process not be able to.
func (b *bench) fapolicyd() error {
	root, err := b.overlay()
	if err == nil {
		err = b.installFapolicyd(root)
	}
	if err != nil {
		say("   left out: fapolicyd cannot be had: %v", err)
		return nil
	}
	dirs := []string{"", filepath.Join(root, "cordon-bench")}
	if dirs[0], err = b.mount("ramfs-free", "ramfs", "mode=0755"); err != nil {
		return err
	}
	if err := os.Mkdir(dirs[1], 0o755); err != nil {
		return err
	}
	if err := b.mountAt(dirs[1], "ramfs", "mode=0755"); err != nil {
		return err
	}
	seen, err := exec.CommandContext(b, "chroot", root, "cat", "/proc/self/mounts").Output()
	if n := strings.Count(string(seen), " ramfs "); err != nil || n != 1 {
		return fmt.Errorf("it would see %d file systems of the type ramfs, and may watch the bench's own only (%w)", n, err)
	}
	free, held, _, err := places(dirs)
	if err != nil {
		return err
	}
	var trusted strings.Builder
	for _, path := range held.programs {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		fmt.Fprintf(&trusted, "/cordon-bench/%s %d %x\n", filepath.Base(path), len(content), sha256.Sum256(content))
	}
	for _, integrity := range []string{"none", "sha256"} {
		if err := b.explain(b.withFapolicyd(root, integrity, trusted.String(), free, held), "fapolicyd"); err != nil {
			return err
		}
	}
	return nil
}

// overlay mounts the machine's root with a layer over it that takes all changes.
func (b *bench) overlay() (root string, err error) {
	layer, err := b.mount("layer", "tmpfs", "mode=0755")
	if err != nil {
		return "", err
	}
	if err := errors.Join(os.Mkdir(layer+"/upper", 0o755), os.Mkdir(layer+"/work", 0o755)); err != nil {
		return "", err
	}
	if root, err = b.mount("root", "overlay", fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%[1]s/work", layer)); err != nil {
		return "", err
	}
	if err := errors.Join(b.mountAt(filepath.Join(root, "proc"), "proc", ""), b.mountAt(filepath.Join(root, "dev"), "tmpfs", "")); err != nil {
		return "", err
	}
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "random": 8, "urandom": 9} { // null(4), random(4)
		if err := unix.Mknod(filepath.Join(root, "dev", name), unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))); err != nil {
			return "", err
		}
	}
	// Often a link into /run, or a file that is mounted over it.
	names, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return "", err
	}
	resolv := filepath.Join(root, "etc/resolv.conf")
	return root, errors.Join(os.RemoveAll(resolv), os.WriteFile(resolv, names, 0o644))
}

// installFapolicyd installs the package into the overlay, without starting it:
// 101 is what policy-rc.d says for that.
func (b *bench) installFapolicyd(root string) error {
	const script = `command -v fapolicyd && exit
command -v apt-get || { echo "it is not installed, and there is no apt-get to get it with"; exit 1; }
printf '#!/bin/sh\nexit 101\n' >/usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -qq --no-install-recommends fapolicyd; }
install || { apt-get update -qq && install; }`
	ctx, cancel := context.WithTimeout(b, 90*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, "chroot", root, "sh", "-c", script)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out[max(0, len(out)-300):])
	}
	return nil
}

// fapolicydConf is what the peer is told. It cannot drop its privileges
// everywhere, and everything it needs to know is in its own file.
const fapolicydConf = `permissive = 0
q_size = 800
uid = root
gid = root
do_stat_report = 0
db_max_size = 50
subj_cache_size = 4099
obj_cache_size = 8191
watch_fs = ramfs
trust = file
allow_filesystem_mark = 0
integrity = `

// withFapolicyd runs it with one kind of check and measures.
func (b *bench) withFapolicyd(root, integrity, trusted string, free, held place) error {
	dir := filepath.Join(root, "etc/fapolicyd")
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"fapolicyd.conf": fapolicydConf + integrity + "\n", "fapolicyd.trust": trusted,
		"fapolicyd.rules": "allow perm=any all : trust=1\ndeny_audit perm=execute all : all\nallow perm=open all : all\n",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	p, err := b.start("fapolicyd", "timeout", "--signal=KILL", "90", "chroot", root, "fapolicyd", "--debug-deny", "--no-details")
	if err != nil {
		return err
	}
	err = wait(b, "fapolicyd refuses a program that is not trusted", func() bool {
		refused, err := held.refuses()
		return refused && err == nil
	})
	if err == nil {
		err = b.compareAll(briefly, free, held, func(name string, p paired) { b.figure(integrity+": "+name, "%v", p) })
	}
	return errors.Join(err, p.stop())
}
