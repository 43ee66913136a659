package ratelimit

import (
	"net/netip"
	"slices"
	"strings"
)

// Address returns the address that a request comes from: that of the connection
// (host and port), unless a trusted proxy is at its other end. Then it is what
// that proxy has seen, the last entry of X-Forwarded-For, and so on as long as the
// entries are trusted proxies. What stands left of the first one that is not can
// be made up by anybody and is not looked at. It is the zero Addr if the
// connection has no IP address.
func Address(connection string, forwardedFor []string, proxies []netip.Prefix) netip.Addr {
	addr := parseAddress(connection)
	hops := strings.Split(strings.Join(forwardedFor, ","), ",")
	for _, hop := range slices.Backward(hops) {
		if !slices.ContainsFunc(proxies, func(p netip.Prefix) bool { return p.Contains(addr) }) {
			break
		}
		next := parseAddress(strings.TrimSpace(hop))
		if !next.IsValid() {
			break
		}
		addr = next
	}
	return addr
}

// parseAddress reads an address with or without a port, the zero Addr if it is
// none. Proxies also write an IPv6 address in brackets that has no port.
func parseAddress(s string) netip.Addr {
	addr, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(s, "["), "]"))
	if err != nil {
		withPort, err := netip.ParseAddrPort(s)
		if err != nil {
			return netip.Addr{}
		}
		addr = withPort.Addr()
	}
	return addr.Unmap().WithZone("")
}

// subscriber names whom an address belongs to: the address, or its /64.
func subscriber(a netip.Addr) string {
	if a = a.Unmap().WithZone(""); a.Is6() {
		return netip.PrefixFrom(a, 64).Masked().String()
	}
	return a.String()
}
