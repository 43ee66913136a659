// Package installed tries the packages of Cordon on whole machines: Debian with
// systemd, sshd, sudo, cron and apt, restricted through its server, rebooted,
// upgraded and released.
package installed

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cordon-project/cordon/internal/testkit/aptrepo"
	"github.com/cordon-project/cordon/internal/testkit/vm"
)

func TestInstalled(t *testing.T) {
	vm.Require(t)
	srv := publish(t)
	for _, kernel := range []string{"6.1", "6.12"} {
		t.Run(kernel, func(t *testing.T) {
			t.Parallel() // each has one processor
			g := boot(t, kernel, srv)
			take := func(steps []step) {
				for _, s := range steps {
					if s.kernel != "" && s.kernel != kernel {
						continue
					}
					if !t.Run(s.name, func(t *testing.T) { g.step(t, s) }) {
						t.Fatal("what follows needs this step")
					}
				}
			}
			take(steps)
			if !t.Run("reboot", g.reboot) {
				t.Fatal("what follows needs this step")
			}
			take(last)
		})
	}
}

// many is how many packages are upgraded at once, beside the others.
const many = 30

type guest struct {
	m *vm.Machine
	// ctx is that of the whole test: a machine ends with the context in which it
	// was started, also again.
	ctx context.Context
}

func boot(t *testing.T, kernel string, srv map[string]string) *guest {
	t.Helper()
	m, err := vm.Boot(t.Context(), vm.Config{Kernel: kernel, Disk: true, Files: srv, Log: t.Output()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return &guest{m, t.Context()}
}

func (g *guest) step(t *testing.T, s step) {
	t.Helper()
	g.m.Script(t, prelude+s.script, s.want...)
}

// reboot restarts the machine: the restriction is in force again before services
// start, sshd among them.
func (g *guest) reboot(t *testing.T) {
	ctx := g.ctx
	if err := g.m.Reboot(ctx); err != nil {
		t.Fatal(err)
	}
	if err := g.m.Settle(ctx); err != nil {
		t.Fatal(err)
	}
	at := func(unit, property string) int {
		out, err := g.m.Output(ctx, "systemctl", "show", "-P", property, unit)
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(out))
		if err != nil || n == 0 {
			t.Fatalf("%s of %s is %q", property, unit, out)
		}
		return n
	}
	ready := at("cordon-agent.service", "ActiveEnterTimestampMonotonic")
	for _, unit := range []string{"ssh.service", "early.service", "cron.service"} {
		began := at(unit, "ExecMainStartTimestampMonotonic")
		t.Logf("%s began %d ms after the agent was ready", unit, (began-ready)/1000)
		if began < ready {
			t.Errorf("%s began before the agent was ready", unit)
		}
	}
	out, err := g.m.Output(ctx, "sh", "-c", "test ! -e /run/early-ran && systemctl --failed --plain --no-legend")
	if err != nil {
		t.Error("an early service ran a program of one's own", err)
	}
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, "early.service") {
			t.Errorf("failed at boot: %s", line)
		}
	}
}

// publish builds two versions of our package, and others, in a signed repository,
// and returns the files for a guest.
func publish(t *testing.T) map[string]string {
	t.Helper()
	dir := t.TempDir()
	repo := filepath.Join(dir, "repo")
	key, err := aptrepo.NewKey()
	check(t, err)
	public, err := key.Public()
	check(t, err, os.Mkdir(repo, 0o755))
	check(t, os.WriteFile(dir+"/key.asc", public, 0o644))
	debs := map[string][]byte{}
	for _, version := range []string{"1.0.0", "1.1.0"} {
		cmd := exec.CommandContext(t.Context(), "make", "-C", "../..", "packages", "VERSION="+version, "ARCH=amd64", "FORMATS=deb", "OUT="+dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("make packages: %v\n%s", err, out)
		}
		name := "cordon_" + version + "_amd64.deb"
		debs[name], err = os.ReadFile(filepath.Join(dir, name))
		check(t, err)
	}
	box, err := exec.LookPath("busybox")
	check(t, err)
	program, err := os.ReadFile(box)
	check(t, err)
	own := func(mark string) []byte { return append(append([]byte{}, program...), mark...) } // static, and of no distribution
	for _, version := range []string{"1", "2"} {
		add(t, debs, aptrepo.Package{Name: "busybox-t", Version: version, Files: map[string][]byte{"/usr/bin/busybox-t": own(version)}, Scripts: map[string]string{
			"preinst":  fmt.Sprintf("#!/bin/sh\necho preinst of %s > /run/t-pre\n", version),
			"postinst": fmt.Sprintf("#!/bin/sh\nset -e\n/usr/bin/busybox-t echo postinst ran %s | tee /run/t-post\n", version),
		}})
	}
	for i := range many {
		for _, version := range []string{"1", "2"} {
			name := fmt.Sprintf("many-%d", i+1)
			add(t, debs, aptrepo.Package{Name: name, Version: version,
				Files:   map[string][]byte{"/usr/bin/" + name: fmt.Appendf(nil, "#!/usr/bin/perl\nuse Many::M%d;\n", i+1)},
				Plain:   map[string][]byte{fmt.Sprintf("/usr/share/perl5/Many/M%d.pm", i+1): fmt.Appendf(nil, "print '%s is %s', \"\\n\";\n1;\n", name, version)},
				Scripts: map[string]string{"postinst": fmt.Sprintf("#!/bin/sh\nset -e\n%s >> /run/many-%s\n", name, version)},
			})
		}
	}
	check(t, key.Repository(repo, debs))
	files := map[string][]byte{"busybox-own": own("own")}
	add(t, files, aptrepo.Package{Name: "busybox-e", Version: "1", Files: map[string][]byte{"/usr/bin/busybox-e": own("e")}, Scripts: map[string]string{"preinst": "#!/bin/sh\ntouch /run/e-pre\n"}})
	add(t, files, aptrepo.Package{Name: "busybox-f", Version: "1", Files: map[string][]byte{"/usr/bin/busybox-f": own("f")}})
	srv := map[string]string{"/srv/key.asc": dir + "/key.asc"}
	for name, content := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), content, 0o755))
		srv["/srv/"+name] = filepath.Join(dir, name)
	}
	for name := range debs {
		srv["/srv/repo/"+name] = filepath.Join(repo, name)
	}
	for _, name := range []string{"InRelease", "Packages"} {
		srv["/srv/repo/"+name] = filepath.Join(repo, name)
	}
	return srv
}

func add(t *testing.T, to map[string][]byte, p aptrepo.Package) {
	t.Helper()
	deb, err := p.Deb()
	check(t, err)
	to[p.File()] = deb
}

func check(t *testing.T, errs ...error) {
	t.Helper()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
}
