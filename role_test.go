package cordon_test

import (
	"testing"

	"github.com/cordon-project/cordon"
)

func TestRoleOf(t *testing.T) {
	for name, want := range map[string]cordon.Role{
		"python3.11": cordon.Python, "python3": cordon.Python, "python": cordon.Python, "python3.13t": cordon.Python, "python3.11-dbg": cordon.Python,
		"python3-config": cordon.NoRole, "python3.11-config": cordon.NoRole, "pythonic": cordon.NoRole,
		"perl": cordon.Perl, "perl5.36.0": cordon.Perl, "perldoc": cordon.NoRole, "perl5.36-x86_64-linux-gnu": cordon.NoRole,
		"ruby3.1": cordon.Ruby, "node": cordon.Node, "nodejs": cordon.Node, "java": cordon.Java, "javac": cordon.JavaTool, "keytool": cordon.JavaTool, "jshell": cordon.JavaShell, "javaws": cordon.NoRole, "expect": cordon.Expect, "tcsh": cordon.Shell,
		"php8.2": cordon.PHP, "php-cgi8.2": cordon.PHP, "lua5.4": cordon.Lua, "luac5.4": cordon.NoRole, "tclsh8.6": cordon.Tcl,
		"mawk": cordon.Awk, "gawk": cordon.Awk, "bash": cordon.Shell, "dash": cordon.Shell, "zsh5": cordon.Shell, "bash-static": cordon.Shell,
		"bashbug": cordon.NoRole, "sshd": cordon.NoRole, "ssh": cordon.NoRole, "ld": cordon.NoRole, "d": cordon.NoRole, "": cordon.NoRole, "-dbg": cordon.NoRole,
		"busybox": cordon.Busybox, "dpkg": cordon.Installer, "apt-get": cordon.Installer, "dpkg-deb": cordon.NoRole, "rpm": cordon.Installer,
		"dnf": cordon.Installer, "dnf-3": cordon.Installer, "dnf4": cordon.Installer, "dnf5": cordon.Installer, "microdnf": cordon.Installer, "dnf-automatic-3": cordon.Installer,
		"dnf5daemon-server": cordon.Installer, "dnf5daemon-client": cordon.NoRole,
	} {
		if got := cordon.RoleOf(name); got != want {
			t.Errorf("%q: role %d, want %d", name, got, want)
		}
	}
	if !cordon.Installer.Known() || !cordon.JavaShell.Known() || cordon.Role(99).Known() {
		t.Error("roles are mistaken for each other")
	}
}

func TestIsProgramText(t *testing.T) {
	for name, want := range map[string]bool{
		"a.py": true, "x.cpython-311.pyc": true, "List.pm": true, "a.b.sh": true, ".sh": true, "x.class": true, "package.json": true, "/usr/lib/jvm/a/lib/modules": true, "lib/tclIndex": true, "x.gemspec": true,
		"a.txt": false, "py": false, "": false, "a.py.txt": false, "a.PY": false, "README": false, "my-package.json": false, "a.py/README": false,
	} {
		if got := cordon.IsProgramText(name); got != want {
			t.Errorf("%q: %v", name, got)
		}
	}
}

// The version is another one when a content has another role: what is in force depends on it.
func TestVersionHasRoles(t *testing.T) {
	e := cordon.TrustEntry{Digest: digest("x"), Size: 1}
	plain := cordon.NewTrustSet([]cordon.TrustEntry{e}, nil).Version()
	e.Role = cordon.Python
	if cordon.NewTrustSet([]cordon.TrustEntry{e}, nil).Version() == plain {
		t.Error("a role does not change the version")
	}
}
