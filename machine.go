package cordon

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// MachineID names a machine: the first 40 hex digits (lower case) of the
// SHA-256 of its Ed25519 public key. Who knows the id can therefore check any
// statement that the machine signed without asking anybody.
type MachineID string

// IDOfKey derives the machine id from a machine's public key.
func IDOfKey(key ed25519.PublicKey) MachineID {
	sum := sha256.Sum256(key)
	return MachineID(hex.EncodeToString(sum[:20]))
}

// DeviceIDOfKey derives the GUID under which Defender clients may address the
// machine as aadDeviceId. It is a version-8 UUID (RFC 9562, section 5.8) over
// the last 16 bytes of the SHA-256 of the key, so it needs no directory.
func DeviceIDOfKey(key ed25519.PublicKey) string {
	sum := sha256.Sum256(key)
	u := sum[16:]
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// ParseMachineID accepts 40 hex digits in any case.
func ParseMachineID(s string) (MachineID, bool) {
	if len(s) != 40 {
		return "", false
	}
	s = strings.ToLower(s)
	if _, err := hex.DecodeString(s); err != nil {
		return "", false
	}
	return MachineID(s), true
}

// Machine is an enrolled endpoint.
type Machine struct {
	ID        MachineID
	DeviceID  string            // GUID, see [DeviceIDOfKey]
	Key       ed25519.PublicKey // verifies its reports and proofs
	Facts     Facts
	FirstSeen time.Time
	LastSeen  time.Time
	// Generation is the highest generation that was ever issued to the machine
	// or that it said it is in. The next order gets a higher one.
	Generation uint64
	// Observed is what the machine last said of itself, signed or at connect.
	Observed Observed
	Labels
	Group Group // that an administrator put it into
}

// Facts are what a machine reports of itself.
type Facts struct {
	DNSName      string      `json:"dnsName"`      // fully qualified where it has such a name; case kept
	OSPlatform   string      `json:"osPlatform"`   // Defender's spelling: Debian, Ubuntu, RedHatEnterpriseLinux …
	OSVersion    string      `json:"osVersion"`    // of the distribution: 12, 22.04, 9.5
	OSBuild      int64       `json:"osBuild"`      // 0: the platform has no build number
	Kernel       string      `json:"kernel"`       // uname -r
	Processor    string      `json:"processor"`    // x64, arm64 (Defender's osProcessor)
	Architecture string      `json:"architecture"` // 64-bit, 32-bit
	AgentVersion string      `json:"agentVersion"`
	BootID       string      `json:"bootId"` // /proc/sys/kernel/random/boot_id
	LastIP       string      `json:"lastIp"` // the address that it reaches the server from
	Interfaces   []Interface `json:"interfaces,omitempty"`
}

// Interface is one address of a network interface.
type Interface struct {
	IP     string `json:"ip"`
	MAC    string `json:"mac"`    // 12 hex digits, upper case; empty for loopback
	Type   string `json:"type"`   // Ethernet, SoftwareLoopback, Other
	Status string `json:"status"` // Up, Down
}

// Mode is what an enforcer does with a file that is not in the trust set.
type Mode string

// The modes of an enforcer.
const (
	ModeOff     Mode = "off"     // nothing is judged
	ModeAudit   Mode = "audit"   // it runs, and is counted
	ModeEnforce Mode = "enforce" // it is refused
)

// Observed is what a machine says is true of its enforcement at one moment.
type Observed struct {
	Generation uint64 `json:"generation"` // of the restriction in force; 0: none was ever ordered
	// Action and Order are what the machine stands by: the id and type of the last
	// order that it took up, or of the [Release] that freed it; empty: none.
	Action   ActionID  `json:"action,omitempty"`
	Order    OrderType `json:"order,omitempty"`
	Mode     Mode      `json:"mode"`     // what was asked of the enforcer
	InForce  bool      `json:"inForce"`  // the self-test saw that the mode really holds
	Enforcer string    `json:"enforcer"` // bpf, fanotify, none
	Scope    string    `json:"scope"`    // host, mount:/path
	// Interpreters is what interpreters may run while it is restricted; empty: any text.
	Interpreters Interpreters `json:"interpreters,omitempty"`
	Limits       []string     `json:"limits,omitempty"`   // what this enforcer cannot stop here, a sentence each
	Coverage     []Coverage   `json:"coverage,omitempty"` // what it judges here, and what not
	Trusted      int          `json:"trusted"`            // files in the trust set
	TrustSet     string       `json:"trustSet"`           // SHA-256 over the trust set, hex; empty: none yet
	Policy       PolicyState  `json:"policy,omitzero"`    // the trust policy that it has
	Refused      uint64       `json:"refused"`            // refused executions since the agent started
	Lease        LeaseState   `json:"lease,omitzero"`     // of the restriction that it was ordered
	BootID       string       `json:"bootId"`
	Problem      string       `json:"problem,omitempty"` // why InForce is false although the mode is enforce
	At           time.Time    `json:"at"`                // by the machine's clock
	// ClockOffset is the server's clock minus the machine's, in milliseconds, as
	// far as the machine knows it.
	ClockOffset int64 `json:"clockOffsetMs,omitempty"`
}

// Restricted reports whether the machine said that only trusted programs run.
func (o Observed) Restricted() bool { return o.Mode == ModeEnforce && o.InForce }

// SupportsRestriction reports whether Cordon has an enforcer for the machine's
// operating system at all. Whether its kernel can do it is the agent's answer.
func (f Facts) SupportsRestriction() bool {
	p := strings.ToLower(f.OSPlatform)
	return !strings.HasPrefix(p, "windows") && p != "macos" && p != "ios" && p != "android"
}
