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
	for name, op := range allOperations {
		if len(op) == 0 {
			t.Errorf("nobody may %s", name)
		}
		for _, p := range op {
			if !seen[p] {
				t.Errorf("%s allows to %s but the first application does not get it", p, name)
			}
		}
	}
	cordon.AllPermissions()[0] = "changed"
	if cordon.AllPermissions()[0] != cordon.MachineReadAll {
		t.Error("a caller can change what others get")
	}
}

var allOperations = map[string]cordon.Operation{
	"read machines": cordon.ReadMachines, "label machines": cordon.LabelMachines, "restrict": cordon.RestrictAction, "isolate": cordon.IsolateAction, "scan": cordon.ScanAction,
	"collect": cordon.CollectAction, "quarantine": cordon.QuarantineAction, "offboard": cordon.OffboardAction, "respond live": cordon.LiveResponseAction,
	"investigate": cordon.InvestigateAction, "cancel": cordon.CancelAction, "read a package": cordon.ReadPackage,
	"read a live response": cordon.ReadLiveResponse, "read alerts": cordon.ReadAlerts,
}

// TestOperationOfActions holds each action type's permissions against Defender's table.
func TestOperationOfActions(t *testing.T) {
	for action, want := range map[cordon.ActionType]string{
		"RestrictCodeExecution":       "Machine.RestrictExecution",
		"UnrestrictCodeExecution":     "Machine.RestrictExecution",
		"Isolate":                     "Machine.Isolate",
		"Unisolate":                   "Machine.Isolate",
		"RunAntiVirusScan":            "Machine.Scan",
		"CollectInvestigationPackage": "Machine.CollectForensics",
		"StopAndQuarantineFile":       "Machine.StopAndQuarantine,Machine.ReadWrite.All",
		"Offboard":                    "Machine.Offboard",
		"LiveResponse":                "Machine.LiveResponse",
		"StartInvestigation":          "Alert.ReadWrite.All",
		"":                            "",
		"RequestSample":               "",
	} {
		err := cordon.Caller{}.Authorize(action.Operation())
		if err == nil || err.Error() != "Missing application roles. API required roles: "+want+", application roles: ." {
			t.Errorf("%q: %v", action, err)
		}
	}
}

func TestProgram(t *testing.T) {
	if got := (cordon.Caller{ID: "app"}).Program(); got != "app" {
		t.Errorf("an application: %q", got)
	}
	if got := (cordon.Caller{ID: "user", Application: "app"}).Program(); got != "app" {
		t.Errorf("a user: %q", got)
	}
}
