#!/bin/sh
# Insula itself, in the unit that docs/operators.md recommends: an app outlives a restart and a stop
# of the service, in groups of its own, and `insula down` leaves nothing.
set -eu
fail() {
    echo "platform: $1"
    systemctl status --no-pager --lines=40 --full insula.service || true
    systemctl kill --signal=KILL insula.service || true
    exit 1
}
# One request to the app, as a visitor would make it.
visit() {
    python3 -c '
import http.client, sys
c = http.client.HTTPConnection("127.0.0.1", 8080, timeout=30)
c.request("GET", "/", headers={"Host": sys.argv[1]}); r = c.getresponse()
print(r.status, r.read(20).decode()); sys.exit(r.status != 200)' "$1"
}
up() {
    for _ in $(seq 60); do
        if insula apps >/run/said 2>&1; then return; fi
        systemctl is-active --quiet insula.service || fail "the service has ended"
        sleep 1
    done
    cat /run/said
    fail "the API does not answer"
}

systemctl start insula.service
up
insula deploy --yes /opt/proof/python 2>&1 | tee /run/deployed
host=$(grep -o 'http://[^ /]*' /run/deployed | head -1 | sed 's,http://,,')
[ -n "$host" ] || fail "no URL"
visit "$host" || fail "the app does not answer"

app=$(grep -laz '^main.py$' /proc/[0-9]*/cmdline | head -1 | cut -d/ -f3)
[ -n "$app" ] || fail "the app is no process"
place=$(cat "/proc/$app/cgroup")
echo "the app is in $place"
case "$place" in
    *.slice/* | *.service*) fail "the app is in a unit" ;;
esac
group="/sys/fs/cgroup${place#0::}"
limits() { cat "$group/memory.max" "$group/cpu.max" "$group/pids.max"; }
before=$(limits)
echo "its limits: $(echo "$before" | tr '\n' ';')"
[ "$(cat "$group/memory.max")" != max ] || fail "no memory limit"
[ "$(cat "$group/memory.swap.max")" = 0 ] || fail "the app may swap"
[ "$(cat "$group/memory.oom.group")" = 1 ] || fail "the app does not end as a whole"

systemctl restart insula.service
up
[ "$(cat "/proc/$app/cgroup")" = "$place" ] || fail "the app did not outlive a restart"
visit "$host" || fail "the app does not answer after a restart"

systemctl stop insula.service
systemctl daemon-reload
systemd-run --quiet --wait --property=CPUWeight=50 true
[ "$(cat "/proc/$app/cgroup")" = "$place" ] || fail "the app did not outlive a stop"
[ "$(limits)" = "$before" ] || fail "the limits have changed"

insula down || fail "down"
[ ! -e "/proc/$app" ] || fail "the app outlived insula down"
left=$(find /sys/fs/cgroup -maxdepth 2 -name 'insula-*' ! -name 'insula*.service')
[ -z "$left" ] || fail "groups are left: $left"
