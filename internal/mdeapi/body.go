package mdeapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"unicode/utf8"

	"github.com/cordon-project/cordon"
)

// maxBody is the longest body that is read, in bytes. The longest that can be
// good has a comment of [cordon.MaxComment] characters, each sent as two \u escapes.
const maxBody = 64 << 10

// readBody reads the body {"Comment":"…"}, with the members that params name
// beside it, and returns the comment. Comment may be left out or null; both mean
// the empty string, and so does no body at all.
func (c *call) readBody(params []parameter) (string, error) {
	var comment *string
	members := map[string]any{"Comment": &comment}
	checks := make([]func() error, len(params))
	for i, p := range params {
		members[p.name], checks[i] = p.value()
	}
	if err := c.readMembers(members); err != nil {
		return "", err
	}
	for _, check := range checks {
		if err := check(); err != nil {
			return "", err
		}
	}
	if comment == nil {
		return "", nil
	}
	return *comment, nil
}

// readMembers reads a body, which is a JSON object or nothing at all, into the
// values that members point to, by name.
//
// Member names count with their case, as at Defender (contract 3.4), and
// nothing is guessed: another member, a repeated one, another type, text that is
// not UTF-8 or anything behind the object make the body incorrect. So does any
// Content-Type but JSON, and any Content-Encoding: Defender's table of errors
// (contract 3.2) has no status 415, and clients know what to do with
// InvalidRequestBody. What is compressed is not looked at, so a small request
// cannot become a big one here.
func (c *call) readMembers(members map[string]any) error {
	for _, coding := range c.Header.Values("Content-Encoding") {
		if coding = strings.TrimSpace(coding); coding != "" && !strings.EqualFold(coding, "identity") {
			return incorrect("Its Content-Encoding is %.32q; send it as it is.", coding)
		}
	}
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, maxBody))
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return incorrect("It is longer than %d bytes.", maxBody)
	} else if err != nil {
		return incorrect("It could not be read to its end.")
	}
	if len(bytes.TrimSpace(body)) == 0 {
		return nil
	}
	if mediaType, _, err := mime.ParseMediaType(c.Header.Get("Content-Type")); err != nil || mediaType != "application/json" {
		return incorrect("Its Content-Type must be application/json.")
	}
	return decodeObject(body, members)
}

// decodeObject decodes a JSON object into the values that members point to, by
// name. See [call.readMembers] for how strict it is.
func decodeObject(body []byte, members map[string]any) error {
	if !utf8.Valid(body) {
		return incorrect("It is not valid UTF-8.")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return incorrect("It must be a JSON object.")
	}
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		name, ok := t.(string)
		if err != nil || !ok {
			return incorrect("It is not well-formed JSON.")
		}
		into, known := members[name]
		switch {
		case !known:
			return incorrect("It has an unknown member %.64q. Names are case-sensitive.", name)
		case seen[name]:
			return incorrect("It has the member %s more than once.", name)
		}
		seen[name] = true
		var wrong *json.UnmarshalTypeError
		if err := d.Decode(into); errors.As(err, &wrong) {
			return incorrect("The member %s has the wrong type.", name)
		} else if err != nil {
			return incorrect("It is not well-formed JSON.")
		}
	}
	if _, err := d.Token(); err != nil { // the closing brace
		return incorrect("It is not well-formed JSON.")
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return incorrect("There is something behind the JSON object.")
	}
	return nil
}

// incorrect is the error about a body that cannot be read. The first sentence
// is Defender's.
func incorrect(format string, args ...any) error {
	return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidBody, "Request body is incorrect. %s", fmt.Sprintf(format, args...))
}
