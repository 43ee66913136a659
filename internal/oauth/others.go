package oauth

import (
	"context"

	"github.com/cordon-project/cordon"
)

// identify returns whom a token names: an application of this server, or whom
// Config.Others knows. Those are not asked about a token that this server has
// signed, whatever is wrong with it: no issuer can speak for ours.
func (s *Server) identify(ctx context.Context, token string) (cordon.Caller, error) {
	caller, err := s.Verify(ctx, token)
	if err == nil || s.Others == nil || len(token) > maxToken {
		return caller, err
	}
	set, broken := s.keySet()
	if broken != nil {
		return caller, err
	}
	if _, foreign := set.read(token); foreign == nil {
		return caller, err
	}
	if other, known, refused := s.Others(ctx, token); known {
		return other, refused
	}
	return caller, err
}
