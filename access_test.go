package cordon_test

import (
	"testing"

	"github.com/cordon-project/cordon"
)

func TestAuthorize(t *testing.T) {
	for name, c := range map[string]struct {
		have []cordon.Permission
		op   cordon.Operation
		want string
	}{
		"the first of two":  {[]cordon.Permission{cordon.MachineReadAll}, cordon.ReadMachines, ""},
		"the second of two": {[]cordon.Permission{cordon.MachineIsolate, cordon.MachineReadWriteAll}, cordon.ReadMachines, ""},
		"another one": {[]cordon.Permission{cordon.MachineIsolate}, cordon.ReadMachines,
			"Missing application roles. API required roles: Machine.Read.All,Machine.ReadWrite.All, application roles: Machine.Isolate."},
		"two others": {[]cordon.Permission{cordon.MachineReadAll, cordon.MachineReadWriteAll}, cordon.RestrictAction,
			"Missing application roles. API required roles: Machine.RestrictExecution, application roles: Machine.Read.All,Machine.ReadWrite.All."},
		"none": {nil, cordon.RestrictAction,
			"Missing application roles. API required roles: Machine.RestrictExecution, application roles: ."},
		"the wrong case": {[]cordon.Permission{"machine.restrictexecution"}, cordon.RestrictAction,
			"Missing application roles. API required roles: Machine.RestrictExecution, application roles: machine.restrictexecution."},
		"reading does not cancel": {[]cordon.Permission{cordon.MachineReadAll, cordon.AlertReadWriteAll}, cordon.CancelAction,
			"Missing application roles. API required roles: Machine.CollectForensics,Machine.Isolate,Machine.RestrictExecution,Machine.Scan,Machine.Offboard,Machine.StopAndQuarantine,Machine.LiveResponse, application roles: Machine.Read.All,Alert.ReadWrite.All."},
		"an operation nobody may do": {cordon.AllPermissions()[:1], cordon.Operation{},
			"Missing application roles. API required roles: , application roles: Machine.Read.All."},
	} {
		err := cordon.Caller{Permissions: c.have}.Authorize(c.op)
		if c.want == "" && err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if c.want != "" && (err == nil || err.Error() != c.want || cordon.KindOf(err) != cordon.Forbidden || cordon.CodeOf(err) != cordon.CodeMissingPermission) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
	}
}

func TestAllPermissions(t *testing.T) {
	seen := map[cordon.Permission]bool{}
	for _, p := range cordon.AllPermissions() {
		if seen[p] {
			t.Errorf("%s is there twice", p)
		}
		seen[p] = true
	}
	for _, op := range []cordon.Operation{cordon.ReadMachines, cordon.RestrictAction, cordon.CancelAction} {
		for _, p := range op {
			if !seen[p] {
				t.Errorf("%s allows something but the first application does not get it", p)
			}
		}
	}
	cordon.AllPermissions()[0] = "changed"
	if cordon.AllPermissions()[0] != cordon.MachineReadAll {
		t.Error("a caller can change what others get")
	}
}
