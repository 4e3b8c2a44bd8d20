#!/bin/sh
# A container's view inside our unit: its own group is the top of all that it sees.
export INSULA_TEST_ALL=1
umount /sys/fs/cgroup && mount -t cgroup2 cgroup2 /sys/fs/cgroup || exit 1
cat /proc/self/cgroup

# This shell stands in the top group, so nothing below may have controllers.
said=$(/opt/proof/it limit::the_cpu_limit --test-threads=1 2>&1)
case "$said" in
    *Crowded*) echo "PART crowded: ok" ;;
    *) echo "$said"; echo "PART crowded: failed" ;;
esac

mkdir /sys/fs/cgroup/init
echo $$ > /sys/fs/cgroup/init/cgroup.procs
if /opt/proof/it limit:: launch::a_frozen remains::many_launches --test-threads=2; then
    echo "PART container: ok"
else
    echo "PART container: failed"
fi
