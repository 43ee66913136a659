package vm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cordon-project/cordon/internal/testkit/vm/host"
)

// goBuild builds a package of this module, named by its directory, as a static
// program and returns its path below dir.
func goBuild(ctx context.Context, dir, pkg string) (string, error) {
	out := filepath.Join(dir, filepath.Base(pkg))
	_, err := goTool(ctx, "build", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/cordon-project/cordon/"+pkg)
	return out, err
}

// moduleDir is the directory of this module's sources.
func moduleDir(ctx context.Context) (string, error) {
	out, err := goTool(ctx, "list", "-m", "-f", "{{.Dir}}")
	return strings.TrimSpace(out), err
}

func goTool(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := host.Run(cmd)
	if err != nil {
		return "", fmt.Errorf("go %s: %w", strings.Join(args, " "), err)
	}
	return out, nil
}
