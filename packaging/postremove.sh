#!/bin/sh
set -e
[ ! -d /run/systemd/system ] || systemctl daemon-reload
# The machine's identity and the server's data go only with the configuration.
[ "$1" != purge ] || rm -rf /etc/cordon /var/lib/cordon-agent /var/lib/cordon /var/lib/private/cordon
