package mdeapi

import (
	"context"
	"encoding/json"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/odata"
)

// machineRow is a machine at the time of the request.
type machineRow struct {
	cordon.Machine
	now time.Time
}

// machine is Defender's Machine (contract 8), in its order.
var machine = resource[machineRow]{"Machines", []member[machineRow]{
	{cordon.FieldID, text(func(m *machineRow) cordon.MachineID { return m.ID })},
	{"mergedIntoMachineId", literal[machineRow]("null")},
	{"isPotentialDuplication", literal[machineRow]("false")},
	{"isExcluded", literal[machineRow]("false")},
	{"exclusionReason", literal[machineRow]("null")},
	{cordon.FieldDNSName, textOrNull(func(m *machineRow) string { return m.Facts.DNSName })},
	{"firstSeen", moment(func(m *machineRow) time.Time { return m.FirstSeen })},
	{cordon.FieldLastSeen, moment(func(m *machineRow) time.Time { return m.LastSeen })},
	{cordon.FieldOSPlatform, textOrNull(func(m *machineRow) string { return m.Facts.OSPlatform })},
	{"osVersion", literal[machineRow]("null")}, // null at Defender too: the version is the member "version"
	{"osProcessor", textOrNull(func(m *machineRow) string { return m.Facts.Processor })},
	{cordon.FieldVersion, textOrNull(func(m *machineRow) string { return m.Facts.OSVersion })},
	{cordon.FieldLastIP, textOrNull(func(m *machineRow) string { return m.Facts.LastIP })},
	{"lastExternalIpAddress", literal[machineRow]("null")}, // no address outside the organisation is known
	{"agentVersion", textOrNull(func(m *machineRow) string { return m.Facts.AgentVersion })},
	{"osBuild", func(b []byte, m *machineRow) []byte {
		if m.Facts.OSBuild == 0 {
			return append(b, "null"...)
		}
		return strconv.AppendInt(b, m.Facts.OSBuild, 10)
	}},
	{cordon.FieldHealthStatus, text((*machineRow).health)},
	{cordon.FieldDeviceValue, text(func(m *machineRow) cordon.DeviceValue { return m.Value })},
	// A number, whatever the documentation says; 0 is in no group.
	{cordon.FieldGroupID, func(b []byte, m *machineRow) []byte { return strconv.AppendInt(b, m.Group.ID, 10) }},
	{"rbacGroupName", textOrNull(func(m *machineRow) string { return m.Group.Name })},
	{cordon.FieldRiskScore, same(cordon.FieldRiskScore)},
	{cordon.FieldExposureLevel, same(cordon.FieldExposureLevel)},
	{"isAadJoined", literal[machineRow]("false")},
	{cordon.FieldDeviceID, textOrNull(func(m *machineRow) string { return m.DeviceID })},
	{cordon.FieldTags, func(b []byte, m *machineRow) []byte { return appendStrings(b, m.Tags) }},
	{cordon.FieldOnboardingStatus, same(cordon.FieldOnboardingStatus)},
	{"osArchitecture", textOrNull(func(m *machineRow) string { return m.Facts.Architecture })},
	{"managedBy", literal[machineRow](`"Unknown"`)}, // the values that mean something are names of Microsoft's products
	{"managedByStatus", literal[machineRow](`"Unknown"`)},
	{"ipAddresses", func(b []byte, m *machineRow) []byte { return appendInterfaces(b, m.Facts.Interfaces) }},
	{"vmMetadata", literal[machineRow]("null")},
}}

// same writes a member that all machines share.
func same(f cordon.Field) func([]byte, *machineRow) []byte {
	json, err := json.Marshal(fixed[f])
	if err != nil {
		panic(err) // strings
	}
	return literal[machineRow](string(json))
}

func (m *machineRow) health() string {
	if m.LastSeen.Before(activeSince(m.now)) {
		return inactive
	}
	return active
}

func appendStrings(b []byte, list []string) []byte {
	b = append(b, '[')
	for i, s := range list {
		if i > 0 {
			b = append(b, ',')
		}
		b = appendString(b, s)
	}
	return append(b, ']')
}

func appendInterfaces(b []byte, interfaces []cordon.Interface) []byte {
	b = append(b, '[')
	for i, n := range interfaces {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"ipAddress":`...)
		b = appendStringOrNull(b, n.IP)
		b = append(b, `,"macAddress":`...)
		b = appendStringOrNull(b, n.MAC)
		b = append(b, `,"type":`...)
		b = appendStringOrNull(b, n.Type)
		b = append(b, `,"operationalStatus":`...)
		b = appendStringOrNull(b, n.Status)
		b = append(b, '}')
	}
	return append(b, ']')
}

// listMachines serves GET /api/machines. No machine at all is an empty list,
// not the 404 of Microsoft's documentation: clients rely on it (contract 14.9).
func (a *api) listMachines(c *call) ([]byte, error) { return a.machinesWhere(c, nil) }

// machinesWhere answers a query about the machines for which a condition holds.
func (a *api) machinesWhere(c *call, condition cordon.Expr) ([]byte, error) {
	now := a.Now()
	q, found, err := read(c, odata.Machines, a.pageSize, func(ctx context.Context, caller cordon.Caller, q cordon.Query) ([]cordon.Machine, cordon.Listing, error) {
		q = forStore(q, now)
		switch {
		case q.Filter == nil:
			q.Filter = condition
		case condition != nil:
			q.Filter = cordon.And{X: condition, Y: q.Filter}
		}
		return a.Service.Machines(ctx, caller, q)
	})
	if err != nil {
		return nil, err
	}
	return machine.collection(c, q, page[machineRow]{rows: rowsOf(found.rows, now), count: found.count, next: found.next}), nil
}

func rowsOf(machines []cordon.Machine, now time.Time) []machineRow {
	rows := make([]machineRow, len(machines))
	for i, m := range machines {
		rows[i] = machineRow{m, now}
	}
	return rows
}

// getMachine serves GET /api/machines/{machine}: by id, aadDeviceId or DNS name.
func (a *api) getMachine(c *call) ([]byte, error) {
	m, err := a.findMachine(c, cordon.ReadMachines)
	if err != nil {
		return nil, err
	}
	return machine.entity(c, &machineRow{m, a.Now()}), nil
}

// findMachine returns the machine that the path names.
func (a *api) findMachine(c *call, op cordon.Operation) (cordon.Machine, error) {
	if err := checkReference(c.args[0]); err != nil {
		return cordon.Machine{}, err
	}
	return a.Service.Find(c.Context(), c.caller, op, c.args[0])
}

// maxReference is the longest name of a machine that is looked for: DNS names
// have at most 253 characters (RFC 1035, section 2.3.4).
const maxReference = 253

// checkReference refuses what cannot name a machine, so that no store has to
// cope with it.
func checkReference(ref string) error {
	if len(ref) > maxReference || !utf8.ValidString(ref) || strings.ContainsRune(ref, 0) {
		return cordon.Errorf(cordon.NotFound, "", "Machine %.64s was not found", ref)
	}
	return nil
}
