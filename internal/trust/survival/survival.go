// Package survival checks that a machine can still be lived with under a trust
// set: that it boots, stays up, stops, lets its people in, reaches its network
// and takes packages.
//
// It owns the list of what that needs, and how to find what a program needs: its
// ELF interpreter, the libraries it is linked to, the interpreter of a script.
// It promises to report everything it finds missing, not only the first, and to
// take nothing for granted that it cannot read. Programs that are not installed
// are not missing. It only reads, and hashes only files that the trust set does
// not know by their identity.
//
// What a program loads later, by dlopen(3), is not seen, except what PID 1 has
// mapped already: PAM and NSS modules above all. They come from packages like
// everything else.
package survival

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/fileid"
	"github.com/cordon-project/cordon/internal/trust/rules"
)

// Missing is a file that must run, and would be refused.
type Missing struct {
	Path string
	Why  string // what needs it, and what is the matter with it
}

// String is the finding as part of a sentence.
func (m Missing) String() string { return m.Path + ": " + m.Why }

// Options say where to look.
type Options struct {
	// Proc is the proc file system; empty means /proc.
	Proc string
	// Agent names the agent's program and its command line, below root. All of
	// them must be there.
	Agent []string
}

// Programs that must run where they are installed, by what they are for. A name
// without a slash is looked for in every directory of programs.
var needed = []struct {
	role  string
	names []string
}{
	{"systemd's own helper", []string{
		"/usr/lib/systemd/systemd-executor", "/lib/systemd/systemd-executor",
		"/usr/lib/systemd/systemd-shutdown", "/lib/systemd/systemd-shutdown"}},
	{"logging in", []string{"login", "agetty", "sulogin"}},
	{"logging in over the network", []string{"sshd", "dropbear",
		"/usr/lib/openssh/sshd-session", "/usr/lib/openssh/sshd-auth",
		"/usr/libexec/openssh/sshd-session", "/usr/libexec/openssh/sshd-auth",
		"/usr/lib/ssh/sshd-session", "/usr/lib/ssh/sshd-auth"}},
	{"becoming root", []string{"sudo", "su", "doas"}},
	{"stopping and starting the machine", []string{"reboot", "shutdown", "poweroff", "halt", "systemctl", "init", "telinit"}},
	{"installing packages", []string{
		"dpkg", "dpkg-deb", "dpkg-split", "dpkg-query", "dpkg-divert", "dpkg-trigger", "dpkg-statoverride",
		"update-alternatives", "start-stop-daemon", "apt", "apt-get", "apt-cache", "apt-config", "gpgv", "sqv",
		"/usr/share/debconf/frontend",
		"rpm", "rpmkeys", "rpmdb", "dnf", "dnf5", "dnf-3", "microdnf", "yum", "zypper",
		"sh", "rm", "tar", "ldconfig"}},
}

// aptMethods is where apt keeps a program for each way to fetch a package.
const aptMethods = "/usr/lib/apt/methods"

var programDirs = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// networkDaemons are the programs that hold the machine's network up, wherever
// they are installed.
var networkDaemons = []string{
	"systemd-networkd", "systemd-resolved", "NetworkManager", "nm-dispatcher", "dhclient", "dhcpcd", "udhcpc",
	"wpa_supplicant", "iwd", "hostapd", "connmand", "wickedd", "wickedd-dhcp4", "wickedd-dhcp6", "wickedd-auto4",
	"wickedd-nanny", "networkd-dispatcher", "ifplugd", "netplugd", "pppd", "teamd",
}

