package dpkg

import (
	"errors"
	"fmt"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon/internal/trust/fixture"
)

// TestRealDpkg has dpkg itself install, upgrade, divert and remove packages.
func TestRealDpkg(t *testing.T) {
	fixture.Need(t, "dpkg", "dpkg-deb", "dpkg-divert")
	root := fixture.NewRoot(t)
	for _, dir := range []string{"info", "updates"} {
		root.Write(Dir+"/"+dir+"/.keep", "", 0o644)
	}
	root.Write(Dir+"/status", "", 0o644)
	run := func(name string, args ...string) {
		t.Helper()
		if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
			t.Fatalf("%s %v: %v\n%s", name, args, err, out)
		}
	}
	dpkg := func(args ...string) {
		t.Helper()
		run("dpkg", append([]string{"--root=" + root.Dir, "--force-not-root", "--force-bad-path", "--log=/dev/null"}, args...)...)
	}
	install := func(name, arch, more, program string) {
		t.Helper()
		pkg := fixture.NewRoot(t)
		pkg.Write("usr/bin/"+name, program, 0o755)
		pkg.Write("etc/"+name+".conf", "conf\n", 0o644)
		pkg.Write("DEBIAN/conffiles", "/etc/"+name+".conf\n", 0o644)
		pkg.Write("DEBIAN/md5sums", sum(program)+"  usr/bin/"+name+"\n", 0o644)
		pkg.Write("DEBIAN/control", fmt.Sprintf("Package: %s\nVersion: %s\nArchitecture: %s\n%sMaintainer: nobody <nobody@example.org>\nDescription: none\n",
			name, "1."+sum(program), arch, more), 0o644)
		deb := pkg.Path("../" + name + ".deb")
		run("dpkg-deb", "--root-owner-group", "--build", pkg.Dir, deb)
		dpkg("--force-architecture", "--install", deb)
	}
	check := func(step string, want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, list(t, open(t, root))); diff != "" {
			t.Errorf("%s: %s", step, diff)
		}
	}
	conf := sum("conf\n") + " conffile"
	install("one", "all", "", "v1")
	check("installed", "one:all /etc/one.conf "+conf, "one:all /usr/bin/one "+sum("v1"))
	install("one", "all", "", "v2")
	check("upgraded", "one:all /etc/one.conf "+conf, "one:all /usr/bin/one "+sum("v2"))
	install("two", "amd64", "Multi-Arch: same\n", "2")
	run("dpkg-divert", "--root="+root.Dir, "--package", "two", "--rename", "--divert", "/usr/bin/one.real", "--add", "/usr/bin/one")
	check("diverted", "one:all /etc/one.conf "+conf, "one:all /usr/bin/one.real "+sum("v2"),
		"two:amd64 /etc/two.conf "+conf, "two:amd64 /usr/bin/two "+sum("2"))
	dpkg("--remove", "one")
	check("removed", "two:amd64 /etc/two.conf "+conf, "two:amd64 /usr/bin/two "+sum("2"))
	dpkg("--purge", "one", "two")
	if db, err := Open(root.Dir, fixture.Age()); !errors.Is(err, ErrNone) {
		t.Errorf("purged: %+v, %v", db, err)
	}
}
