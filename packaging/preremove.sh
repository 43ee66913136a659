#!/bin/sh
# dpkg calls this with "remove" or "upgrade"; rpm with how many versions stay.
set -e
case "$1" in
remove | 0) ;;
*) exit 0 ;;
esac
# Says why, and fails, while the machine is restricted.
/usr/bin/cordon agent check-removal
[ -d /run/systemd/system ] || exit 0
systemctl disable --now cordon-agent.service cordon-server.service
# An agent that did not end in order leaves its programs in the kernel, where they
# judge nothing on a machine that is not restricted.
rm -rf /sys/fs/bpf/cordon
