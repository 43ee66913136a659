package cordon

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// TrustRule is an administrator's word that a file content may run, whatever
// packages say, while a machine is restricted.
type TrustRule struct {
	Digest  Digest
	Scope   TrustScope
	Comment string
	Actor   string // client id of who said so
	At      time.Time
}

// TrustScope says for which machines a [TrustRule] holds: "all", or "machine:"
// and a machine's id, or "group:" and the id of a [Group].
type TrustScope string

// TrustAll is the scope of all machines.
const TrustAll TrustScope = "all"

// TrustMachine is the scope of one machine.
func TrustMachine(m MachineID) TrustScope { return TrustScope("machine:" + string(m)) }

// TrustGroup is the scope of the machines of a group.
func TrustGroup(id int64) TrustScope { return TrustScope("group:" + strconv.FormatInt(id, 10)) }

// Machine returns whose scope this is, if it is that of one machine.
func (s TrustScope) Machine() (MachineID, bool) {
	id, ok := ParseMachineID(strings.TrimPrefix(string(s), "machine:"))
	return id, ok && TrustMachine(id) == s
}

// Group returns the id of the group whose scope this is, if it is that of one.
func (s TrustScope) Group() (int64, bool) {
	id, err := strconv.ParseInt(strings.TrimPrefix(string(s), "group:"), 10, 64)
	return id, err == nil && id > 0 && TrustGroup(id) == s
}

// MaxTrustRules is how many rules a scope has at most. It keeps what is sent to
// a machine in one message.
const MaxTrustRules = 1000

// TrustPolicy is the set of file contents that the server has one machine trust
// besides its own trust set, signed with the order key (JWS, EdDSA, typ
// cordon-policy+jws). A machine takes only a higher version than it has.
type TrustPolicy struct {
	Machine MachineID `json:"machine"`
	Version uint64    `json:"version"`
	Digests []Digest  `json:"sha256"` // sorted, none twice
	Issued  time.Time `json:"issued"` // server's clock
}

// PolicyState is what a machine says of the [TrustPolicy] that it has.
type PolicyState struct {
	Version uint64 `json:"version,omitempty"` // 0: it never had one
	Content string `json:"content,omitempty"` // see [TrustPolicy.State]
}

// maxPolicyVersion is the highest version that a machine may claim. It leaves
// room for more policies than there will ever be.
const maxPolicyVersion = 1 << 53

// State says which policy this is: its version, and SHA-256 over its digests in
// hex, which is empty for none.
func (p TrustPolicy) State() PolicyState {
	if len(p.Digests) == 0 {
		return PolicyState{Version: p.Version}
	}
	h := sha256.New()
	for _, d := range p.Digests {
		h.Write(d[:])
	}
	return PolicyState{p.Version, hex.EncodeToString(h.Sum(nil))}
}

// Entries returns what the policy adds to a trust set.
func (p TrustPolicy) Entries() []TrustEntry {
	entries := make([]TrustEntry, len(p.Digests))
	for i, d := range p.Digests {
		entries[i] = TrustEntry{Digest: d, Size: -1, Origin: fmt.Sprintf("policy:%d", p.Version)}
	}
	return entries
}

// NextPolicy decides what a machine that says it has s is to get, given the
// rules that hold for it and the revision of all rules: the policy and true, or
// false if it has what it should have. The version is higher than the machine's
// also where the server knows less than the machine, after it was restored from
// a backup. A machine that says what cannot be gets an error of kind Invalid.
// NextPolicy is pure.
func NextPolicy(m MachineID, rules []TrustRule, revision uint64, s PolicyState, now time.Time) (TrustPolicy, bool, error) {
	if s.Version > maxPolicyVersion {
		return TrustPolicy{}, false, Errorf(Invalid, CodeInvalidInput, "The policy version %d is impossible", s.Version)
	}
	p := TrustPolicy{Machine: m, Version: max(revision, s.Version+1), Digests: []Digest{}, Issued: now}
	for _, r := range rules {
		p.Digests = append(p.Digests, r.Digest)
	}
	slices.SortFunc(p.Digests, func(a, b Digest) int { return bytes.Compare(a[:], b[:]) })
	p.Digests = slices.Compact(p.Digests)
	return p, p.State().Content != s.Content, nil
}

// JudgePolicy returns "" if machine id, which has policy s, is to take up p,
// whose signature has been verified; else why not, a sentence for people.
func JudgePolicy(id MachineID, s PolicyState, p TrustPolicy) string {
	switch {
	case p.Machine != id:
		return fmt.Sprintf("the policy is for machine %s, this is %s", p.Machine, id)
	case p.Version <= s.Version:
		return fmt.Sprintf("policy version %d is in force, which is not older than %d", s.Version, p.Version)
	}
	return ""
}

// ParseDigest reads a SHA-256 in hex, in any case.
func ParseDigest(s string) (d Digest, ok bool) {
	b, err := hex.DecodeString(strings.ToLower(s))
	if err != nil || len(b) != len(d) {
		return d, false
	}
	return Digest(b), true
}

// MarshalText returns the digest in lower-case hex.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText is the inverse of [Digest.MarshalText].
func (d *Digest) UnmarshalText(text []byte) error {
	got, ok := ParseDigest(string(text))
	if !ok {
		return fmt.Errorf("read digest: %q is not 64 hex digits", Plain(string(text)))
	}
	*d = got
	return nil
}
