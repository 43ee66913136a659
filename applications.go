package cordon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// This file is what people do with applications. What it takes is a permission
// like Microsoft Graph's of the same name; who has it can grant itself any other.

// The operations on applications.
var (
	ReadApplications   = Operation{ApplicationReadAll, ApplicationReadWriteAll}
	ManageApplications = Operation{ApplicationReadWriteAll}
)

// ApplicationRequest is what a new application is to be.
type ApplicationRequest struct {
	DisplayName string
	Permissions []Permission
	// Certificate, if given, is by what it proves who it is (as
	// [ParseCertificate] reads it); else it gets a secret.
	Certificate   []byte
	SecretExpires *time.Time // nil: never
}

// Applications lists all applications, by name.
func (s *Service) Applications(ctx context.Context, c Caller) ([]Application, error) {
	if err := c.Authorize(ReadApplications); err != nil {
		return nil, err
	}
	return s.Store.Applications(ctx)
}

// FindApplication returns the application that ref names: its client id, or its
// display name in any case. It is an error of kind NotFound if there is none,
// and of kind Invalid with CodeAmbiguousName if several have the name.
func (s *Service) FindApplication(ctx context.Context, c Caller, op Operation, ref string) (Application, error) {
	if err := c.Authorize(op); err != nil {
		return Application{}, err
	}
	ref = strings.TrimSpace(ref)
	if guid.MatchString(ref) {
		return s.Store.Application(ctx, strings.ToLower(ref))
	}
	all, err := s.Store.Applications(ctx)
	if err != nil {
		return Application{}, err
	}
	all = slices.DeleteFunc(all, func(a Application) bool { return !strings.EqualFold(a.DisplayName, ref) })
	switch len(all) {
	case 0:
		return Application{}, noApplication(ref)
	case 1:
		return all[0], nil
	}
	return Application{}, Errorf(Invalid, CodeAmbiguousName, "Several applications are named %s. Use the client id instead", ref)
}

func noApplication(ref string) error {
	return Errorf(NotFound, "", "Application %s was not found", ref)
}

// CreateApplication makes an application. Its secret, if it gets one, is
// returned here and never again.
func (s *Service) CreateApplication(ctx context.Context, c Caller, r ApplicationRequest) (a Application, secret string, err error) {
	if err := c.Authorize(ManageApplications); err != nil {
		return a, "", err
	}
	now := s.now()
	a = Application{ClientID: s.NewID(), ObjectID: s.NewID(), Created: now}
	if a.DisplayName, err = checkApplicationName(r.DisplayName); err != nil {
		return Application{}, "", err
	}
	if a.Permissions, err = checkPermissions(r.Permissions); err != nil {
		return Application{}, "", err
	}
	switch {
	case len(r.Certificate) > 0 && r.SecretExpires != nil:
		return Application{}, "", Errorf(Invalid, CodeInvalidInput, "An application with a certificate gets no secret that could expire. Leave one of them out")
	case len(r.Certificate) > 0:
		cert, err := ParseCertificate(r.Certificate, now)
		if err != nil {
			return Application{}, "", err
		}
		a.Certificates = []Certificate{cert}
	default:
		if err := checkExpiry(r.SecretExpires, now); err != nil {
			return Application{}, "", err
		}
		secret = s.NewSecret()
		a.Secrets = []Secret{NewSecret(s.NewID(), secret, now, r.SecretExpires)}
	}
	created, err := s.Store.ChangeApplication(ctx, a.ClientID, func(before *Application, _ []Application) (*Application, []AuditEntry, error) {
		if before != nil {
			return nil, nil, Errorf(Conflict, "", "There is an application with the client id %s already. Try again", a.ClientID)
		}
		after := a.Clone()
		return &after, []AuditEntry{applicationEntry(AuditApplicationCreated, c, a, now, "created with "+permissionsInWords(a.Permissions))}, nil
	})
	if err != nil {
		return Application{}, "", err
	}
	return *created, secret, nil
}

