#!/bin/sh
# dpkg calls this with "configure" and the version before (none at the first
# installation); rpm with how many versions are installed now.
set -e
case "$1" in
abort-*) exit 0 ;; # nothing was changed
configure) first=$([ -z "$2" ] && echo yes || true) ;;
*) first=$([ "$1" = 1 ] && echo yes || true) ;;
esac
[ ! -d /run/systemd/system ] || systemctl daemon-reload
if [ -e /usr/share/cordon/dnf.py ]; then
	# dnf 4 has plugins beside the Python that it runs on.
	for dnf in /usr/lib/python3*/*-packages/dnf; do
		[ ! -d "$dnf" ] || { mkdir -p "$dnf-plugins" && ln -sf /usr/share/cordon/dnf.py "$dnf-plugins/cordon.py"; }
	done
fi
if [ -n "$first" ]; then
	# It starts at the next boot, or by hand, once /etc/cordon/agent.env is there.
	systemctl enable cordon-agent.service >/dev/null 2>&1 || true
	exit 0
fi
[ -d /run/systemd/system ] || exit 0
# On a restricted machine the new program must be trusted before the agent that
# says so is replaced by it. Trust follows the package database in seconds.
tries=60
until /usr/bin/cordon version >/dev/null 2>&1; do
	tries=$((tries - 1))
	if [ "$tries" = 0 ]; then
		echo "cordon: the new program is refused on this machine. The agent that was running goes on; restart it with \"systemctl restart cordon-agent\" when \"cordon version\" works." >&2
		exit 0
	fi
	sleep 1
done
systemctl try-restart cordon-agent.service cordon-server.service
