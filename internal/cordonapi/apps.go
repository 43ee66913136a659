package cordonapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"time"

	"github.com/cordon-project/cordon"
)

// App is an application. It has no secret, only what tells secrets apart.
type App struct {
	ClientID     string              `json:"clientId"`
	ObjectID     string              `json:"objectId"`
	DisplayName  string              `json:"displayName"`
	Permissions  []cordon.Permission `json:"permissions"`
	Secrets      []AppSecret         `json:"secrets"`      // the oldest first
	Certificates []AppCertificate    `json:"certificates"` // the oldest first
	Created      time.Time           `json:"created"`
	// SecretText is the secret that was made just now; nobody is told it again.
	SecretText string `json:"secretText,omitempty"`
}

// AppSecret is what there is to see of a secret.
type AppSecret struct {
	KeyID   string     `json:"keyId"`
	Hint    string     `json:"hint"` // its first characters
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires"` // null: never
}

// AppCertificate is a certificate of an application.
type AppCertificate struct {
	Thumbprint     string    `json:"thumbprint"`     // SHA-1, upper-case hex
	ThumbprintS256 string    `json:"thumbprintS256"` // SHA-256, upper-case hex
	Subject        string    `json:"subject"`
	Begins         time.Time `json:"begins"`
	Expires        time.Time `json:"expires"`
	Added          time.Time `json:"added"`
}

func appOf(a cordon.Application, secret string) App {
	app := App{
		ClientID: a.ClientID, ObjectID: a.ObjectID, DisplayName: a.DisplayName, Permissions: append([]cordon.Permission{}, a.Permissions...),
		Secrets: []AppSecret{}, Certificates: []AppCertificate{}, Created: a.Created, SecretText: secret,
	}
	for _, s := range a.Secrets {
		app.Secrets = append(app.Secrets, AppSecret{KeyID: s.ID, Hint: s.Hint, Created: s.Created, Expires: s.Expires})
	}
	for _, c := range a.Certificates {
		app.Certificates = append(app.Certificates, AppCertificate{
			Thumbprint: c.Thumbprint(), ThumbprintS256: c.ThumbprintS256(), Subject: c.Subject, Begins: c.Begins, Expires: c.Expires, Added: c.Added,
		})
	}
	return app
}

// The bodies of requests.
type (
	// NewApp is what POST /cordon/v1/apps takes.
	NewApp struct {
		DisplayName string              `json:"displayName"`
		Permissions []cordon.Permission `json:"permissions"`
		// Certificate (PEM) is by what it proves who it is, instead of a secret.
		Certificate   string     `json:"certificate,omitempty"`
		SecretExpires *time.Time `json:"secretExpires,omitempty"` // not given: never
	}
	// Permissions is what grant and revoke take.
	Permissions struct {
		Permissions []cordon.Permission `json:"permissions"`
	}
	// NewSecret is what POST …/secrets takes.
	NewSecret struct {
		Expires *time.Time `json:"expires,omitempty"` // not given: never
		DropOld bool       `json:"dropOld,omitempty"` // the secrets before it end at once
	}
	// NewCertificate is what POST …/certificates takes.
	NewCertificate struct {
		Certificate string `json:"certificate"` // PEM
	}
)

// app is the way in which a route about applications answers.
func app(serve func(*API, *http.Request, cordon.Caller) (status int, answer any, err error)) func(*API, http.ResponseWriter, *http.Request, cordon.Caller) error {
	return func(a *API, w http.ResponseWriter, r *http.Request, c cordon.Caller) error {
		status, answer, err := serve(a, r, c)
		if err != nil {
			return err
		}
		w.Header().Set("Cache-Control", "no-store") // there may be a secret in it
		if status == http.StatusNoContent {
			w.WriteHeader(status)
			return nil
		}
		writeJSON(w, status, answer)
		return nil
	}
}

func (a *API) listApps(r *http.Request, c cordon.Caller) (int, any, error) {
	all, err := a.Service.Applications(r.Context(), c)
	list := make([]App, len(all))
	for i := range all {
		list[i] = appOf(all[i], "")
	}
	return http.StatusOK, map[string][]App{"value": list}, err
}

func (a *API) createApp(r *http.Request, c cordon.Caller) (int, any, error) {
	var in NewApp
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	app, secret, err := a.Service.CreateApplication(r.Context(), c, cordon.ApplicationRequest{
		DisplayName: in.DisplayName, Permissions: in.Permissions, Certificate: []byte(in.Certificate), SecretExpires: in.SecretExpires,
	})
	return http.StatusCreated, appOf(app, secret), err
}

func (a *API) showApp(r *http.Request, c cordon.Caller) (int, any, error) {
	app, err := a.Service.FindApplication(r.Context(), c, cordon.ReadApplications, r.PathValue("app"))
	return http.StatusOK, appOf(app, ""), err
}

func (a *API) deleteApp(r *http.Request, c cordon.Caller) (int, any, error) {
	return http.StatusNoContent, nil, a.Service.DeleteApplication(r.Context(), c, r.PathValue("app"))
}

func permissions(change func(*cordon.Service, context.Context, cordon.Caller, string, []cordon.Permission) (cordon.Application, error)) func(*API, *http.Request, cordon.Caller) (int, any, error) {
	return func(a *API, r *http.Request, c cordon.Caller) (int, any, error) {
		var in Permissions
		if err := readJSON(r, &in); err != nil {
			return 0, nil, err
		}
		app, err := change(a.Service, r.Context(), c, r.PathValue("app"), in.Permissions)
		return http.StatusOK, appOf(app, ""), err
	}
}

func (a *API) addSecret(r *http.Request, c cordon.Caller) (int, any, error) {
	var in NewSecret
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	app, secret, err := a.Service.RotateSecret(r.Context(), c, r.PathValue("app"), in.Expires, in.DropOld)
	return http.StatusCreated, appOf(app, secret), err
}

func (a *API) removeSecret(r *http.Request, c cordon.Caller) (int, any, error) {
	app, err := a.Service.RemoveSecret(r.Context(), c, r.PathValue("app"), r.PathValue("secret"))
	return http.StatusOK, appOf(app, ""), err
}

func (a *API) addCertificate(r *http.Request, c cordon.Caller) (int, any, error) {
	var in NewCertificate
	if err := readJSON(r, &in); err != nil {
		return 0, nil, err
	}
	app, err := a.Service.AddCertificate(r.Context(), c, r.PathValue("app"), []byte(in.Certificate))
	return http.StatusOK, appOf(app, ""), err
}

func (a *API) removeCertificate(r *http.Request, c cordon.Caller) (int, any, error) {
	app, err := a.Service.RemoveCertificate(r.Context(), c, r.PathValue("app"), r.PathValue("certificate"))
	return http.StatusOK, appOf(app, ""), err
}

// maxAppBody is the longest body of a request about an application, in bytes. A
// certificate with its chain has a few thousand.
const maxAppBody = 64 << 10

// readJSON reads the JSON in a request into v.
func readJSON(r *http.Request, v any) error {
	body, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxAppBody))
	if tooLong := (*http.MaxBytesError)(nil); errors.As(err, &tooLong) {
		return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidBody, "The request body is longer than %d bytes", maxAppBody)
	}
	if err != nil {
		return cordon.Errorf(cordon.Invalid, cordon.CodeInvalidBody, "The request body could not be read")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil || d.More() {
		return &cordon.Error{Kind: cordon.Invalid, Code: cordon.CodeInvalidBody, Message: "The request body is not the JSON object that belongs here", Err: err}
	}
	return nil
}
