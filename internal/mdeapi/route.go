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
	path   string // below the prefix; a * stands for any segment, or the rest of one
	op     cordon.Operation
	status int // of success
	serve  func(*api, *call) ([]byte, error)
}

// routes are the operations. Of paths that a request matches the first one is
// meant, with all methods that it has here.
var routes = []route{
	{"GET", "machines", cordon.ReadMachines, http.StatusOK, (*api).listMachines},
	{"GET", "machines/findbyip(*)", cordon.ReadMachines, http.StatusOK, (*api).findByIP},
	{"GET", "machines/findbytag", cordon.ReadMachines, http.StatusOK, (*api).findByTag},
	{"POST", "machines/AddOrRemoveTagForMultipleMachines", cordon.LabelMachines, http.StatusOK, (*api).changeTagsOfMany},
	{"GET", "machines/*", cordon.ReadMachines, http.StatusOK, (*api).getMachine},
	{"PATCH", "machines/*", cordon.LabelMachines, http.StatusOK, (*api).updateMachine},
	{"POST", "machines/*/tags", cordon.LabelMachines, http.StatusOK, (*api).changeTags},
	{"POST", "machines/*/setDeviceValue", cordon.LabelMachines, http.StatusOK, (*api).setDeviceValue},
	action("restrictCodeExecution", cordon.RestrictCodeExecution),
	action("unrestrictCodeExecution", cordon.UnrestrictCodeExecution),
	action("isolate", cordon.Isolate, choice("IsolationType", optional, "Full", "Selective", "UnManagedDevice")),
	action("unisolate", cordon.Unisolate),
	action("runAntiVirusScan", cordon.RunAntiVirusScan, choice("ScanType", required, "Quick", "Full")),
	action("collectInvestigationPackage", cordon.CollectInvestigationPackage),
	action("StopAndQuarantineFile", cordon.StopAndQuarantineFile, sha1Hash),
	action("offboard", cordon.Offboard),
	action("runliveresponse", cordon.LiveResponse, liveCommands),
	action("startInvestigation", cordon.StartInvestigation),
	{"GET", "machineactions", cordon.ReadMachines, http.StatusOK, (*api).listActions},
	{"GET", "machineactions/*", cordon.ReadMachines, http.StatusOK, (*api).getAction},
	{"POST", "machineactions/*/cancel", cordon.CancelAction, http.StatusOK, (*api).cancelAction},
	{"GET", "machineactions/*/getPackageUri", cordon.ReadPackage, http.StatusOK, download(cordon.ReadPackage)},
	{"GET", "machineactions/*/GetLiveResponseResultDownloadLink(index=*)", cordon.ReadLiveResponse, http.StatusOK, download(cordon.ReadLiveResponse)},
	{"GET", "alerts", cordon.ReadAlerts, http.StatusOK, (*api).listAlerts},
	{"GET", "alerts/*", cordon.ReadAlerts, http.StatusOK, (*api).getAlert},
}

// APIs returns the operations by the last words of their paths, as limits of
// calls name them: sorted, without what stands in parentheses. The read of one
// machine or action has no word of its own and is not among them.
func APIs() []string {
	var words []string
	for _, r := range routes {
		word, _, _ := strings.Cut(r.path[strings.LastIndexByte(r.path, '/')+1:], "(")
		if word != "*" {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
}

// action is the route by which an action is asked for. Those that Cordon does
// not perform have theirs too, with the checks that Defender makes: a program
// then learns that the machine cannot do it, and not that there is no such address.
func action(word string, t cordon.ActionType, params ...parameter) route {
	return route{"POST", "machines/*/" + word, t.Operation(), http.StatusCreated, request(t, params)}
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
	meant := ""
	for _, r := range routes {
		args, ok := match(r.path, segments)
		if !ok || meant != "" && r.path != meant {
			continue
		}
		meant = r.path
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
		want, path, _ = strings.Cut(path, "/")
		before, behind, variable := strings.Cut(want, "*")
		if !variable {
			before = want
		}
		n := len(segment) - len(behind)
		if n < len(before) || !variable && n > len(before) || !strings.EqualFold(before, segment[:len(before)]) || !strings.EqualFold(behind, segment[n:]) {
			return nil, false
		}
		if variable {
			args = append(args, segment[len(before):n])
		}
	}
	return args, path == "" && len(segments) > 0
}
