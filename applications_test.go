package cordon_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

// certificate makes one for a key, in PEM form, valid until expires.
func certificate(t testing.TB, key crypto.Signer, err error, expires time.Time) []byte {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: "soar"}, NotBefore: t0.Add(-time.Hour), NotAfter: expires}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// goodCertificate makes one that is valid for an hour.
func goodCertificate(t testing.TB) []byte {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return certificate(t, key, err, t0.Add(time.Hour))
}

// admins is a world with one application, which may do everything, and it as
// the caller.
func admins(t *testing.T) (*world, cordon.Caller, cordon.Application) {
	t.Helper()
	w := newWorld(t)
	n := 0
	w.NewSecret = func() string { n++; return fmt.Sprintf("secret-%d", n) }
	root := cordon.Caller{ID: "root", Permissions: cordon.AllPermissions()}
	a, _, err := w.CreateApplication(t.Context(), root, cordon.ApplicationRequest{DisplayName: "Admin", Permissions: cordon.AllPermissions()})
	if err != nil {
		t.Fatal(err)
	}
	return w, cordon.Caller{ID: a.ClientID, DisplayName: a.DisplayName, Permissions: a.Permissions}, a
}

func TestCreateApplication(t *testing.T) {
	w, admin, _ := admins(t)
	a, secret, err := w.CreateApplication(t.Context(), admin, cordon.ApplicationRequest{
		DisplayName: " SOAR ✓ ", Permissions: []cordon.Permission{"machine.restrictexecution", cordon.MachineReadAll, cordon.MachineReadAll},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := cordon.Application{
		ClientID: a.ClientID, ObjectID: a.ObjectID, DisplayName: "SOAR ✓", Permissions: []cordon.Permission{cordon.MachineReadAll, cordon.MachineRestrict},
		Secrets: []cordon.Secret{{ID: a.Secrets[0].ID, Hint: "sec", Hash: a.Secrets[0].Hash, Created: t0}}, Created: t0,
	}
	if d := cmp.Diff(want, a); d != "" || secret != "secret-2" || a.ObjectID == a.ClientID {
		t.Errorf("secret %q (-want +got):\n%s", secret, d)
	}
	for value, want := range map[string]bool{secret: true, secret + " ": false, "": false, "secret-1": false} {
		if known, live := a.CheckSecret(value, t0); known != want || live != want {
			t.Errorf("%q: known %v, live %v", value, known, live)
		}
	}
	for _, ref := range []string{a.ClientID, strings.ToUpper(a.ClientID), "soar ✓", " SOAR ✓"} {
		if got, err := w.FindApplication(t.Context(), admin, cordon.ReadApplications, ref); err != nil || got.ClientID != a.ClientID {
			t.Errorf("%q: %+v, %v", ref, got, err)
		}
	}
	log := w.store.AuditLog()
	if e := log[len(log)-1]; e.Kind != cordon.AuditApplicationCreated || e.Actor != admin.ID || e.Detail != "application "+a.ClientID+" (SOAR ✓): created with Machine.Read.All,Machine.RestrictExecution" {
		t.Errorf("audited: %+v", e)
	}
	for _, e := range log {
		if strings.Contains(e.Detail, secret) {
			t.Errorf("the secret is in the audit log: %s", e.Detail)
		}
	}
}

// A refused request changes nothing and leaves no trace.
func TestApplicationsRefused(t *testing.T) {
	w, admin, a := admins(t)
	twin := func() {
		for range 2 {
			if _, _, err := w.CreateApplication(t.Context(), admin, cordon.ApplicationRequest{DisplayName: "twin"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	twin()
	cert := goodCertificate(t)
	rsaKey, err1 := rsa.GenerateKey(rand.Reader, 1024)
	p384, err2 := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, edwards, err3 := ed25519.GenerateKey(rand.Reader)
	p256, err4 := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	past := t0
	reader := cordon.Caller{ID: "reader", Permissions: slices.DeleteFunc(cordon.AllPermissions(), func(p cordon.Permission) bool { return p == cordon.ApplicationReadWriteAll })}
	create := func(r cordon.ApplicationRequest) error {
		_, _, err := w.CreateApplication(t.Context(), admin, r)
		return err
	}
	only := func(_ any, err error) error { return err }
	rotate := func(c cordon.Caller, ref string, expires *time.Time) error {
		_, _, err := w.RotateSecret(t.Context(), c, ref, expires, false)
		return err
	}
	add := func(c []byte) error { return only(w.AddCertificate(t.Context(), admin, a.ClientID, c)) }
	for name, c := range map[string]struct {
		do   func() error
		kind cordon.Kind
		code cordon.Code
	}{
		"no name":                   {func() error { return create(cordon.ApplicationRequest{DisplayName: " "}) }, cordon.Invalid, cordon.CodeMissingParameter},
		"name too long":             {func() error { return create(cordon.ApplicationRequest{DisplayName: strings.Repeat("é", 121)}) }, cordon.Invalid, cordon.CodeInvalidInput},
		"control character in name": {func() error { return create(cordon.ApplicationRequest{DisplayName: "a\x1b[2J"}) }, cordon.Invalid, cordon.CodeInvalidInput},
		"name is no UTF-8":          {func() error { return create(cordon.ApplicationRequest{DisplayName: "a\xff"}) }, cordon.Invalid, cordon.CodeInvalidInput},
		"name like an id":           {func() error { return create(cordon.ApplicationRequest{DisplayName: a.ClientID}) }, cordon.Invalid, cordon.CodeInvalidInput},
		"unknown permission": {func() error {
			return create(cordon.ApplicationRequest{DisplayName: "x", Permissions: []cordon.Permission{"Machine.Explode"}})
		}, cordon.Invalid, cordon.CodeInvalidInput},
		"expired secret": {func() error { return create(cordon.ApplicationRequest{DisplayName: "x", SecretExpires: &past}) }, cordon.Invalid, cordon.CodeInvalidInput},
		"certificate and secret": {func() error {
			return create(cordon.ApplicationRequest{DisplayName: "x", SecretExpires: &past, Certificate: cert})
		}, cordon.Invalid, cordon.CodeInvalidInput},
		"new with a bad certificate": {func() error { return create(cordon.ApplicationRequest{DisplayName: "x", Certificate: []byte("x")}) }, cordon.Invalid, cordon.CodeInvalidInput},
		"certificate is none":        {func() error { return add([]byte("-----BEGIN CERTIFICATE-----\nxx\n-----END CERTIFICATE-----\n")) }, cordon.Invalid, cordon.CodeInvalidInput},
		"short RSA key":              {func() error { return add(certificate(t, rsaKey, err1, t0.Add(time.Hour))) }, cordon.Invalid, cordon.CodeInvalidInput},
		"P-384":                      {func() error { return add(certificate(t, p384, err2, t0.Add(time.Hour))) }, cordon.Invalid, cordon.CodeInvalidInput},
		"Ed25519":                    {func() error { return add(certificate(t, edwards, err3, t0.Add(time.Hour))) }, cordon.Invalid, cordon.CodeInvalidInput},
		"expired certificate":        {func() error { return add(certificate(t, p256, err4, t0)) }, cordon.Invalid, cordon.CodeInvalidInput},
		"ambiguous name": {func() error {
			return only(w.Grant(t.Context(), admin, "twin", []cordon.Permission{cordon.MachineScan}))
		}, cordon.Invalid, cordon.CodeAmbiguousName},
		"unknown name":         {func() error { return w.DeleteApplication(t.Context(), admin, "nobody") }, cordon.NotFound, ""},
		"unknown id":           {func() error { return rotate(admin, "ffffffff-0000-4000-8000-000000000000", nil) }, cordon.NotFound, ""},
		"unknown secret":       {func() error { return only(w.RemoveSecret(t.Context(), admin, a.ClientID, "x")) }, cordon.NotFound, ""},
		"unknown certificate":  {func() error { return only(w.RemoveCertificate(t.Context(), admin, a.ClientID, "x")) }, cordon.NotFound, ""},
		"grant nothing":        {func() error { return only(w.Grant(t.Context(), admin, a.ClientID, nil)) }, cordon.Invalid, cordon.CodeMissingParameter},
		"rotate into the past": {func() error { return rotate(admin, a.ClientID, &past) }, cordon.Invalid, cordon.CodeInvalidInput},
		"delete the last":      {func() error { return w.DeleteApplication(t.Context(), admin, "admin") }, cordon.Conflict, cordon.CodeLastAdministrator},
		"revoke from the last": {func() error {
			return only(w.Revoke(t.Context(), admin, a.ClientID, []cordon.Permission{cordon.ApplicationReadWriteAll}))
		}, cordon.Conflict, cordon.CodeLastAdministrator},
		"the last one's last secret": {func() error { return only(w.RemoveSecret(t.Context(), admin, a.ClientID, a.Secrets[0].ID)) }, cordon.Conflict, cordon.CodeLastAdministrator},
		"list without permission": {func() error {
			return only(w.Applications(t.Context(), cordon.Caller{Permissions: []cordon.Permission{cordon.MachineReadAll}}))
		}, cordon.Forbidden, cordon.CodeMissingPermission},
		"create as a reader": {func() error {
			_, _, err := w.CreateApplication(t.Context(), reader, cordon.ApplicationRequest{DisplayName: "x"})
			return err
		}, cordon.Forbidden, cordon.CodeMissingPermission},
		"rotate as a reader": {func() error { return rotate(reader, a.ClientID, nil) }, cordon.Forbidden, cordon.CodeMissingPermission},
		"delete as a reader": {func() error { return w.DeleteApplication(t.Context(), reader, a.ClientID) }, cordon.Forbidden, cordon.CodeMissingPermission},
	} {
		before, _ := w.store.Applications(t.Context())
		entries := len(w.store.AuditLog())
		if err := c.do(); cordon.KindOf(err) != c.kind || cordon.CodeOf(err) != c.code || err == nil {
			t.Errorf("%s: %v (%v %s)", name, err, cordon.KindOf(err), cordon.CodeOf(err))
		}
		after, _ := w.store.Applications(t.Context())
		if d := cmp.Diff(before, after); d != "" || len(w.store.AuditLog()) != entries {
			t.Errorf("%s: refused, but left a trace: %s", name, d)
		}
	}
}

func TestRotateSecret(t *testing.T) {
	w, admin, a := admins(t)
	live := func(a cordon.Application, at time.Time, values ...string) {
		t.Helper()
		for _, value := range []string{"secret-1", "secret-2", "secret-3", "secret-4"} {
			if _, live := a.CheckSecret(value, at); live != slices.Contains(values, value) {
				t.Errorf("%s is live: %v", value, live)
			}
		}
	}
	rotate := func(expires *time.Time, dropOld bool) cordon.Application {
		t.Helper()
		got, _, err := w.RotateSecret(t.Context(), admin, a.ClientID, expires, dropOld)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	live(a, t0, "secret-1")
	live(rotate(nil, false), t0, "secret-1", "secret-2")
	soon := t0.Add(time.Minute)
	a = rotate(&soon, false)
	live(a, t0, "secret-2", "secret-3")
	live(a, soon, "secret-2")
	if known, ok := a.CheckSecret("secret-3", soon); !known || ok {
		t.Errorf("an expired secret: known %v, live %v", known, ok)
	}
	live(rotate(nil, true), t0, "secret-4")
	got, err := w.Store.Application(t.Context(), a.ClientID)
	if err != nil || len(got.Secrets) != 1 {
		t.Errorf("%+v, %v", got, err)
	}
	log := w.store.AuditLog()
	if e := log[len(log)-1]; !strings.Contains(e.Detail, "removed secret "+a.Secrets[0].ID+", removed secret "+a.Secrets[1].ID) {
		t.Errorf("audited: %+v", e)
	}
}

func TestCertificates(t *testing.T) {
	w, admin, _ := admins(t)
	first := goodCertificate(t)
	a, secret, err := w.CreateApplication(t.Context(), admin, cordon.ApplicationRequest{DisplayName: "cert", Certificate: first})
	if err != nil || secret != "" || len(a.Secrets) != 0 || len(a.Certificates) != 1 {
		t.Fatalf("%+v, %q, %v", a, secret, err)
	}
	c := a.Certificates[0]
	if c.Subject != "CN=soar" || len(c.Thumbprint()) != 40 || len(c.ThumbprintS256()) != 64 || !c.Live(t0) || c.Live(t0.Add(time.Hour)) || c.Live(t0.Add(-2*time.Hour)) {
		t.Errorf("%+v", c)
	}
	if a, err = w.AddCertificate(t.Context(), admin, "cert", first); err != nil || len(a.Certificates) != 1 {
		t.Errorf("added twice: %+v, %v", a.Certificates, err)
	}
	for range cordon.MaxCertificates - 1 {
		if a, err = w.AddCertificate(t.Context(), admin, "cert", append([]byte("key and comments before it\n"), goodCertificate(t)...)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err = w.AddCertificate(t.Context(), admin, "cert", goodCertificate(t)); cordon.KindOf(err) != cordon.Conflict {
		t.Errorf("one too many: %v", err)
	}
	for _, name := range []string{strings.ToLower(c.Thumbprint()), a.Certificates[1].ThumbprintS256()} {
		if a, err = w.RemoveCertificate(t.Context(), admin, "cert", name); err != nil {
			t.Error(err)
		}
	}
	if len(a.Certificates) != cordon.MaxCertificates-2 || slices.ContainsFunc(a.Certificates, func(left cordon.Certificate) bool { return left.Thumbprint() == c.Thumbprint() }) {
		t.Errorf("left: %+v", a.Certificates)
	}
}

// TestSomebodyCanAdminister does anything to a few applications in any order:
// there is always one that can manage applications, none ever has more
// credentials than it may, and what was not granted nobody has.
func TestSomebodyCanAdminister(t *testing.T) {
	cert := goodCertificate(t)
	rapid.Check(t, func(rt *rapid.T) {
		w, admin, first := admins(t)
		ids := []string{first.ClientID}
		for range rapid.IntRange(1, 30).Draw(rt, "steps") {
			id := rapid.SampledFrom(ids).Draw(rt, "application")
			permissions := []cordon.Permission{rapid.SampledFrom([]cordon.Permission{cordon.ApplicationReadWriteAll, cordon.MachineScan}).Draw(rt, "permission")}
			a, _ := w.Store.Application(t.Context(), id)
			var err error
			switch rapid.SampledFrom([]string{"create", "grant", "revoke", "rotate", "remove secret", "add certificate", "remove certificate", "delete"}).Draw(rt, "verb") {
			case "create":
				var made cordon.Application
				if made, _, err = w.CreateApplication(t.Context(), admin, cordon.ApplicationRequest{DisplayName: "x", Permissions: permissions}); err == nil {
					ids = append(ids, made.ClientID)
				}
			case "grant":
				_, err = w.Grant(t.Context(), admin, id, permissions)
			case "revoke":
				_, err = w.Revoke(t.Context(), admin, id, permissions)
			case "rotate":
				_, _, err = w.RotateSecret(t.Context(), admin, id, nil, rapid.Bool().Draw(rt, "drop"))
			case "remove secret":
				for _, s := range a.Secrets[:min(1, len(a.Secrets))] {
					_, err = w.RemoveSecret(t.Context(), admin, id, s.ID)
				}
			case "add certificate":
				_, err = w.AddCertificate(t.Context(), admin, id, cert)
			case "remove certificate":
				for _, c := range a.Certificates {
					_, err = w.RemoveCertificate(t.Context(), admin, id, c.Thumbprint())
				}
			case "delete":
				err = w.DeleteApplication(t.Context(), admin, id)
			}
			if err != nil && cordon.CodeOf(err) != cordon.CodeLastAdministrator && cordon.KindOf(err) != cordon.NotFound {
				rt.Fatalf("%v", err)
			}
			all, err := w.Store.Applications(t.Context())
			if err != nil || !slices.ContainsFunc(all, func(a cordon.Application) bool {
				return slices.Contains(a.Permissions, cordon.ApplicationReadWriteAll) && len(a.Secrets)+len(a.Certificates) > 0
			}) {
				rt.Fatalf("nobody can manage applications: %+v, %v", all, err)
			}
			for _, a := range all {
				if len(a.Secrets) > cordon.MaxSecrets || len(a.Certificates) > cordon.MaxCertificates {
					rt.Fatalf("too many credentials: %+v", a)
				}
			}
		}
	})
}
