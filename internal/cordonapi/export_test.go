package cordonapi

import "github.com/cordon-project/cordon"

// Route is what the tests may know of a route.
type Route struct {
	Method, Path string
	Operation    cordon.Operation
	Status       int
}

// Routes returns the table by which requests are routed and permitted.
func Routes() []Route {
	out := make([]Route, len(routes))
	for i, r := range routes {
		out[i] = Route{r.method, r.path, r.op, r.status}
	}
	return out
}
