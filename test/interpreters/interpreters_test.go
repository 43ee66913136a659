// Package interpreters has interpreters run what is not trusted, in every way that
// is known for each of them, on a whole Debian: first free, then restricted.
package interpreters

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-project/cordon/internal/testkit/vm"
)

// packages are the interpreters that a small Debian server does not have.
var packages = []string{"python3", "ruby", "nodejs", "php-cli", "lua5.4", "tcl", "gawk", "default-jdk-headless"}

const (
	untrusted = "/root/u"   // the working directory
	trusted   = "/opt/good" // a rule trusts the program text below it
	own       = "/root/own" // the server trusts what is here
	marker    = "/run/marker"
)

func TestInterpreters(t *testing.T) {
	vm.Require(t)
	for _, kernel := range []string{"6.12", "6.1"} {
		t.Run(kernel, func(t *testing.T) {
			m, err := vm.Boot(t.Context(), vm.Config{Kernel: kernel, Disk: true, Cordon: true, Packages: packages, Files: files(t), Memory: 2048, Log: t.Output()})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
			g := guest{t, m}
			g.must(prepare)
			for _, l := range languages {
				t.Run("free/"+l.name, func(t *testing.T) {
					for _, line := range slices.Concat(l.allowed, l.refused) {
						if ran, out := g.try(t.Context(), line); !ran {
							t.Errorf("%s: it does not work at all: %s", line, out)
						}
					}
				})
			}
			g.must("cordon restrict vm --comment tests --wait && cordon agent status > /run/status && cat /run/status && grep -q '^Enforcer *bpf,' /run/status && grep -q '^Interpreters *trusted-scripts:' /run/status")
			g.must(admit)
			for _, l := range languages {
				t.Run("restricted/"+l.name, func(t *testing.T) {
					for _, line := range l.allowed {
						if ran, out := g.try(t.Context(), line); !ran {
							t.Errorf("%s: it is trusted, and does not work: %s", line, out)
						}
					}
					for _, line := range l.refused {
						if ran, out := g.try(t.Context(), line); ran {
							t.Errorf("%s: it ran: %s", line, out)
						}
					}
				})
			}
		})
	}
}

type guest struct {
	t *testing.T
	m *vm.Machine
}

func (g guest) must(script string) {
	g.t.Helper()
	g.m.Script(g.t, "set -e\nexport CORDON_PROFILE="+vm.CordonProfile+"\n"+script)
}

// try runs a line in a login of root, and reports whether what is in the texts
// ran: they all leave the marker.
func (g guest) try(ctx context.Context, line string) (bool, string) {
	g.t.Helper()
	const login = `rm -f "$MARKER"; echo 0 > /proc/self/loginuid && cd ` + untrusted + ` && timeout 120 bash -c "$1" < /dev/null; test -e "$MARKER"`
	out, err := g.m.Output(ctx, "env", "MARKER="+marker, "sh", "-c", login, "sh", again+line)
	return err == nil, out
}

// again is for texts that are trusted wherever they are, or whose names do not say
// that they are any: the first who has one read is refused, and only then the agent
// knows where it is.
const again = `again() { until "$@" > /dev/null 2>&1 && test -e "$MARKER"; do sleep 1; done; }; `

// files are the texts in the guest: each language's program, the same under the
// names that it has for modules, and whatever else its cases need.
func files(t *testing.T) map[string]string {
	t.Helper()
	dir, n := t.TempDir(), 0
	all := map[string]string{}
	write := func(to string, content []byte) {
		n++
		from := filepath.Join(dir, fmt.Sprint(n))
		if err := os.WriteFile(from, content, 0o755); err != nil {
			t.Fatal(err)
		}
		all[to] = from
	}
	put := func(to, text string) { write(to, []byte(text)) }
	write(untrusted+"/Evil.class", class("Evil"))
	write(untrusted+"/Evil.jar", archive(t, "Evil"))
	write(untrusted+"/Evil.txt", archive(t, "Evil"))
	for _, version := range []string{"311", "313"} { // where python looks first
		write("/usr/lib/python"+version+".zip", zipped(t, map[string][]byte{"zipped.py": []byte("open(__import__('os').environ['MARKER'], 'w')\n")}))
	}
	write(trusted+"/Good.class", class("Good"))
	write(trusted+"/Good.jar", archive(t, "Good"))
	write(own+"/Own.jar", archive(t, "Own"))
	for _, l := range languages {
		put(path.Join(untrusted, l.name+".txt"), l.text)
		put(path.Join(own, l.name+".txt"), l.text+l.comment+" the administrator's own\n")
		for name, text := range maps.All(l.files) {
			if !strings.HasPrefix(name, "/") {
				name = path.Join(untrusted, name)
			}
			put(name, strings.ReplaceAll(text, "TEXT", l.text))
		}
	}
	return all
}
