#!/bin/sh
# What proof.service runs in the guest: the parts that systemd is there for.
export PATH=/usr/local/bin:/usr/sbin:/usr/bin
part() {
    if [ "$2" -eq 0 ]; then echo "PART $1: ok"; else echo "PART $1: failed"; fi
}

cat /proc/self/cgroup
grep cgroup /proc/self/mountinfo
echo "controllers at the top before: $(cat /sys/fs/cgroup/cgroup.subtree_control)"
INSULA_TEST_ALL=1 /opt/proof/it --test-threads=2 --skip launch::node_runs
part service $?
echo "controllers at the top after: $(cat /sys/fs/cgroup/cgroup.subtree_control)"

# A unit to which systemd leaves its own subtree, as to any manager of containers.
systemd-run --quiet --wait --pipe --collect --unit=insula-container --property=Delegate=yes \
    unshare --cgroup --mount --propagation private /opt/proof/container

/opt/proof/platform
part platform $?

left=$(find /sys/fs/cgroup -name 'insula-test-*'; grep insula-test /proc/mounts; ls -d /tmp/.tmp* 2>/dev/null)
[ -z "$left" ]
part leftovers $?
[ -z "$left" ] || echo "$left"
systemctl poweroff --force --force
