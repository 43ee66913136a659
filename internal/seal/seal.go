// Package seal signs and verifies the statements that Cordon's parts make to
// each other: orders, reports, the server's time, and a machine's proof that a
// request is its own.
//
// Each statement is a compact JWS (RFC 7515) with EdDSA over Ed25519 (RFC 8037)
// and a typ of its own, so that none can be passed off as another. Nothing but
// EdDSA is accepted, whatever a header says. The package holds no state and
// does no I/O; who may say what, and what follows from it, is decided elsewhere.
package seal

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/cordon-project/cordon"
)

// The typ header of each kind of statement.
const (
	TypeOrder  = "cordon-order+jws"
	TypeReport = "cordon-report+jws"
	TypeTime   = "cordon-time+jws"
	TypeProof  = "cordon-proof+jws"
	TypePolicy = "cordon-policy+jws"
)

// MaxSize is the longest compact JWS that is looked at, in bytes. The largest
// honest one is an order with a comment of [cordon.MaxComment] characters of
// four bytes, each escaped in JSON.
const MaxSize = 96 << 10

// MaxPolicySize is the longest signed policy that is looked at, in bytes: one
// with all rules for all machines and for one.
const MaxPolicySize = 256 << 10

// Time is the server's word on what time it is, for one machine and in answer
// to one nonce, so that an old one cannot be played to it again.
type Time struct {
	Machine cordon.MachineID `json:"machine"`
	Nonce   string           `json:"nonce"`
	Now     time.Time        `json:"now"`
}

// Proof shows that a request comes from the machine whose key signed it, in the
// manner of RFC 9449: bound to the method, the path, and the time, usable once.
type Proof struct {
	Machine cordon.MachineID `json:"machine"`
	Method  string           `json:"htm"`
	Path    string           `json:"htu"`
	At      time.Time        `json:"iat"`
	ID      string           `json:"jti"`
}

// Order signs an order with the server's order key.
func Order(o cordon.Order, key ed25519.PrivateKey) (string, error) { return sign(TypeOrder, o, key) }

// Report signs a report with the machine's key.
func Report(r cordon.Report, key ed25519.PrivateKey) (string, error) {
	return sign(TypeReport, r, key)
}

// SignTime signs the server's time with the order key.
func SignTime(t Time, key ed25519.PrivateKey) (string, error) { return sign(TypeTime, t, key) }

// SignProof signs a proof with the machine's key.
func SignProof(p Proof, key ed25519.PrivateKey) (string, error) { return sign(TypeProof, p, key) }

// OpenOrder returns the order in jws if the server's order key signed it. The
// error is of kind Unauthenticated with CodeUnverifiedEvidence.
func OpenOrder(jws string, key ed25519.PublicKey) (o cordon.Order, err error) {
	return o, open(TypeOrder, jws, key, &o)
}

// Policy signs a trust policy with the server's order key.
func Policy(p cordon.TrustPolicy, key ed25519.PrivateKey) (string, error) {
	return sign(TypePolicy, p, key)
}

// OpenPolicy returns the policy in jws if the server's order key signed it;
// errors as [OpenOrder].
func OpenPolicy(jws string, key ed25519.PublicKey) (p cordon.TrustPolicy, err error) {
	return p, open(TypePolicy, jws, key, &p)
}

// OpenReport returns the report in jws if key signed it; errors as [OpenOrder].
func OpenReport(jws string, key ed25519.PublicKey) (r cordon.Report, err error) {
	return r, open(TypeReport, jws, key, &r)
}

// OpenTime returns the time in jws if key signed it; errors as [OpenOrder].
func OpenTime(jws string, key ed25519.PublicKey) (t Time, err error) {
	return t, open(TypeTime, jws, key, &t)
}

// OpenProof returns the proof in jws if key signed it; errors as [OpenOrder].
func OpenProof(jws string, key ed25519.PublicKey) (p Proof, err error) {
	return p, open(TypeProof, jws, key, &p)
}

// ProofSubject returns the machine that a proof claims to be from, before its
// signature is looked at, so that the key to verify it with can be found.
func ProofSubject(jws string) (cordon.MachineID, error) {
	parsed, err := parse(TypeProof, jws)
	if err != nil {
		return "", err
	}
	var p Proof
	if json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &p) != nil {
		return "", refuse("its content cannot be read")
	}
	return p.Machine, nil
}

// ClaimedOrder returns what an order that did not verify says of itself, for
// the report that refuses it. Nothing in it may be believed.
func ClaimedOrder(jws string) (o cordon.Order, ok bool) {
	parsed, err := parse(TypeOrder, jws)
	if err != nil {
		return o, false
	}
	return o, json.Unmarshal(parsed.UnsafePayloadWithoutVerification(), &o) == nil
}

// PublicKey reads an Ed25519 public key in JWK form (RFC 8037, section 2).
func PublicKey(jwk []byte) (ed25519.PublicKey, error) {
	var k jose.JSONWebKey
	if err := k.UnmarshalJSON(jwk); err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	key, ok := k.Key.(ed25519.PublicKey)
	if !ok || !k.Valid() {
		return nil, errors.New("read public key: it is not an Ed25519 public key in JWK form")
	}
	return key, nil
}

// MarshalKey returns the JWK form of a public key.
func MarshalKey(key ed25519.PublicKey) ([]byte, error) {
	return jose.JSONWebKey{Key: key, Algorithm: string(jose.EdDSA)}.MarshalJSON()
}

func sign(typ string, content any, key ed25519.PrivateKey) (string, error) {
	payload, err := json.Marshal(content)
	if err != nil {
		return "", fmt.Errorf("encode %s: %w", typ, err)
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.EdDSA, Key: key}, new(jose.SignerOptions).WithType(jose.ContentType(typ)))
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", typ, err)
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return "", fmt.Errorf("sign %s: %w", typ, err)
	}
	return signed.CompactSerialize()
}

func refuse(why string) error {
	return cordon.Errorf(cordon.Unauthenticated, cordon.CodeUnverifiedEvidence, "The signed statement is refused: %s", why)
}

func parse(typ, jws string) (*jose.JSONWebSignature, error) {
	most := MaxSize
	if typ == TypePolicy {
		most = MaxPolicySize
	}
	if len(jws) > most {
		return nil, refuse(fmt.Sprintf("it is longer than %d bytes", most))
	}
	parsed, err := jose.ParseSignedCompact(strings.TrimSpace(jws), []jose.SignatureAlgorithm{jose.EdDSA})
	if err != nil {
		return nil, refuse("it is not a compact JWS signed with EdDSA")
	}
	if got := parsed.Signatures[0].Protected.ExtraHeaders[jose.HeaderType]; got != typ {
		return nil, refuse(fmt.Sprintf("it is a %v, not a %s", got, typ))
	}
	return parsed, nil
}

func open(typ, jws string, key ed25519.PublicKey, content any) error {
	parsed, err := parse(typ, jws)
	if err != nil {
		return err
	}
	payload, err := parsed.Verify(key)
	if err != nil {
		return refuse("the signature was not made with the expected key")
	}
	if err := json.Unmarshal(payload, content); err != nil {
		return refuse("its content cannot be read")
	}
	return nil
}
