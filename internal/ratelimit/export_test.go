package ratelimit

// Proved returns how many pairs a guard remembers.
func Proved(g *Guard) int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.proved)
}
