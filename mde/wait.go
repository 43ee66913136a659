package mde

import (
	"context"
	"crypto/tls"
	"errors"
	"net/http"
	"time"
)

// ErrStillOpen says that an action had not ended when the time to wait was over.
var ErrStillOpen = errors.New("the action has not ended")

// WaitOptions says how to wait.
type WaitOptions struct {
	Timeout time.Duration // 0: as long as it takes; the server ends every action some day
	// Each, if set, is called after each look at the action, with what was seen or with
	// the error of a failure that is waited out.
	Each func(MachineAction, error)
}

// How often [Client.WaitAction] looks: soon at first, for an action on a
// connected machine takes milliseconds, and seldom later.
const (
	firstPause = 100 * time.Millisecond
	lastPause  = 2 * time.Second
	maxOutage  = 15 // looks in a row that may fail, about 25 s: longer than a server takes to restart
)

// WaitAction looks at an action until it has ended, and returns it as it ended.
// Otherwise it returns the action as last seen and [ErrStillOpen] after the
// timeout, the context's cause, or the server's error. An outage of the server
// is waited out for a while.
func (c *Client) WaitAction(ctx context.Context, id string, o WaitOptions) (MachineAction, error) {
	last := MachineAction{ID: id}
	started := c.config.Now()
	pause, failures := firstPause, 0
	for {
		left := time.Duration(0)
		if o.Timeout > 0 {
			if left = o.Timeout - c.config.Now().Sub(started); left <= 0 {
				return last, ErrStillOpen
			}
		}
		a, err := c.look(ctx, id, left)
		switch {
		case err == nil:
			last, failures = a, 0
		case ctx.Err() != nil:
			return last, context.Cause(ctx)
		case errors.Is(err, ErrStillOpen):
			return last, err
		case !passing(err) || failures == maxOutage:
			return last, err
		default:
			failures++
		}
		if o.Each != nil {
			o.Each(last, err)
		}
		if err == nil && a.Ended() {
			return a, nil
		}
		d := c.jitter(pause)
		if o.Timeout > 0 {
			d = min(d, max(0, o.Timeout-c.config.Now().Sub(started)))
		}
		if err := c.config.Sleep(ctx, d); err != nil {
			return last, err
		}
		pause = min(pause*3/2, lastPause)
	}
}

// jitter makes half of a pause random, so that many who wait do not come in step.
func (c *Client) jitter(pause time.Duration) time.Duration {
	return pause/2 + time.Duration(c.config.Jitter()*float64(pause/2))
}

// look is GetAction, cut off after left (0: never) with ErrStillOpen.
func (c *Client) look(ctx context.Context, id string, left time.Duration) (MachineAction, error) {
	if left > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, left, ErrStillOpen)
		defer cancel()
	}
	return c.GetAction(ctx, id)
}

// passing reports whether an error is one that a restart of the server or a
// moment of patience may cure.
func passing(err error) bool {
	var lost *UnreachableError
	if errors.As(err, &lost) {
		var untrusted *tls.CertificateVerificationError
		return !errors.As(err, &untrusted)
	}
	var refused *Error
	if !errors.As(err, &refused) {
		return false
	}
	switch refused.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
