package oidc

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

const (
	tenant  = "8769b673-6805-4789-a3a1-c5bd1f2a2d53"
	program = "5f2b1a0e-8a1c-4b62-9d0e-1f6f6a1f2c3d"
	object  = "0e8a1c5f-4b62-4d0e-8a1c-6f6a1f2c3d1f"
)

// TestForms shows the tokens that products issue, and what they mean here. The
// names, types and absences are the products'; iss, exp and nbf are put in.
//
// Entra ID: the pages "Access token claims reference" and "Configure and manage
// optional claims" (idtyp), and for the version-2 token of an application one
// that is quoted in Microsoft Q&A 256281. Keycloak: the token of a service account quoted in
// lpotthast/axum-keycloak-auth issue 7, the "Server Administration Guide", sections "Using a
// service account" and "Audience support". Okta: the pages "OpenID Connect & OAuth 2.0
// API", section "Access token payload", and "Customize tokens returned from Okta with a Groups claim".
func TestForms(t *testing.T) {
	read, restrict, isolate := cordon.MachineReadAll, cordon.MachineRestrict, cordon.MachineIsolate
	plain := func(*Issuer) {}
	keycloak := func(i *Issuer) {
		i.RoleClaims, i.GroupClaims = []string{"realm_access.roles", "resource_access.cordon.api.roles"}, []string{"groups"}
		i.Permissions = map[string][]cordon.Permission{"/soc/responders": {restrict, read}, "reader": {read}}
	}
	okta := func(i *Issuer) { i.Permissions = map[string][]cordon.Permission{"SOC": {restrict}} }
	both := func(change func(*Issuer)) func(*Issuer) {
		return func(i *Issuer) { change(i); i.ScopeAndRole = true }
	}
	const (
		entraUser1 = `{"appid":"` + program + `","appidacr":"0","family_name":"B","given_name":"A","ipaddr":"192.0.2.1","name":"A B","oid":"` + object + `","scp":"Machine.Read Machine.RestrictExecution","sub":"pairwise","tid":"` + tenant + `","unique_name":"a@example.org","upn":"a@example.org","ver":"1.0"}`
		entraUser2 = `{"azp":"` + program + `","azpacr":"0","name":"A B","oid":"` + object + `","preferred_username":"a@example.org","roles":["Machine.Isolate"],"scp":"access_as_user","sub":"pairwise","tid":"` + tenant + `","ver":"2.0"}`
		kcService  = `{"jti":"x","sub":"1f4db6ad-5e75-479c-b289-b8096ec1f4f4","typ":"Bearer","azp":"SOAR","acr":"1","realm_access":{"roles":["offline_access","default-roles-soc","Machine.RestrictExecution"]},"resource_access":{"account":{"roles":["Machine.Isolate"]},"cordon.api":{"roles":["reader"]}},"scope":"email profile","email_verified":false,"clientHost":"192.0.2.1","preferred_username":"service-account-soar","clientAddress":"192.0.2.1","client_id":"SOAR"}`
		kcUser     = `{"jti":"x","sub":"7c1d","typ":"Bearer","azp":"console","sid":"y","acr":"1","realm_access":{"roles":["offline_access"]},"scope":"openid email profile","email_verified":true,"name":"A B","preferred_username":"ab","email":"a@example.org","groups":["/soc/responders","Machine.Isolate"]}`
		oktaUser   = `{"ver":1,"jti":"AT.x","cid":"0oa2","uid":"00u1","scp":["openid","Machine.Read","Machine.RestrictExecution"],"auth_time":1,"sub":"a@example.org","groups":["Everyone","SOC"]}`
		oktaApp    = `{"ver":1,"jti":"AT.x","cid":"0oa1","scp":["Machine.RestrictExecution","Machine.Read.All"],"sub":"0oa1"}`
	)
	for name, c := range map[string]struct {
		claims string
		config func(*Issuer)
		id     string // behind the issuer
		by     string // the application of a user
		shown  string
		may    []cordon.Permission
	}{
		"Entra ID 1, application": {`{"idp":"x","appid":"` + program + `","app_displayname":"API for MDE","appidacr":"1","oid":"` + object + `","sub":"` + object + `","tid":"` + tenant + `","tenant_region_scope":"NA","roles":["Machine.Isolate","Machine.RestrictExecution","Machine.Read.All","Score.Read.All"],"ver":"1.0"}`,
			plain, "#app:" + program, "", "API for MDE", []cordon.Permission{read, isolate, restrict}},
		"Entra ID 1, application, idtyp": {`{"appid":"` + program + `","idtyp":"app","oid":"` + object + `","sub":"` + object + `","tid":"` + tenant + `","roles":["Machine.Read.All"],"ver":"1.0"}`,
			plain, "#app:" + program, "", program, []cordon.Permission{read}},
		"Entra ID 2, application": {`{"azp":"` + program + `","azpacr":"1","oid":"` + object + `","roles":["Machine.RestrictExecution"],"sub":"` + object + `","tid":"` + tenant + `","ver":"2.0"}`,
			both(plain), "#app:" + program, "", program, []cordon.Permission{restrict}},
		"Entra ID 2, application without roles": {`{"azp":"` + program + `","oid":"` + object + `","sub":"` + object + `","tid":"` + tenant + `","ver":"2.0"}`,
			plain, "#app:" + program, "", program, []cordon.Permission{}},
		"Entra ID 1, user":                                       {entraUser1, plain, "#user:" + object, program, "a@example.org", []cordon.Permission{read, restrict}},
		"Entra ID 1, user, no role":                              {entraUser1, both(plain), "#user:" + object, program, "a@example.org", []cordon.Permission{}},
		"Entra ID 2, user":                                       {entraUser2, plain, "#user:" + object, program, "a@example.org", []cordon.Permission{isolate}},
		"Entra ID 2, user, no scope":                             {entraUser2, both(plain), "#user:" + object, program, "a@example.org", []cordon.Permission{}},
		"Entra ID 2, too many groups":                            {`{"azp":"` + program + `","oid":"` + object + `","sub":"x","tid":"` + tenant + `","scp":"x","_claim_names":{"groups":"src1"},"_claim_sources":{"src1":{"endpoint":"https://192.0.2.1/"}}}`, okta, "#user:" + object, program, object, []cordon.Permission{}},
		"Entra ID, says user":                                    {`{"azp":"` + program + `","idtyp":"user","oid":"` + object + `","sub":"` + object + `","tid":"` + tenant + `","roles":["Machine.Read.All"]}`, both(plain), "#user:" + object, program, object, []cordon.Permission{}},
		"Entra ID, scopes, so a user":                            {`{"azp":"` + program + `","oid":"` + object + `","sub":"` + object + `","tid":"` + tenant + `","scp":"x","roles":["Machine.Read.All"]}`, both(plain), "#user:" + object, program, object, []cordon.Permission{}},
		"Keycloak, service account":                              {kcService, both(keycloak), "#app:SOAR", "", "service-account-soar", []cordon.Permission{read, restrict}},
		"Keycloak, as it comes":                                  {kcService, plain, "#app:SOAR", "", "service-account-soar", []cordon.Permission{}},
		"Keycloak, user":                                         {kcUser, keycloak, "#user:7c1d", "console", "ab", []cordon.Permission{read, restrict}},
		"Keycloak, user, other name":                             {kcUser, func(i *Issuer) { i.RequestorClaims = []string{"nickname", "email"} }, "#user:7c1d", "console", "a@example.org", []cordon.Permission{}},
		"Keycloak, user who chose the name of a service account": {strings.Replace(kcUser, `"ab"`, `"service-account-console"`, 1), both(keycloak), "#user:7c1d", "console", "service-account-console", []cordon.Permission{}},
		"Okta, application":                                      {oktaApp, plain, "#app:0oa1", "", "0oa1", []cordon.Permission{read, restrict}},
		"Okta, user":                                             {oktaUser, okta, "#user:a@example.org", "0oa2", "a@example.org", []cordon.Permission{read, restrict}},
		"Okta, user, both":                                       {oktaUser, both(okta), "#user:a@example.org", "0oa2", "a@example.org", []cordon.Permission{restrict}},
		"Okta, user whose login is a client":                     {strings.Replace(oktaUser, "a@example.org", "0oa2", 1), both(okta), "#user:0oa2", "0oa2", "0oa2", []cordon.Permission{restrict}},
		"role as one string":                                     {`{"azp":"a","sub":"a","roles":"Machine.Read.All"}`, plain, "#app:a", "", "a", []cordon.Permission{read}},
		"roles in one string are none":                           {`{"azp":"a","sub":"a","roles":"Machine.Read.All Machine.Isolate"}`, plain, "#app:a", "", "a", []cordon.Permission{}},
		"scope names are not roles":                              {`{"azp":"a","sub":"a","roles":["Machine.Read","machine.read.all","Machine.*",1,null,{}]}`, plain, "#app:a", "", "a", []cordon.Permission{}},
		"groups are not roles":                                   {`{"azp":"a","sub":"a","groups":["Machine.Read.All"]}`, plain, "#app:a", "", "a", []cordon.Permission{}},
		"scopes are not looked up":                               {`{"azp":"a","sub":"a","scope":"SOC"}`, okta, "#app:a", "", "a", []cordon.Permission{}},
		"a claim with dots in its name":                          {`{"azp":"a","sub":"a","https://x.example.org/roles":["Machine.Isolate"]}`, func(i *Issuer) { i.RoleClaims = []string{"https://x.example.org/roles"} }, "#app:a", "", "a", []cordon.Permission{isolate}},
		"a name that is not to be shown":                         {`{"azp":"a","sub":"a","upn":"\u0000\u202e \n","email":"e"}`, plain, "#app:a", "", "a", []cordon.Permission{}},
		"a name too long":                                        {`{"azp":"a","sub":"a","upn":"` + strings.Repeat("é", 999) + `"}`, plain, "#app:a", "", strings.Repeat("é", 256), []cordon.Permission{}},
	} {
		t.Run(name, func(t *testing.T) {
			config := Issuer{URL: "https://id.example.org", Audiences: []string{testAudience}}
			c.config(&config)
			v, err := New([]Issuer{config}, Options{})
			if err != nil {
				t.Fatal(err)
			}
			got := claims{"iss": config.URL, "aud": testAudience, "exp": float64(testNow.Unix() + 1)}
			if err := json.Unmarshal([]byte(c.claims), &got); err != nil {
				t.Fatal(err)
			}
			caller, err := v.issuers[config.URL].judge(got, testNow)
			want := cordon.Caller{ID: config.URL + c.id, DisplayName: c.shown, Permissions: c.may}
			if c.by != "" {
				want.Application = config.URL + "#app:" + c.by
			}
			if diff := cmp.Diff(want, caller); err != nil || diff != "" {
				t.Errorf("%v\n%s", err, diff)
			}
		})
	}
}

