// Package image makes what virtual machines start from: Debian's kernels with
// their modules, and disks with a Debian server.
//
// It promises: what comes from Debian's archive is verified by its signatures,
// whatever this machine's own sources say; each thing is made once, kept in the
// user's cache directory, and never written to again; what was broken off is made
// anew, and another recipe makes another thing.
package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
	"github.com/cordon-project/cordon/internal/testkit/vm/host"
)

// suites are the kernels by name, and where Debian has them.
var suites = map[string]string{"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "newest": "sid"}

// systems are the Debians that run above the kernels: the kernel's own, if it is
// released.
var systems = map[string]string{"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "newest": "trixie"}

// Kernels are the names of the kernels: Debian's cloud kernels of bullseye,
// bookworm, trixie and sid. The first is too old for BPF LSM.
func Kernels() []string { return []string{"5.10", "6.1", "6.12", "newest"} }

func suiteOf(kernel string) (string, error) {
	if s, ok := suites[kernel]; ok {
		return s, nil
	}
	return "", fmt.Errorf("there is no kernel %q: take one of %s", kernel, strings.Join(Kernels(), ", "))
}

const (
	mirror   = "http://deb.debian.org/debian"
	keyring  = "/usr/share/keyrings/debian-archive-keyring.gpg"
	diskSize = "3G" // sparse
)

// rootPackages are what a small server has beside debootstrap's minimal system.
var rootPackages = []string{
	"systemd", "systemd-sysv", "libpam-systemd", "dbus", "udev", "openssh-server", "openssh-client", "sudo", "cron", "python3-minimal", "kmod", "iproute2",
	"procps", "linux-base", "initramfs-tools", "e2fsprogs", "btrfs-progs", "less", "netbase", "logrotate", "ca-certificates",
}

// The recipes: who changes what a build does changes its text, so that older
// results are not taken for it.
var (
	kernelRecipe = "kernel 1 " + mirror
	diskRecipe   = "disk 1 " + diskSize
)

func rootRecipe(suite string) string { return "root 1 " + mirror + suite + fmt.Sprint(rootPackages) }

// Kernel is a kernel of Debian's. Its directory has its packages in debs, their
// content in tree, the kernel itself, and its version in the file version.
type Kernel struct{ dir string }

// Path is the file of the kernel itself.
func (k Kernel) Path() string { return filepath.Join(k.dir, "vmlinuz") }

// Fetch returns one of [Kernels]. It tells log, which may be nil, what takes time.
func Fetch(ctx context.Context, kernel string, log io.Writer) (Kernel, error) {
	suite, err := suiteOf(kernel)
	if err != nil {
		return Kernel{}, err
	}
	dir, err := cached(ctx, "kernel-"+kernel, kernelRecipe+suite, func(dir string) error {
		host.Say(log, "fetching kernel %s from Debian %s", kernel, suite)
		debs := filepath.Join(dir, "debs")
		if err := download(ctx, suite, dir, debs); err != nil {
			return err
		}
		tree := filepath.Join(dir, "tree")
		if err := unpack(ctx, debs, tree); err != nil {
			return err
		}
		return index(ctx, dir, tree)
	})
	return Kernel{dir}, err
}

// unpack puts what the packages in debs bring below tree.
func unpack(ctx context.Context, debs, tree string) error {
	names, err := filepath.Glob(debs + "/*.deb")
	if err != nil {
		return err
	}
	for _, n := range names {
		if _, err := host.Command(ctx, debs, "dpkg-deb", "-x", n, tree); err != nil {
			return err
		}
	}
	return nil
}

// Unpack fetches packages of the Debian that runs above a kernel, without what
// they need, and puts what they bring below tree. Nothing is installed.
func Unpack(ctx context.Context, kernel, tree string, packages ...string) (err error) {
	suite, ok := systems[kernel]
	if !ok {
		_, err := suiteOf(kernel)
		return err
	}
	debs, err := os.MkdirTemp("", "cordon-debs-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(debs)) }()
	run, err := privateApt(ctx, suite, debs+"/apt", nil)
	if err != nil {
		return err
	}
	if _, err := run(debs, "apt-get", append([]string{"download", "-q"}, packages...)...); err != nil {
		return err
	}
	return unpack(ctx, debs, tree)
}

// linuxPackage are the packages that belong to one kernel, which may need a newer
// linux-base than the guest has: sid has its image,
// modules and symlinks in several.
var linuxPackage = regexp.MustCompile(`^linux-((image|binary|modules|base)-[0-9]|base$)`)

// privateApt returns what runs apt's tools in dir. They work in directories of
// their own below work and verify by Debian's keyring; this machine's sources are
// not touched. status is what dpkg's status file says of the machine that they
// work for.
func privateApt(ctx context.Context, suite, work string, status []byte) (run func(dir, tool string, args ...string) (string, error), err error) {
	for _, d := range []string{"/lists/partial", "/archives/partial", "/none"} {
		if err := os.MkdirAll(work+d, 0o755); err != nil {
			return nil, err
		}
	}
	source := fmt.Sprintf("deb [arch=amd64 signed-by=%s] %s %s main\n", keyring, mirror, suite)
	if err := errors.Join(os.WriteFile(work+"/sources.list", []byte(source), 0o644), os.WriteFile(work+"/status", status, 0o644)); err != nil {
		return nil, err
	}
	run = func(dir, tool string, args ...string) (string, error) {
		all := []string{tool}
		for _, o := range []string{
			"Dir::Etc::sourcelist=" + work + "/sources.list", "Dir::Etc::sourceparts=" + work + "/none", "Dir::Etc::preferencesparts=" + work + "/none",
			"Dir::State=" + work, "Dir::State::lists=" + work + "/lists", "Dir::State::status=" + work + "/status", "Dir::Cache=" + work,
			"APT::Architecture=amd64", "APT::Architectures=amd64", "APT::Sandbox::User=root", "Acquire::Languages=none", "Acquire::Retries=3",
			"Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		} {
			all = append(all, "-o", o)
		}
		return host.Command(ctx, dir, append(all, args...)...)
	}
	_, err = run(work, "apt-get", "update", "-q")
	return run, err
}

// extra fetches packages, and what they need beside those of the system in tree,
// into debs, which is there.
func extra(ctx context.Context, suite, work, tree, debs string, packages []string) error {
	status, err := os.ReadFile(tree + "/var/lib/dpkg/status")
	if err != nil {
		return err
	}
	apt := filepath.Join(work, "apt")
	run, err := privateApt(ctx, suite, apt, status)
	if err != nil {
		return err
	}
	if _, err := run(work, "apt-get", append([]string{"install", "-q", "-y", "--download-only", "--no-install-recommends"}, packages...)...); err != nil {
		return err
	}
	names, err := filepath.Glob(apt + "/archives/*.deb")
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := os.Rename(n, filepath.Join(debs, filepath.Base(n))); err != nil {
			return err
		}
	}
	return os.RemoveAll(apt)
}

// download fetches the packages of a suite's cloud kernel into debs.
func download(ctx context.Context, suite, work, debs string) error {
	apt := filepath.Join(work, "apt")
	if err := os.MkdirAll(debs, 0o755); err != nil {
		return err
	}
	apts, err := privateApt(ctx, suite, apt, nil)
	if err != nil {
		return err
	}
	run := func(tool string, args ...string) (string, error) { return apts(debs, tool, args...) }
	want, seen := []string{"linux-image-cloud-amd64"}, map[string]bool{}
	for len(want) > 0 {
		name := want[0]
		want = want[1:]
		out, err := run("apt-cache", "depends", "--no-recommends", "--no-suggests", "--no-conflicts", "--no-breaks", "--no-replaces", name)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			_, dep, ok := strings.Cut(strings.TrimSpace(line), "epends: ")
			if ok && linuxPackage.MatchString(dep) && !seen[dep] {
				seen[dep] = true
				want = append(want, dep)
			}
		}
	}
	if len(seen) == 0 {
		return fmt.Errorf("linux-image-cloud-amd64 of %s depends on no kernel", suite)
	}
	args := []string{"download", "-q"}
	for dep := range seen {
		args = append(args, dep)
	}
	_, err = run("apt-get", args...)
	return errors.Join(err, os.RemoveAll(apt))
}

// index finds the kernel and its version in what was unpacked.
func index(ctx context.Context, dir, tree string) error {
	versions, err := filepath.Glob(tree + "/usr/lib/modules/*")
	if len(versions) == 0 && err == nil {
		if versions, err = filepath.Glob(tree + "/lib/modules/*"); err == nil && len(versions) > 0 {
			// depmod and modprobe look at one place: usr/lib, as on a merged system.
			if err = os.MkdirAll(tree+"/usr", 0o755); err == nil {
				err = os.Rename(tree+"/lib", tree+"/usr/lib")
			}
		}
	}
	if err != nil || len(versions) != 1 {
		return errors.Join(err, fmt.Errorf("the kernel's packages have %d versions of modules", len(versions)))
	}
	if err := os.Symlink("usr/lib", tree+"/lib"); err != nil {
		return err
	}
	version := filepath.Base(versions[0])
	images, _ := filepath.Glob(tree + "/boot/vmlinuz-*")
	images = append(images, tree+"/usr/lib/modules/"+version+"/vmlinuz")
	if _, err := host.Command(ctx, dir, "cp", images[0], "vmlinuz"); err != nil {
		return err
	}
	if _, err := host.Command(ctx, dir, host.Tool("depmod"), "-b", tree, version); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "version"), []byte(version), 0o644)
}

