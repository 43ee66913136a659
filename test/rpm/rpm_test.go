// Package rpm installs rpm packages on a restricted machine, with rpm and with
// dnf. The machine is a Debian that has both: rpm's database, its signatures and the
// order in which it does things are the same as elsewhere.
package rpm

import (
	"fmt"
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
		ok := t.Run(s.name, func(t *testing.T) {
			out, err := m.Output(t.Context(), "sh", "-c", prelude+s.script)
			if err != nil {
				log, _ := m.Output(t.Context(), "journalctl", "-u", "cordon-agent", "-n", "40", "--no-pager", "-q")
				t.Fatalf("%v\nthe agent's log:\n%s", err, log)
			}
			for _, want := range s.want {
				if !strings.Contains(out, want) {
					t.Errorf("%q is not in the output:\n%s", want, out)
				}
			}
			if testing.Verbose() {
				t.Log(out)
			}
		})
		if !ok && i == 0 {
			t.Fatal("what follows needs this step")
		}
	}
}

// publish builds the packages, and returns the files for a guest:
//   - /srv/repo has busybox-plain, busybox-post and busybox-dnf, signed by the key
//     in /srv/key.asc; the latter two have a scriptlet that starts the package's own
//     program, and busybox-post has two versions
//   - the repository also has busybox-late, signed by the key in /srv/late.asc;
//     /srv/none has a package without a signature
//   - /srv/sh provides /bin/sh, as rpm does not know of dpkg's packages
//   - /srv/busybox-own is a program of no package
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
	put("/usr/share/cordon/dnf.py", "../../packaging/dnf.py")
	put("/srv/key.asc", key+".asc")
	put("/srv/late.asc", late+".asc")
	own := filepath.Join(b.dir, "own")
	check(t, os.WriteFile(own, b.own("own"), 0o755))
	put("/srv/busybox-own", own)
	for _, p := range []struct{ dir, key, name, version, post string }{
		{"sh", key, "sh", "1", ""},
		{"repo", key, "busybox-plain", "1", ""},
		{"repo", key, "busybox-post", "1", "post"}, {"repo", key, "busybox-post", "2", "post"},
		{"repo", key, "busybox-dnf", "1", "post"},
		{"repo", late, "busybox-late", "1", ""},
		{"none", "", "busybox-none", "1", ""},
	} {
		file := b.build(p.name, p.version, p.post != "")
		if p.key != "" {
			b.sign(p.key, file)
		}
		put("/srv/"+p.dir+"/"+filepath.Base(file), file)
	}
	return files
}

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

// build makes a package with one program, /usr/bin/NAME, that ends with name and
// version. With post, a scriptlet starts it and writes what came of it to
// /run/NAME.
func (b *builder) build(name, version string, post bool) string {
	b.t.Helper()
	program := filepath.Join(b.dir, name+version)
	check(b.t, os.WriteFile(program, b.own(name+version), 0o755))
	text := fmt.Sprintf("Name: %s\nVersion: %s\nRelease: 1\nSummary: none\nLicense: none\nAutoReqProv: no\n", name, version)
	if name == "sh" {
		text += "Provides: /bin/sh\n%description\nnone\n%files\n"
	} else {
		text += fmt.Sprintf("%%description\nnone\n%%install\ninstall -D -m 755 %s %%{buildroot}/usr/bin/%s\n", program, name)
		if post {
			text += fmt.Sprintf("%%post\n/usr/bin/%s echo post of %s ran > /run/%s 2>&1\n", name, version, name)
		}
		text += fmt.Sprintf("%%files\n/usr/bin/%s\n", name)
	}
	spec := program + ".spec"
	check(b.t, os.WriteFile(spec, []byte(text), 0o644))
	b.run("HOME="+b.dir, "rpmbuild", "-bb", "--quiet", "--define", "_topdir "+program+".build", "--define", "_rpmdir "+b.dir, "--define", "_rpmfilename %{NAME}-%{VERSION}.rpm",
		"--define", "__os_install_post %{nil}", "--define", "debug_package %{nil}", "--define", "_build_id_links none", "--define", "_binary_payload w1.gzdio", spec)
	return filepath.Join(b.dir, name+"-"+version+".rpm")
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
