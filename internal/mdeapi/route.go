package mdeapi

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
)

// route is one operation of the API. Any one permission of op allows it.
type route struct {
	method string
	path   string // below the prefix; a * stands for any one segment
	op     cordon.Operation
	status int // of success
	serve  func(*api, *call) ([]byte, error)
}

// readAlerts is the operation of Defender that lists alerts. Cordon has none,
// but clients ask for them to test their connection.
var readAlerts = cordon.Operation{cordon.AlertReadAll, cordon.AlertReadWriteAll}

var routes = []route{
	{"GET", "machines", cordon.ReadMachines, http.StatusOK, (*api).listMachines},
	{"GET", "machines/*", cordon.ReadMachines, http.StatusOK, (*api).getMachine},
	{"POST", "machines/*/restrictCodeExecution", cordon.RestrictAction, http.StatusCreated, request(cordon.RestrictCodeExecution)},
	{"POST", "machines/*/unrestrictCodeExecution", cordon.RestrictAction, http.StatusCreated, request(cordon.UnrestrictCodeExecution)},
	{"GET", "machineactions", cordon.ReadMachines, http.StatusOK, (*api).listActions},
	{"GET", "machineactions/*", cordon.ReadMachines, http.StatusOK, (*api).getAction},
	{"POST", "machineactions/*/cancel", cordon.CancelAction, http.StatusOK, (*api).cancelAction},
	{"GET", "alerts", readAlerts, http.StatusOK, (*api).listAlerts},
}

// find returns the route of a request and sets what the path says in c. Paths
// match in any case, with blanks and slashes around their segments, because
// clients send them so. An unknown path and a wrong method are found before the
// caller is looked at: the routes are no secret.
func find(c *call) (route, error) {
	segments := split(c.URL)
	if len(segments) == 0 || !strings.EqualFold(segments[0], "api") {
		return route{}, noRoute(c)
	}
	c.prefix, segments = "/api", segments[1:]
	if len(segments) > 0 && strings.EqualFold(segments[0], "v1.0") {
		c.prefix, segments = "/api/v1.0", segments[1:]
	}
	method := c.Method
	if method == http.MethodHead {
		method = http.MethodGet
	}
	var allow []string
	for _, r := range routes {
		args, ok := match(r.path, segments)
		if !ok {
			continue
		}
		if r.method == method {
			c.args = args
			return r, nil
		}
		allow = append(allow, r.method)
	}
	if allow == nil {
		return route{}, noRoute(c)
	}
	if slices.Contains(allow, http.MethodGet) {
		allow = append(allow, http.MethodHead)
	}
	header := strings.Join(allow, ", ")
	if method == http.MethodOptions {
		c.w.Header().Set("Allow", header)
		return route{}, nil
	}
	return route{}, &problem{
		status: http.StatusMethodNotAllowed, code: "MethodNotAllowed", header: map[string]string{"Allow": header},
		message: fmt.Sprintf("The requested resource does not support http method '%.32s'.", c.Method),
	}
}

func noRoute(c *call) error {
	return &problem{status: http.StatusNotFound, code: "NotFound", message: fmt.Sprintf("No resource was found that matches the request path '%.128s'.", c.URL.Path)}
}

// split returns the segments of a path, decoded, without blanks around them
// and without empty ones. A slash that was sent as %2F belongs to its segment.
func split(u *url.URL) []string {
	var segments []string
	for s := range strings.SplitSeq(u.EscapedPath(), "/") {
		if decoded, err := url.PathUnescape(s); err == nil {
			s = decoded
		}
		if s = strings.TrimSpace(s); s != "" {
			segments = append(segments, s)
		}
	}
	return segments
}

// match compares segments with a route's path and returns what stands for each *.
func match(path string, segments []string) (args []string, ok bool) {
	for _, segment := range segments {
		var want string
		if want, path, _ = strings.Cut(path, "/"); want == "*" {
			args = append(args, segment)
		} else if !strings.EqualFold(want, segment) {
			return nil, false
		}
	}
	return args, path == "" && len(segments) > 0
}