// Module is a module of a kernel.
type Module struct {
	Name string // of its file, NAME.ko
	Data []byte // uncompressed
}

// Modules returns the named modules and what they need, in the order in which
// they can be loaded. What is built into the kernel is not among them.
func (k Kernel) Modules(ctx context.Context, names ...string) ([]Module, error) {
	version, err := os.ReadFile(filepath.Join(k.dir, "version"))
	if err != nil {
		return nil, err
	}
	var all []Module
	for _, name := range names {
		out, err := host.Command(ctx, k.dir, host.Tool("modprobe"), "-C", "/dev/null", "-d", filepath.Join(k.dir, "tree"), "-S", string(version), "--show-depends", name)
		if err != nil {
			return nil, fmt.Errorf("find module %s: %w", name, err)
		}
		for line := range strings.Lines(out) {
			f := strings.Fields(line)
			if len(f) < 2 || f[0] != "insmod" {
				continue // "builtin NAME"
			}
			base, _, _ := strings.Cut(filepath.Base(f[1]), ".ko")
			base += ".ko"
			if slices.ContainsFunc(all, func(m Module) bool { return m.Name == base }) {
				continue
			}
			data, err := unpacked(ctx, f[1])
			if err != nil {
				return nil, err
			}
			all = append(all, Module{base, data})
		}
	}
	return all, nil
}

