package mde

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"time"
)

// Scope is what a token is asked for: Defender's name for this API, which
// Cordon's server knows as its own.
const Scope = "https://api.securitycenter.microsoft.com/.default"

// ErrNoToken is in the chain of every error that means the server did not
// accept the tenant, the client id or the client secret.
var ErrNoToken = errors.New("no access token")

// accessToken is a token with the time at which it is used no more.
type accessToken struct {
	value string
	until time.Time
}

// token returns a token that is still good and is not stale, which the server
// did not accept, and whether it had been used before.
func (c *Client) token(ctx context.Context, stale string) (value string, cached bool, err error) {
	select {
	case c.tokenTurn <- struct{}{}:
		defer func() { <-c.tokenTurn }()
	case <-ctx.Done():
		return "", false, &UnreachableError{Err: context.Cause(ctx)}
	}
	if c.current.value != stale && c.config.Now().Before(c.current.until) {
		return c.current.value, true, nil
	}
	c.current, err = c.fetchToken(ctx)
	return c.current.value, false, err
}

func (c *Client) fetchToken(ctx context.Context) (accessToken, error) {
	tenant, err := segment("tenant id", c.config.TenantID)
	if err != nil {
		return accessToken{}, err
	}
	form := url.Values{
		"grant_type": {"client_credentials"}, "scope": {Scope},
		"client_id": {c.config.ClientID}, "client_secret": {c.config.ClientSecret},
	}
	asked := c.config.Now()
	body, err := c.send(ctx, http.MethodPost, c.address("/"+tenant+"/oauth2/v2.0/token", nil),
		"application/x-www-form-urlencoded", "", []byte(form.Encode()))
	var refused *Error
	var lost *UnreachableError
	switch {
	case errors.As(err, &refused) && refused.StatusCode/100 == 4 && refused.StatusCode != http.StatusTooManyRequests:
		return accessToken{}, fmt.Errorf("%w: %w", ErrNoToken, refused)
	case errors.As(err, &lost):
		lost.Sent = false // what the caller asked for was not
		return accessToken{}, lost
	case err != nil:
		return accessToken{}, err
	}
	var answer struct {
		AccessToken string      `json:"access_token"`
		ExpiresIn   json.Number `json:"expires_in"` // Defender's v1 endpoint quotes it
	}
	if err := decode(body, &answer); err != nil {
		return accessToken{}, err
	}
	seconds, err := answer.ExpiresIn.Int64()
	if err != nil || answer.AccessToken == "" || seconds <= 0 || seconds > int64(maxTokenLife/time.Second) {
		return accessToken{}, errors.New("read the server's answer: it holds no usable access token")
	}
	life := time.Duration(seconds) * time.Second
	return accessToken{value: answer.AccessToken, until: asked.Add(life - min(life/10, time.Minute))}, nil
}

// maxTokenLife is more than any issuer grants; it keeps the arithmetic sound.
const maxTokenLife = 366 * 24 * time.Hour
