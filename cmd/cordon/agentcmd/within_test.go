package agentcmd

import "testing"

func TestWithin(t *testing.T) {
	for _, c := range []struct {
		path, mount string
		want        bool
	}{{"/usr/sbin/sshd", "", true}, {"/usr/sbin/sshd", "/", true}, {"/srv/x", "/srv", true}, {"/srvx", "/srv", false}, {"/usr/sbin/sshd", "/srv", false}} {
		if got := within(c.path, c.mount); got != c.want {
			t.Errorf("%s within %q: %v", c.path, c.mount, got)
		}
	}
}
