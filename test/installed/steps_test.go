package installed

import (
	"strconv"

	"github.com/cordon-project/cordon/internal/testkit/vm/channel"
)

// A step is a script for the guest's root that has to end with 0, and what its
// output must have.
type step struct {
	name, script string
	want         []string
	kernel       string // alone; empty: on every one
}

// prelude is what every script can use.
const prelude = `
export CORDON_PROFILE=/var/lib/cordon/bootstrap.json DEBIAN_FRONTEND=noninteractive
fails() { if "$@"; then echo "this worked: $*"; exit 1; fi; }
refused() { # the kernel says EPERM, for which the shell ends with 126
	"$@"; s=$?
	[ $s = 126 ] || { echo "status $s, not 126: $*"; exit 1; }
}
restricted() { cordon agent status | grep -q '^Restricted *yes'; }
# watch_gap tries to run a program of one's own all the time, until no_gap, which
# says whether it ever ran.
watch_gap() {
	rm -f /run/gap /run/tries
	(while [ ! -e /run/gap-end ]; do /root/busybox-own touch /run/gap; echo >> /run/tries; sleep 1; done) 2>/dev/null & watcher=$!
}
no_gap() {
	touch /run/gap-end; wait $watcher; rm /run/gap-end
	[ ! -e /run/gap ] || { echo "a program of one's own ran"; exit 1; }
	n=$(wc -l < /run/tries); echo "$n attempts were refused"; [ "$n" -gt 2 ] || exit 1
}
connected() { cordon agent status | grep -q 'connected by'; }
await() { for i in $(seq 240); do "$@" && return; sleep 0.5; done; echo "never came: $*"; exit 1; }
# executor says whether the first process starts services through a program that was replaced.
executor() { ls -l /proc/1/fd | grep -q 'systemd-executor (deleted)'; }
# login opens a terminal, as a person has over ssh. What it shows is in the file.
login() {
	systemd-run -q -p StandardOutput=file:"$1" sh -c 'sleep infinity | ssh -tt -o StrictHostKeyChecking=no user@localhost'
	await test -s "$1"
	known() { loginctl list-sessions --no-legend | grep -qw user; }; await known
}
`

