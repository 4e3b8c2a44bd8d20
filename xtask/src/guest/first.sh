#!/bin/sh
# The first process of the guest. Proves what holds without a service manager, then becomes systemd.
export PATH=/usr/sbin:/usr/bin INSULA_TEST_ALL=1
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmpfs /run
mount -t tmpfs tmpfs /dev/shm 2>/dev/null || { mkdir /dev/shm; mount -t tmpfs tmpfs /dev/shm; }
mount -t cgroup2 cgroup2 /sys/fs/cgroup
exec </dev/ttyS0 >/dev/ttyS0 2>&1

# More than the memory hog of the tests asks for: only a limit on swap, too, ends it.
fallocate -l 256M /swap && chmod 600 /swap && mkswap /swap >/dev/null && swapon /swap ||
    echo "PART root: failed (no swap)"

/opt/proof/it limit:: launch::a_frozen launch::one_id remains::many_launches --test-threads=2
if [ $? -eq 0 ]; then echo "PART root: ok"; else echo "PART root: failed"; fi

# systemd finds the groups as the kernel made them.
echo "-cpu -memory -pids" > /sys/fs/cgroup/cgroup.subtree_control
exec </dev/null >/dev/null 2>&1
umount /sys/fs/cgroup /dev/shm /run
exec /usr/lib/systemd/systemd
