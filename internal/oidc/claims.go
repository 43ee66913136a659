package oidc

import (
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/cordon-project/cordon"
)

// claims are what a token says, by name.
type claims map[string]any

// text returns a claim that is a string, else "".
func (c claims) text(name string) string {
	s, _ := c[name].(string)
	return s
}

// find returns the value that a name of the configuration means: the claim of
// that name, dots and all, or what the dots lead to.
func find(in map[string]any, name string) any {
	if v, ok := in[name]; ok {
		return v
	}
	for at, r := range name {
		if r != '.' {
			continue
		}
		if inner, ok := in[name[:at]].(map[string]any); ok {
			if v := find(inner, name[at+1:]); v != nil {
				return v
			}
		}
	}
	return nil
}

// list returns the strings of the named claims. A claim is an array of strings,
// or one string; split says that the latter is a list with blanks between.
func (c claims) list(names []string, split bool) []string {
	var all []string
	for _, name := range names {
		switch v := find(c, name).(type) {
		case string:
			if split {
				all = append(all, strings.Fields(v)...)
			} else {
				all = append(all, v)
			}
		case []any:
			for _, e := range v {
				if s, ok := e.(string); ok {
					all = append(all, s)
				}
			}
		}
	}
	return all
}

// seconds returns a claim that is a time. There is none if it is not a number.
func (c claims) seconds(name string) (float64, bool) {
	n, ok := c[name].(float64)
	return n, ok
}

// judge decides whether what an issuer has signed is an access token for us, now,
// and what it allows.
func (i *issuer) judge(c claims, now time.Time) (cordon.Caller, error) {
	var none cordon.Caller
	at, leeway := float64(now.Unix()), Leeway.Seconds()
	expires, ok := c.seconds("exp")
	notBefore, dated := c.seconds("nbf")
	_, hasNotBefore := c["nbf"]
	application := first(c, "appid", "azp", "cid", "client_id")
	switch {
	case c.text("iss") != i.URL:
		return none, refuse("the token is of another issuer", nil)
	case !ok:
		return none, refuse("the token does not say when it expires", nil)
	case at >= expires+leeway:
		return none, refuse("the token has expired, get a new one", nil)
	case hasNotBefore && (!dated || at < notBefore-leeway):
		return none, refuse("the token is not valid yet", nil)
	case len(i.Tenants) > 0 && !slices.Contains(i.Tenants, c.text("tid")):
		return none, refuse("the token is of another tenant", nil)
	case c["cnf"] != nil:
		// RFC 7800: it is worth something only together with a proof that is not asked for here.
		return none, refuse("the token is bound to a key, get a plain bearer token", nil)
	case c["at_hash"] != nil, c["typ"] != nil && !strings.EqualFold(c.text("typ"), "Bearer"):
		// at_hash is in ID tokens; Keycloak says in typ what a token is.
		return none, refuse("the token is not an access token", nil)
	}
	audiences := c.list([]string{"aud"}, false)
	if !slices.ContainsFunc(audiences, func(a string) bool { return slices.Contains(i.Audiences, a) }) {
		return none, cordon.Errorf(cordon.Forbidden, "", "The access token is for %s and not for this API. Get one for %s.", excerpt(strings.Join(audiences, ", ")), i.Audiences[0])
	}
	if !isID(application) {
		return none, refuse("the token names no application", nil)
	}
	scopes := c.list(i.ScopeClaims, true)
	caller := cordon.Caller{ID: i.URL + "#app:" + application, Permissions: i.permissions(c, scopes)}
	name := application
	if !c.isApplication(application, scopes) {
		name = c.subject()
		if !isID(name) {
			return none, refuse("the token names no user", nil)
		}
		caller.ID, caller.Application = i.URL+"#user:"+name, caller.ID
	}
	caller.DisplayName = name
	if shown := printable(first(c, i.RequestorClaims...)); shown != "" {
		caller.DisplayName = shown
	}
	return caller, nil
}

// first returns the first of the named claims that is there and has text.
func first(c claims, names ...string) string {
	for _, name := range names {
		if s, _ := find(c, name).(string); s != "" {
			return s
		}
	}
	return ""
}

