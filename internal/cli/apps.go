package cli

import (
	"context"
	"encoding/pem"
	"fmt"
	"strings"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/mde"
)

// AppsCmd groups the verbs about applications.
type AppsCmd struct {
	List              AppsListCmd              `cmd:"" help:"List the applications that may get tokens."`
	Show              AppsShowCmd              `cmd:"" help:"Show one application: its permissions, secrets and certificates."`
	Create            AppsCreateCmd            `cmd:"" help:"Create an application and print its secret, once."`
	Grant             AppsGrantCmd             `cmd:"" help:"Give an application permissions."`
	Revoke            AppsRevokeCmd            `cmd:"" help:"Take permissions from an application."`
	RotateSecret      AppsRotateSecretCmd      `cmd:"" help:"Give an application a new secret and print it, once."`
	RevokeSecret      AppsRevokeSecretCmd      `cmd:"" help:"End a secret of an application."`
	AddCertificate    AppsAddCertificateCmd    `cmd:"" help:"Let an application log in with a certificate."`
	RemoveCertificate AppsRemoveCertificateCmd `cmd:"" help:"End a certificate of an application."`
	Delete            AppsDeleteCmd            `cmd:"" help:"Delete an application. Its tokens end at once."`
}

// Help is shown below the one-line help.
func (AppsCmd) Help() string {
	var names []string
	for _, p := range cordon.AllPermissions() {
		names = append(names, "    "+string(p))
	}
	return `An application is a program that may call the server: a playbook, a connector, a script, and this command line itself. It is named by its client id or its name. Whoever has Application.ReadWrite.All can give itself every other permission.

The permissions:

` + strings.Join(names, "\n")
}

type appArg struct {
	common
	App string `arg:"" help:"Client id or name of the application."`
}

const appHint = "cordon apps list shows the applications there are"

// show prints an application after what was done to it.
func (c common) show(ctx context.Context, env *Env, app mde.App, err error) error {
	if err != nil {
		return withHint(ctx, err, ExitNotFound, appHint)
	}
	if c.JSON {
		return env.PrintJSON(app)
	}
	err = env.Table(describeApp(app)...)
	if app.SecretText != "" {
		env.note("the secret is shown this once; put it away now")
	}
	return err
}

func describeApp(app mde.App) [][]string {
	rows := [][]string{{"Application", app.DisplayName}, {"Client id", app.ClientID}, {"Object id", app.ObjectID}}
	if app.SecretText != "" {
		rows = append(rows, []string{"Client secret", app.SecretText})
	}
	rows = append(rows, []string{"Created", clock(app.Created)})
	list := func(label string, lines []string) {
		if len(lines) == 0 {
			lines = []string{"-"}
		}
		for i, line := range lines {
			if i > 0 {
				label = ""
			}
			rows = append(rows, []string{label, line})
		}
	}
	var permissions, secrets, certificates []string
	for _, p := range app.Permissions {
		permissions = append(permissions, string(p))
	}
	for _, s := range app.Secrets {
		line := s.KeyID + ", " + s.Hint + "…, since " + clock(s.Created)
		if s.Expires != nil {
			line += ", until " + clock(*s.Expires)
		}
		secrets = append(secrets, line)
	}
	for _, c := range app.Certificates {
		certificates = append(certificates, c.Thumbprint+", "+c.Subject+", until "+clock(c.Expires))
	}
	list("Permissions", permissions)
	list("Secrets", secrets)
	list("Certificates", certificates)
	return rows
}

// AppsListCmd is "cordon apps list".
type AppsListCmd struct{ common }

// Run lists all applications.
func (c *AppsListCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	apps, err := client.ListApps(ctx)
	if err != nil {
		return err
	}
	return printList(env, c.JSON, apps, "there are no applications", []string{"CLIENT ID", "NAME", "SECRETS", "CERTIFICATES", "PERMISSIONS"}, func(a mde.App) []string {
		words := make([]string, len(a.Permissions))
		for i, p := range a.Permissions {
			words[i] = string(p)
		}
		return []string{a.ClientID, shorten(a.DisplayName), fmt.Sprint(len(a.Secrets)), fmt.Sprint(len(a.Certificates)), shorten(strings.Join(words, " "))}
	})
}

// AppsShowCmd is "cordon apps show".
type AppsShowCmd struct{ appArg }

// Run shows the application.
func (c *AppsShowCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	app, err := client.GetApp(ctx, c.App)
	return c.show(ctx, env, app, err)
}

// expiry is the flag of the verbs that make a secret.
type expiry struct {
	Expires time.Duration `placeholder:"DURATION" help:"End the secret after this time, as in 4380h. Without it the secret does not expire."`
}

func (e expiry) at(env *Env) (*time.Time, error) {
	switch {
	case e.Expires == 0:
		return nil, nil
	case e.Expires < 0:
		return nil, usage("give a time span like 4380h", "--expires %s is in the past", e.Expires)
	}
	now := time.Now
	if env.Now != nil {
		now = env.Now
	}
	at := now().UTC().Add(e.Expires).Truncate(time.Second)
	return &at, nil
}

