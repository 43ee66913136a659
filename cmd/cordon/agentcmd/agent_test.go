package agentcmd

import (
	"crypto/sha256"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/enforce"
)

// An agent that could not lift what is in force says so, and what to do.
func TestTakesOver(t *testing.T) {
	for _, c := range []struct {
		enforcer string
		scope    enforce.Scope
		does     bool
	}{
		{"auto", enforce.Scope{}, true}, {"bpf", enforce.Scope{}, true}, {"fanotify", enforce.Scope{}, false}, {"none", enforce.Scope{}, false}, {"bpf", enforce.Scope{Mount: "/srv"}, false},
	} {
		err := agentRun{Enforcer: c.enforcer}.takesOver(c.scope)
		if (err == nil) != c.does || err != nil && !strings.Contains(err.Error(), "restricted by BPF LSM") {
			t.Errorf("--enforcer %s --scope %s: %v", c.enforcer, c.scope, err)
		}
	}
}

func TestAnonymousCode(t *testing.T) {
	for text, want := range map[string]anonymousCode{
		"allow": {}, "deny": {all: true}, "deny:rule": {classes: []string{"rule"}}, "deny:rule,policy,dpkg,rpm": {classes: []string{"rule", "policy", "dpkg", "rpm"}},
	} {
		got := anonymousCode{all: true}
		if err := got.UnmarshalText([]byte(text)); err != nil || got.all != want.all || !slices.Equal(got.classes, want.classes) {
			t.Errorf("%s: %+v, %v", text, got, err)
		}
		if again := string(got.text()); again != text {
			t.Errorf("%s is written as %s", text, again)
		}
	}
	for _, bad := range []string{"", "no", "allow:rule", "deny:", "deny:rule,", "deny:rules", "deny:rule deny"} {
		var got anonymousCode
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was taken for %+v", bad, got)
		}
	}
}

// A restart on a restricted machine does not change who may make code without a file.
func TestKeepsAnonymousCode(t *testing.T) {
	file, log := filepath.Join(t.TempDir(), "kept"), slog.New(slog.DiscardHandler)
	allow, deny := anonymousCode{}, anonymousCode{classes: []string{"rule"}}
	check := func(asked anonymousCode, restricted bool, want anonymousCode) {
		t.Helper()
		if got := asked.keep(file, restricted, log); string(got.text()) != string(want.text()) {
			t.Errorf("asked %s, restricted %v: %s", asked.text(), restricted, got.text())
		}
	}
	check(deny, true, deny) // by one that kept nothing
	check(deny, false, deny)
	check(allow, true, deny)
	check(allow, true, deny)
	check(allow, false, allow)
	check(deny, true, allow)
	if err := os.WriteFile(file, []byte("odd"), 0o600); err != nil {
		t.Fatal(err)
	}
	check(deny, true, deny)
}

// What an agent runs stays trusted when an upgrade has replaced its file.
func TestKeepRunning(t *testing.T) {
	entry := func(content, origin string) cordon.TrustEntry {
		return cordon.TrustEntry{Digest: sha256.Sum256([]byte(content)), Size: int64(len(content)), Origin: origin}
	}
	with := keepRunning()
	first := cordon.NewTrustSet([]cordon.TrustEntry{entry("one", "cordon"), entry("other", "dpkg:other")}, nil)
	if got := with(first); got.Version() != first.Version() {
		t.Errorf("it adds to the first set: %d entries", got.Len())
	}
	for _, next := range []string{"two", "three"} {
		got := with(cordon.NewTrustSet([]cordon.TrustEntry{entry(next, "cordon")}, nil))
		for content, want := range map[string]bool{"one": true, next: true, "two": next == "two", "other": false} {
			if got.Contains(sha256.Sum256([]byte(content))) != want {
				t.Errorf("after the upgrade to %s: trusted %s: %v", next, content, !want)
			}
		}
	}
}
