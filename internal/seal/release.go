package seal

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base32"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/cordon-project/cordon"
)

// TypeRelease is the typ header of a break-glass release. Its payload is
// [cordon.Release.Bytes] and its header is always the same, so that
// [ReleaseCode] can leave both its frame and half of the machine id out.
const TypeRelease = "cordon-release+jws"

var releaseHeader = base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"EdDSA","typ":"` + TypeRelease + `"}`))

// Release signs a release with the server's order key.
func Release(r cordon.Release, key ed25519.PrivateKey) (string, error) {
	payload, err := r.Bytes()
	if err != nil {
		return "", err
	}
	input := releaseHeader + "." + base64.RawURLEncoding.EncodeToString(payload)
	return input + "." + base64.RawURLEncoding.EncodeToString(ed25519.Sign(key, []byte(input))), nil
}

// IsRelease reports whether a statement says that it is a release.
func IsRelease(jws string) bool {
	_, err := parse(TypeRelease, jws)
	return err == nil
}

// OpenRelease returns the release in jws if the server's order key signed it;
// errors as [OpenOrder].
func OpenRelease(jws string, key ed25519.PublicKey) (r cordon.Release, err error) {
	parsed, err := parse(TypeRelease, jws)
	if err != nil {
		return r, err
	}
	payload, err := parsed.Verify(key)
	if err != nil {
		return r, refuse("the signature was not made with the expected key")
	}
	r, ok := cordon.ParseRelease(payload)
	if !ok {
		return r, refuse("its content cannot be read")
	}
	return r, nil
}

// The typed form of a release: codeLines lines of codeWidth characters of
// Crockford's base32 and one that checks the line and its place, in groups of
// four: 144 characters. It holds the first four bytes of the machine id, the
// rest of the payload, and the signature.
const (
	machineHint = 4
	codeBytes   = machineHint + cordon.ReleaseSize - 20 + ed25519.SignatureSize
	codeWidth   = 23
	codeLines   = (codeBytes*8 + 5*codeWidth - 1) / (5 * codeWidth)
	codeGroup   = 4
)

// CodeLines is the number of lines of a [ReleaseCode].
const CodeLines = codeLines

const codeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

var codeEncoding = base32.NewEncoding(codeAlphabet).WithPadding(base32.NoPadding)

// ReleaseCode returns the lines that people type instead of carrying the file.
func ReleaseCode(jws string) ([]string, error) {
	parsed, err := parse(TypeRelease, jws)
	if err != nil {
		return nil, err
	}
	payload := parsed.UnsafePayloadWithoutVerification()
	if len(payload) != cordon.ReleaseSize || !strings.HasPrefix(jws, releaseHeader+".") {
		return nil, refuse("its content cannot be read")
	}
	raw := append(append(bytes.Clone(payload[:machineHint]), payload[20:]...), parsed.Signatures[0].Signature...)
	text := codeEncoding.EncodeToString(raw)
	lines := make([]string, codeLines)
	for i := range lines {
		line := text[i*codeWidth : min(len(text), (i+1)*codeWidth)]
		line += string(codeAlphabet[check(i, line)])
		lines[i] = line
		for at := codeGroup; at < len(lines[i]); at += codeGroup + 1 {
			lines[i] = lines[i][:at] + " " + lines[i][at:]
		}
	}
	return lines, nil
}

// check returns the check character's value for a line and its place: a
// polynomial over GF(32) (x⁵+x²+1), which sees every single wrong character,
// every two that changed places, and a line in the wrong place.
func check(place int, line string) byte {
	sum := byte(place + 1)
	for _, c := range []byte(line) {
		sum = shift(sum) ^ byte(strings.IndexByte(codeAlphabet, c))
	}
	return shift(sum)
}

// shift multiplies by x.
func shift(v byte) byte {
	if v <<= 1; v&32 != 0 {
		v ^= 0b100101
	}
	return v
}

// typed brings what somebody typed into the alphabet: in any case, with the
// letters that look like digits, and whatever stands between the groups.
var typed = strings.NewReplacer("O", "0", "I", "1", "L", "1", " ", "", "-", "", "\t", "", "\r", "", "\n", "")

// CheckCodeLine says what is wrong with a typed line at its place, counted from 0.
func CheckCodeLine(place int, line string) error {
	line = typed.Replace(strings.ToUpper(line))
	want := codeWidth + 1
	if place == codeLines-1 {
		want = (codeBytes*8+4)/5 - (codeLines-1)*codeWidth + 1
	}
	if i := strings.IndexFunc(line, func(c rune) bool { return !strings.ContainsRune(codeAlphabet, c) }); i >= 0 {
		return refuse(fmt.Sprintf("line %d of the code has a character that no code has", place+1))
	}
	if len(line) != want {
		return refuse(fmt.Sprintf("line %d of the code has %d characters instead of %d", place+1, len(line), want))
	}
	if codeAlphabet[check(place, line[:want-1])] != line[want-1] {
		return refuse(fmt.Sprintf("line %d of the code is mistyped or in the wrong place", place+1))
	}
	return nil
}

// ReleaseOfCode returns the statement that was typed on machine m. It is not
// verified yet; that of another machine is refused with the beginning of that one's id.
func ReleaseOfCode(code string, m cordon.MachineID) (string, error) {
	if len(code) > 4<<10 {
		return "", refuse("it is too long for a code")
	}
	text := typed.Replace(strings.ToUpper(code))
	var all string
	for i := range codeLines {
		line := text[min(len(text), i*(codeWidth+1)):min(len(text), (i+1)*(codeWidth+1))]
		if i == codeLines-1 {
			line = text[min(len(text), i*(codeWidth+1)):]
		}
		if err := CheckCodeLine(i, line); err != nil {
			return "", err
		}
		all += line[:len(line)-1]
	}
	raw, err := codeEncoding.DecodeString(all)
	id, idErr := hex.DecodeString(string(m))
	if err != nil || idErr != nil || len(raw) != codeBytes || len(id) != 20 {
		return "", refuse("the code cannot be read")
	}
	if !bytes.Equal(raw[:machineHint], id[:machineHint]) {
		return "", refuse(fmt.Sprintf("it is for a machine whose id begins with %x, this is %s", raw[:machineHint], m))
	}
	split := len(raw) - ed25519.SignatureSize
	payload := append(id, raw[machineHint:split]...)
	return releaseHeader + "." + base64.RawURLEncoding.EncodeToString(payload) + "." + base64.RawURLEncoding.EncodeToString(raw[split:]), nil
}
