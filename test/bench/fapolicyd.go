package main

import (
	"context"
	"crypto/sha256"
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
func (b *bench) fapolicyd() {
	root := b.overlay()
	if why := b.installFapolicyd(root); why != nil {
		b.Say("   left out: fapolicyd cannot be had: %v", why)
		return
	}
	inside := filepath.Join(root, "cordon-bench")
	check(os.Mkdir(inside, 0o755))
	b.mountAt(inside, "ramfs", "mode=0755")
	seen := must(exec.CommandContext(b, "chroot", root, "cat", "/proc/self/mounts").Output())
	if n := strings.Count(string(seen), " ramfs "); n != 1 {
		check(fmt.Errorf("it would see %d file systems of the type ramfs, and may watch the bench's own only", n))
	}
	free, held, _ := places(b.mount("ramfs-free", "ramfs", "mode=0755"), inside)
	var trusted strings.Builder
	for _, path := range held.programs {
		content := must(os.ReadFile(path))
		fmt.Fprintf(&trusted, "/cordon-bench/%s %d %x\n", filepath.Base(path), len(content), sha256.Sum256(content))
	}
	for _, integrity := range []string{"none", "sha256"} {
		b.withFapolicyd(root, integrity, trusted.String(), free, held)
	}
}

// overlay mounts the machine's root with a layer over it that takes all changes.
func (b *bench) overlay() string {
	layer := b.mount("layer", "tmpfs", "mode=0755")
	check(os.Mkdir(layer+"/upper", 0o755))
	check(os.Mkdir(layer+"/work", 0o755))
	root := b.mount("root", "overlay", fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%[1]s/work", layer))
	b.mountAt(root+"/proc", "proc", "")
	b.mountAt(root+"/dev", "tmpfs", "")
	for name, minor := range map[string]uint32{"null": 3, "zero": 5, "random": 8, "urandom": 9} { // null(4), random(4)
		check(unix.Mknod(root+"/dev/"+name, unix.S_IFCHR|0o666, int(unix.Mkdev(1, minor))))
	}
	// Often a link to what is not here, or a file that is mounted over it.
	if names, err := os.ReadFile("/etc/resolv.conf"); err == nil {
		check(os.RemoveAll(root + "/etc/resolv.conf"))
		check(os.WriteFile(root+"/etc/resolv.conf", names, 0o644))
	}
	return root
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
func (b *bench) withFapolicyd(root, integrity, trusted string, free, held place) {
	dir := filepath.Join(root, "etc/fapolicyd")
	check(os.RemoveAll(dir))
	check(os.Mkdir(dir, 0o755))
	check(os.WriteFile(dir+"/fapolicyd.conf", []byte(fapolicydConf+integrity+"\n"), 0o644))
	check(os.WriteFile(dir+"/fapolicyd.trust", []byte(trusted), 0o644))
	check(os.WriteFile(dir+"/fapolicyd.rules", []byte("allow perm=any all : trust=1\ndeny_audit perm=execute all : all\nallow perm=open all : all\n"), 0o644))
	p := b.start("fapolicyd", "timeout", "--signal=KILL", "90", "chroot", root, "fapolicyd", "--debug-deny", "--no-details")
	defer func() { check(p.stop()) }()
	b.await(b, "fapolicyd", "fapolicyd refuses a program that is not trusted", held.refuses)
	b.compareAll(briefly, free, held, func(name string, p paired) { b.Figure(integrity+": "+name, "%v", p) })
}
