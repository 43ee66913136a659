package hostile

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
)

// attacker makes requests up from pieces that servers have stumbled over, and
// spoils some of them byte by byte.
type attacker struct {
	*rand.Rand
	w                 *world
	machines, actions []string
}

// request is one that was made up.
type request struct {
	raw    []byte
	method string
	path   string // as it was sent, without a query
	// spoiled says that the bytes are perhaps no request any more.
	spoiled bool
}

func (a attacker) pick(from []string) string { return from[a.IntN(len(from))] }

// oneIn is true once in n times.
func (a attacker) oneIn(n int) bool { return a.IntN(n) == 0 }

var methods = []string{"GET", "POST", "HEAD", "OPTIONS", "PUT", "PATCH", "DELETE", "TRACE", "get", "PURGE", "M-SEARCH"}

// targets are what is served, with $M for a machine, $A for an action, $T for
// the tenant, $X for anything.
var targets = []string{
	"GET /api/machines", "GET /api/machines/$M", "GET /api/v1.0/machines/$X", "GET //api///machines//", "POST /API/Machines/$M/RestrictCodeExecution",
	"POST /api/machines/$M/restrictCodeExecution", "POST /api/machines/$M/unrestrictCodeExecution", "POST /api/machines/$X/restrictCodeExecution",
	"POST /api/machines/$M/isolate", "POST /api/machines/$M/unisolate", "POST /api/machines/$M/runAntiVirusScan", "POST /api/machines/$M/collectInvestigationPackage",
	"POST /api/machines/$M/StopAndQuarantineFile", "POST /api/machines/$M/offboard", "POST /api/machines/$M/runliveresponse", "POST /api/machines/$M/startInvestigation",
	"GET /api/machineactions", "GET /api/machineactions", "GET /api/machineactions/$A", "GET /api/machineactions/$X", "POST /api/machineactions/$A/cancel", "GET /api/machineactions/$A/getPackageUri",
	"GET /api/machineactions/$A/GetLiveResponseResultDownloadLink(index=$X)", "GET /api/alerts", "GET /api/$X/$X/$X", "GET /api/$metadata",
	"POST /$T/oauth2/token", "POST /$T/oauth2/v2.0/token", "POST /$X/oauth2/v2.0/token", "GET /$T/v2.0/.well-known/openid-configuration", "GET /$T/.well-known/openid-configuration",
	"GET /common/discovery/instance", "GET /$T/discovery/v2.0/keys", "GET /$T/discovery/keys",
	"POST /agent/v1/enroll", "GET /agent/v1/connect", "POST /agent/v1/sync", "POST /agent/v1/$X",
	"GET /cordon/v1/machines/$M", "GET /cordon/v1/machines/$X", "POST /cordon/v1/machines/$M/restrict", "GET /cordon/v1/actions/$A", "GET /cordon/v1/actions/$X", "POST /cordon/v1/actions/$A/order", "GET /cordon/v1/actions/$A/evidence", "GET /cordon/v1/actions/$X/evidence",
	"POST /cordon/v1/machines/$M/break-glass", "GET /cordon/v1/machines/$M/blocked", "GET /cordon/v1/machines/$M/preview", "GET /cordon/v1/releases/$X", "GET /cordon/v1/releases/$A",
	"GET /cordon/v1/trust", "POST /cordon/v1/trust", "DELETE /cordon/v1/trust", "GET /cordon/v1/audit", "GET /cordon/v1/audit?since=$X&kind=$X&before=$X&top=$X", "GET /cordon/v1/groups", "POST /cordon/v1/groups", "GET /cordon/v1/groups/$X", "PATCH /cordon/v1/groups/$X", "DELETE /cordon/v1/groups/$X", "POST /cordon/v1/groups/$X/machines", "DELETE /cordon/v1/groups/$X/machines",
	"GET /cordon/v1/apps", "POST /cordon/v1/apps", "GET /cordon/v1/apps/$X", "DELETE /cordon/v1/apps/$X", "POST /cordon/v1/apps/$X/grant",
	"POST /cordon/v1/apps/$X/revoke", "POST /cordon/v1/apps/$X/secrets", "DELETE /cordon/v1/apps/$X/secrets/$X", "POST /cordon/v1/apps/$X/certificates", "DELETE /cordon/v1/apps/$X/certificates/$X",
	"GET /api/machines/findbyip(ip='$X',timestamp=2026-11-21T08:00:00Z)", "GET /api/machines/findbyip($X)", "GET /api/machines/findbytag?tag=$X", "POST /api/machines/AddOrRemoveTagForMultipleMachines",
	"POST /api/machines/$M/tags", "POST /api/machines/$M/setDeviceValue", "PATCH /api/machines/$M", "PATCH /api/machines/$X", "GET /api/alerts/$X",
	"GET /healthz", "GET /readyz", "GET /openapi/cordon.yaml", "GET /openapi/$X", "POST /openapi/login.yaml",
	"GET /", "OPTIONS *", "GET /$X", "POST /$X/$X",
}

