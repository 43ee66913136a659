package storetest

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
)

// put makes an application what it is, and says so in the
// audit log of an action, where it can be seen.
func (w *world) put(a cordon.Application, entries ...cordon.AuditEntry) error {
	got, err := w.Store.ChangeApplication(w.Context(), a.ClientID, func(*cordon.Application, []cordon.Application) (*cordon.Application, []cordon.AuditEntry, error) {
		after := a.Clone()
		return &after, entries, nil
	})
	if err == nil {
		w.diff("changed application", &a, got)
	}
	return err
}

func (w *world) applications() []cordon.Application {
	w.Helper()
	all, err := w.Store.Applications(w.Context())
	if err != nil {
		w.Fatal(err)
	}
	return all
}

func application(n int, name string) cordon.Application {
	return cordon.Application{
		ClientID: fmt.Sprintf("5f2b1a0e-8a1c-4b62-9d0e-%012d", n), ObjectID: "0e8a1c5f-4b62-9d0e-8a1c-6f6a1f2c3d1f", DisplayName: name,
		Secrets: []cordon.Secret{cordon.NewSecret("s1", "secret", Noon, nil)}, Certificates: []cordon.Certificate{},
		Permissions: cordon.AllPermissions(), Created: Noon,
	}
}

func testApplications(w *world) {
	a := application(1, "SOAR ✓")
	_, err := w.Store.Application(w.Context(), a.ClientID)
	w.wantError("Application", err, cordon.NotFound, "")
	if all := w.applications(); len(all) != 0 {
		w.Errorf("a new store has %+v", all)
	}
	expires := Noon.Add(time.Hour)
	for i, change := range []func(){
		func() {}, func() { a.DisplayName = "renamed" },
		func() {
			a.Secrets = append(a.Secrets, cordon.NewSecret("s2", "other", Noon.Add(time.Second), &expires))
		},
		func() {
			a.Certificates = []cordon.Certificate{{DER: []byte{0x30, 0}, Subject: "CN=é", Begins: Noon, Expires: expires, Added: Noon}}
		},
		func() { a.Permissions, a.Secrets = []cordon.Permission{}, []cordon.Secret{} },
	} {
		change()
		put := func(a cordon.Application) error { return w.put(a) }
		if i%2 == 1 {
			put = func(a cordon.Application) error { return w.Store.PutApplication(w.Context(), a) }
		}
		if err := put(a); err != nil {
			w.Fatal(err)
		}
		got, err := w.Store.Application(w.Context(), a.ClientID)
		if err != nil {
			w.Fatal(err)
		}
		w.diff("application", a, got)
		w.diff("all applications", []cordon.Application{a}, w.applications())
	}
	_, err = w.Store.Application(w.Context(), a.ObjectID)
	w.wantError("Application", err, cordon.NotFound, "")

	// They are listed by name, in any case; then by id.
	for i, name := range []string{"b", "Zulu", "alpha", "B"} {
		if err := w.put(application(9-i, name)); err != nil {
			w.Fatal(err)
		}
	}
	var names []string
	for _, a := range w.applications() {
		names = append(names, a.DisplayName)
	}
	w.diff("names", []string{"alpha", "B", "b", "renamed", "Zulu"}, names)
}

func testChangeApplication(w *world) {
	const about = cordon.ActionID("c0ffee00-0000-4000-8000-000000000000")
	entry := cordon.AuditEntry{At: Noon, Kind: cordon.AuditApplicationChanged, Action: about, Actor: "app", Detail: "granted"}
	a, b := application(1, "one"), application(2, "two")
	for _, app := range []cordon.Application{a, b} {
		if err := w.put(app, entry, entry); err != nil {
			w.Fatal(err)
		}
	}
	if log := w.auditOf(about); len(log) != 4 || log[0].Detail != "granted" || log[0].Kind != cordon.AuditApplicationChanged {
		w.Errorf("audited: %+v", log)
	}

	// A change sees the application and all others; what it is given is its own.
	_, err := w.Store.ChangeApplication(w.Context(), a.ClientID, func(before *cordon.Application, others []cordon.Application) (*cordon.Application, []cordon.AuditEntry, error) {
		w.diff("before", &a, before)
		w.diff("others", []cordon.Application{b}, others)
		before.Permissions[0], others[0].Secrets[0].Hint = "x", "x"
		return nil, []cordon.AuditEntry{entry}, errors.New("no")
	})
	if err == nil || err.Error() != "no" {
		w.Errorf("the error of the change is %v", err)
	}
	w.diff("after a refused change", []cordon.Application{a, b}, w.applications())
	if log := w.auditOf(about); len(log) != 4 {
		w.Errorf("a refused change left a trace: %+v", log)
	}

	// Nothing in its place deletes it, once and for all.
	for range 2 {
		after, err := w.Store.ChangeApplication(w.Context(), a.ClientID, func(*cordon.Application, []cordon.Application) (*cordon.Application, []cordon.AuditEntry, error) {
			return nil, nil, nil
		})
		if err != nil || after != nil {
			w.Errorf("deleted: %+v, %v", after, err)
		}
	}
	w.diff("after the deletion", []cordon.Application{b}, w.applications())
	_, err = w.Store.Application(w.Context(), a.ClientID)
	w.wantError("Application", err, cordon.NotFound, "")
}

// testLastApplication has everybody delete another application unless it is the last.
func testLastApplication(w *world) {
	for i := range callers {
		if err := w.put(application(i, "app")); err != nil {
			w.Fatal(err)
		}
	}
	together(func(i int) {
		_, err := w.Store.ChangeApplication(w.Context(), application(i, "").ClientID, func(before *cordon.Application, others []cordon.Application) (*cordon.Application, []cordon.AuditEntry, error) {
			if len(others) == 0 {
				return nil, nil, cordon.Errorf(cordon.Conflict, cordon.CodeLastAdministrator, "the last one")
			}
			return nil, nil, nil
		})
		if err != nil && cordon.CodeOf(err) != cordon.CodeLastAdministrator {
			w.Error(err)
		}
	})
	if all := w.applications(); len(all) != 1 {
		w.Errorf("%d are left", len(all))
	}

	// Changes of one application do not undo each other.
	a := application(99, strings.Repeat("x", 10))
	a.Permissions = nil
	if err := w.Store.PutApplication(w.Context(), a); err != nil {
		w.Fatal(err)
	}
	together(func(i int) {
		_, err := w.Store.ChangeApplication(w.Context(), a.ClientID, func(before *cordon.Application, _ []cordon.Application) (*cordon.Application, []cordon.AuditEntry, error) {
			before.Permissions = append(before.Permissions, cordon.Permission(fmt.Sprint(i)))
			return before, nil, nil
		})
		if err != nil {
			w.Error(err)
		}
	})
	got, err := w.Store.Application(w.Context(), a.ClientID)
	if err != nil || len(slices.Compact(slices.Sorted(slices.Values(got.Permissions)))) != callers {
		w.Errorf("permissions %v, %v", got.Permissions, err)
	}
}
