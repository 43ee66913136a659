package mde

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"regexp"
	"time"

	"github.com/cordon-project/cordon"
)

// This file holds the routes that Cordon's server has and Defender's has not.

// MachineState is what a machine last said of its restriction, beside what was
// ordered.
type MachineState struct {
	ID         string          `json:"id"`
	Generation uint64          `json:"generation"` // the highest that was ordered; Observed has the one in force
	Observed   cordon.Observed `json:"observed"`
}

// MachineState returns the state of the machine with this id.
func (c *Client) MachineState(ctx context.Context, id string) (MachineState, error) {
	s, err := segment("machine id", id)
	if err != nil {
		return MachineState{}, err
	}
	var m MachineState
	return m, c.get(ctx, c.address("/cordon/v1/machines/"+s, nil), &m)
}

// Evidence is all that the server keeps about one action, with the public keys
// (JWK) that verify the signed statements in it.
type Evidence struct {
	OrderKey   json.RawMessage `json:"orderKey"`
	MachineKey json.RawMessage `json:"machineKey"`
	Entries    []AuditEntry    `json:"entries"` // oldest first
}

// AuditEntry is one line of the server's audit log; see [cordon.AuditEntry].
type AuditEntry struct {
	Seq      int64            `json:"seq"`
	At       time.Time        `json:"at"`
	Kind     cordon.AuditKind `json:"kind"`
	Machine  string           `json:"machine"`
	Action   string           `json:"action"`
	Actor    string           `json:"actor"`
	Status   string           `json:"status"` // of the action after it
	Detail   string           `json:"detail"`
	Evidence string           `json:"evidence"` // a compact JWS, or empty
}

// Evidence returns the evidence of an action. Nothing in it is verified yet.
func (c *Client) Evidence(ctx context.Context, id string) (Evidence, error) {
	s, err := segment("machine action id", id)
	if err != nil {
		return Evidence{}, err
	}
	var e Evidence
	return e, c.get(ctx, c.address("/cordon/v1/actions/"+s+"/evidence", nil), &e)
}

// ReleaseEvidence returns the evidence of a release: that it was signed, and that
// a machine was freed with it. Nothing in it is verified yet.
func (c *Client) ReleaseEvidence(ctx context.Context, id string) (Evidence, error) {
	s, err := segment("release id", id)
	if err != nil {
		return Evidence{}, err
	}
	var e Evidence
	return e, c.get(ctx, c.address("/cordon/v1/releases/"+s, nil), &e)
}

var compactJWS = regexp.MustCompile(`^[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+$`)

// SignedOrder returns the signed order (compact JWS) of an open action, to be
// carried to its machine by hand. To the server the action is delivered then.
func (c *Client) SignedOrder(ctx context.Context, id string) (string, error) {
	s, err := segment("machine action id", id)
	if err != nil {
		return "", err
	}
	body, err := c.call(ctx, "POST", c.address("/cordon/v1/actions/"+s+"/order", nil), nil)
	if err != nil {
		return "", err
	}
	if body = bytes.TrimSpace(body); !compactJWS.Match(body) {
		return "", errors.New("read the server's answer: it is not a signed order")
	}
	return string(body), nil
}

// RestrictWithLease is [Client.Restrict] with a lease: when the machine has not
// heard the server for so long, it lets everything run again and counts what it
// would have refused, until it hears the server. Zero is none, whatever the
// server's default.
func (c *Client) RestrictWithLease(ctx context.Context, ref, comment string, lease time.Duration) (MachineAction, error) {
	s, err := segment("machine", ref)
	if err != nil {
		return MachineAction{}, err
	}
	body := struct {
		Comment string `json:"comment"`
		Seconds int64  `json:"leaseSeconds"`
	}{comment, int64(lease / time.Second)}
	a := MachineAction{Commands: json.RawMessage("[]")} // the server sends what it has of Defender's members
	if err := c.post(ctx, c.address("/cordon/v1/machines/"+s+"/restrict", nil), body, &a); err != nil {
		return MachineAction{}, err
	}
	if a.ID == "" {
		return MachineAction{}, errors.New("read the server's answer: it is not a machine action")
	}
	return a, nil
}