// steps are taken before the reboot. Without set -e each line that matters ends
// the script itself.
var steps = []step{
	{name: "install", script: `set -e
rm -f /etc/apt/sources.list # there is no network
cp /srv/key.asc /usr/share/keyrings/tests.asc
echo "deb [signed-by=/usr/share/keyrings/tests.asc] copy:/srv/repo ./" > /etc/apt/sources.list.d/tests.list
apt-get update
apt-get install -y cordon=1.0.0
hash=$(sha256sum ` + channel.GuestProgram + `); umask 077
echo "sha256 ${hash%% *} the harness" > /etc/cordon/trust.rules
systemctl enable -q --now cordon-server
await test -s $CORDON_PROFILE
cp /var/lib/cordon/ca.crt /etc/cordon/
{ echo CORDON_SERVER=https://localhost:8443; echo CORDON_CA_FILE=/etc/cordon/ca.crt
sed -n 's/.*"enrollmentToken": "\(.*\)".*/CORDON_ENROLLMENT_TOKEN=\1/p' $CORDON_PROFILE; } > /etc/cordon/agent.env
systemctl start cordon-agent
enrolled() { cordon machines list | grep -qw vm; }; await enrolled
`},
	{name: "restrict", script: `
# What a person has: a program of one's own, a key, sudo, a cron job. And a unit
# as early as a service can be.
cp /srv/busybox-own /root/busybox-own; /root/busybox-own echo runs || exit 1
mkdir -p /root/.ssh; ssh-keygen -q -t ed25519 -N '' -f /root/.ssh/id_ed25519
install -d -o user -g user -m 700 /home/user/.ssh
install -o user -g user -m 600 /root/.ssh/id_ed25519.pub /home/user/.ssh/authorized_keys
echo 'user ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/tests
echo '* * * * * root touch /run/cron-ran' > /etc/cron.d/tests
printf '[Unit]\nDefaultDependencies=no\nAfter=sysinit.target\nBefore=basic.target\n[Service]\nType=oneshot\nExecStart=/root/busybox-own touch /run/early-ran\n[Install]\nWantedBy=basic.target\n' > /etc/systemd/system/early.service
systemctl enable -q early.service
login /run/shown # beside an agent that hashes the whole machine
cordon restrict vm --comment "a test" --wait && restricted || exit 1
refused /root/busybox-own
cordon agent status | grep '^Enforcer'
systemd-analyze security cordon-agent --no-pager | tail -1
`, want: []string{"Succeeded", "bpf, scope host"}},
	{name: "people are told", script: `
told() { grep -aqF "Cordon: $1" /run/shown; }
await told 'This machine is restricted.'
await told 'A program was refused. "/root/busybox-own" is not trusted'
# A name may be meant for the terminal.
evil="/home/user/$(printf 'e\033[31mvil')"
cp /root/busybox-own "$evil"; refused su user -c "$evil"
await told 'A program was refused. "/home/user/e\x1b[31mvil" is not trusted'
grep -a Cordon: /run/shown
`, want: []string{"restricted"}},
	{name: "signed package", script: `
apt-get install -y busybox-t=1 || exit 1
cat /run/t-pre /run/t-post
busybox-t echo at once
refused /root/busybox-own
exit 0
`, want: []string{"preinst of 1", "postinst ran 1", "at once"}},
	{name: "many packages", script: `
apt-get install -y $(seq -f many-%g=1 ` + strconv.Itoa(many) + `) > /run/apt || { cat /run/apt; exit 1; }
sort -u /run/many-1 | wc -l
`, want: []string{strconv.Itoa(many)}},
	{name: "unsigned package", script: `
fails dpkg -i /srv/busybox-e_1_amd64.deb
fails apt-get install -y /srv/busybox-e_1_amd64.deb
echo /srv/busybox-e_1_amd64.deb | fails cordon agent admit -
cp /srv/busybox-e_1_amd64.deb /var/cache/apt/archives/busybox-t_1_amd64.deb
fails cordon agent admit /var/cache/apt/archives/busybox-t_1_amd64.deb
[ ! -e /usr/bin/busybox-e ] || exit 1
# Past the hook, scripts and programs are refused all the same, also when dpkg's
# database has them.
mv /etc/dpkg/dpkg.cfg.d/cordon /root/hook
dpkg -i /srv/busybox-f_1_amd64.deb || exit 1
told() { journalctl -u cordon-agent -o cat | grep -q 'program not trusted.*/usr/bin/busybox-f'; }; await told
refused busybox-f echo no
fails dpkg -i /srv/busybox-e_1_amd64.deb
[ ! -e /run/e-pre ] && [ ! -e /usr/bin/busybox-e ] || exit 1
mv /root/hook /etc/dpkg/dpkg.cfg.d/cordon
# A place makes nothing trusted.
mkdir -p /var/lib/dpkg/tmp.ci /home/user/DEBIAN
for dir in /var/lib/dpkg/tmp.ci /var/lib/dpkg/info /home/user/DEBIAN /var/cache/apt/archives; do
	cp /root/busybox-own $dir/preinst; refused $dir/preinst
done
refused su user -c /home/user/DEBIAN/preinst
rm -r /var/lib/dpkg/tmp.ci /var/lib/dpkg/info/preinst
# Nor does root, by a rule.
for f in /srv/busybox-e_1_amd64.deb /root/busybox-own; do
	hash=$(sha256sum $f); echo "sha256 ${hash%% *}" >> /etc/cordon/trust.rules
done
withheld() { journalctl -u cordon-agent -o cat | grep -q 'program not trusted.*'${hash%% *}; }; await withheld
refused /root/busybox-own
fails cordon agent admit /srv/busybox-e_1_amd64.deb
sed -i '$d' /etc/cordon/trust.rules; sed -i '$d' /etc/cordon/trust.rules
`, want: []string{"cordon trust add "}},
	{name: "an archive that the server trusts", script: `set -e
hash=$(sha256sum /srv/busybox-e_1_amd64.deb)
cordon trust add ${hash%% *} --machine vm --comment "a test"
await cordon agent admit /srv/busybox-e_1_amd64.deb
dpkg -i /srv/busybox-e_1_amd64.deb
busybox-e echo by the server
dpkg -P busybox-e busybox-f
`, want: []string{"by the server"}},
	// systemd 255 and newer opens it when it begins. The next agent does not forget it.
	{name: "what starts services is replaced", kernel: "6.12", script: `set -e
path=/usr/lib/systemd/systemd-executor; dir=/root/executor
mkdir -p $dir/DEBIAN $dir${path%/*}
cp -p $path $dir$path; printf x >> $dir$path
printf '%s\n' 'Package: executor-t' 'Version: 1' 'Architecture: amd64' 'Maintainer: tests <tests@localhost>' 'Replaces: systemd' 'Description: another executor' > $dir/DEBIAN/control
dpkg-deb -Znone -b $dir /root/executor.deb
hash=$(sha256sum /root/executor.deb)
cordon trust add ${hash%% *} --machine vm --comment "a test"
await cordon agent admit /root/executor.deb
dpkg -i /root/executor.deb
executor
`},
	{name: "upgrade", script: `
[ "$(cordon version)" = "cordon 1.0.0" ] || exit 1
before=$(systemctl show -P MainPID cordon-agent)
watch_gap
apt-get upgrade -y || exit 1
sort -u /run/many-2 | wc -l
[ "$(cordon version)" = "cordon 1.1.0" ] || exit 1
[ "$(systemctl show -P MainPID cordon-agent)" != "$before" ] || exit 1
await restricted
no_gap
# The old agent still starts what it tells people with.
fails sh -c "journalctl -u cordon-agent -o cat | grep 'program refused.*cordon (deleted)'"
cat /run/t-post; busybox-t echo new
refused /root/busybox-own
# What it brought runs at once in a login, too.
ssh -o StrictHostKeyChecking=no user@localhost many-7
`, want: []string{"postinst ran 2", "new", "\n" + strconv.Itoa(many) + "\n", "many-7 is 2"}},
	{name: "services are started all the same", kernel: "6.12", script: `
agent=$(systemctl show -P MainPID cordon-agent)
loaded() { journalctl -o cat _PID=$agent | grep -A 99 'trust set built' | grep -q 'trust set loaded'; }; await loaded
executor || exit 1
systemctl restart cron || exit 1
systemctl daemon-reexec
await systemctl is-active -q dbus
fails executor
systemctl restart cron
`},
	{name: "nobody is locked out", script: `set -e
ssh -o StrictHostKeyChecking=no user@localhost 'sudo -n id -u; sudo -n journalctl -n 1 -q --no-pager >/dev/null && hostname' > /tmp/ssh
grep -qx 0 /tmp/ssh; grep -qx vm /tmp/ssh
systemctl start apt-daily.service apt-daily-upgrade.service logrotate.service
await test -e /run/cron-ran
`},
	{name: "interpreters", script: `
cordon agent status | grep '^Interpreters'
# In a login they run what is trusted.
ssh user@localhost '
/usr/sbin/adduser --version && py3versions -d || exit 1
echo "echo this ran" > x.sh; echo "print(1)" > x.py
for c in "sh x.sh" "python3 x.py" "python3 -c 1" "perl -e 1" "sudo -n perl -e 1"; do $c && exit 1; done
exit 0'
`, want: []string{"trusted-scripts"}},
	{name: "kernel modules", script: `
modprobe dummy || exit 1
grep -q '^dummy ' /proc/modules || exit 1
rmmod dummy
# It was changed: the same code, with one byte more.
cp $(modinfo -n dummy) /root/; for m in /root/dummy.ko*; do printf x >> $m; fails insmod $m; done
fails grep '^dummy ' /proc/modules
`},
	{name: "removal is refused", script: `
before=$(systemctl show -P MainPID cordon-agent)
fails apt-get remove -y cordon
[ "$(systemctl show -P MainPID cordon-agent)" = $before ] && restricted
`, want: []string{"this machine is restricted", "unrestrict it first"}},
	{name: "the agent cannot be stopped", script: `
pid=$(systemctl show -P MainPID cordon-agent)
for sig in STOP KILL; do fails kill -$sig $pid; done
group=/sys/fs/cgroup/system.slice/cordon-agent.service
for file in cgroup.freeze cgroup.kill; do fails sh -c "echo 1 > $group/$file"; done
fails rm -r /sys/fs/bpf/cordon
fails rm /var/lib/cordon-agent/state.json
[ "$(systemctl show -P MainPID cordon-agent)" = $pid ] && restricted || exit 1
# The service manager can, and nothing is let go. The reboot starts it again.
systemctl stop cordon-agent
fails kill -0 $pid
refused /root/busybox-own
exit 0
`},
}

