// Package clients tests that programs written for Defender work against Cordon
// without a change: it runs the login libraries that they are built on, as they
// are published, against the real server, and calls the API in the forms that
// they were seen to use.
//
// The tests run in a network of their own, in which Microsoft's names lead to
// the server: so the libraries are used as they come, and nothing that they do
// reaches anybody else. docs/compatibility.md has what was tried beyond this.
package clients

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
)

func TestPrograms(t *testing.T) {
	w := newWorld(t)
	for i, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			playbook := user{t, k.open(t, w, w.playbooks[i])}
			m := w.enrol(t, fmt.Sprintf("host%d.example.org", i), "Debian", true)
			away := w.enrol(t, fmt.Sprintf("away%d.example.org", i), "Debian", false)
			desk := w.enrol(t, fmt.Sprintf("desk%d.example.org", i), "Windows11", false)

			device := playbook.findsMachine(m)
			playbook.restricts(m, device)
			playbook.cancels(away)
			playbook.isRefused(away, desk)
			user{t, k.open(t, w, w.isolator)}.isForbidden(away, "Machine.Isolate")
			user{t, k.open(t, w, w.nobody)}.isForbidden(away, "")
			user{t, k.open(t, w, w.hurried)}.isThrottled()
		})
	}
}

// TestRefusedLogins: the libraries pass on what was wrong.
func TestRefusedLogins(t *testing.T) {
	w := newWorld(t)
	for i, k := range kinds {
		t.Run(k.name, func(t *testing.T) {
			guess, stranger := w.playbooks[i], w.playbooks[i]
			guess.secret += "x"
			guess.identity = newIdentity(t)
			stranger.id = uuid.NewString() // each its own: wrong secrets are counted
			for app, want := range map[application]string{guess: k.wrong, stranger: "AADSTS700016"} {
				if a, err := k.open(t, w, app)(http.MethodGet, "/api/machines", ""); err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("got %d %v, want an error with %s", a.Status, err, want)
				}
			}
		})
	}
}

// user is a program in a test.
type user struct {
	*testing.T
	program program
}

// call fails the test if there is no answer, or one that no client can read.
func (u user) call(method, path, body string) answer {
	u.Helper()
	a, err := u.program(method, path, body)
	if err != nil {
		u.Fatalf("%s %s: %v", method, path, err)
	}
	if !strings.Contains(a.Headers["content-type"], "json") || !json.Valid([]byte(a.Body)) {
		u.Fatalf("%s %s: %d without JSON: %q", method, path, a.Status, a.Body)
	}
	return a
}

// action is a MachineAction, as far as the tests look at it.
type action struct {
	ID, Type, Status, Requestor, RequestorComment, MachineID, ComputerDNSName string
	CancellationRequestor, CancellationComment                                *string
	ErrorHResult                                                              int32
}

// does sends a call that must succeed with this status, and returns the action
// that it is answered with.
func (u user) does(method, path, body string, status int) (a action) {
	u.Helper()
	got := u.call(method, path, body)
	if got.Status != status {
		u.Fatalf("%s %s: %d %s", method, path, got.Status, got.Body)
	}
	if err := json.Unmarshal([]byte(got.Body), &a); err != nil {
		u.Fatal(err)
	}
	return a
}

// lists sends a query, and returns the ids of what it finds.
func (u user) lists(path string) (ids []string) {
	u.Helper()
	got := u.call(http.MethodGet, path, "")
	var list struct {
		Value []struct{ ID string }
		Count *int `json:"@odata.count"`
	}
	if err := json.Unmarshal([]byte(got.Body), &list); err != nil || got.Status != http.StatusOK || list.Value == nil {
		u.Fatalf("%s: %d %s", path, got.Status, got.Body)
	}
	for _, v := range list.Value {
		ids = append(ids, v.ID)
	}
	if strings.Contains(path, "$count=true") && (list.Count == nil || *list.Count != len(ids)) {
		u.Errorf("%s: no right count: %s", path, got.Body)
	}
	return ids
}

// fails sends a call that must be refused.
func (u user) fails(method, path, body string, status int, code, message string) answer {
	u.Helper()
	got := u.call(method, path, body)
	var e struct {
		Error *struct{ Code, Message, Target string }
	}
	if err := json.Unmarshal([]byte(got.Body), &e); err != nil || e.Error == nil || e.Error.Target == "" {
		u.Fatalf("%s %s: %d %s", method, path, got.Status, got.Body)
	}
	if got.Status != status || e.Error.Code != code || e.Error.Message != message {
		u.Errorf("%s %s:\n got %d %s: %s\nwant %d %s: %s", method, path, got.Status, e.Error.Code, e.Error.Message, status, code, message)
	}
	return got
}

