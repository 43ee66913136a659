package sqlite

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/store/sqlite/engine"
)

// applications is all of them, in no order: there are few.
const applications = "SELECT client_id, object_id, display_name, secrets, certificates, permissions, created FROM applications"

func applicationOf(r *engine.Row) cordon.Application {
	a := cordon.Application{ClientID: r.Text(), ObjectID: r.Text(), DisplayName: r.Text()}
	r.JSON(&a.Secrets)
	r.JSON(&a.Certificates)
	r.JSON(&a.Permissions)
	a.Created = r.Time()
	return a
}

func readApplications(each func(string, func(*engine.Row), ...any) error) (found []cordon.Application, err error) {
	err = each(applications, func(r *engine.Row) { found = append(found, applicationOf(r)) })
	slices.SortFunc(found, func(a, b cordon.Application) int {
		return cmp.Or(strings.Compare(strings.ToLower(a.DisplayName), strings.ToLower(b.DisplayName)), strings.Compare(a.ClientID, b.ClientID))
	})
	return found, err
}

// Application implements [cordon.Store].
func (s *Store) Application(ctx context.Context, clientID string) (a cordon.Application, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		return c.Each(applications+" WHERE client_id = ?", func(r *engine.Row) { a = applicationOf(r) }, clientID)
	})
	if err == nil && a.ClientID == "" {
		err = cordon.Errorf(cordon.NotFound, "", "Application %s was not found", clientID)
	}
	if err != nil {
		return cordon.Application{}, err
	}
	return a, nil
}

// Applications implements [cordon.Store].
func (s *Store) Applications(ctx context.Context) (found []cordon.Application, err error) {
	err = s.db.Read(ctx, func(c *engine.Conn) error {
		found, err = readApplications(c.Each)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, nil
}

// ChangeApplication implements [cordon.Store].
func (s *Store) ChangeApplication(ctx context.Context, clientID string, change cordon.ApplicationChange) (after *cordon.Application, err error) {
	err = s.db.Write(ctx, func(t *engine.Tx) error {
		all, err := readApplications(t.Each)
		if err != nil {
			return err
		}
		var before *cordon.Application
		if i := slices.IndexFunc(all, func(a cordon.Application) bool { return a.ClientID == clientID }); i >= 0 {
			a := all[i]
			before, all = &a, slices.Delete(all, i, i+1)
		}
		var entries []cordon.AuditEntry
		if after, entries, err = change(before, all); err != nil {
			return err
		}
		if after != nil {
			err = putApplication(t, *after)
		} else {
			_, _, err = t.Exec("DELETE FROM applications WHERE client_id = ?", clientID)
		}
		for i := 0; err == nil && i < len(entries); i++ {
			err = appendAudit(t, 0, entries[i])
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return after, nil
}

// PutApplication implements [cordon.Store].
func (s *Store) PutApplication(ctx context.Context, a cordon.Application) error {
	return s.db.Write(ctx, func(t *engine.Tx) error { return putApplication(t, a) })
}

func putApplication(t *engine.Tx, a cordon.Application) error {
	secrets, err := engine.JSON(slices.Concat([]cordon.Secret{}, a.Secrets))
	if err != nil {
		return err
	}
	certificates, err := engine.JSON(slices.Concat([]cordon.Certificate{}, a.Certificates))
	if err != nil {
		return err
	}
	permissions, err := engine.JSON(slices.Concat([]cordon.Permission{}, a.Permissions))
	if err != nil {
		return err
	}
	_, _, err = t.Exec("INSERT OR REPLACE INTO applications (client_id, object_id, display_name, secrets, certificates, permissions, created) VALUES (?, ?, ?, ?, ?, ?, ?)",
		a.ClientID, a.ObjectID, a.DisplayName, secrets, certificates, permissions, cordon.Ticks(a.Created))
	return err
}