// last are the steps after the reboot.
var last = []step{
	{name: "release", script: `
await restricted
refused /root/busybox-own
await connected
login /run/shown
cordon unrestrict vm --comment "a test" --wait || exit 1
/root/busybox-own echo runs
told() { grep -a 'Cordon: This machine is not restricted any more\.' /run/shown; }; await told
`, want: []string{"Succeeded", "runs"}},
	// Without a restriction nobody keeps root from it. With a guardian it is that which
	// ends the agent, else the service manager's watchdog.
	{name: "a frozen agent is replaced", kernel: "6.12", script: `
frozen() {
	before=$(systemctl show -P MainPID cordon-agent)
	echo 1 > /sys/fs/cgroup/system.slice/cordon-agent.service/cgroup.freeze || exit 1
	other() { now=$(systemctl show -P MainPID cordon-agent); [ "$now" != "$before" ] && [ "$now" != 0 ]; }; await other
	await connected
}
frozen
mkdir /etc/systemd/system/cordon-agent.service.d
printf '[Service]\nExecStart=\nExecStart=/usr/bin/cordon agent run --enforcer none\n' > /etc/systemd/system/cordon-agent.service.d/none.conf
systemctl daemon-reload && systemctl restart cordon-agent && await connected
frozen
journalctl -u cordon-agent -o cat | grep "'stop-watchdog' timed out"
systemctl show -P TimeoutAbortUSec cordon-agent
`, want: []string{"timed out", "10s"}},
	// With fanotify the agent's own process answers, so its end lets go for a moment.
	{name: "fanotify", kernel: "6.1", script: `
mkdir /etc/systemd/system/cordon-agent.service.d
printf '[Service]\nExecStart=\nExecStart=/usr/bin/cordon agent run --enforcer fanotify\n' > /etc/systemd/system/cordon-agent.service.d/fanotify.conf
systemctl daemon-reload && systemctl restart cordon-agent && await connected
cordon agent status | grep '^Enforcer'
cordon restrict vm --comment "a test" --wait && restricted || exit 1
refused /root/busybox-own
apt-get install -y --allow-downgrades busybox-t=1 || exit 1
busybox-t echo at once
pid() { systemctl show -P MainPID cordon-agent; }
for stop in 'kill -STOP $before' 'echo 1 > /sys/fs/cgroup/system.slice/cordon-agent.service/cgroup.freeze'; do
	before=$(pid); eval "$stop" || exit 1
	other() { now=$(pid); [ "$now" != "$before" ] && [ "$now" != 0 ]; }; await other
	await restricted
	refused /root/busybox-own
done
await connected
cordon unrestrict vm --comment "a test" --wait
`, want: []string{"fanotify", "postinst ran 1", "at once"}},
	{name: "removal", script: `
apt-get remove -y cordon || exit 1
fails systemctl is-active -q cordon-agent
apt-get install -y --reinstall busybox-t || exit 1
apt-get purge -y cordon || exit 1
for path in /sys/fs/bpf/cordon /etc/cordon /var/lib/cordon /var/lib/cordon-agent /etc/apt/apt.conf.d/05cordon /usr/bin/cordon; do
	[ ! -e $path ] || { echo "$path stays behind"; exit 1; }
done
[ ! -e /lib/systemd/system/cordon-agent.service ]
`},
}