// isApplication says whether the application speaks for itself, and not for a
// user. Entra ID says so in idtyp if it is asked to; otherwise its tokens for
// users have scopes, and those for applications have the same oid and sub. At
// Okta, and by RFC 9068, the subject is the application then. A service account at
// Keycloak is a user of a fixed name, and only its tokens have the client's id as a claim besides azp.
// What looks like none of these is a user's.
func (c claims) isApplication(application string, scopes []string) bool {
	switch c.text("idtyp") {
	case "app":
		return true
	case "":
	default:
		return false
	}
	sub := c.text("sub")
	switch {
	case c.text("tid") != "":
		return len(scopes) == 0 && sub != "" && sub == c.text("oid")
	case sub == application:
		return c["uid"] == nil
	}
	return first(c, "client_id", "clientId") == application && c.text("azp") == application &&
		c.text("preferred_username") == "service-account-"+strings.ToLower(application)
}

// subject returns who a user is, the same at every time: at Entra ID the
// object in the tenant, because sub differs for each application.
func (c claims) subject() string {
	if oid := c.text("oid"); oid != "" && c.text("tid") != "" {
		return oid
	}
	return c.text("sub")
}

// delegated are the permissions whose names in a user's scopes are not those in
// roles (Defender contract 2.3).
var delegated = map[string]cordon.Permission{
	"Machine.Read":      cordon.MachineReadAll,
	"Machine.ReadWrite": cordon.MachineReadWriteAll,
	"Alert.Read":        cordon.AlertReadAll,
	"Alert.ReadWrite":   cordon.AlertReadWriteAll,
}

// named are the permissions that a role or scope gives by its name alone: all of
// Defender's. Who may administer this server is said in its configuration, not by
// whoever names roles at the issuer.
var named = func() map[cordon.Permission]bool {
	names := make(map[cordon.Permission]bool)
	for _, p := range cordon.AllPermissions() {
		names[p] = true
	}
	delete(names, cordon.ApplicationReadAll)
	delete(names, cordon.ApplicationReadWriteAll)
	delete(names, cordon.AuditLogReadAll)
	delete(names, cordon.Administer)
	return names
}()

// permissions returns what the roles, groups and scopes of a token give, in the
// order of [cordon.AllPermissions].
func (i *issuer) permissions(c claims, scopes []string) []cordon.Permission {
	byRole, byScope := make(map[cordon.Permission]bool), make(map[cordon.Permission]bool)
	roles := c.list(i.RoleClaims, false)
	for _, role := range roles {
		if p := cordon.Permission(role); named[p] {
			byRole[p] = true
		}
	}
	for _, name := range append(roles, c.list(i.GroupClaims, false)...) {
		for _, p := range i.Permissions[name] {
			byRole[p] = true
		}
	}
	for _, scope := range scopes {
		if p := cordon.Permission(scope); named[p] {
			byScope[p] = true
		} else if p, ok := delegated[scope]; ok {
			byScope[p] = true
		}
	}
	both := i.ScopeAndRole && !c.isApplication(first(c, "appid", "azp", "cid", "client_id"), scopes)
	return slices.DeleteFunc(cordon.AllPermissions(), func(p cordon.Permission) bool {
		if both {
			return !byRole[p] || !byScope[p]
		}
		return !byRole[p] && !byScope[p]
	})
}

// isID says whether s can be a part of what somebody is known by: OpenID Connect
// Core, section 2, has at most 255 ASCII characters.
func isID(s string) bool {
	return s != "" && len(s) <= 255 && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// printable takes out what must not get into a list or a log, and bounds the length.
func printable(s string) string {
	const most = 256
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == unicode.ReplacementChar {
			return -1
		}
		return r
	}, s)
	if runes := []rune(s); len(runes) > most {
		s = string(runes[:most])
	}
	return strings.TrimSpace(s)
}

// excerpt shortens what the caller wrote, for a message.
func excerpt(s string) string {
	const most = 128
	if s = printable(s); len(s) > most {
		s = strings.ToValidUTF8(s[:most], "") + "…"
	}
	if s == "" {
		return "nobody"
	}
	return s
}
