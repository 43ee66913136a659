// Package rpm installs rpm packages on a restricted machine, with rpm and with
// dnf. The machine is a Debian that has both: rpm's database, its signatures and the
// order in which it does things are the same as elsewhere.
package rpm

import (
	"cmp"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-project/cordon/internal/testkit/vm"
)

func TestRPM(t *testing.T) {
	vm.Require(t)
	m, err := vm.Boot(t.Context(), vm.Config{
		Kernel: "6.12", Disk: true, Cordon: true, Packages: []string{"rpm", "dnf", "createrepo-c"}, Files: publish(t), Log: t.Output(),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	for i, s := range steps {
		ok := t.Run(s.name, func(t *testing.T) { m.Script(t, prelude+s.script, s.want...) })
		if !ok && i == 0 {
			t.Fatal("what follows needs this step")
		}
	}
}

// publish builds the packages, and returns the files for a guest:
//   - /srv/repo has packages that are signed by the key in /srv/key.asc: busybox-plain,
//     and those whose scriptlets start the package's own program; busybox-post has
//     two versions
//   - the repository also has busybox-late, signed by the key in /srv/late.asc;
//     /srv/none has a package without a signature
//   - /srv/cordon.rpm is Cordon's package, but for the program, which is there
//   - /srv/base.rpm provides what Debian has, as rpm does not know of dpkg's packages
//   - /srv/busybox-own is a program of no package
//   - the agent is told that interpreters run only what is trusted
func publish(t *testing.T) map[string]string {
	t.Helper()
	for _, tool := range []string{"rpmbuild", "rpmsign", "gpg", "gpg-agent"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("the packages cannot be built: run make deps: %v", err)
		}
	}
	b := builder{t: t, dir: t.TempDir()}
	box, err := exec.LookPath("busybox")
	check(t, err)
	b.program, err = os.ReadFile(box) // static, and of no distribution with something at its end
	check(t, err)
	files := map[string]string{}
	put := func(to, from string) { files[to] = from }
	key, late := b.key("key"), b.key("late")
	put("/srv/key.asc", key+".asc")
	put("/srv/late.asc", late+".asc")
	own := filepath.Join(b.dir, "own")
	check(t, os.WriteFile(own, b.own("own"), 0o755))
	put("/srv/busybox-own", own)
	policy := filepath.Join(b.dir, "policy")
	check(t, os.WriteFile(policy, []byte("[Service]\nExecStart=\nExecStart=/usr/bin/cordon agent run --interpreters trusted-scripts\n"), 0o644))
	put("/etc/systemd/system/cordon-agent.service.d/policy.conf", policy)
	put("/srv/base.rpm", b.build(pkg{name: "base", provides: "/bin/sh /usr/bin/python3"}))
	packaging := func(name string) string {
		text, err := os.ReadFile("../../packaging/" + name)
		check(t, err)
		return string(text)
	}
	put("/srv/cordon.rpm", b.build(pkg{
		name: "cordon", files: map[string]string{"/usr/share/cordon/dnf.py": packaging("dnf.py")},
		scriptlets: "%post\n" + packaging("postinstall.sh") + "%preun\n" + packaging("preremove.sh") + "%postun\n" + packaging("postremove.sh"),
	}))
	for _, p := range []struct {
		dir, key string
		pkg
	}{
		{"repo", key, pkg{name: "busybox-plain"}},
		{"repo", key, pkg{name: "busybox-post", scriptlets: post}}, {"repo", key, pkg{name: "busybox-post", version: "2", scriptlets: scriptlets, files: module}},
		{"repo", key, pkg{name: "busybox-dnf", scriptlets: scriptlets, files: module}},
		{"repo", late, pkg{name: "busybox-late"}},
		{"none", "", pkg{name: "busybox-none"}},
	} {
		file := b.build(p.pkg)
		if p.key != "" {
			b.sign(p.key, file)
		}
		put("/srv/"+p.dir+"/"+filepath.Base(file), file)
	}
	return files
}

// pkg is a package; its version is 1 unless it has one. If its name begins with
// busybox, it brings /usr/bin/NAME, which ends with name and version, and then
// the files, whose texts have paths. NAME and VERSION in the scriptlets are its own.
type pkg struct {
	name, version, provides, scriptlets string
	files                               map[string]string
}

// post starts the package's own program and writes what came of it to /run/NAME.
const post = `%post
/usr/bin/NAME echo post of VERSION ran >> /run/NAME 2>&1
`

// scriptlets have code of each kind: in the package manager's own Lua, in words, and
// in Python with the module that the package brings.
const scriptlets = `%pre -p <lua>
os.execute("echo pre in Lua ran > /run/NAME")
` + post + `perl -e 'print "code in words ran\n"' >> /run/NAME
%posttrans -p /usr/bin/python3
import os, sys
sys.path.insert(0, "/usr/share/NAME")
import brought
os.system("/usr/bin/NAME echo posttrans in Python, " + brought.text + ", ran >> /run/NAME")
`

var module = map[string]string{"/usr/share/NAME/brought.py": "text = 'with its module'\n"}

// builder makes packages below dir.
type builder struct {
	t       *testing.T
	dir     string
	program []byte
}

func (b *builder) own(mark string) []byte { return append(append([]byte{}, b.program...), mark...) }

func (b *builder) run(env, name string, args ...string) {
	b.t.Helper()
	cmd := exec.CommandContext(b.t.Context(), name, args...)
	cmd.Env = append(os.Environ(), env, "LC_ALL=C")
	if out, err := cmd.CombinedOutput(); err != nil {
		b.t.Fatalf("%s: %v\n%s", name, err, out)
	}
}

// key makes a key in a GnuPG home of its own, whose path it returns; the public
// key is beside it.
func (b *builder) key(name string) string {
	b.t.Helper()
	home := filepath.Join(b.dir, name)
	check(b.t, os.Mkdir(home, 0o700))
	env := "GNUPGHOME=" + home
	b.t.Cleanup(func() { // GnuPG's agent ends with its home at the latest
		_ = exec.Command("gpgconf", "--homedir", home, "--kill", "all").Run()
	})
	b.run(env, "gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", "", "--quick-gen-key", name, "rsa3072", "sign", "never")
	b.run(env, "gpg", "--batch", "--armor", "--output", home+".asc", "--export", name)
	return home
}

func (b *builder) sign(home, file string) {
	b.t.Helper()
	gpg, err := exec.LookPath("gpg")
	check(b.t, err)
	b.run("GNUPGHOME="+home, "rpmsign", "--define", "__gpg "+gpg, "--define", "_gpg_name "+filepath.Base(home), "--define", "_gpg_path "+home, "--addsign", file)
}

// build makes a package and returns its path.
func (b *builder) build(p pkg) string {
	b.t.Helper()
	p.version = cmp.Or(p.version, "1")
	fill := strings.NewReplacer("NAME", p.name, "VERSION", p.version)
	base := filepath.Join(b.dir, p.name+p.version)
	install, files := "", ""
	add := func(path, mode string, content []byte) {
		path = fill.Replace(path)
		from := base + "." + filepath.Base(path)
		check(b.t, os.WriteFile(from, content, 0o644))
		install += "install -D -m " + mode + " " + from + " %{buildroot}" + path + "\n"
		files += path + "\n"
	}
	if strings.HasPrefix(p.name, "busybox") {
		add("/usr/bin/NAME", "755", b.own(p.name+p.version))
	}
	for path, text := range p.files {
		add(path, "644", []byte(text))
	}
	text := "Name: NAME\nVersion: VERSION\nRelease: 1\nSummary: none\nLicense: none\nAutoReqProv: no\n"
	if p.provides != "" {
		text += "Provides: " + p.provides + "\n"
	}
	text += "%description\nnone\n%install\n" + install + p.scriptlets + "%files\n" + files
	spec := base + ".spec"
	check(b.t, os.WriteFile(spec, []byte(fill.Replace(text)), 0o644))
	b.run("HOME="+b.dir, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+base+".build", "--define", "_rpmdir "+b.dir, "--define", "_rpmfilename %{NAME}-%{VERSION}.rpm",
		"--define", "__os_install_post %{nil}", "--define", "debug_package %{nil}", "--define", "_build_id_links none", "--define", "_binary_payload w1.gzdio", spec)
	return filepath.Join(b.dir, p.name+"-"+p.version+".rpm")
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
