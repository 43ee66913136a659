package mdeapi_test

import (
	"encoding/json"
	"net/http/httptest"
	"strings"
	"testing"
)

// FuzzHandler holds that no request, however odd, makes the server fail: every
// answer is below 500, is JSON if it has a body, and if it is an error has the
// three members that clients look for and has changed nothing.
func FuzzHandler(f *testing.F) {
	f.Add("GET", "/api/machines", "$top=1", "", "", true)
	f.Add("POST", "/api/machines/web-01.example.org/restrictCodeExecution", "", "application/json", `{"Comment":"x"}`, true)
	f.Add("POST", "/API//v1.0/machines/%20/unrestrictCodeExecution/", "", "application/json; charset=\"", `{"Comment":1}`, true)
	f.Add("POST", "/api/machineactions/ac710000-0000-4000-8000-000000000001/cancel", "", "", "", true)
	f.Add("POST", "/api/machines/web-01.example.org/runliveresponse", "", "application/json", `{"Comment":"x","Commands":[{"type":"GetFile","params":[{"key":"Path","value":"x"}]}]}`, true)
	f.Add("POST", "/api/machines/web-01.example.org/StopAndQuarantineFile", "", "application/json", `{"Comment":"x","Sha1":"0"}`, true)
	f.Add("GET", "/api/machineactions/ac710000-0000-4000-8000-000000000001/GetLiveResponseResultDownloadLink(index=0)", "", "", "", true)
	f.Add("HEAD", "/api/machineactions", "$filter=status%20eq%20'Pending'&$count=true&$select=id", "", "", true)
	f.Add("OPTIONS", "/api/machines/..%2f..%2f%00%ff", "$skip=9&%zz", "", "", false)
	f.Add("GET", "/api/machines/"+strings.Repeat("a", 400), "$stop=1", "", "", true)
	f.Add("PURGE", "*", "", "", "", true)
	h := newHouse(f)
	token := "Bearer " + h.fill("$ALL")
	f.Fuzz(func(t *testing.T, method, path, query, contentType, body string, authorized bool) {
		r := httptest.NewRequest("GET", "/", strings.NewReader(body))
		r.Method = method
		// As net/http would set it: a path that is not well-formed has no RawPath.
		r.URL.Path, r.URL.RawPath, r.URL.RawQuery = path, path, query
		r.Host = "api.securitycenter.microsoft.com"
		r.Header.Set("Content-Type", contentType)
		if authorized {
			r.Header.Set("Authorization", token)
		}
		before := h.trace()
		w := httptest.NewRecorder()
		h.handler.ServeHTTP(w, r)
		if w.Code >= 500 || w.Code < 200 {
			t.Fatalf("%d %s\n%s", w.Code, w.Body, h.log.String())
		}
		if w.Body.Len() > 0 && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("not JSON: %s", w.Body)
		}
		if w.Code < 400 {
			if !authorized && method != "OPTIONS" {
				t.Fatalf("%d without a token: %s", w.Code, w.Body)
			}
			return
		}
		if h.trace() != before {
			t.Fatalf("refused, but left a trace: %s", w.Body)
		}
		var answer struct {
			Error struct{ Code, Message, Target *string }
		}
		if err := json.Unmarshal(w.Body.Bytes(), &answer); method != "HEAD" && (err != nil || answer.Error.Code == nil || answer.Error.Message == nil || answer.Error.Target == nil) {
			t.Fatalf("%d %s: %v", w.Code, w.Body, err)
		}
		h.log.Reset()
	})
}
