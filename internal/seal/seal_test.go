package seal

import (
	"crypto/ed25519"
	"encoding/base64"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/cordon-project/cordon"
)

func newKey(t testing.TB) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return pub, priv
}

func TestOrderRoundTrip(t *testing.T) {
	pub, priv := newKey(t)
	rapid.Check(t, func(t *rapid.T) {
		in := cordon.Order{
			Machine:    cordon.MachineID(rapid.StringMatching(`[0-9a-f]{40}`).Draw(t, "machine")),
			Action:     cordon.ActionID(rapid.String().Draw(t, "action")),
			Generation: rapid.Uint64().Draw(t, "generation"),
			Type:       rapid.SampledFrom([]cordon.OrderType{cordon.RestrictOrder, cordon.UnrestrictOrder, cordon.CancelOrder}).Draw(t, "type"),
			Comment:    rapid.String().Draw(t, "comment"),
			Issued:     time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "issued"), 100).UTC(),
			Expires:    time.Unix(rapid.Int64Range(0, 1<<33).Draw(t, "expires"), 0).UTC(),
		}
		jws, err := Order(in, priv)
		if err != nil {
			t.Fatal(err)
		}
		out, err := OpenOrder(jws, pub)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(in, out); d != "" {
			t.Fatalf("order changed on the way (-in +out):\n%s", d)
		}
	})
}

// A statement must be worth nothing with another key, as another kind, or with
// any single character of it changed.
func TestNothingElseVerifies(t *testing.T) {
	pub, priv := newKey(t)
	other, _ := newKey(t)
	report := cordon.Report{Machine: cordon.IDOfKey(pub), Action: "a", Generation: 7, State: cordon.ReportSucceeded}
	jws, err := Report(report, priv)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenReport(jws, pub); err != nil {
		t.Fatalf("the honest report is refused: %v", err)
	}
	if _, err := OpenReport(jws, other); cordon.CodeOf(err) != cordon.CodeUnverifiedEvidence {
		t.Errorf("another key: got %v", err)
	}
	if _, err := OpenOrder(jws, pub); cordon.CodeOf(err) != cordon.CodeUnverifiedEvidence {
		t.Errorf("a report passes as an order: %v", err)
	}
	parts := strings.Split(jws, ".")
	for i, part := range parts {
		raw, err := base64.RawURLEncoding.DecodeString(part)
		if err != nil {
			t.Fatal(err)
		}
		for j := range raw {
			raw[j] ^= 1
			changed := append([]string{}, parts...)
			changed[i] = base64.RawURLEncoding.EncodeToString(raw)
			raw[j] ^= 1
			if _, err := OpenReport(strings.Join(changed, "."), pub); err == nil {
				t.Fatalf("part %d with byte %d changed still verifies", i, j)
			}
		}
	}
}

func TestUnsignedIsRefused(t *testing.T) {
	pub, _ := newKey(t)
	enc := base64.RawURLEncoding.EncodeToString
	for name, header := range map[string]string{
		"none":  `{"alg":"none","typ":"cordon-order+jws"}`,
		"hmac":  `{"alg":"HS256","typ":"cordon-order+jws"}`,
		"crit":  `{"alg":"EdDSA","typ":"cordon-order+jws","crit":["x"],"x":1}`,
		"notyp": `{"alg":"EdDSA"}`,
	} {
		jws := enc([]byte(header)) + "." + enc([]byte(`{}`)) + "." + enc(make([]byte, 64))
		if _, err := OpenOrder(jws, pub); cordon.CodeOf(err) != cordon.CodeUnverifiedEvidence {
			t.Errorf("%s: got %v", name, err)
		}
	}
	if _, err := OpenOrder(strings.Repeat("a", MaxSize+1), pub); cordon.CodeOf(err) != cordon.CodeUnverifiedEvidence {
		t.Errorf("too long: got %v", err)
	}
}

func TestLongestOrderFits(t *testing.T) {
	pub, priv := newKey(t)
	for _, char := range []string{"<", "\x01", "\U0001f512"} {
		jws, err := Order(cordon.Order{Comment: strings.Repeat(char, cordon.MaxComment)}, priv)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenOrder(jws, pub); err != nil {
			t.Errorf("a comment of %d × %q (%d bytes): %v", cordon.MaxComment, char, len(jws), err)
		}
	}
}

func TestKeyRoundTrip(t *testing.T) {
	pub, _ := newKey(t)
	jwk, err := MarshalKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	back, err := PublicKey(jwk)
	if err != nil || !pub.Equal(back) {
		t.Fatalf("got %v, %v", back, err)
	}
	for _, bad := range []string{``, `{}`, `{"kty":"OKP","crv":"Ed25519","x":"AA"}`, `{"kty":"oct","k":"AAAA"}`} {
		if _, err := PublicKey([]byte(bad)); err == nil {
			t.Errorf("%q was taken for a key", bad)
		}
	}
}

func FuzzOpen(f *testing.F) {
	pub, priv := newKey(f)
	good, err := Order(cordon.Order{Machine: "m", Action: "a", Generation: 1}, priv)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("..")
	f.Add("eyJhbGciOiJFZERTQSJ9.e30.AA")
	f.Fuzz(func(t *testing.T, jws string) {
		if _, err := OpenOrder(jws, pub); err == nil && strings.TrimSpace(jws) != good {
			// Base64 may spell one signature in several ways; the content may not differ.
			if c, _ := ClaimedOrder(jws); c.Machine != "m" || c.Action != "a" || c.Generation != 1 {
				t.Fatalf("verified something never signed: %q", jws)
			}
		}
		_, _ = ProofSubject(jws)    // no panic
		_, _ = OpenReport(jws, pub) // no panic
	})
}