var odd = []string{
	"", "%20", "%00", "%ff", "%2f..%2f..%2fetc%2fpasswd", "..", ".", "%2e%2e", "%", "%zz", "%c0%af", "é", "%F0%9F%92%A9", "'", "''", "'%20or%201%20eq%201", "%22", ";", ";a=b",
	"$count", "0", "-1", "99999999999999999999", "NaN", "null", "true", "{}", "<script>", "\\", "#", "%0d%0aX-Injected:%201", "ffffffff-ffff-ffff-ffff-ffffffffffff",
	"0000000000000000000000000000000000000000", "zzzzzzzz-0000-0000-0000-000000000000", "findbyip(ip='10.0.0.1',timestamp=2026-01-01T00:00:00Z)", "(index=0)", "%28index=1%29",
	strings.Repeat("a", 300), strings.Repeat("%61", 2000), strings.Repeat("/", 500), strings.Repeat("../", 300), strings.Repeat("a.", 130),
}

// queries are fragments of a query string; several of them are joined.
var queries = []string{
	"$top=1", "$top=0", "$top=10000", "$top=10001", "$top=-1", "$top=99999999999999999999", "$top=", "$top=1e3", "$skip=5", "$skip=99999999", "$skip=-5", "$skip=9223372036854775808",
	"$count=true", "$count=maybe", "$select=id", "$select=", "$select=*", "$select=id,id,status,colour", "$orderby=id", "$orderby=status desc,creationDateTimeUtc asc", "$orderby=colour", "$orderby=id desc asc",
	"$filter=status eq 'Pending'", "$filter=machineId%20eq%20'x'and%20type%20eq%20'y'", "$filter=", "$filter='", "$filter=(", "$filter=not", "$filter=not not not (id eq 'x')", "$filter=id in ()", "$filter=id in ('a','b','c')",
	"$filter=id eq null", "$filter=lastSeen gt 2018-08-01Z", "$filter=lastSeen gt 9999-99-99T99:99:99Z", "$filter=creationDateTimeUtc ge 0001-01-01T00:00:00Z", "$filter=startswith(computerDnsName,'%25_%5c')",
	"$filter=contains(requestorComment,'%00')", "$filter=endswith(id,'%ff%fe')", "$filter=machineTags/any(t:t eq 'x')", "$filter=rbacGroupId eq 99999999999999999999", "$filter=rbacGroupId eq 1.5e308",
	"$filter=id eq 'a''b' or id eq ''''", "$filter=" + strings.Repeat("(", 200) + "id eq 'x'" + strings.Repeat(")", 200), "$filter=" + strings.Repeat("not ", 500) + "id eq 'x'",
	"$filter=id eq 'x'" + strings.Repeat(" or id eq 'x'", 400), "$filter=id in ('x'" + strings.Repeat(",'x'", 2000) + ")", "$filter=id eq '" + strings.Repeat("x", 9000) + "'",
	"$stop=1", "$expand=x", "$format=xml", "$skiptoken=%00", "$skiptoken=AAAA", "%24filter=id%20eq%20%27x%27", "&&&&", "=", "%", "%zz=%zz", ";", "a=b;c=d", "$filter=1 eq 1", "$filter=id eq 'x';drop table actions",
	"api-version=1.1&authorization_endpoint=https%3a%2f%2f%00", "client-request-id=%0a", "grant_type=client_credentials&client_id=x&client_secret=y&scope=z%2f.default",
	strings.Repeat("a=b&", 5000), strings.Repeat("$filter=id eq 'x'&", 300), strings.Repeat("$select=id&", 1000), strings.Repeat("%24top=1&", 1000),
}