// Grant gives an application more permissions. Tokens that it gets from then on
// have them.
func (s *Service) Grant(ctx context.Context, c Caller, ref string, permissions []Permission) (Application, error) {
	return s.changePermissions(ctx, c, ref, permissions, true)
}

// Revoke takes permissions from an application, also from the tokens that it
// has got already.
func (s *Service) Revoke(ctx context.Context, c Caller, ref string, permissions []Permission) (Application, error) {
	return s.changePermissions(ctx, c, ref, permissions, false)
}

func (s *Service) changePermissions(ctx context.Context, c Caller, ref string, permissions []Permission, granted bool) (Application, error) {
	verb := map[bool]string{true: "granted", false: "revoked"}[granted]
	return s.changeApplication(ctx, c, ref, func(a *Application, _ time.Time) (string, error) {
		list, err := checkPermissions(permissions)
		if err != nil {
			return "", err
		}
		if len(list) == 0 {
			return "", Errorf(Invalid, CodeMissingParameter, "Name at least one permission")
		}
		has := make(map[Permission]bool)
		for _, p := range a.Permissions {
			has[p] = true
		}
		list = slices.DeleteFunc(list, func(p Permission) bool { return has[p] == granted })
		if len(list) == 0 {
			return "", nil
		}
		for _, p := range list {
			if has[p] = granted; !granted {
				delete(has, p)
			}
		}
		a.Permissions = ordered(has)
		return verb + " " + permissionsInWords(list), nil
	})
}

// RotateSecret gives an application a new secret, which is returned here and
// never again. The newest of those before it stays valid, so that the program
// can be told the new one without a gap, unless dropOld.
func (s *Service) RotateSecret(ctx context.Context, c Caller, ref string, expires *time.Time, dropOld bool) (a Application, secret string, err error) {
	id := s.NewID()
	secret = s.NewSecret()
	a, err = s.changeApplication(ctx, c, ref, func(a *Application, now time.Time) (string, error) {
		if err := checkExpiry(expires, now); err != nil {
			return "", err
		}
		kept := a.Secrets
		if keep := MaxSecrets - 1; dropOld {
			kept = nil
		} else if len(kept) > keep {
			kept = kept[len(kept)-keep:]
		}
		said := "new secret " + id
		for _, old := range a.Secrets[:len(a.Secrets)-len(kept)] {
			said += ", removed secret " + old.ID
		}
		a.Secrets = append(slices.Clone(kept), NewSecret(id, secret, now, expires))
		return said, nil
	})
	if err != nil {
		return Application{}, "", err
	}
	return a, secret, nil
}

// RemoveSecret takes the secret with this id from an application. Tokens that
// were got with it live on for the rest of their hour.
func (s *Service) RemoveSecret(ctx context.Context, c Caller, ref, id string) (Application, error) {
	return s.changeApplication(ctx, c, ref, func(a *Application, _ time.Time) (string, error) {
		i := slices.IndexFunc(a.Secrets, func(s Secret) bool { return strings.EqualFold(s.ID, id) })
		if i < 0 {
			return "", Errorf(NotFound, "", "The application %s has no secret %s", a.DisplayName, id)
		}
		said := "removed secret " + a.Secrets[i].ID
		a.Secrets = slices.Delete(slices.Clone(a.Secrets), i, i+1)
		return said, nil
	})
}

// AddCertificate lets an application prove who it is with a certificate (see
// [ParseCertificate]). One that it has already changes nothing.
func (s *Service) AddCertificate(ctx context.Context, c Caller, ref string, text []byte) (Application, error) {
	return s.changeApplication(ctx, c, ref, func(a *Application, now time.Time) (string, error) {
		cert, err := ParseCertificate(text, now)
		if err != nil {
			return "", err
		}
		switch {
		case slices.ContainsFunc(a.Certificates, func(c Certificate) bool { return c.ThumbprintS256() == cert.ThumbprintS256() }):
			return "", nil
		case len(a.Certificates) >= MaxCertificates:
			return "", Errorf(Conflict, "", "The application %s has %d certificates, which is the most. Remove one first", a.DisplayName, len(a.Certificates))
		}
		a.Certificates = append(slices.Clone(a.Certificates), cert)
		return "added certificate " + cert.Thumbprint(), nil
	})
}

