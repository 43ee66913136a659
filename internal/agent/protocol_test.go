package agent

import (
	"context"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/wire"
	"github.com/cordon-project/cordon/test/interleave"
)

// The agent keeps the protocol's promises under any interleaving, with its real
// files; see package interleave.
func TestProtocol(t *testing.T) {
	base := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		interleave.Run(t, func(s interleave.Setup) interleave.Machine {
			path, err := os.MkdirTemp(base, "agent")
			if err != nil {
				t.Fatal(err)
			}
			m := &machine{t: t, setup: s, dir: path}
			writeIdentity(t, path, s.Key, s.OrderKey)
			m.start()
			t.Cleanup(func() {
				if err := errors.Join(m.agent.Close(), os.RemoveAll(path)); err != nil {
					t.Error(err)
				}
			})
			return m
		})
	})
}

type fataler interface {
	Helper()
	Fatal(...any)
}

// writeIdentity makes the files of an enrolled machine.
func writeIdentity(t fataler, path string, key ed25519.PrivateKey, orderKey ed25519.PublicKey) {
	t.Helper()
	jwk, err := seal.MarshalKey(orderKey)
	if err != nil {
		t.Fatal(err)
	}
	id := disk.Identity{Machine: cordon.IDOfKey(key.Public().(ed25519.PublicKey)), Tenant: "tenant", OrderKey: jwk, Seed: key.Seed()}
	d, err := disk.Open(path)
	if err == nil {
		err = errors.Join(d.SaveIdentity(id), d.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
}

// readStanding returns the standing that is on disk.
func readStanding(t fataler, path string) cordon.Standing {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(path, disk.StateFile))
	if errors.Is(err, fs.ErrNotExist) {
		return cordon.Standing{}
	}
	var s disk.State
	if err == nil {
		err = json.Unmarshal(data, &s)
	}
	if err != nil {
		t.Fatal(err)
	}
	return s.Standing
}

// breakDisk makes every save of the state fail, or mends that.
func breakDisk(t fataler, path string, broken bool) {
	t.Helper()
	name := filepath.Join(path, disk.StateFile+".new")
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	if !broken {
		return
	}
	if err := os.Mkdir(name, 0o700); err != nil {
		t.Fatal(err)
	}
}

// machine is an agent as package interleave drives it.
type machine struct {
	t        *rapid.T
	setup    interleave.Setup
	dir      string
	agent    *Agent
	snapshot []byte // of the state file at the moment of a crash
}

func (m *machine) Switch(_ context.Context, mode cordon.Mode) error {
	return m.setup.Kernel.Switch(mode)
}
func (m *machine) Trust(context.Context, []cordon.TrustEntry) error { return nil }

func (m *machine) Observe() cordon.Observed { return cordon.Observed{} }

func (m *machine) start() {
	var err error
	m.agent, err = Open(Config{DataDir: m.dir, Log: slog.New(slog.DiscardHandler), Now: m.setup.Now, Boot: bootClock()})
	if err == nil {
		m.agent.Use(m)
		err = m.agent.restore(context.Background())
	}
	if err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) Take(jws string) []string {
	report, err := m.agent.takeUp(context.Background(), jws, false, nil)
	if report == "" {
		if err == nil {
			m.t.Fatal("no report and no error")
		}
		return nil
	}
	return []string{report}
}

func (m *machine) Outbox() []string { return m.agent.outbox() }

func (m *machine) Settle(actions []cordon.ActionID) {
	m.agent.hear(context.Background(), wire.FromServer{Settled: actions})
}

func (m *machine) Durable() cordon.Standing { return readStanding(m.t, m.dir) }

func (m *machine) Snapshot() {
	var err error
	if m.snapshot, err = os.ReadFile(filepath.Join(m.dir, disk.StateFile)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *machine) Restart() {
	if err := m.agent.Close(); err != nil {
		m.t.Fatal(err)
	}
	if m.snapshot != nil {
		if err := os.WriteFile(filepath.Join(m.dir, disk.StateFile), m.snapshot, 0o600); err != nil {
			m.t.Fatal(err)
		}
		m.snapshot = nil
	}
	m.start()
}

func (m *machine) BreakDisk(broken bool) { breakDisk(m.t, m.dir, broken) }
