package agent

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/agent/disk"
	"github.com/cordon-project/cordon/test/lab"
)

func TestOneAgentPerDirectory(t *testing.T) {
	f := newFixture(t)
	_, err := Open(Config{DataDir: f.dir, Log: lab.Logger(t)})
	if err == nil || err.Error() != "another agent is running with the data directory "+f.dir {
		t.Errorf("got %v", err)
	}
	f.restart() // closing lets go of it
}

// Files that cannot be read are an error. An agent that took them for empty
// would leave a restricted machine unrestricted, or make a second machine of it.
func TestUnreadableFiles(t *testing.T) {
	other := cordon.IDOfKey(seedKey(3).Public().(ed25519.PublicKey))
	for name, c := range map[string]struct{ file, content, why string }{
		"state: empty":               {disk.StateFile, ``, "unexpected end of JSON input"},
		"state: cut off":             {disk.StateFile, `{"standing":{"generation":7`, "unexpected end of JSON input"},
		"state: of another type":     {disk.StateFile, `{"standing":[]}`, "cannot unmarshal array"},
		"identity: empty":            {disk.IdentityFile, ``, "unexpected end of JSON input"},
		"identity: no key":           {disk.IdentityFile, `{"machineId":"1"}`, "it holds no machine key"},
		"identity: of another key":   {disk.IdentityFile, fmt.Sprintf(`{"machineId":%q,"seed":"AQAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="}`, other), "the key in it does not make machine " + string(other)},
		"identity: order key broken": {disk.IdentityFile, fmt.Sprintf(`{"machineId":%q,"seed":"AwAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=","orderKey":{"kty":"oct","k":"AA"}}`, other), "it is not an Ed25519 public key"},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			f.obey(f.order(1, cordon.RestrictOrder))
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(f.dir, c.file)
			if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			a, err := Open(f.cfg)
			if err == nil {
				_ = a.Close() // it should not be open
			}
			if err == nil || !strings.Contains(err.Error(), "read "+path+": ") || !strings.Contains(err.Error(), c.why) {
				t.Errorf("got %v, want %s", err, c.why)
			}
			var said *cordon.Error
			if isState := c.file == disk.StateFile; errors.As(err, &said) != isState || isState && !strings.Contains(said.Message, "from a backup") {
				t.Errorf("what to do: %v", err)
			}
			// It let go of the lock.
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
			if a, err = Open(f.cfg); err != nil {
				t.Fatal(err)
			}
			if err := a.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

// A save that a crash cut off leaves the old state.
func TestHalfASaveIsIgnored(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder))
	if err := os.WriteFile(filepath.Join(f.dir, disk.StateFile+".new"), []byte(`{"standing":{"gener`), 0o600); err != nil {
		t.Fatal(err)
	}
	f.restart()
	if s := f.Status().Standing; s.Generation != 1 {
		t.Errorf("stands at %+v", s)
	}
	f.obey(f.order(2, cordon.UnrestrictOrder))
	f.restart()
	if s := f.Status().Standing; s.Generation != 2 {
		t.Errorf("stands at %+v", s)
	}
}

func TestFilesAreForRootOnly(t *testing.T) {
	f := newFixture(t)
	f.obey(f.order(1, cordon.RestrictOrder))
	for _, name := range []string{disk.IdentityFile, disk.StateFile, "lock"} {
		info, err := os.Stat(filepath.Join(f.dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info.Mode(), err)
		}
	}
	made := filepath.Join(t.TempDir(), "new", "dir")
	a, err := Open(Config{DataDir: made, Log: lab.Logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = a.Close() }() // the test is over
	if info, err := os.Stat(made); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// What an agent remembers is bounded, and what falls out is still answered truly.
func TestMemoryIsBounded(t *testing.T) {
	f := newFixture(t)
	const n = disk.MaxOutbox + 10
	for g := uint64(1); g <= n; g++ {
		f.obey(f.order(g, []cordon.OrderType{cordon.RestrictOrder, cordon.UnrestrictOrder}[g%2]))
	}
	if len(f.st.Recent) != disk.MaxRecent || len(f.st.Outbox) != disk.MaxOutbox {
		t.Errorf("%d recent, %d in the outbox", len(f.st.Recent), len(f.st.Outbox))
	}
	if r := f.read(f.outbox()[disk.MaxOutbox-1]); r.Generation != n {
		t.Errorf("the newest in the outbox is of generation %d", r.Generation)
	}
	if r := f.obey(f.order(n-disk.MaxRecent+1, cordon.RestrictOrder)); r.State != cordon.ReportSucceeded {
		t.Errorf("the oldest that it remembers: %s", r.State)
	}
	if r := f.obey(f.order(1, cordon.UnrestrictOrder)); r.State != cordon.ReportCancelled {
		t.Errorf("one that it forgot: %s", r.State)
	}
	if calls := len(f.kernel.calls()); calls != n {
		t.Errorf("switched %d times", calls)
	}
}
