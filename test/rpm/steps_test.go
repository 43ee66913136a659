package rpm

// A step is a script for the guest's root that has to end with 0, and what its
// output must have.
type step struct {
	name, script string
	want         []string
}

// prelude is what every script can use.
const prelude = `
export CORDON_PROFILE=/var/lib/cordon/bootstrap.json
now() { date +%T; }
fails() { if "$@"; then echo "this worked: $*"; exit 1; fi; }
denied() { "$@"; [ $? = 126 ]; } # the kernel says EPERM, for which the shell ends with 126
refused() { denied "$@" || { echo "this was not refused: $*"; exit 1; }; }
await() { for i in $(seq 240); do "$@" && return; sleep 0.5; done; echo "never came: $*"; exit 1; }
login() { ( echo 0 > /proc/self/loginuid && exec "$@" ); } # as from a person's shell
rpm() { login rpm "$@"; }
dnf() { login dnf --releasever=1 --disablerepo='*' --enablerepo=tests -y "$@"; }
`

// steps are taken one after the other. Without set -e each line that matters ends
// the script itself.
var steps = []step{
	{name: "restrict", script: `set -e
mkdir -p /etc/pki/rpm-gpg /etc/yum.repos.d
cp /srv/key.asc /etc/pki/rpm-gpg/RPM-GPG-KEY-tests
rpm --import /srv/key.asc
rpm -i /srv/base.rpm
rpm -i --nosignature /srv/cordon.rpm
test -e /usr/lib/python3/dist-packages/dnf-plugins/cordon.py
now; createrepo_c -q /srv/repo; now
printf '[tests]\nname=tests\nbaseurl=file:///srv/repo\ngpgcheck=1\ngpgkey=file:///etc/pki/rpm-gpg/RPM-GPG-KEY-tests\n' > /etc/yum.repos.d/tests.repo
cp /srv/busybox-own /root/busybox-own; /root/busybox-own echo runs
cordon restrict vm --comment "a test" --wait; now
cordon agent status > /run/status
cat /run/status
grep -q '^Restricted *yes' /run/status
# Where its programs do not load, the agent falls back, and these steps would be about fanotify.
grep -q '^Enforcer *bpf,' /run/status
grep -q '^Interpreters *trusted-scripts:' /run/status
refused /root/busybox-own
refused login perl -e 'print "EVIL"'
refused login python3 -c 'print("EVIL")'
# A program of one's own tries for as long as packages come and go.
setsid sh -c 'while sleep 3; do /root/busybox-own touch /run/own-ran; echo >> /run/own-tried; done' > /dev/null 2>&1 < /dev/null &
`, want: []string{"Succeeded"}},
	{name: "installed by rpm alone", script: `
now; rpm -i /srv/repo/busybox-plain-1.rpm || exit 1
now; await busybox-plain echo it runs
now; cp /usr/bin/busybox-plain /root/busybox-saved; /root/busybox-saved echo the same content runs || exit 1
cp /root/busybox-saved /root/busybox-changed; printf x >> /root/busybox-changed
refused /root/busybox-changed
# What its scriptlet starts is not trusted yet.
rpm -i /srv/repo/busybox-post-1.rpm; cat /run/busybox-post
await busybox-post echo and this
rpm -e busybox-post
rm /run/busybox-post
`, want: []string{"it runs", "the same content runs", "and this"}},
	{name: "admitted before", script: `set -e
cordon agent admit /srv/repo/busybox-post-1.rpm
rpm -i /srv/repo/busybox-post-1.rpm
cat /run/busybox-post
busybox-post echo at once
`, want: []string{"post of 1 ran", "at once"}},
	{name: "upgrade", script: `set -e
cordon agent admit /srv/repo/busybox-post-2.rpm
rpm -U /srv/repo/busybox-post-2.rpm
cat /run/busybox-post
busybox-post echo at once
rpm -q busybox-post
`, want: []string{"pre in Lua ran", "post of 2 ran", "code in words ran", "posttrans in Python, with its module, ran", "at once", "busybox-post-2-1"}},
	{name: "keys that count for nothing", script: `
cp /srv/late.asc /etc/pki/rpm-gpg/RPM-GPG-KEY-late
rpm --import /srv/late.asc || exit 1
fails cordon agent admit /srv/repo/busybox-late-1.rpm
fails cordon agent admit /srv/none/busybox-none-1.rpm
rpm -i /srv/repo/busybox-late-1.rpm || exit 1
rpm -i --nosignature /srv/none/busybox-none-1.rpm || exit 1
for name in late none; do
	told() { journalctl -u cordon-agent -o cat -n 300 | grep -q "program not trusted.*/usr/bin/busybox-$name"; }; await told
	refused busybox-$name
done
rpm -e busybox-late busybox-none
`, want: []string{"no signature of a key that this machine had when it was restricted"}},
	{name: "dnf", script: `
now; dnf install busybox-dnf || exit 1
now; cat /run/busybox-dnf; busybox-dnf echo at once || exit 1
fails dnf install --nogpgcheck busybox-late
fails rpm -q busybox-late
now
`, want: []string{"pre in Lua ran", "post of 1 ran", "code in words ran", "posttrans in Python, with its module, ran", "at once", "is not admitted to this restricted machine"}},
	{name: "erased", script: `
rpm -e busybox-plain || exit 1
gone() { denied /root/busybox-saved echo it still runs; }; await gone
cp /root/busybox-saved /usr/bin/busybox-plain; refused busybox-plain
cp /usr/bin/busybox-dnf /usr/bin/busybox-plain; printf x >> /usr/bin/busybox-plain; refused busybox-plain
[ -s /run/own-tried ] && [ ! -e /run/own-ran ] || exit 1
wc -l < /run/own-tried
refused /root/busybox-own
exit 0
`},
	{name: "Cordon itself stays", script: `
fails rpm -e cordon
rpm -q cordon && cordon agent status | grep '^Restricted'
`, want: []string{"is restricted", "cordon-1-1", "yes"}},
}