// findsMachine does what programs do before they act, each in its spelling, and
// returns the machine's aadDeviceId.
func (u user) findsMachine(m *machine) (device string) {
	u.Helper()
	for _, path := range []string{"/api/machines?$top=1", "/api/machines?$filter=healthStatus+ne+'Inactive'&$top=1"} { // tests of the connection
		if ids := u.lists(path); len(ids) != 1 {
			u.Errorf("%s: found %q", path, ids)
		}
	}
	if ids := u.lists("/api/alerts?$top=1"); len(ids) != 0 {
		u.Errorf("found alerts: %q", ids)
	}
	u.fails(http.MethodGet, "/api/machines/elastic-connector-test", "", http.StatusNotFound, "ResourceNotFound", "Machine elastic-connector-test was not found")
	u.fails(http.MethodGet, "/api/machines?$stop=1", "", http.StatusBadRequest, "", "The query specified in the URI is not valid. Custom query option '$stop' that starts with '$' is not supported.")

	fill := strings.NewReplacer("{id}", m.id, "{ID}", strings.ToUpper(m.id), "{name}", m.name, "{NAME}", strings.ToUpper(m.name))
	for _, path := range []string{
		"/api/v1.0/machines?$filter=computerDnsName+eq+'{name}'",
		"/api/machines?%24filter=computerDnsName%20eq%20%27{name}%27&%24top=5&%24orderby=lastSeen%20desc",
		"/api/machines?$filter=startswith(computerDnsName,'{name}')&$select=id,computerDnsName",
		"/api/machines?$count=true&$filter=id%20in%20('{id}','x')%20AND%20onboardingStatus%20eq%20'Onboarded'",
		"/API/Machines/?$filter=(ComputerDnsName%20eq%20'{name}')or(Id%20eq%20'x')",
	} {
		if ids := u.lists(fill.Replace(path)); len(ids) != 1 || ids[0] != m.id {
			u.Errorf("%s: found %q, want %s", path, ids, m.id)
		}
	}
	a := u.call(http.MethodGet, "/api/v1.0/machines?$filter=computerDnsName+eq+'nowhere'", "")
	_, rest, _ := strings.Cut(a.Body, "https://")
	host, _, _ := strings.Cut(rest, "/")
	if size := len(a.Body) - len("https://"+host); a.Status != http.StatusOK || size > 60 {
		u.Errorf("finding nothing takes %d bytes besides the address; one client allows 100 in all, and Defender's address has 40: %d %s", size, a.Status, a.Body)
	}
	for _, path := range []string{"/api/machines/{id}", "/api/machines/{ID}/", "/api/v1.0/machines/{name}", "/API/Machines/{NAME}%20"} {
		a := u.call(http.MethodGet, fill.Replace(path), "")
		var found struct{ ID, AADDeviceID, ComputerDNSName string }
		if err := json.Unmarshal([]byte(a.Body), &found); err != nil || a.Status != http.StatusOK || found.ID != m.id || found.ComputerDNSName != m.name {
			u.Errorf("%s: %d %s", path, a.Status, a.Body)
		}
		device = found.AADDeviceID
	}
	return device
}

// restricts takes a machine through the main job.
func (u user) restricts(m *machine, device string) {
	u.Helper()
	a := u.does(http.MethodPost, "/api/v1.0/machines/"+device+"/restrictCodeExecution", `{"Comment": "dry"}`, http.StatusCreated)
	want := action{ID: a.ID, Type: "RestrictCodeExecution", Status: "Pending", Requestor: "Playbook", RequestorComment: "dry", MachineID: m.id, ComputerDNSName: m.name}
	if a != want || a.ID == "" {
		u.Fatalf("got %+v, want %+v", a, want)
	}
	busy := u.fails(http.MethodPost, "/api/machines/"+m.id+"/restrictCodeExecution%20", `{"Comment":"again"}`, http.StatusBadRequest, "ActiveRequestAlreadyExists", "Action is already in progress")
	if !strings.Contains(busy.Body, `"message":"Action is already in progress"`) {
		u.Errorf("one client looks for other bytes than %s", busy.Body)
	}
	if got := u.does(http.MethodGet, "/api/machineactions/"+a.ID, "", http.StatusOK); got != want {
		u.Errorf("polled %+v, want %+v", got, want)
	}
	m.finish(u.T)
	want.Status = "Succeeded"
	if got := u.does(http.MethodGet, "/api/v1.0/MachineActions/"+a.ID, "", http.StatusOK); got != want {
		u.Errorf("polled %+v, want %+v", got, want)
	}
	for _, path := range []string{
		"/api/machineactions?%24filter=type%20eq%20%27RestrictCodeExecution%27%20and%20machineId%20eq%20%27{id}%27&%24top=3",
		"/api/machineactions?$filter=CreationDateTimeUtc%20ge%202026-01-01T00:00:00Z&$orderby=CreationDateTimeUtc%20desc&$top=1",
		"/api/machineactions?$filter=(machineId%20eq%20'{id}'%20and%20status%20eq%20'Succeeded')%20or%20(machineId%20eq%20'b'%20and%20status%20eq%20'Succeeded')&$top=50",
		"/api/machineactions/?$filter=machineId+eq+'{id}'and%20type+eq+'RestrictCodeExecution'",
		"/api/machineactions?$count=true&$filter=id%20in%20('{action}')%20AND%20requestor%20eq%20'Playbook'",
		"/api/machineactions?$filter=machineId%20eq%20'{id}'%20and%20lastUpdateDateTimeUtc%20gt%202026-01-01T00:00:00.000Z&$orderby=lastUpdateDateTimeUtc%20asc",
	} {
		if ids := u.lists(strings.NewReplacer("{id}", m.id, "{action}", a.ID).Replace(path)); len(ids) != 1 || ids[0] != a.ID {
			u.Errorf("%s: found %q, want %s", path, ids, a.ID)
		}
	}
	u.fails(http.MethodPost, "/api/machineactions/"+a.ID+"/cancel", `{"Comment":"c"}`, http.StatusBadRequest, "BadRequest",
		"Machine action "+a.ID+" has already ended (Succeeded) and cannot be cancelled")

	a = u.does(http.MethodPost, "/api/machines/"+m.name+"/unrestrictCodeExecution", `{"Comment":"clean"}`, http.StatusCreated)
	m.finish(u.T)
	if a = u.does(http.MethodGet, "/api/machineactions/"+a.ID, "", http.StatusOK); a.Type != "UnrestrictCodeExecution" || a.Status != "Succeeded" {
		u.Errorf("the release is %+v", a)
	}
}