// Lease returns the lease of a machine action, see [Client.RestrictWithLease];
// zero: it has none.
func (c *Client) Lease(ctx context.Context, id string) (time.Duration, error) {
	s, err := segment("machine action id", id)
	if err != nil {
		return 0, err
	}
	var a struct {
		Seconds int64 `json:"leaseSeconds"`
	}
	err = c.get(ctx, c.address("/cordon/v1/actions/"+s, nil), &a)
	return time.Duration(a.Seconds) * time.Second, err
}

// Release is a break-glass; see [Client.BreakGlass].
type Release struct {
	ID         string    `json:"id"`
	Machine    string    `json:"machine"`
	Generation uint64    `json:"generation"` // it frees from orders up to this one
	NotBefore  time.Time `json:"notBefore"`
	Expires    time.Time `json:"expires"`
	Release    string    `json:"release"` // compact JWS, to be carried as a file
	Code       []string  `json:"code"`    // the same to be typed, line by line
}

// BreakGlass has the server sign a release for the machine that ref names (see
// [Client.GetMachine]): whoever has it, and root on the machine, can free it
// without a network for as long as it is valid, until a newer order comes.
func (c *Client) BreakGlass(ctx context.Context, ref string, valid time.Duration, comment string) (Release, error) {
	s, err := segment("machine", ref)
	if err != nil {
		return Release{}, err
	}
	body := struct {
		Seconds int64  `json:"seconds"`
		Comment string `json:"comment"`
	}{int64(valid / time.Second), comment}
	var r Release
	if err := c.post(ctx, c.address("/cordon/v1/machines/"+s+"/break-glass", nil), body, &r); err != nil {
		return Release{}, err
	}
	if r.ID == "" || !compactJWS.MatchString(r.Release) {
		return Release{}, errors.New("read the server's answer: it is not a release")
	}
	return r, nil
}

// Findings is what a machine told of files that are not trusted, with the part
// of the total that is in no file's count.
type Findings struct {
	cordon.Findings
	Others uint64 `json:"others"`
}

// Blocked returns what was refused on the machine that ref names (see
// [Client.GetMachine]).
func (c *Client) Blocked(ctx context.Context, ref string) (Findings, error) {
	s, err := segment("machine", ref)
	if err != nil {
		return Findings{}, err
	}
	var told Findings
	return told, c.get(ctx, c.address("/cordon/v1/machines/"+s+"/blocked", nil), &told)
}

// TrustRule is a file content that an administrator has machines trust.
type TrustRule struct {
	SHA256  string    `json:"sha256"`
	Scope   string    `json:"scope"`             // all, or machine:ID, or group:ID
	Machine string    `json:"machine,omitempty"` // in a request instead of Scope: id, device id or DNS name
	Group   string    `json:"group,omitempty"`   // name of a device group; in a request instead of Scope
	Comment string    `json:"comment"`
	Actor   string    `json:"actor,omitempty"`
	At      time.Time `json:"at,omitzero"`
}

// TrustRules lists what is trusted by SHA-256.
func (c *Client) TrustRules(ctx context.Context) ([]TrustRule, error) {
	var list struct{ Value []TrustRule }
	err := c.get(ctx, c.address("/cordon/v1/trust", nil), &list)
	return list.Value, err
}

// Trust makes a rule, of which SHA256, Comment, and Scope, Machine or Group count, or
// takes it back. It reports whether that changed anything.
func (c *Client) Trust(ctx context.Context, r TrustRule, remove bool) (changed bool, err error) {
	method := "POST"
	if remove {
		method = "DELETE"
	}
	r.Actor, r.At = "", time.Time{}
	body, err := json.Marshal(r)
	if err != nil {
		return false, err
	}
	data, err := c.call(ctx, method, c.address("/cordon/v1/trust", nil), body)
	if err != nil {
		return false, err
	}
	var answer struct{ Changed bool }
	err = decode(data, &answer)
	return answer.Changed, err
}

// Preview is what a restriction would refuse on a machine.
type Preview struct {
	Running Findings `json:"running"` // what runs now
	Audited Findings `json:"audited"` // what was started in mode audit
}

// Preview returns what the machine that ref names (see [Client.GetMachine]) told
// of what a restriction would refuse there.
func (c *Client) Preview(ctx context.Context, ref string) (Preview, error) {
	s, err := segment("machine", ref)
	if err != nil {
		return Preview{}, err
	}
	var p Preview
	err = c.get(ctx, c.address("/cordon/v1/machines/"+s+"/preview", nil), &p)
	return p, err
}