var headers = []string{
	"Accept-Encoding: gzip", "Accept-Encoding: deflate;q=1, identity;q=0", "Accept-Encoding: " + strings.Repeat("gzip;q=0.1,", 3000), "Accept-Encoding: *;q=1e999, ;;;=,", "Content-Encoding: gzip", "Content-Encoding: identity, gzip, deflate, br",
	"Content-Type: application/json", "Content-Type: application/json; charset=\"", "Content-Type: application/x-www-form-urlencoded", "Content-Type: multipart/form-data; boundary=x", "Content-Type: ;;;", "Content-Type: " + strings.Repeat("a/", 4000),
	"Expect: 100-continue", "Expect: 200-ok", "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA",
	"Range: bytes=0-0,1-1,2-2", "If-Match: *", "X-HTTP-Method-Override: DELETE", "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: evil.example", "Forwarded: for=127.0.0.1;host=evil.example", "Cookie: " + strings.Repeat("a=b; ", 2000),
	"client-request-id: \x01", "client-request-id: " + strings.Repeat("0", 5000), "TE: trailers", "Trailer: Authorization", "X-Long: " + strings.Repeat("x", 50<<10), "X-Long: " + strings.Repeat("x", 70<<10), strings.Repeat("X-Many: x\r\n", 2000) + "X-Last: x", "Host: second.example", "Content-Length: 3",
}

var bodies = []string{
	"", "{}", "[]", "null", `"x"`, "{", `{"Comment":"x","IsolationType":"Full"}`, `{"Comment":"x","ScanType":"Quick"}`, `{"Comment":"x","Sha1":"` + strings.Repeat("0", 40) + `"}`,
	`{"Comment":"x","Commands":[{"type":"GetFile","params":[{"key":"Path","value":"x"}]}]}`, `{"Comment":"x","Commands":` + strings.Repeat("[", 30000) + `}`, `{"Comment":"\ud800"}`, `{"Comment":"\u0000"}`, "{\"Comment\":\"\xff\"}",
	`{"Comment":` + strings.Repeat(`{"Comment":`, 9000) + `1` + strings.Repeat("}", 9001), `{"Comment":` + strings.Repeat("1", 60000) + `}`, `{"Comment":1e99999}`, `{"Comment":"` + strings.Repeat("x", 70000) + `"}`,
	"{" + strings.Repeat(`"Comment":"x",`, 4000) + `"Comment":"x"}`, strings.Repeat("{}", 30000), strings.Repeat(" ", 65000), "\xef\xbb\xbf{}",
	"grant_type=client_credentials&client_id=$C&client_secret=wrong&scope=https%3a%2f%2fapi.securitycenter.microsoft.com%2f.default", "grant_type=password", strings.Repeat("a=b&", 15000), "client_id=%00&client_id=%ff&%", "client_assertion=" + strings.Repeat("a", 60000),
	`{"capability":1,"token":"x","key":{"kty":"OKP","crv":"Ed25519","x":"AAAA"},"facts":{}}`, `{"capability":99999999999999999999}`, `{"key":` + strings.Repeat("[", 200000) + `}`, `{"reports":[` + strings.Repeat(`"a.b.c",`, 5000) + `""],"waitMs":9223372036854775807,"nonce":"x"}`,
	`{"Value":"x","Action":"Add"}`, `{"Value":"x","Action":"Remove","MachineIds":[` + strings.Repeat(`"web-01.example.org",`, 3000) + `"x"]}`, `{"Value":"\u0000","Action":"Add","MachineIds":["web-01.example.org"]}`, `{"DeviceValue":"High"}`,
	`{"machineTags":[` + strings.Repeat(`"a",`, 15000) + `"a"]}`, `{"machineTags":` + strings.Repeat("[", 30000) + `}`, `{"deviceValue":1}`,
	`{"seconds":9223372036854775807,"comment":"x"}`, `{"seconds":-1,"comment":"x"}`, `{"sha256":"` + strings.Repeat("a", 64) + `","scope":"all","comment":"x"}`, `{"sha256":"` + strings.Repeat("z", 60000) + `"}`, `{"sha256":"x","scope":"machine:` + strings.Repeat("../", 500) + `"}`,
	`{"name":"x"}`, `{"name":"` + strings.Repeat("\u202e", 9000) + `"}`, `{"machines":["web-01.example.org"]}`, `{"machines":[` + strings.Repeat(`"x",`, 15000) + `"x"]}`, `{"sha256":"` + strings.Repeat("a", 64) + `","group":"x","comment":"x"}`,
	`{"displayName":"x","permissions":[` + strings.Repeat(`"Machine.Scan",`, 4000) + `"x"]}`, `{"displayName":"\u0000\ud800"}`, `{"displayName":"x","certificate":"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----"}`, `{"certificate":"` + strings.Repeat("-----BEGIN CERTIFICATE-----", 2000) + `"}`,
	`{"displayName":"x","secretExpires":"9999-12-31T23:59:59Z"}`, `{"expires":"0000-01-01T00:00:00Z","dropOld":true}`, `{"permissions":["Application.ReadWrite.All"]}`,
	"grant_type=client_credentials&client_id=$C&scope=https%3a%2f%2fapi.securitycenter.microsoft.com%2f.default&client_assertion_type=urn%3aietf%3aparams%3aoauth%3aclient-assertion-type%3ajwt-bearer&client_assertion=" + assertion(`{"alg":"none"}`, `{"iss":"x"}`),
	"grant_type=client_credentials&client_id=$C&scope=https%3a%2f%2fapi.securitycenter.microsoft.com%2f.default&client_assertion_type=urn%3aietf%3aparams%3aoauth%3aclient-assertion-type%3ajwt-bearer&client_assertion=" + assertion(`{"alg":"RS256","x5t":"AAAA","x5t#S256":"AAAA","x5c":["AAAA"],"jku":"https://127.0.0.1:1/"}`, `{"iss":"$C","sub":"$C","exp":1e300,"aud":[[]]}`),
	"grant_type=client_credentials&client_id=$C&scope=https%3a%2f%2fapi.securitycenter.microsoft.com%2f.default&client_assertion_type=urn%3aietf%3aparams%3aoauth%3aclient-assertion-type%3ajwt-bearer&client_assertion=" + assertion(strings.Repeat("[", 20000), strings.Repeat(`{"a":`, 3000)),
	string(bomb),
}

