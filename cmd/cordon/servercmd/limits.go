package servercmd

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cordon-project/cordon"
	"github.com/cordon-project/cordon/internal/config"
	"github.com/cordon-project/cordon/internal/mdeapi"
	"github.com/cordon-project/cordon/internal/ratelimit"
)

// limits holds clients to their limits, and keeps across restarts who has used
// up what.
type limits struct {
	tenant  string
	proxies []netip.Prefix
	table   *ratelimit.Table
	calls   *ratelimit.Limiter
	guard   *ratelimit.Guard
	store   cordon.Store
	log     *slog.Logger

	mu    sync.Mutex // one save at a time
	saved map[string]uint64
	// memories are apart, by the setting that each is saved as: whoever fills the
	// one for guesses with addresses takes no room from applications.
	memories map[string]*ratelimit.Memory
}

const (
	callRoom  = 16 << 10 // keys: two for each application and API
	guessRoom = 16 << 10 // keys: two for each address with wrong secrets in the last minute
	// saveLimitsEvery bounds what a crash forgets, see ratelimit.Memory.Export.
	saveLimitsEvery = 5 * time.Second
)

// limitTable returns the limits that the configuration sets.
func limitTable(c config.Server) (*ratelimit.Table, error) {
	rules := make([]ratelimit.Rule, len(c.Limits))
	known := mdeapi.APIs()
	for i, l := range c.Limits {
		if l.API != "" && !slices.ContainsFunc(known, func(word string) bool { return strings.EqualFold(word, l.API) }) {
			return nil, fmt.Errorf("limit %d: there is no api %q, known are %s", i+1, l.API, strings.Join(known, ", "))
		}
		rules[i] = ratelimit.Rule{Application: l.Application, API: l.API}
		if l.PerMinute != 0 {
			rules[i].Limits = append(rules[i].Limits, ratelimit.Limit{Burst: l.PerMinute, Period: time.Minute})
		}
		if l.PerHour != 0 {
			rules[i].Limits = append(rules[i].Limits, ratelimit.Limit{Burst: l.PerHour, Period: time.Hour})
		}
	}
	return ratelimit.NewTable(rules...)
}

func openLimits(ctx context.Context, c config.Server, store cordon.Store, tenant string, log *slog.Logger) (*limits, error) {
	table, err := limitTable(c)
	if err != nil {
		return nil, err
	}
	calls, guesses := ratelimit.NewMemory(time.Now, callRoom), ratelimit.NewMemory(time.Now, guessRoom)
	l := &limits{
		tenant: tenant, proxies: c.TrustedProxies, table: table, store: store, log: log,
		calls: &ratelimit.Limiter{Store: calls}, guard: ratelimit.NewGuard(&ratelimit.Limiter{Store: guesses}),
		memories: map[string]*ratelimit.Memory{"limits.calls": calls, "limits.guesses": guesses},
		saved:    make(map[string]uint64),
	}
	for name, m := range l.memories {
		data, err := store.Setting(ctx, name)
		if cordon.KindOf(err) == cordon.NotFound {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("load limits: %w", err)
		}
		if err := m.Import(data); err != nil {
			log.WarnContext(ctx, "the limits begin anew: what was saved cannot be read", "setting", name, "err", err)
		}
		l.saved[name] = m.Version()
	}
	return l, nil
}

// call charges a call to an API.
func (l *limits) call(ctx context.Context, c cordon.Caller, api string) error {
	v, err := l.calls.Take(ctx, l.table.Buckets(l.tenant, c.Program(), api)...)
	return refusal(v, err, "API calls quota exceeded! maximum allowed "+v.Limit.String())
}

// guess lets try look at the credentials of a client, unless there were too many wrong ones.
func (l *limits) guess(r *http.Request, client string, try func() (right bool, err error)) error {
	v, err := l.guard.Try(r.Context(), client, l.from(r), try)
	return refusal(v, err, "Too many wrong credentials")
}

// from is the address that a request comes from.
func (l *limits) from(r *http.Request) netip.Addr {
	return ratelimit.Address(r.RemoteAddr, r.Header.Values("X-Forwarded-For"), l.proxies)
}

// address is from in words.
func (l *limits) address(r *http.Request) string { return l.from(r).String() }

func refusal(v ratelimit.Verdict, err error, message string) error {
	if err != nil || v.Allowed {
		return err
	}
	return &cordon.Error{Kind: cordon.Limited, Message: message, RetryAfter: ratelimit.WholeSeconds(v.RetryAfter)}
}

// keep saves the limits, and says if it cannot.
func (l *limits) keep(ctx context.Context) {
	if err := l.save(ctx); err != nil && ctx.Err() == nil {
		l.log.ErrorContext(ctx, "limits could not be saved", "err", err)
	}
}

// save stores what has changed since the last time.
func (l *limits) save(ctx context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	values, versions := make(map[string][]byte), make(map[string]uint64)
	for name, m := range l.memories {
		if m.Version() != l.saved[name] {
			values[name], versions[name] = m.Export()
		}
	}
	if len(values) == 0 {
		return nil
	}
	if err := l.store.PutSettings(ctx, values); err != nil {
		return fmt.Errorf("save limits: %w", err)
	}
	for name, v := range versions {
		l.saved[name] = v
	}
	return nil
}
