package agentcmd

import (
	"slices"
	"strings"
	"testing"

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
	}
	for _, bad := range []string{"", "no", "allow:rule", "deny:", "deny:rule,", "deny:rules", "deny:rule deny"} {
		var got anonymousCode
		if err := got.UnmarshalText([]byte(bad)); err == nil {
			t.Errorf("%q was taken for %+v", bad, got)
		}
	}
}
