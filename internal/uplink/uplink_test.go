package uplink_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/seal"
	"github.com/cordon-project/cordon/internal/uplink"
	"github.com/cordon-project/cordon/internal/wire"
)

// ahead is how far the server's clock is before the machine's.
const ahead = 3 * time.Hour

// machine is one with a new key, on its way to a server that answer plays. No
// request gets there that has no good proof, dated by the server's clock.
func machine(t *testing.T, answer http.HandlerFunc) (m *uplink.Machine, refused *int) {
	t.Helper()
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	refused = new(int)
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		now := time.Now().Add(ahead)
		jws, _ := strings.CutPrefix(r.Header.Get("Authorization"), wire.Scheme+" ")
		p, err := seal.OpenProof(jws, public)
		if err != nil || p.Method != r.Method || p.Path != r.URL.Path || p.Machine != cordon.IDOfKey(public) || p.At.Sub(now).Abs() > wire.ProofWindow {
			*refused++
			say(w, http.StatusUnauthorized, wire.Problem{Error: "no good proof", Now: now})
			return
		}
		answer(w, r)
	}))
	t.Cleanup(srv.Close)
	roots := x509.NewCertPool()
	roots.AddCert(srv.Certificate())
	s, err := uplink.New(srv.URL+"/", roots, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s.Machine(key), refused
}

func say(w http.ResponseWriter, status int, v any) {
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the machine sees it
}

// A machine whose clock is wrong gets in with the server's, which it asks for once.
func TestWrongClock(t *testing.T) {
	m, refused := machine(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != wire.ConnectPath {
			say(w, http.StatusOK, wire.FromServer{Capability: 7})
			return
		}
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = ws.CloseNow() }() // that is what the last Hear is about
		if _, _, err := ws.Read(r.Context()); err != nil {
			t.Error(err)
		}
		if err := ws.Write(r.Context(), websocket.MessageText, []byte(`{"capability":8}`)); err != nil {
			t.Error(err)
		}
	})
	conn, err := m.Connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Say(t.Context(), wire.FromAgent{}); err != nil {
		t.Error(err)
	}
	if msg, err := conn.Hear(t.Context()); err != nil || msg.Capability != 8 {
		t.Errorf("%+v, %v", msg, err)
	}
	if _, err := conn.Hear(t.Context()); err == nil || errors.Is(err, uplink.ErrNoUpgrade) {
		t.Errorf("after it was heard, the connection's end is %v", err)
	}
	for range 2 {
		if answer, err := m.Sync(t.Context(), wire.FromAgent{}); err != nil || answer.Capability != 7 {
			t.Errorf("%+v, %v", answer, err)
		}
	}
	if *refused != 1 {
		t.Errorf("%d requests were refused", *refused)
	}
}

// What the server itself says is told apart from what stands in between.
func TestWhoSaysNo(t *testing.T) {
	for name, c := range map[string]struct {
		answer            http.HandlerFunc
		text              string
		noUpgrade, forbid bool
	}{
		"the server": {func(w http.ResponseWriter, _ *http.Request) {
			say(w, http.StatusForbidden, wire.Problem{Error: "you are not one of mine", Now: time.Now()})
		}, "you are not one of mine", false, true},
		"the server, for now": {func(w http.ResponseWriter, _ *http.Request) {
			say(w, http.StatusServiceUnavailable, wire.Problem{Error: "come back later", Now: time.Now()})
		}, "come back later", false, false},
		"a proxy": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "policy", http.StatusBadGateway) }, "502 Bad Gateway", true, false},
		"a page":  {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "policy", http.StatusForbidden) }, "403 Forbidden", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			m, _ := machine(t, c.answer)
			if _, err := m.Connect(t.Context()); err == nil || errors.Is(err, uplink.ErrNoUpgrade) != c.noUpgrade || !c.noUpgrade && err.Error() != c.text {
				t.Errorf("connect: %v", err)
			}
			if _, err := m.Sync(t.Context(), wire.FromAgent{}); err == nil || !strings.Contains(err.Error(), c.text) {
				t.Errorf("sync: %v", err)
			}
			_, _, err := m.Enrol(t.Context(), "token", cordon.Facts{})
			if err == nil || !strings.Contains(err.Error(), c.text) || (cordon.CodeOf(err) == cordon.CodeEnrollmentRefused) != c.forbid {
				t.Errorf("enrol: %v", err)
			}
		})
	}
}

func TestRoots(t *testing.T) {
	if roots, err := uplink.Roots(""); roots != nil || err != nil {
		t.Errorf("no file: %v, %v", roots, err)
	}
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{empty, empty + ".not"} {
		if roots, err := uplink.Roots(file); roots != nil || cordon.KindOf(err) != cordon.Invalid {
			t.Errorf("%s: %v, %v", file, roots, err)
		}
	}
}