// cancels orders something of a machine that is away, and thinks better of it.
func (u user) cancels(away *machine) {
	u.Helper()
	a := u.does(http.MethodPost, "/api/machines/"+away.id+"/restrictCodeExecution", `{"Comment":"dry"}`, http.StatusCreated)
	for range 2 {
		got := u.does(http.MethodPost, "/api/machineactions/"+a.ID+"/cancel", `{"Comment":"c"}`, http.StatusOK)
		if got.ID != a.ID || got.Status != "Cancelled" || got.ErrorHResult != -2147467260 || got.CancellationComment == nil || *got.CancellationComment != "c" || got.CancellationRequestor == nil {
			u.Errorf("got %+v", got)
		}
	}
}

// isRefused asks for what cannot be.
func (u user) isRefused(away, desk *machine) {
	u.Helper()
	const comment = `{"Comment":"dry"}`
	for _, verb := range []string{"restrictCodeExecution", "unrestrictCodeExecution"} {
		u.fails(http.MethodPost, "/api/machines/"+desk.id+"/"+verb, comment, http.StatusBadRequest, "OsPlatformNotSupported", "OS Platform Windows11 is not supported for this action.")
		u.fails(http.MethodPost, "/api/machines/123123123/"+verb, comment, http.StatusNotFound, "ResourceNotFound", "Machine 123123123 was not found")
		u.fails(http.MethodPost, "/api/machines/"+away.id+"/"+verb, "{}", http.StatusBadRequest, "MissingRequiredParameter", "Parameter Comment is missing.")
		if a := u.fails(http.MethodGet, "/api/machines/"+away.id+"/"+verb, "", http.StatusMethodNotAllowed, "MethodNotAllowed", "The requested resource does not support http method 'GET'."); a.Headers["allow"] != "POST" {
			u.Errorf("Allow: %q", a.Headers["allow"])
		}
	}
	u.fails(http.MethodGet, "/api/machineactions/556b3952acb0bff29816d267822305781cc183ec", "", http.StatusBadRequest, "BadRequest",
		"The key value (556b3952acb0bff29816d267822305781cc183ec) from request is not valid. The key value should be format of type 'Edm.Guid'.")
}

// isForbidden asks for what the application may not, whatever there is to find.
func (u user) isForbidden(away *machine, has string) {
	u.Helper()
	reading := "Missing application roles. API required roles: Machine.Read.All,Machine.ReadWrite.All, application roles: " + has + "."
	acting := "Missing application roles. API required roles: Machine.RestrictExecution, application roles: " + has + "."
	u.fails(http.MethodGet, "/api/machines?$top=1", "", http.StatusForbidden, "Forbidden", reading)
	u.fails(http.MethodGet, "/api/machineactions", "", http.StatusForbidden, "Forbidden", reading)
	u.fails(http.MethodPost, "/api/machines/"+away.id+"/restrictCodeExecution", `{"Comment":"dry"}`, http.StatusForbidden, "Forbidden", acting)
	u.fails(http.MethodPost, "/api/machines/nowhere/unrestrictCodeExecution", `{"Comment":"dry"}`, http.StatusForbidden, "Forbidden", acting)
}

// isThrottled calls until it is told to wait, which is so long that no library
// does it by itself. (The application is the same one for all programs: a later
// one is told at once.)
func (u user) isThrottled() {
	u.Helper()
	const path = "/api/machines?$top=1"
	for range hurriedLimit {
		if u.call(http.MethodGet, path, "").Status != http.StatusOK {
			break
		}
	}
	a := u.fails(http.MethodGet, path, "", http.StatusTooManyRequests, "429", fmt.Sprintf("API calls quota exceeded! maximum allowed %d per 01:00:00", hurriedLimit))
	if wait, err := strconv.Atoi(a.Headers["retry-after"]); err != nil || wait < 1 || wait > 3600/hurriedLimit {
		u.Errorf("Retry-After: %q", a.Headers["retry-after"])
	}
}
