package cordonapi

import (
	"net/http"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
)

// route is one operation of the API. Any one permission of op allows it.
type route struct {
	method string
	path   string // below prefix, as a pattern of [http.ServeMux]
	op     cordon.Operation
	status int // of success
	serve  func(*API, http.ResponseWriter, *http.Request, cordon.Caller) error
}

const prefix = "/cordon/v1"

// routes are the operations.
var routes = []route{
	{"GET", "/machines/{machine}", cordon.ReadMachines, http.StatusOK, (*API).machine},
	{"POST", "/machines/{machine}/restrict", cordon.RestrictAction, http.StatusCreated, (*API).restrict},
	{"GET", "/actions/{action}", cordon.ReadMachines, http.StatusOK, (*API).action},
	{"POST", "/actions/{action}/order", cordon.RestrictAction, http.StatusOK, (*API).order},
	{"GET", "/actions/{action}/evidence", cordon.ReadMachines, http.StatusOK, (*API).evidence},
	{"POST", "/machines/{machine}/break-glass", cordon.SignRelease, http.StatusCreated, (*API).breakGlass},
	{"GET", "/releases/{release}", cordon.ReadMachines, http.StatusOK, (*API).release},
	{"GET", "/machines/{machine}/blocked", cordon.ReadMachines, http.StatusOK, (*API).blocked},
	{"GET", "/machines/{machine}/preview", cordon.ReadMachines, http.StatusOK, (*API).preview},
	{"GET", "/trust", cordon.ReadMachines, http.StatusOK, (*API).trustList},
	{"POST", "/trust", cordon.ChangeTrust, http.StatusOK, (*API).trustAdd},
	{"DELETE", "/trust", cordon.ChangeTrust, http.StatusOK, (*API).trustRemove},
	{"GET", "/groups", cordon.ReadMachines, http.StatusOK, (*API).listGroups},
	{"POST", "/groups", cordon.ManageGroups, http.StatusCreated, (*API).createGroup},
	{"GET", "/groups/{group}", cordon.ReadMachines, http.StatusOK, (*API).showGroup},
	{"PATCH", "/groups/{group}", cordon.ManageGroups, http.StatusOK, (*API).renameGroup},
	{"DELETE", "/groups/{group}", cordon.ManageGroups, http.StatusNoContent, (*API).deleteGroup},
	{"POST", "/groups/{group}/machines", cordon.ManageGroups, http.StatusOK, assign(false)},
	{"DELETE", "/groups/{group}/machines", cordon.ManageGroups, http.StatusOK, assign(true)},
	{"GET", "/audit", cordon.ReadAudit, http.StatusOK, (*API).audit},
	{"GET", "/apps", cordon.ReadApplications, http.StatusOK, app((*API).listApps)},
	{"POST", "/apps", cordon.ManageApplications, http.StatusCreated, app((*API).createApp)},
	{"GET", "/apps/{app}", cordon.ReadApplications, http.StatusOK, app((*API).showApp)},
	{"DELETE", "/apps/{app}", cordon.ManageApplications, http.StatusNoContent, app((*API).deleteApp)},
	{"POST", "/apps/{app}/grant", cordon.ManageApplications, http.StatusOK, app(permissions((*cordon.Service).Grant))},
	{"POST", "/apps/{app}/revoke", cordon.ManageApplications, http.StatusOK, app(permissions((*cordon.Service).Revoke))},
	{"POST", "/apps/{app}/secrets", cordon.ManageApplications, http.StatusCreated, app((*API).addSecret)},
	{"DELETE", "/apps/{app}/secrets/{secret}", cordon.ManageApplications, http.StatusOK, app((*API).removeSecret)},
	{"POST", "/apps/{app}/certificates", cordon.ManageApplications, http.StatusOK, app((*API).addCertificate)},
	{"DELETE", "/apps/{app}/certificates/{certificate}", cordon.ManageApplications, http.StatusOK, app((*API).removeCertificate)},
}

// Register adds the routes to mux, and what answers for all other paths below
// /cordon/.
func (a *API) Register(mux *http.ServeMux) {
	methods := make(map[string][]route)
	for _, r := range routes {
		methods[r.path] = append(methods[r.path], r)
	}
	for path, of := range methods {
		mux.HandleFunc(prefix+path, a.handler(of))
	}
	mux.HandleFunc("/cordon/", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		a.fail(w, r, cordon.Errorf(cordon.NotFound, "", "There is no %.128s", r.URL.Path))
	})
}

// handler serves a path by its routes. A wrong method is found before the caller
// is looked at: the routes are no secret.
func (a *API) handler(of []route) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		method := r.Method
		if method == http.MethodHead {
			method = http.MethodGet
		}
		var allow []string
		for _, route := range of {
			if route.method == method {
				a.serve(w, r, route)
				return
			}
			if allow = append(allow, route.method); route.method == http.MethodGet {
				allow = append(allow, http.MethodHead)
			}
		}
		slices.Sort(allow)
		w.Header().Set("Allow", strings.Join(allow, ", "))
		if method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		writeError(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "Use "+strings.Join(allow, " or ")+" here")
	}
}

// serve checks who calls and what the caller may do before anything else.
func (a *API) serve(w http.ResponseWriter, r *http.Request, route route) {
	caller, err := a.Authenticate(r)
	if err == nil {
		err = caller.Authorize(route.op)
	}
	if err == nil {
		err = route.serve(a, w, r, caller)
	}
	if err != nil {
		a.fail(w, r, err)
	}
}