// assertion is a client assertion that nobody has signed.
func assertion(header, claims string) string {
	b64 := base64.RawURLEncoding.EncodeToString
	return b64([]byte(header)) + "." + b64([]byte(claims)) + ".AAAA"
}

// bomb is a request body that would be 50 MB if somebody unpacked it.
var bomb = func() []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	zeros := make([]byte, 1<<20)
	for range 50 {
		_, _ = w.Write(zeros) // into memory: cannot fail
	}
	_ = w.Close() // into memory: cannot fail
	return b.Bytes()
}()

// authorization is what may stand in an Authorization header. About half of them
// are good.
func (a attacker) authorization() string {
	parts := strings.Split(a.w.token, ".")
	b64 := base64.RawURLEncoding.EncodeToString
	switch a.IntN(24) {
	case 0:
		return ""
	case 1:
		return a.pick([]string{"Bearer", "Bearer ", "Bearer x", "Bearer a.b.c", "Bearer ..", "Basic", "Basic ====", "Basic " + base64.StdEncoding.EncodeToString([]byte("a:b:c\x00")), "Cordon", "Cordon a.b.c", "Negotiate x", "\t", "Bearer Bearer x"})
	case 2:
		return "Bearer " + b64([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	case 3:
		return "Bearer " + b64([]byte(`{"alg":"HS256","kid":"`+strings.Repeat("k", a.IntN(9000))+`"}`)) + "." + parts[1] + "." + parts[2]
	case 4:
		return "Bearer " + b64([]byte(`{"alg":"RS256","crit":["b64"],"b64":false,"jwk":{"kty":"RSA","n":"AQAB","e":"AQAB"},"jku":"https://127.0.0.1:1/","x5c":["AAAA"]}`)) + "." + parts[1] + "." + parts[2]
	case 5:
		return "Bearer " + b64([]byte(`{"alg":"RSA-OAEP","enc":"A256GCM","zip":"DEF"}`)) + ".AAAA.AAAA.AAAA.AAAA"
	case 6:
		return "Bearer " + b64([]byte(strings.Repeat("[", 11000))) + "." + parts[1] + "." + parts[2]
	case 7:
		return "Bearer " + parts[0] + "." + b64([]byte(strings.Repeat(`{"a":`, 2500))) + "." + parts[2]
	case 8:
		return "Bearer " + strings.Repeat(a.pick(parts)+".", a.IntN(40))
	case 9:
		spoiled := []byte(a.w.token)
		spoiled[a.IntN(len(spoiled))] ^= byte(1 << a.IntN(7))
		return "Bearer " + strings.Map(func(r rune) rune {
			if r < ' ' {
				return 'x'
			}
			return r
		}, string(spoiled))
	case 10:
		return "Cordon " + b64([]byte(`{"alg":"EdDSA","typ":"cordon-proof+jws"}`)) + "." + b64([]byte(`{"machine":"`+strings.Repeat("0", 40)+`","method":"POST","path":"/agent/v1/sync","at":"2026-01-01T00:00:00Z","id":"x"}`)) + "." + parts[2]
	}
	return "bearer " + a.pick([]string{a.w.token, a.w.token, a.w.token, a.w.reader})
}

// fill puts something in the places that a piece has for it.
func (a attacker) fill(s string) string {
	for strings.Contains(s, "$X") {
		s = strings.Replace(s, "$X", a.pick(odd), 1)
	}
	return strings.NewReplacer("$M", a.pick(a.machines), "$A", a.pick(a.actions), "$T", a.w.tenant, "$C", a.w.app.ClientID).Replace(s)
}

// random returns a request that was never seen before.
func (a attacker) random() request {
	method, path, _ := strings.Cut(a.fill(a.pick(targets)), " ")
	if a.oneIn(8) {
		method = a.pick(methods)
	}
	target := path
	for i := range a.IntN(4) {
		target += string("?&&"[i]) + strings.ReplaceAll(a.pick(queries), " ", "+")
	}
	lines := []string{"Authorization: " + a.authorization()}
	if !a.oneIn(3) {
		lines = append(lines, "Content-Type: application/json")
	}
	for range a.IntN(3) {
		lines = append(lines, a.pick(headers))
	}
	body := goodBody
	if a.oneIn(2) {
		body = a.fill(a.pick(bodies))
	}
	if a.oneIn(8) {
		lines, body = append(lines, "Transfer-Encoding: chunked"), fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	}
	r := compose(method, path, target, lines, body)
	if a.oneIn(4) {
		r.raw, r.spoiled = a.spoil(r.raw), true
	}
	return r
}

const goodBody = `{"Comment":"x"}`

// systematic returns requests in which everything is good but one piece, for
// every piece that there is, and every method.
func (a attacker) systematic() (all []request) {
	lines := []string{"Authorization: Bearer " + a.w.token, "Content-Type: application/json"}
	add := func(target, body string, more ...string) {
		method, target, _ := strings.Cut(a.fill(target), " ")
		path, _, _ := strings.Cut(target, "?")
		all = append(all, compose(method, path, target, append(slices.Clone(lines), more...), a.fill(body)))
	}
	for _, target := range targets {
		n := 1
		if strings.Contains(target, "$X") {
			n = 12
		}
		for range n {
			add(target, goodBody)
		}
	}
	for _, method := range methods {
		add(method+" /api/machines/$M", "")
	}
	for _, q := range queries {
		q = strings.ReplaceAll(q, " ", "+")
		add("GET /api/machines?"+q, "")
		add("GET /api/machineactions?"+q, "")
	}
	for _, body := range bodies {
		for _, path := range takesBody {
			add("POST "+path, body)
		}
	}
	for _, header := range headers {
		add("GET /api/machines", "", header)
		add("POST /api/machines/$M/isolate", goodBody, header)
	}
	return all
}

// compose puts a request together. What a chunked body is made of has been done.
func compose(method, path, target string, lines []string, body string) request {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: api.securitycenter.microsoft.com\r\n", method, target)
	for _, line := range lines {
		fmt.Fprintf(&b, "%s\r\n", line)
	}
	if !slices.Contains(lines, "Transfer-Encoding: chunked") {
		fmt.Fprintf(&b, "Content-Length: %d\r\n", len(body))
	}
	fmt.Fprintf(&b, "\r\n%s", body)
	return request{raw: b.Bytes(), method: method, path: path}
}

// spoil changes a few bytes.
func (a attacker) spoil(raw []byte) []byte {
	for range 1 + a.IntN(6) {
		at, n := a.IntN(len(raw)), a.IntN(20)
		if a.oneIn(2) { // near the beginning, where it matters
			at = a.IntN(min(len(raw), 300))
		}
		end := min(at+n, len(raw))
		switch a.IntN(5) {
		case 0:
			raw[at] = byte(a.IntN(256))
		case 1:
			raw = slices.Delete(raw, at, end)
		case 2:
			raw = slices.Insert(raw, at, slices.Clone(raw[at:end])...)
		case 3:
			raw = slices.Insert(raw, at, []byte(a.pick([]string{"\r\n", "\n", "\x00", ": ", " ", "%", "\r\n\r\n", "Transfer-Encoding: chunked\r\n", "'", "\xff"}))...)
		case 4:
			raw = raw[:max(at, 1)]
		}
		if len(raw) == 0 {
			return []byte("\r\n")
		}
	}
	return raw
}
