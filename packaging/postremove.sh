#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
# The machine's identity and the server's data go only with the configuration.
[ "$1" != purge ] || rm -rf /etc/cordon /var/lib/cordon-agent /var/lib/cordon /var/lib/private/cordon
# The plugin itself is gone with the last package that brought it.
[ -e /usr/share/cordon/dnf.py ] || rm -f /usr/lib/python3*/*-packages/dnf-plugins/cordon.py