// AppsCreateCmd is "cordon apps create".
type AppsCreateCmd struct {
	common
	Name        string   `arg:"" help:"What people call the application."`
	Permission  []string `placeholder:"PERMISSION" sep:"," help:"Give it this permission. May be repeated."`
	Certificate string   `placeholder:"FILE" help:"Let it log in with this certificate (PEM) instead of a secret."`
	expiry
}

// Run creates the application.
func (c *AppsCreateCmd) Run(ctx context.Context, env *Env) error {
	expires, err := c.at(env)
	if err != nil {
		return err
	}
	certificate, err := readCertificate(c.Certificate)
	if err != nil {
		return err
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	app, err := client.CreateApp(ctx, mde.NewApp{DisplayName: c.Name, Permissions: permissions(c.Permission), Certificate: certificate, SecretExpires: expires})
	return c.show(ctx, env, app, err)
}

func permissions(words []string) []cordon.Permission {
	list := make([]cordon.Permission, len(words))
	for i, w := range words {
		list[i] = cordon.Permission(w)
	}
	return list
}

// readCertificate reads a file of which nothing but the certificates is sent:
// some people keep the private key in the same one.
func readCertificate(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	const hint = "give a PEM file that holds -----BEGIN CERTIFICATE-----"
	data, err := readFile(name)
	if err != nil {
		return "", usage(hint, "cannot read the certificate: %v", err)
	}
	var certificates strings.Builder
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if block.Type == "CERTIFICATE" {
			certificates.Write(pem.EncodeToMemory(block))
		}
	}
	if certificates.Len() == 0 {
		return "", usage(hint, "there is no certificate in PEM form in %s", name)
	}
	return certificates.String(), nil
}

// AppsGrantCmd is "cordon apps grant".
type AppsGrantCmd struct {
	appArg
	Permissions []string `arg:"" help:"The permissions."`
}

// Run grants the permissions.
func (c *AppsGrantCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	app, err := client.GrantApp(ctx, c.App, permissions(c.Permissions)...)
	return c.show(ctx, env, app, err)
}

// AppsRevokeCmd is "cordon apps revoke".
type AppsRevokeCmd struct {
	appArg
	Permissions []string `arg:"" help:"The permissions. Tokens that the application has lose them too."`
}

// Run revokes the permissions.
func (c *AppsRevokeCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	app, err := client.RevokeApp(ctx, c.App, permissions(c.Permissions)...)
	return c.show(ctx, env, app, err)
}

// AppsRotateSecretCmd is "cordon apps rotate-secret".
type AppsRotateSecretCmd struct {
	appArg
	expiry
	DropOld bool `help:"End the secrets that it has at once, for one that others may know."`
}

// Help is shown below the one-line help.
func (AppsRotateSecretCmd) Help() string {
	return `The secret that it had stays valid, so that the program can be given the new one without a gap; an older one ends. When the program uses the new one, end the old one with revoke-secret.`
}

// Run rotates the secret.
func (c *AppsRotateSecretCmd) Run(ctx context.Context, env *Env) error {
	expires, err := c.at(env)
	if err != nil {
		return err
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	app, err := client.RotateSecret(ctx, c.App, expires, c.DropOld)
	return c.show(ctx, env, app, err)
}

// AppsRevokeSecretCmd is "cordon apps revoke-secret".
type AppsRevokeSecretCmd struct {
	appArg
	Secret string `arg:"" help:"Key id of the secret, as shown by cordon apps show."`
}

// Run ends the secret.
func (c *AppsRevokeSecretCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	app, err := client.RemoveSecret(ctx, c.App, c.Secret)
	return c.show(ctx, env, app, err)
}

// AppsAddCertificateCmd is "cordon apps add-certificate".
type AppsAddCertificateCmd struct {
	appArg
	File string `required:"" placeholder:"FILE" help:"The certificate (PEM). Its private key stays with the program."`
}

// Run adds the certificate.
func (c *AppsAddCertificateCmd) Run(ctx context.Context, env *Env) error {
	certificate, err := readCertificate(c.File)
	if err != nil {
		return err
	}
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	app, err := client.AddCertificate(ctx, c.App, certificate)
	return c.show(ctx, env, app, err)
}

// AppsRemoveCertificateCmd is "cordon apps remove-certificate".
type AppsRemoveCertificateCmd struct {
	appArg
	Thumbprint string `arg:"" help:"SHA-1 or SHA-256 thumbprint of the certificate, as shown by cordon apps show."`
}

// Run removes the certificate.
func (c *AppsRemoveCertificateCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	app, err := client.RemoveCertificate(ctx, c.App, c.Thumbprint)
	return c.show(ctx, env, app, err)
}

// AppsDeleteCmd is "cordon apps delete".
type AppsDeleteCmd struct{ appArg }

// Run deletes the application.
func (c *AppsDeleteCmd) Run(ctx context.Context, env *Env) error {
	client, err := c.connect(env)
	if err != nil {
		return err
	}
	if err := client.DeleteApp(ctx, c.App); err != nil {
		return withHint(ctx, err, ExitNotFound, appHint)
	}
	env.note("application %s is deleted, its tokens have ended", c.App)
	return nil
}