// Check lists what must run below root, / on a real machine, and is not in the
// set. The error says that the check itself could not be done.
func Check(ctx context.Context, root string, set *cordon.TrustSet, o Options) ([]Missing, error) {
	if o.Proc == "" {
		o.Proc = "/proc"
	}
	c := &checker{ctx: ctx, root: root, proc: o.Proc, set: set, seen: map[string]bool{}, linked: map[string]*linkage{}, hwcaps: map[string][]string{}, hasher: fileid.NewHasher(nil)}
	if err := c.libraryDirs(); err != nil {
		return nil, err
	}
	c.pid1()
	for _, n := range needed {
		for _, name := range n.names {
			c.named(name, n.role)
		}
	}
	methods, err := os.ReadDir(filepath.Join(root, aptMethods))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list apt's methods: %w", err)
	}
	for _, e := range methods {
		c.program(filepath.Join(aptMethods, e.Name()), "installing packages")
	}
	if err := c.shells(); err != nil {
		return nil, err
	}
	if err := c.daemons(); err != nil {
		return nil, err
	}
	for _, path := range o.Agent {
		if !c.program(path, "Cordon itself") {
			c.miss(path, "Cordon itself", "it is not there")
		}
	}
	return c.missing, ctx.Err()
}

type checker struct {
	ctx        context.Context
	root, proc string
	set        *cordon.TrustSet
	hasher     *fileid.Hasher
	dirs       []string // of libraries
	programs   []string // directories of programs; nil: not looked yet
	seen       map[string]bool
	linked     map[string]*linkage
	hwcaps     map[string][]string // by library directory
	missing    []Missing
}

func (c *checker) miss(path, role, what string) {
	c.missing = append(c.missing, Missing{Path: path, Why: "needed for " + role + ", but " + what})
}

// named examines a program by its name, wherever it is installed.
func (c *checker) named(name, role string) {
	if strings.Contains(name, "/") {
		c.program(name, role)
		return
	}
	for _, dir := range c.programDirs() {
		c.program(filepath.Join(dir, name), role)
	}
}

// programDirs lists the directories of programs, each once: on most machines
// /bin is a link to /usr/bin.
func (c *checker) programDirs() []string {
	if c.programs == nil {
		c.programs = []string{}
		for _, dir := range programDirs {
			real, err := fileid.Resolve(c.root, dir, nil)
			if err == nil && !slices.Contains(c.programs, real) {
				c.programs = append(c.programs, real)
			}
		}
	}
	return c.programs
}

// program examines a file and all that it needs to run. It returns false if
// there is no such file.
func (c *checker) program(path, role string) bool {
	real, ok := c.resolve(path, role)
	if real != "" && c.file(real, role) {
		c.needs(real, role)
	}
	return ok
}

// resolve returns the path without links, "" if there is nothing to examine. It
// returns false if there is no such file.
func (c *checker) resolve(path, role string) (real string, ok bool) {
	real, err := fileid.Resolve(c.root, path, nil)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return "", false
	}
	if err != nil {
		c.miss(path, role, "it cannot be reached: "+err.Error())
		return "", true
	}
	return real, true
}

// file examines one file itself. It returns false if that was done before, or if
// the file cannot be read.
func (c *checker) file(real, role string) bool {
	if c.seen[real] {
		return false
	}
	c.seen[real] = true
	trusted, err := c.trusted(filepath.Join(c.root, real))
	if err != nil {
		c.miss(real, role, "it cannot be read: "+err.Error())
		return false
	}
	if !trusted {
		c.miss(real, role, "its content is not in the trust set")
	}
	return true
}

func (c *checker) trusted(path string) (bool, error) {
	fd, err := fileid.Open(path)
	if err != nil {
		return false, err
	}
	id, err := fileid.Of(fd)
	_ = unix.Close(fd) // only read
	if err != nil {
		return false, err
	}
	if c.set.Knows(id) {
		return true, nil
	}
	if !c.set.MayHaveSize(id.Size) {
		return false, nil
	}
	sum, err := c.hasher.Sum(c.ctx, path, false)
	return err == nil && c.set.Contains(sum.SHA256), err
}

// pid1 examines the program that runs as PID 1 and what it has mapped. What the
// kernel does not show, it concludes from /sbin/init.
func (c *checker) pid1() {
	const role = "PID 1"
	found := false
	if exe, err := os.Readlink(filepath.Join(c.proc, "1/exe")); err == nil {
		found = c.program(existing(exe), role)
	}
	if !c.program("/sbin/init", role) && !found {
		c.miss("/sbin/init", role, "neither it nor the program of PID 1 can be found")
	}
	maps, err := os.ReadFile(filepath.Join(c.proc, "1/maps"))
	if err != nil {
		return // as for a kernel that hides them (hidepid, an LSM)
	}
	for line := range strings.Lines(string(maps)) {
		// address perms offset dev inode path
		f := strings.Fields(line)
		at := strings.IndexByte(line, '/')
		if len(f) < 6 || at < 0 || !strings.Contains(f[1], "x") {
			continue
		}
		c.program(existing(strings.TrimSuffix(line[at:], "\n")), role)
	}
}

