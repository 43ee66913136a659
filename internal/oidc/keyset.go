package oidc

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
)

const (
	// RefreshEvery is how often at most an issuer is asked for a key that it did
	// not have the last time.
	RefreshEvery = 30 * time.Second
	// retryEvery is how often an issuer is asked that did not answer the last time.
	retryEvery = 10 * time.Second
	// fetchWithin bounds one fetching of keys, and with it how long a caller waits.
	fetchWithin = 10 * time.Second
	// How long keys count as new, and the bounds between which the issuer may say (max-age).
	freshDefault, freshLeast, freshMost = time.Hour, 5 * time.Minute, 24 * time.Hour
)

// keySet are the keys of one issuer, fetched when they are needed.
type keySet struct {
	issuer    string
	source    *source
	maxStale  time.Duration
	now       func() time.Time
	log       *slog.Logger
	refreshed func(issuer string, err error)
	ctx       context.Context // ends with the verifier
	work      *sync.WaitGroup

	mu      sync.Mutex
	keys    map[string][]jose.JSONWebKey // guarded by mu, as is what follows; by key id
	fetched time.Time                    // when the keys were had; zero: never
	stale   time.Time                    // from then on newer ones are looked for
	next    time.Time                    // not before then
	flight  chan struct{}                // closed when the fetching that is under way has ended; nil: none is
	failed  error                        // why the last fetching failed
}

// lookup returns the keys of an id, of which there should be one. It waits for
// the issuer only if there is none in what is here. Its error is of kind
// Unauthenticated.
func (k *keySet) lookup(ctx context.Context, id string) ([]jose.JSONWebKey, error) {
	for asked := false; ; asked = true {
		keys, flight, failed := k.look(id)
		switch {
		case len(keys) > 0:
			return keys, nil
		case flight == nil || asked:
			if failed != nil {
				return nil, refuse("the keys of "+k.issuer+" cannot be had at the moment, try again later", failed)
			}
			return nil, refuse("the token is signed with a key that "+k.issuer+" does not have", nil)
		}
		select {
		case <-flight:
		case <-ctx.Done():
			return nil, refuse("the keys of "+k.issuer+" were not there in time", ctx.Err())
		}
	}
}

// look returns the keys of an id and, if there may be newer ones to be had, the
// fetching of them. failed is why there are none to be trusted.
func (k *keySet) look(id string) (keys []jose.JSONWebKey, flight <-chan struct{}, failed error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	if !k.fetched.IsZero() && now.Before(k.fetched.Add(k.maxStale)) {
		keys = k.keys[id]
	}
	if len(keys) > 0 && now.Before(k.stale) {
		return keys, nil, nil
	}
	if k.flight == nil && !now.Before(k.next) && k.ctx.Err() == nil {
		k.flight = make(chan struct{})
		k.work.Go(k.refresh)
	}
	if k.flight == nil {
		return keys, nil, k.failed
	}
	return keys, k.flight, k.failed
}

// refresh fetches the keys. What was there before stays if that fails.
func (k *keySet) refresh() {
	ctx, cancel := context.WithTimeout(k.ctx, k.source.within)
	keys, fresh, err := k.source.fetch(ctx)
	cancel()
	k.refreshed(k.issuer, err)

	// Told before those who wait go on: what they see is in the log by then.
	k.mu.Lock()
	before, until := k.failed, k.until() // nobody else changes them
	k.mu.Unlock()
	switch {
	case err != nil && before == nil && k.ctx.Err() == nil:
		k.log.Warn("an issuer's keys cannot be had", "issuer", k.issuer, "err", err, "last_keys_until", until)
	case err == nil && before != nil:
		k.log.Info("an issuer's keys can be had again", "issuer", k.issuer)
	}
	k.land(keys, fresh, err)
}

// land takes over what a fetching has brought and lets those go on who wait for it.
func (k *keySet) land(keys map[string][]jose.JSONWebKey, fresh time.Duration, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.now()
	k.failed = err
	if k.next = now.Add(retryEvery); err == nil {
		k.keys, k.fetched, k.stale, k.next = keys, now, now.Add(fresh), now.Add(RefreshEvery)
	}
	close(k.flight)
	k.flight = nil
}

// until says how long the keys that are here are good for. The caller holds mu.
func (k *keySet) until() string {
	if k.fetched.IsZero() {
		return "there are none"
	}
	return k.fetched.Add(k.maxStale).UTC().Format(time.RFC3339)
}

// settle returns when no fetching can begin any more. The context has ended before.
func (k *keySet) settle() {
	k.mu.Lock()
	defer k.mu.Unlock()
}
