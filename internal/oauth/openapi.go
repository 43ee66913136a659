package oauth

import _ "embed" // the document

// OpenAPI is the description of the login addresses, in YAML (OpenAPI 3.1).
//
//go:embed openapi.yaml
var OpenAPI []byte
