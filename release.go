package cordon

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"time"
)

// Release is a break-glass: the server's signed word, made ahead or in need,
// that one machine may be freed of its restriction by somebody who stands at it,
// without a network. It frees from every order up to Generation and from none
// that is newer, so one that was forgotten in a drawer ends with the next order.
//
// It travels in the form of [Release.Bytes], because people have to type it.
type Release struct {
	Machine    MachineID
	Generation uint64    // highest that it frees from; below 2^48
	NotBefore  time.Time // whole seconds, like Expires
	Expires    time.Time
	Nonce      [4]byte // tells apart what else would be equal
}

// Bounds of a release's life.
const (
	MinRelease = time.Minute
	MaxRelease = 30 * 24 * time.Hour
)

// ReleaseSize is the length of [Release.Bytes].
const ReleaseSize = 20 + 6 + 4 + 4 + 4

// maxReleaseGeneration is the highest generation that fits.
const maxReleaseGeneration = 1<<48 - 1

// Bytes returns the form that is signed: machine id (20 bytes), generation (6),
// not before and expires (seconds since 1970, 4 each), nonce (4); big-endian.
func (r Release) Bytes() ([]byte, error) {
	id, err := hex.DecodeString(string(r.Machine))
	if _, ok := ParseMachineID(string(r.Machine)); !ok || err != nil {
		return nil, fmt.Errorf("encode release: %q is no machine id", r.Machine)
	}
	from, until := r.NotBefore.Unix(), r.Expires.Unix()
	if r.Generation > maxReleaseGeneration || from < 0 || until < from || until >= 1<<32 {
		return nil, fmt.Errorf("encode release: generation %d or its times do not fit", r.Generation)
	}
	b := binary.BigEndian.AppendUint64(id, r.Generation<<16)[:26]
	b = binary.BigEndian.AppendUint32(b, uint32(from))
	b = binary.BigEndian.AppendUint32(b, uint32(until))
	return append(b, r.Nonce[:]...), nil
}

// ParseRelease is the inverse of [Release.Bytes].
func ParseRelease(b []byte) (Release, bool) {
	if len(b) != ReleaseSize {
		return Release{}, false
	}
	var generation [8]byte
	copy(generation[2:], b[20:26])
	return Release{
		Machine: MachineID(hex.EncodeToString(b[:20])), Generation: binary.BigEndian.Uint64(generation[:]),
		NotBefore: time.Unix(int64(binary.BigEndian.Uint32(b[26:])), 0).UTC(), Expires: time.Unix(int64(binary.BigEndian.Uint32(b[30:])), 0).UTC(),
		Nonce: [4]byte(b[34:]),
	}, true
}

// ID names the release in audit entries and reports: a version-8 UUID (RFC 9562,
// section 5.8) over its content.
func (r Release) ID() ActionID {
	b, err := r.Bytes()
	if err != nil {
		return "" // it cannot be signed either
	}
	u := sha256.Sum256(b)
	u[6] = u[6]&0x0f | 0x80
	u[8] = u[8]&0x3f | 0x80
	return ActionID(fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16]))
}

// JudgeRelease decides what the machine id, which stands as s, does at time now
// (its own clock's) with a release whose signature has already been verified.
// The verdict is Begin, or Refuse with a sentence for people. It is pure.
func JudgeRelease(id MachineID, s Standing, r Release, now time.Time) (Verdict, string) {
	at := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch {
	case r.Machine != id:
		return Refuse, fmt.Sprintf("the release is for machine %s, this is %s", r.Machine, id)
	case r.ID() == s.Action && s.Outcome != ReportFailed: // one that failed may be tried again
		return Refuse, "the release has been used already"
	case r.Generation < s.Generation:
		return Refuse, fmt.Sprintf("generation %d is in force, which is newer than what this release frees from (%d): ask for a new release", s.Generation, r.Generation)
	case now.Before(r.NotBefore):
		return Refuse, fmt.Sprintf("the release is not valid before %s, and this machine's clock says %s", at(r.NotBefore), at(now))
	case !now.Before(r.Expires):
		return Refuse, fmt.Sprintf("the release expired at %s, and this machine's clock says %s", at(r.Expires), at(now))
	}
	return Begin, ""
}
