package cordon_test

import (
	"testing"

	"github.com/cordon-project/cordon"
)

func TestSupports(t *testing.T) {
	const (
		restrict   = cordon.RestrictCodeExecution
		unrestrict = cordon.UnrestrictCodeExecution
		noPlatform = cordon.CodePlatformUnsupport
		noVersion  = cordon.CodeVersionUnsupport
	)
	for _, c := range []struct {
		action            cordon.ActionType
		platform, version string
		code              cordon.Code
		want              string
	}{
		{restrict, "Debian", "1.2.3", "", ""},
		{unrestrict, "RedHatEnterpriseLinux", "1.2.3", "", ""},
		{restrict, "", "", "", ""},
		{restrict, "Windows11", "1.2.3", noPlatform, "OS Platform Windows11 is not supported for this action."},
		{unrestrict, "macOS", "1.2.3", noPlatform, "OS Platform macOS is not supported for this action."},
		{cordon.Isolate, "Debian", "1.2.3", noPlatform, "OS Platform Debian is not supported for this action."},
		{cordon.LiveResponse, "Windows11", "1.2.3", noPlatform, "OS Platform Windows11 is not supported for this action."},
		{cordon.Offboard, "", "", noPlatform, "OS Platform Unknown is not supported for this action."},
		{"", "Debian", "1.2.3", noPlatform, "OS Platform Debian is not supported for this action."},
		{"restrictcodeexecution", "Debian", "1.2.3", noPlatform, "OS Platform Debian is not supported for this action."},

		{restrict, "Debian", "0.0.9", noVersion, "RestrictCodeExecution is supported on client version 0.1.0 and above."},
		{restrict, "Debian", "v0.0.9-beta+1", noVersion, "RestrictCodeExecution is supported on client version 0.1.0 and above."},
		{restrict, "Windows11", "0.0.9", noPlatform, "OS Platform Windows11 is not supported for this action."},
		{unrestrict, "Debian", "0.0.9", "", ""}, // whatever was restricted can be released
		{restrict, "Debian", "0.1.0", "", ""},
		{restrict, "Debian", "0.1.0-dev+17ee6da1b2c3", "", ""},
		{restrict, "Debian", "v0.1.1-0.20261121235236-17ee6da1b2c3", "", ""},
		{restrict, "Debian", "0.10.0", "", ""},
		{restrict, "Debian", "1.0.0", "", ""},
		{restrict, "Debian", "v0.0.0-20261121235236-17ee6da1b2c3+dirty", "", ""}, // built from a checkout without a tag
		{restrict, "Debian", "0", "", ""},
		{restrict, "Debian", "0.0.-1", "", ""},
		{restrict, "Debian", "unknown", "", ""},
		{restrict, "Debian", "0.0.99999999999999999999", "", ""},
	} {
		err := cordon.Facts{OSPlatform: c.platform, AgentVersion: c.version}.Supports(c.action)
		if c.want == "" && err != nil {
			t.Errorf("%s on %s, agent %q: %v", c.action, c.platform, c.version, err)
		}
		if c.want != "" && (err == nil || err.Error() != c.want || cordon.CodeOf(err) != c.code || cordon.KindOf(err) != cordon.Invalid) {
			t.Errorf("%s on %s, agent %q: %v, want %s", c.action, c.platform, c.version, err, c.want)
		}
	}
}