// TestNoUnknownNameGives holds that names which are neither permissions nor in
// the table give nothing, whatever claim they are in, and that asking for both
// never gives more.
func TestNoUnknownNameGives(t *testing.T) {
	known := []string{"SOC", "Machine.Read"}
	for _, p := range cordon.AllPermissions() {
		known = append(known, string(p))
	}
	name := rapid.OneOf(rapid.SampledFrom(known), rapid.StringMatching(`[A-Za-z.]{1,30}`))
	rapid.Check(t, func(t *rapid.T) {
		list := func(label string) []any {
			var all []any
			for _, s := range rapid.SliceOfN(name, 0, 4).Draw(t, label) {
				all = append(all, s)
			}
			return all
		}
		c := claims{"sub": "u", "azp": "a", "roles": list("roles"), "scp": list("scopes"), "groups": list("groups")}
		i := &issuer{Issuer: Issuer{
			RoleClaims: []string{"roles"}, ScopeClaims: []string{"scp"}, GroupClaims: []string{"groups"},
			Permissions: map[string][]cordon.Permission{"SOC": {cordon.MachineRestrict, cordon.ApplicationReadAll}},
		}}
		has := func(claim, name string) bool {
			for _, v := range c[claim].([]any) {
				if v == name {
					return true
				}
			}
			return false
		}
		var either, both []cordon.Permission
		for _, p := range cordon.AllPermissions() {
			soc := has("roles", "SOC") || has("groups", "SOC")
			ours := p == cordon.ApplicationReadAll || p == cordon.ApplicationReadWriteAll || p == cordon.AuditLogReadAll || p == cordon.Administer
			role := !ours && has("roles", string(p)) || soc && (p == cordon.MachineRestrict || p == cordon.ApplicationReadAll)
			scope := !ours && has("scp", string(p)) || p == cordon.MachineReadAll && has("scp", "Machine.Read")
			if role || scope {
				either = append(either, p)
			}
			if role && scope {
				both = append(both, p)
			}
		}
		scopes := c.list(i.ScopeClaims, true)
		if got := i.permissions(c, scopes); len(got) != len(either) || len(got) > 0 && !cmp.Equal(got, either) {
			t.Fatalf("%v: %v, want %v", c, got, either)
		}
		i.ScopeAndRole = true
		if got := i.permissions(c, scopes); len(got) != len(both) || len(got) > 0 && !cmp.Equal(got, both) {
			t.Fatalf("%v: %v, want %v", c, got, both)
		}
	})
}
