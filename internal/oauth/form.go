package oauth

import (
	"encoding/base64"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// maxForm is the longest body of a token request, in bytes. A certificate
// assertion, the longest honest parameter, has two or three thousand.
const maxForm = 64 << 10

// readForm returns the parameters of a token request. Clients send them as a
// form or in the query string, by POST or GET, with any or no Content-Type; so
// it is not asked what was declared but looked where they are. HTTP Basic goes
// before the body, and the body before the query string. Where a parameter is
// repeated the first one counts. What is not a well-formed pair is left out;
// if it was needed it is missed later.
func (c *call) readForm() (url.Values, error) {
	body, err := io.ReadAll(http.MaxBytesReader(c.w, c.Body, maxForm))
	if err != nil {
		return nil, unreadable(err)
	}
	form, _ := url.ParseQuery(string(body))
	query, _ := url.ParseQuery(c.URL.RawQuery)
	for name, values := range query {
		if !form.Has(name) {
			form[name] = values
		}
	}
	if id, secret, ok := basicCredentials(c.Header.Get("Authorization")); ok {
		c.basic = true
		form.Set("client_id", id)
		form.Set("client_secret", secret)
	}
	return form, nil
}

func unreadable(err error) error {
	f := failf(http.StatusBadRequest, "invalid_request", 90013, "Invalid input received from the user. The request body could not be read.")
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		f.message = "Invalid input received from the user. The request body is too long."
	}
	f.err = err
	return f
}

// basicCredentials reads client credentials from an Authorization header. Each
// half is form-encoded (RFC 6749, section 2.3.1); some clients leave that out,
// which is only noticed where it makes a difference.
func basicCredentials(header string) (id, secret string, ok bool) {
	scheme, encoded, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") {
		return "", "", false
	}
	pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(encoded))
	if err != nil {
		return "", "", false
	}
	id, secret, ok = strings.Cut(string(pair), ":")
	return formDecoded(id), formDecoded(secret), ok
}

func formDecoded(s string) string {
	if decoded, err := url.QueryUnescape(s); err == nil {
		return decoded
	}
	return s
}