// existing strips what the kernel appends to the path of a file that has been
// replaced: the new one is what will run next.
func existing(path string) string { return strings.TrimSuffix(path, " (deleted)") }

// shells examines the shells of the accounts that can log in: those that
// /etc/shells lists, and root's.
func (c *checker) shells() error {
	listed := map[string]bool{}
	noList := false
	err := c.lines("/etc/shells", func(line string) {
		if strings.HasPrefix(line, "/") {
			listed[strings.TrimSpace(line)] = true
		}
	})
	if errors.Is(err, fs.ErrNotExist) {
		noList = true
	} else if err != nil {
		return err
	}
	err = c.lines("/etc/passwd", func(line string) {
		f := strings.Split(line, ":")
		if len(f) != 7 {
			return
		}
		shell := f[6]
		if shell == "" {
			shell = "/bin/sh" // passwd(5)
		}
		switch filepath.Base(shell) {
		case "nologin", "false":
			return
		}
		if f[2] == "0" || noList || listed[shell] {
			c.program(shell, "the shell of "+f[0])
		}
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func (c *checker) lines(path string, see func(string)) error {
	f, err := os.Open(filepath.Join(c.root, path))
	if err != nil {
		return fmt.Errorf("read accounts: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	s := bufio.NewScanner(f)
	for s.Scan() {
		see(s.Text())
	}
	if err := s.Err(); err != nil {
		return fmt.Errorf("read accounts: %s: %w", path, err)
	}
	return nil
}

// daemons examines the network's daemons that are running on the machine itself.
func (c *checker) daemons() error {
	entries, err := os.ReadDir(c.proc)
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	own, _ := os.Readlink(filepath.Join(c.proc, "self/ns/mnt"))
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err != nil {
			continue
		}
		exe, err := os.Readlink(filepath.Join(c.proc, e.Name(), "exe"))
		if err != nil || !slices.Contains(networkDaemons, filepath.Base(existing(exe))) {
			continue
		}
		// The path of a process in a container means nothing here.
		if ns, err := os.Readlink(filepath.Join(c.proc, e.Name(), "ns/mnt")); err == nil && own != "" && ns != own {
			continue
		}
		if path := existing(exe); c.installed(path) {
			c.program(path, "the network, process "+e.Name())
		}
	}
	return nil
}

// installed reports whether nobody but root could have put a program at path. Any
// user can run something that has the name of a daemon; if that counted, it would
// keep the machine from being restricted.
func (c *checker) installed(path string) bool {
	others := errors.New("others than root can write there")
	through := func(_ string, st *unix.Stat_t) error {
		if rules.Weak(st) != "" {
			return others
		}
		return nil
	}
	real, err := fileid.Resolve(c.root, path, through)
	var st unix.Stat_t
	if err == nil && unix.Lstat(filepath.Join(c.root, real), &st) == nil {
		err = through(real, &st)
	}
	return !errors.Is(err, others) // what cannot be reached for another reason is said
}

// scriptLine returns the interpreter of a script and its argument, "" for
// anything else (execve(2): at most 255 bytes are read).
func scriptLine(head []byte) (interpreter, arg string) {
	line, _, _ := bytes.Cut(head, []byte("\n"))
	rest, ok := bytes.CutPrefix(line, []byte("#!"))
	if !ok {
		return "", ""
	}
	const blank = " \t" // to the kernel, nothing else is
	text := strings.Trim(string(rest), blank)
	if i := strings.IndexAny(text, blank); i >= 0 {
		return text[:i], strings.TrimLeft(text[i:], blank)
	}
	return text, ""
}