// unpacked reads a module, which newer kernels have compressed.
func unpacked(ctx context.Context, path string) ([]byte, error) {
	switch filepath.Ext(path) {
	case ".xz":
		out, err := host.Command(ctx, "/", "xz", "-dc", path)
		return []byte(out), err
	case ".zst":
		out, err := host.Command(ctx, "/", "zstd", "-dcq", path)
		return []byte(out), err
	}
	return os.ReadFile(path)
}

// rootDir returns the directory whose subdirectory tree is the Debian system of
// the suite, without a kernel.
func rootDir(ctx context.Context, suite string, log io.Writer) (string, error) {
	return cached(ctx, "root-"+suite, rootRecipe(suite), func(dir string) error {
		if os.Geteuid() != 0 {
			return errors.New("a Debian system can only be made by root: run this as root once")
		}
		host.Say(log, "making a Debian %s system with debootstrap, which takes one to three minutes", suite)
		root := filepath.Join(dir, "tree")
		cmd := exec.CommandContext(ctx, host.Tool("debootstrap"), "--variant=minbase", "--arch=amd64", "--keyring="+keyring, "--include="+strings.Join(rootPackages, ","), suite, root, mirror)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
		if proxy, err := host.Command(ctx, dir, "apt-config", "shell", "P", "Acquire::http::Proxy"); err == nil && strings.HasPrefix(proxy, "P='http") {
			cmd.Env = append(cmd.Env, "http_proxy="+strings.Trim(strings.TrimSpace(proxy[2:]), "'"))
		}
		if _, err := host.Run(cmd); err != nil {
			return err
		}
		return furnish(ctx, root)
	})
}

