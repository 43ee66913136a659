package oauth

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cordon-project/cordon/internal/testkit/contract"
)

// TestOpenAPIRoutes: the document has the endpoints of the table, each with its
// methods, and no others. HEAD goes with GET and is not written down.
func TestOpenAPIRoutes(t *testing.T) {
	served := map[string][]string{"/" + instancePath: instanceEndpoint.methods}
	for name, e := range endpoints {
		served["/{tenant}/"+name] = e.methods
	}
	for path, methods := range served {
		methods = slices.DeleteFunc(slices.Clone(methods), func(m string) bool { return m == "HEAD" })
		slices.Sort(methods)
		served[path] = methods
	}
	documented := make(map[string][]string)
	for _, op := range contract.Load(t, OpenAPI).Operations() {
		documented[op.Path] = append(documented[op.Path], op.Method)
		slices.Sort(documented[op.Path])
		if op.Permissions != nil {
			t.Errorf("%s needs a token", op.ID)
		}
	}
	if diff := cmp.Diff(served, documented); diff != "" {
		t.Errorf("-served +documented:\n%s", diff)
	}
}
