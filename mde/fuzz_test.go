package mde

import (
	"net/http"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func TestDecodeError(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for name, test := range map[string]struct {
		retry, body string
		want        Error
		text        string
	}{
		"Defender":  {"", `{"error":{"code":"ResourceNotFound","message":"Machine 1 was not found","target":"g"}}`, Error{404, "ResourceNotFound", "Machine 1 was not found", "g", 0}, "Machine 1 was not found"},
		"framework": {"", `{"error":{"code":"","message":"The query is not valid.","details":[]}}`, Error{400, "", "The query is not valid.", "", 0}, "The query is not valid."},
		"OAuth":     {"", `{"error":"invalid_client","error_description":"AADSTS1: no.\r\nTrace","correlation_id":"c"}`, Error{401, "invalid_client", "AADSTS1: no.", "c", 0}, "AADSTS1: no."},
		"proxy":     {"30", `<html>502</html>`, Error{502, "", "", "", 30 * time.Second}, "the server answered 502 Bad Gateway"},
		"empty":     {"Thu, 01 Jan 2026 00:01:00 GMT", ``, Error{503, "", "", "", time.Minute}, "the server answered 503 Service Unavailable"},
		"past":      {"Thu, 01 Jan 2025 00:01:00 GMT", `[]`, Error{429, "", "", "", 0}, "the server answered 429 Too Many Requests"},
		"nonsense":  {"-5", `{"error":7}`, Error{599, "", "", "", 0}, "the server answered 599"},
	} {
		header := http.Header{}
		header.Set("Retry-After", test.retry)
		got := decodeError(test.want.StatusCode, header, []byte(test.body), now)
		if *got != test.want || got.Error() != test.text {
			t.Errorf("%s: got %+v, %q", name, *got, got.Error())
		}
	}
}

func FuzzDecodeError(f *testing.F) {
	f.Add(`{"error":{"code":"Forbidden","message":"no","target":"g"}}`, "5")
	f.Add(`{"error":"invalid_client","error_description":"AADSTS1\r\nx","correlation_id":"c"}`, "")
	f.Add(`{"error":{"code":1}}`, "Thu, 01 Jan 2026 00:01:00 GMT")
	f.Add(`{"error":null,"error_description":7}`, "99999999999999999999")
	f.Fuzz(func(t *testing.T, body, retry string) {
		e := decodeError(418, http.Header{"Retry-After": {retry}}, []byte(body), time.Unix(0, 0))
		if e.StatusCode != 418 || e.RetryAfter < 0 || e.Error() == "" {
			t.Errorf("made %+v", e)
		}
		for _, s := range []string{e.Code, e.Message, e.Target} {
			if len(s) > maxMessage || !utf8.ValidString(s) {
				t.Errorf("let %q through", s)
			}
		}
	})
}

func FuzzQuote(f *testing.F) {
	for _, s := range []string{"", "a", "'", "' or 1 eq 1 or 'a", "''", "O'Neil's"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		q := Quote(s)
		inner, ok := strings.CutPrefix(q, "'")
		inner, ok2 := strings.CutSuffix(inner, "'")
		if !ok || !ok2 || strings.Contains(strings.ReplaceAll(inner, "''", ""), "'") || strings.ReplaceAll(inner, "''", "'") != s {
			t.Errorf("%q is quoted as %s", s, q)
		}
	})
}
