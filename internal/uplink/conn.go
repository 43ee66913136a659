package uplink

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"

	"github.com/coder/websocket"

	"github.com/cordon-project/cordon/internal/wire"
)

// ErrNoUpgrade says that the WebSocket could not be opened, which may be the
// doing of something between machine and server.
var ErrNoUpgrade = errors.New("WebSocket not opened")

// Conn is an open WebSocket. One goroutine may hear, while others say and ping.
type Conn struct {
	ws    *websocket.Conn
	heard bool // something came back through it
}

// Connect opens the WebSocket. The caller closes it.
func (m *Machine) Connect(ctx context.Context) (c *Conn, err error) {
	err = again(func() (err error) {
		c, err = m.dial(ctx)
		return err
	})
	return c, err
}

func (m *Machine) dial(ctx context.Context) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	proof, err := m.proof(http.MethodGet, wire.ConnectPath)
	if err != nil {
		return nil, err
	}
	ws, resp, err := websocket.Dial(ctx, m.server.base+wire.ConnectPath, &websocket.DialOptions{
		HTTPClient: m.server.http, HTTPHeader: http.Header{"Authorization": {proof}}, CompressionMode: websocket.CompressionDisabled,
	})
	if err == nil {
		ws.SetReadLimit(wire.MaxMessage)
		return &Conn{ws: ws}, nil
	}
	if resp != nil {
		if no := m.problem(resp); no.own {
			return nil, no
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrNoUpgrade, err)
}

// Say sends one message.
func (c *Conn) Say(ctx context.Context, msg wire.FromAgent) error {
	data, err := json.Marshal(msg)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	return c.ws.Write(ctx, websocket.MessageText, data)
}

// Hear waits for one message. The first answers what was said first; where
// nothing comes back at all, the WebSocket is as good as not opened.
func (c *Conn) Hear(ctx context.Context) (msg wire.FromServer, err error) {
	if !c.heard {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, answerWithin)
		defer cancel()
	}
	_, data, err := c.ws.Read(ctx)
	switch {
	case err != nil && !c.heard:
		return msg, fmt.Errorf("%w: no answer came through it: %w", ErrNoUpgrade, err)
	case err != nil:
		return msg, fmt.Errorf("connection lost: %w", err)
	}
	c.heard = true
	if err := json.Unmarshal(data, &msg); err != nil {
		return msg, fmt.Errorf("read message: %w", err)
	}
	return msg, nil
}

// Ping waits for a sign of life, while somebody hears.
func (c *Conn) Ping(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, wire.PingEvery)
	defer cancel()
	return c.ws.Ping(ctx)
}

// Close ends the connection at once, if it has not ended.
func (c *Conn) Close() { _ = c.ws.CloseNow() } // it may be closed already
