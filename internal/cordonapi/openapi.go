package cordonapi

import _ "embed" // the document

// OpenAPI is the description of this API, in YAML (OpenAPI 3.1).
//
//go:embed openapi.yaml
var OpenAPI []byte