// furnish makes the system one that boots as "vm" and lets nobody wait.
func furnish(ctx context.Context, root string) error {
	for name, text := range map[string]string{
		"etc/hostname":                   "vm\n",
		"etc/hosts":                      "127.0.0.1 localhost\n127.0.1.1 vm\n::1 localhost\n",
		"etc/fstab":                      "/dev/vda / ext4 defaults 0 0\n",
		"etc/apt/apt.conf.d/90cordon-vm": "APT::Periodic::Enable \"0\";\n",
		// An empty one would be filled at each boot of the untouched image.
		"etc/machine-id": "c0ffee00c0ffee00c0ffee00c0ffee00\n",
	} {
		path := filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
			return err
		}
	}
	if _, err := host.Command(ctx, root, "chroot", root, "useradd", "-m", "-s", "/bin/bash", "-u", fmt.Sprint(channel.UserID), channel.UserName); err != nil {
		return err
	}
	_, err := host.Command(ctx, root, "chroot", root, "sh", "-c", "apt-get clean && rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin")
	return err
}

// Disk returns the file of a disk: the Debian system with the kernel's packages
// installed, and others if some are named, as an ext4 file system. It is never
// written to. The first of a Debian can only be made by root.
func Disk(ctx context.Context, kernel string, packages []string, log io.Writer) (string, error) {
	suite, err := suiteOf(kernel)
	if err != nil {
		return "", err
	}
	recipe := diskRecipe + rootRecipe(systems[kernel]) + kernelRecipe + suite
	if len(packages) > 0 {
		recipe += fmt.Sprint(packages)
	}
	dir, err := cached(ctx, "disk-"+kernel, recipe, func(dir string) error {
		system, err := rootDir(ctx, systems[kernel], log)
		if err != nil {
			return err
		}
		fetched, err := Fetch(ctx, kernel, log)
		if err != nil {
			return err
		}
		host.Say(log, "making a disk with kernel %s", kernel)
		root := filepath.Join(dir, "tree")
		if _, err := host.Command(ctx, dir, "cp", "-a", "--reflink=auto", system+"/tree", root); err != nil {
			return err
		}
		if _, err := host.Command(ctx, dir, "cp", "-a", fetched.dir+"/debs", root+"/debs"); err != nil {
			return err
		}
		if len(packages) > 0 {
			host.Say(log, "fetching %s", strings.Join(packages, ", "))
			if err := extra(ctx, systems[kernel], dir, root, root+"/debs", packages); err != nil {
				return err
			}
		}
		// The initramfs is ours, so none is made. All dependencies are met, or apt
		// would refuse to work in the guest. Java's packages ask for /proc, whose mount
		// ends with its namespace. What has to be configured before others are unpacked
		// makes it fail the first time.
		const install = "export INITRD=No && dpkg -i /debs/linux-base*.deb && { dpkg -i /debs/*.deb || dpkg -i /debs/*.deb; } && rm -r /debs && apt-get check"
		if _, err := host.Command(ctx, dir, "unshare", "--mount", "sh", "-c", `mount -t proc proc "$1/proc" && exec chroot "$1" sh -c "$2"`, "sh", root, install); err != nil {
			return err
		}
		if _, err := host.Command(ctx, dir, host.Tool("mke2fs"), "-q", "-t", "ext4", "-O", "verity", "-L", "root", "-d", root, "disk.img", diskSize); err != nil {
			return err
		}
		return errors.Join(os.Chmod(filepath.Join(dir, "disk.img"), 0o444), os.RemoveAll(root))
	})
	return filepath.Join(dir, "disk.img"), err
}
