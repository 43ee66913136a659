package servercmd

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cordon-project/cordon/internal/cli"
	"github.com/cordon-project/cordon/internal/keys"
)

type serverRotateTokenKey struct {
	DataDir string `required:"" type:"existingdir" placeholder:"DIR" help:"The server's directory."`
	Now     bool   `help:"Sign with the new key at once and remove all others: every access token ends."`
}

// Help tells what it does to a server that runs.
func (serverRotateTokenKey) Help() string {
	return `A server that runs takes the key over within ten seconds. Run this as root or as the server's user. The new key is published at once and signs a day later, when everybody who verifies tokens knows it; nothing ends by that. If the old key may be known to others use --now: programs then get new tokens by themselves.`
}

// Run makes the key.
func (c serverRotateTokenKey) Run(env *cli.Env) error {
	now := time.Now().UTC().Truncate(time.Second)
	begins := now.Add(keys.PublishAhead)
	if c.Now {
		begins = now
	}
	begins, err := keys.RotateTokenKey(c.DataDir, begins, now, c.Now)
	if errors.Is(err, fs.ErrNotExist) {
		return &cli.Error{Code: cli.ExitUsage, Message: "there is no token key in " + c.DataDir, Hint: "give the data directory of a server; --now makes a new key where the old one was lost"}
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(env.Stderr, "the new key signs from %s on\n", begins.UTC().Format(time.RFC3339))
	return err
}
