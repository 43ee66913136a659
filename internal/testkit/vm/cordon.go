package vm

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

// Where an installed cordon has its things in the guest.
const (
	CordonProgram = "/usr/bin/cordon"
	CordonProfile = "/var/lib/cordon/bootstrap.json" // for CORDON_PROFILE
	cordonRules   = "/etc/cordon/trust.rules"
)

// units are those of the packages, in this directory of the module.
const units = "packaging"

// enrollScript runs once, in the guest: the token is known only to its server.
const enrollScript = `set -e
trap 'c=$?; [ $c = 0 ] || journalctl -n 60 -u cordon-server -u cordon-agent --no-pager; exit $c' EXIT
systemctl enable --now cordon-server.service
for i in $(seq 240); do [ -s ` + CordonProfile + ` ] && break; sleep 0.25; done
umask 077
{
	echo CORDON_SERVER=https://localhost:8443
	echo CORDON_CA_FILE=/var/lib/cordon/ca.crt
	sed -n 's/.*"enrollmentToken": "\(.*\)".*/CORDON_ENROLLMENT_TOKEN=\1/p' ` + CordonProfile + `
} > /etc/cordon/agent.env
systemctl enable --now cordon-agent.service
for i in $(seq 480); do
	CORDON_PROFILE=` + CordonProfile + ` cordon machines list 2>/dev/null | grep -qw vm && exit 0
	sleep 0.25
done
exit 1
`

// Script runs a script in a guest that has an agent; each of want has to be in what
// it prints. Where it fails the agent's log is shown too.
func (m *Machine) Script(t testing.TB, script string, want ...string) {
	t.Helper()
	out, err := m.Output(t.Context(), "sh", "-c", script)
	if err != nil {
		log, _ := m.Output(t.Context(), "journalctl", "-u", "cordon-agent", "-n", "40", "--no-pager", "-q") // the failure says more
		t.Fatalf("%v\nthe agent's log:\n%s", err, log)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("%q is not in the output:\n%s", w, out)
		}
	}
	t.Log(out)
}

// install adds cordon and its rules file to what is put on the disk.
func (m *Machine) install(ctx context.Context, guest string, t tree) error {
	program, err := goBuild(ctx, m.dir, "cmd/cordon")
	if err != nil {
		return err
	}
	// While restricted the guest must go on talking to us, also after a restart.
	rules, err := rule(guest, "the VM harness's program in the guest")
	if err != nil {
		return err
	}
	for _, path := range m.cfg.Trust {
		r, err := rule(path, filepath.Base(path))
		if err != nil {
			return err
		}
		rules += r
	}
	const at = channel.InitPayload
	t[at+CordonProgram] = entry{mode: 0o755, from: program}
	t[at+cordonRules] = entry{mode: 0o644, data: []byte(rules)}
	t[at+"/etc/cordon/server.env"] = entry{mode: 0o644, data: []byte("CORDON_SERVER_ARGS=--listen 127.0.0.1:8443\n")}
	module, err := moduleDir(ctx)
	for _, unit := range []string{"cordon-server.service", "cordon-agent.service"} {
		t[at+"/usr/lib/systemd/system/"+unit] = entry{mode: 0o644, from: filepath.Join(module, units, unit)}
	}
	return err
}

// rule is a line of a rules file that trusts the content of the file at path.
func rule(path, comment string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	return fmt.Sprintf("sha256 %x %s\n", h.Sum(nil), strings.Map(printable, comment)), nil
}

func printable(r rune) rune {
	if r < ' ' {
		return '?'
	}
	return r
}

// enroll starts the server and the agent in the guest.
func (m *Machine) enroll(ctx context.Context) error {
	m.say("starting the agent and a server in the guest")
	if _, err := m.Output(ctx, "sh", "-c", enrollScript); err != nil {
		return fmt.Errorf("enrol the agent: %w", err)
	}
	return nil
}

// Settle waits until systemd has started everything that it starts at boot.
// Services that failed do not make it an error.
func (m *Machine) Settle(ctx context.Context) error {
	_, err := m.Run(ctx, Cmd{Program: channel.Program{Args: []string{"systemctl", "is-system-running", "--wait"}}})
	return err
}

// Restrict restricts the guest through its server and waits until the agent says
// that it is in force.
func (m *Machine) Restrict(ctx context.Context) error {
	_, err := m.Output(ctx, "env", "CORDON_PROFILE="+CordonProfile, CordonProgram, "restrict", "vm", "--comment", "VM harness", "--wait")
	if err != nil {
		return fmt.Errorf("restrict the guest: %w", err)
	}
	return nil
}
