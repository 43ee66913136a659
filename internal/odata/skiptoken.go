package odata

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
)

// MaxToken is the longest $skiptoken, in bytes of the raw query string. It does
// not count towards [MaxLength], so that every query that can be asked for can
// also be asked for page after page.
const MaxToken = 16 << 10

// A $skiptoken is, in base64url without padding: a version, the digest of the
// $filter and $orderby that it belongs to, and the values of the position, each
// with its kind before it. There is one way to write a position, and no other is
// read. It is no secret, and nobody vouches for it: a page holds what its $filter
// lets through wherever it begins. The digest catches a token that has got into
// another query, where it would be a position too, but none that makes sense.
const tokenVersion = 1

const digestSize = 8

// The kinds of a value.
const (
	tokenNull = iota
	tokenString
	tokenInt
	tokenTime
	tokenFalse
	tokenTrue
)

var tokenEncoding = base64.RawURLEncoding.Strict()

// digestOf is that of the values of $filter and $orderby, neither of which has a NUL.
func digestOf(filter, orderBy string) []byte {
	sum := sha256.Sum256([]byte(filter + "\x00" + orderBy))
	return sum[:digestSize]
}

func encodeToken(p cordon.Position, digest []byte) string {
	b := append([]byte{tokenVersion}, digest...)
	for _, v := range p {
		switch v := v.(type) {
		case nil:
			b = append(b, tokenNull)
		case string:
			b = binary.AppendUvarint(append(b, tokenString), uint64(len(v)))
			b = append(b, v...)
		case int64:
			b = binary.AppendVarint(append(b, tokenInt), v)
		case time.Time:
			b = binary.AppendVarint(append(b, tokenTime), cordon.Ticks(v))
		case bool:
			if v {
				b = append(b, tokenTrue)
			} else {
				b = append(b, tokenFalse)
			}
		}
	}
	return tokenEncoding.EncodeToString(b)
}

// decodeToken is the inverse of encodeToken.
func decodeToken(token string, digest []byte) (cordon.Position, bool) {
	b, err := tokenEncoding.DecodeString(token)
	if err != nil || len(b) <= 1+digestSize || b[0] != tokenVersion || !bytes.Equal(b[1:1+digestSize], digest) {
		return nil, false
	}
	var p cordon.Position
	for b = b[1+digestSize:]; len(b) > 0; {
		kind, n := b[0], 0
		b = b[1:]
		var v cordon.Value
		switch kind {
		case tokenNull:
		case tokenString:
			var size uint64
			size, n = binary.Uvarint(b)
			if n <= 0 || size > uint64(len(b)-n) {
				return nil, false
			}
			v = string(b[n : n+int(size)])
			n += int(size)
		case tokenInt, tokenTime:
			var i int64
			if i, n = binary.Varint(b); n <= 0 {
				return nil, false
			}
			if v = i; kind == tokenTime {
				v = cordon.TimeOfTicks(i)
			}
		case tokenFalse, tokenTrue:
			v = kind == tokenTrue
		default:
			return nil, false
		}
		p, b = append(p, v), b[n:]
	}
	return p, encodeToken(p, digest) == token
}

// Next returns the query string of the page that begins behind a position in
// the answer to rawQuery, which [Parse] has read: as the client wrote it, but for
// $skip, which is behind it, and $top, which rest replaces (0: none).
func Next(rawQuery string, behind cordon.Position, rest int) string {
	var params []string
	values := make(map[string]string)
	for param := range strings.SplitSeq(rawQuery, "&") {
		rawName, rawValue, _ := strings.Cut(param, "=")
		name, _ := unescape(rawName)
		values[cordon.Fold(name)], _ = unescape(rawValue) // what cannot be read is no position
		switch cordon.Fold(name) {
		case "", "$skip", "$top", "$skiptoken":
		default:
			params = append(params, asURL(param))
		}
	}
	if rest > 0 {
		params = append(params, "$top="+strconv.Itoa(rest))
	}
	return strings.Join(append(params, "$skiptoken="+encodeToken(behind, digestOf(values["$filter"], values["$orderby"]))), "&")
}

// asURL returns a part of a query string with what must not stand in one
// percent-encoded (RFC 3986, section 3.4), and the rest as it is: clients send raw
// blanks, quotes and letters outside of ASCII, which not every client takes back.
func asURL(part string) string {
	var b strings.Builder
	for i := range len(part) {
		switch c := part[i]; {
		case c <= ' ' || c >= 0x7f || strings.IndexByte("\"#<>[\\]^`{|}", c) >= 0:
			b.WriteString(url.QueryEscape(string([]byte{c})))
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}
