// Package supervised is what a daemon says to the service manager that started
// it, if one did (sd_notify(3)): that it is ready, and that it lives.
package supervised

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
)

// Ready tells the service manager that the unit has started.
func Ready(log *slog.Logger) {
	if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
		log.Warn("the service manager could not be told that this process is ready", "err", err)
	}
}

// KeepAlive gives the service manager signs of life until ctx ends, if it wants
// them (sd_watchdog_enabled(3)), each after healthy has returned: a process that
// hangs there is restarted. Until it is [Ready] each also asks for more time to
// start, as long as a sign of life counts: who is ended while it works begins
// anew, and would never be ready on a machine that is slow enough. The error says
// that nobody can tell what the manager wants.
func KeepAlive(ctx context.Context, healthy func()) error {
	within, err := daemon.SdWatchdogEnabled(false)
	if err != nil || within == 0 {
		return err
	}
	alive := fmt.Sprintf("%s\nEXTEND_TIMEOUT_USEC=%d", daemon.SdNotifyWatchdog, within.Microseconds())
	tick := time.NewTicker(within / 3)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			healthy()
			// If it does not arrive, the next one may.
			_, _ = daemon.SdNotify(false, alive)
		}
	}
}