// RemoveCertificate takes the certificate with this thumbprint, of either kind,
// from an application.
func (s *Service) RemoveCertificate(ctx context.Context, c Caller, ref, thumbprint string) (Application, error) {
	return s.changeApplication(ctx, c, ref, func(a *Application, _ time.Time) (string, error) {
		i := slices.IndexFunc(a.Certificates, func(c Certificate) bool {
			return strings.EqualFold(c.Thumbprint(), thumbprint) || strings.EqualFold(c.ThumbprintS256(), thumbprint)
		})
		if i < 0 {
			return "", Errorf(NotFound, "", "The application %s has no certificate %s", a.DisplayName, thumbprint)
		}
		said := "removed certificate " + a.Certificates[i].Thumbprint()
		a.Certificates = slices.Delete(slices.Clone(a.Certificates), i, i+1)
		return said, nil
	})
}

// DeleteApplication removes an application. Its tokens are worth nothing from
// then on.
func (s *Service) DeleteApplication(ctx context.Context, c Caller, ref string) error {
	a, err := s.FindApplication(ctx, c, ManageApplications, ref)
	if err != nil {
		return err
	}
	now := s.now()
	_, err = s.Store.ChangeApplication(ctx, a.ClientID, func(before *Application, others []Application) (*Application, []AuditEntry, error) {
		if before == nil {
			return nil, nil, noApplication(ref)
		}
		if err := keepAdministrator(*before, nil, others, now); err != nil {
			return nil, nil, err
		}
		return nil, []AuditEntry{applicationEntry(AuditApplicationDeleted, c, *before, now, "deleted")}, nil
	})
	return err
}

// changeApplication lets change alter the application that ref names. What it
// says has happened is audited; nothing said means nothing to do.
func (s *Service) changeApplication(ctx context.Context, c Caller, ref string, change func(*Application, time.Time) (said string, err error)) (Application, error) {
	a, err := s.FindApplication(ctx, c, ManageApplications, ref)
	if err != nil {
		return Application{}, err
	}
	now := s.now()
	changed, err := s.Store.ChangeApplication(ctx, a.ClientID, func(before *Application, others []Application) (*Application, []AuditEntry, error) {
		if before == nil {
			return nil, nil, noApplication(ref)
		}
		after := before.Clone()
		said, err := change(&after, now)
		if err != nil || said == "" {
			return before, nil, err
		}
		if err := keepAdministrator(*before, &after, others, now); err != nil {
			return nil, nil, err
		}
		return &after, []AuditEntry{applicationEntry(AuditApplicationChanged, c, after, now, said)}, nil
	})
	if err != nil {
		return Application{}, err
	}
	return *changed, nil
}

// keepAdministrator refuses a change after which nobody could manage
// applications any more.
func keepAdministrator(before Application, after *Application, others []Application, now time.Time) error {
	administers := func(a Application) bool { return a.administers(now) }
	if !administers(before) || after != nil && administers(*after) || slices.ContainsFunc(others, administers) {
		return nil
	}
	return Errorf(Conflict, CodeLastAdministrator, "The application %s is the last one that can manage applications: nobody could any more. First give another one %s", before.DisplayName, ApplicationReadWriteAll)
}

func checkExpiry(expires *time.Time, now time.Time) error {
	if expires != nil && !now.Before(*expires) {
		return Errorf(Invalid, CodeInvalidInput, "The secret would have expired at %s already. Give a time that is to come", expires.UTC().Format(time.RFC3339))
	}
	return nil
}

func applicationEntry(kind AuditKind, c Caller, a Application, now time.Time, said string) AuditEntry {
	return AuditEntry{At: now, Kind: kind, Actor: c.ID, Detail: fmt.Sprintf("application %s (%s): %s", a.ClientID, a.DisplayName, said)}
}

func permissionsInWords(ps []Permission) string {
	if len(ps) == 0 {
		return "no permission"
	}
	return joinPermissions(ps)
}
