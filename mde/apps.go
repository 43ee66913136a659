package mde

import (
	"context"
	"net/http"
	"time"

	"github.com/cordon-project/cordon"
)

// This file holds the applications of a server: who may call it, and how they
// prove who they are. Reading needs Application.Read.All, all else
// Application.ReadWrite.All.

// App is an application. Methods that take one by name take its client id too.
type App struct {
	ClientID     string              `json:"clientId"`
	ObjectID     string              `json:"objectId"`
	DisplayName  string              `json:"displayName"`
	Permissions  []cordon.Permission `json:"permissions"`
	Secrets      []AppSecret         `json:"secrets"`
	Certificates []AppCertificate    `json:"certificates"`
	Created      time.Time           `json:"created"`
	// SecretText is the secret that was made just now. The server does not know
	// it any more; it cannot be asked for again.
	SecretText string `json:"secretText,omitempty"`
}

// AppSecret is what there is to see of a secret.
type AppSecret struct {
	KeyID   string     `json:"keyId"`
	Hint    string     `json:"hint"` // its first characters
	Created time.Time  `json:"created"`
	Expires *time.Time `json:"expires"` // nil: never
}

// AppCertificate is a certificate of an application. The thumbprints are
// upper-case hexadecimal.
type AppCertificate struct {
	Thumbprint     string    `json:"thumbprint"`     // SHA-1
	ThumbprintS256 string    `json:"thumbprintS256"` // SHA-256
	Subject        string    `json:"subject"`
	Begins         time.Time `json:"begins"`
	Expires        time.Time `json:"expires"`
	Added          time.Time `json:"added"`
}

// NewApp is what a new application is to be.
type NewApp struct {
	DisplayName string              `json:"displayName"`
	Permissions []cordon.Permission `json:"permissions"`
	// Certificate (PEM) is by what it proves who it is; without one it gets a secret.
	Certificate   string     `json:"certificate,omitempty"`
	SecretExpires *time.Time `json:"secretExpires,omitempty"` // nil: never
}

func (c *Client) apps(path ...string) (string, error) {
	address := "/cordon/v1/apps"
	for i, p := range path {
		s := p
		if i != 1 { // that one is a word of ours
			var err error
			if s, err = segment("name of an application, a secret or a certificate", p); err != nil {
				return "", err
			}
		}
		address += "/" + s
	}
	return c.address(address, nil), nil
}

// changeApp sends a request about an application and reads what it has become.
func (c *Client) changeApp(ctx context.Context, in any, path ...string) (App, error) {
	var app App
	address, err := c.apps(path...)
	if err != nil {
		return app, err
	}
	return app, c.post(ctx, address, in, &app)
}

// ListApps returns all applications, by name.
func (c *Client) ListApps(ctx context.Context) ([]App, error) {
	address, _ := c.apps() // no name, no error
	var list struct {
		Value []App `json:"value"`
	}
	err := c.get(ctx, address, &list)
	return list.Value, err
}

// GetApp returns one application.
func (c *Client) GetApp(ctx context.Context, name string) (App, error) {
	var app App
	address, err := c.apps(name)
	if err != nil {
		return app, err
	}
	return app, c.get(ctx, address, &app)
}

// CreateApp makes an application.
func (c *Client) CreateApp(ctx context.Context, n NewApp) (App, error) {
	return c.changeApp(ctx, n)
}

// GrantApp gives an application permissions, for the tokens that it gets from then on.
func (c *Client) GrantApp(ctx context.Context, name string, permissions ...cordon.Permission) (App, error) {
	return c.changeApp(ctx, map[string]any{"permissions": permissions}, name, "grant")
}

// RevokeApp takes permissions from an application and from the tokens that it has.
func (c *Client) RevokeApp(ctx context.Context, name string, permissions ...cordon.Permission) (App, error) {
	return c.changeApp(ctx, map[string]any{"permissions": permissions}, name, "revoke")
}

// RotateSecret gives an application a new secret, beside the newest that it has
// unless dropOld. A nil expires means never.
func (c *Client) RotateSecret(ctx context.Context, name string, expires *time.Time, dropOld bool) (App, error) {
	return c.changeApp(ctx, map[string]any{"expires": expires, "dropOld": dropOld}, name, "secrets")
}

// AddCertificate lets an application prove who it is with a certificate (PEM).
func (c *Client) AddCertificate(ctx context.Context, name, pem string) (App, error) {
	return c.changeApp(ctx, map[string]any{"certificate": pem}, name, "certificates")
}

// RemoveSecret ends the secret with this key id.
func (c *Client) RemoveSecret(ctx context.Context, name, keyID string) (App, error) {
	return c.remove(ctx, name, "secrets", keyID)
}

// RemoveCertificate ends the certificate with this thumbprint, of either kind.
func (c *Client) RemoveCertificate(ctx context.Context, name, thumbprint string) (App, error) {
	return c.remove(ctx, name, "certificates", thumbprint)
}

func (c *Client) remove(ctx context.Context, path ...string) (App, error) {
	var app App
	address, err := c.apps(path...)
	if err != nil {
		return app, err
	}
	body, err := c.call(ctx, http.MethodDelete, address, nil)
	if err != nil {
		return app, err
	}
	return app, decode(body, &app)
}

// DeleteApp removes an application; its tokens are worth nothing from then on.
func (c *Client) DeleteApp(ctx context.Context, name string) error {
	address, err := c.apps(name)
	if err != nil {
		return err
	}
	_, err = c.call(ctx, http.MethodDelete, address, nil)
	return err
}
