#!/bin/busybox sh
# The guest's first process: cgroup v2 alone, then the tests, then off.
export PATH=/usr/bin:/usr/sbin

if [ -z "$INSIDE" ]; then
    # pivot_root(2) refuses to work on the initial root, so lay another mount over it. It must lie
    # on the very root: setns(2) goes to the topmost mount there, not to a chroot.
    mount --bind / /r
    cd /r
    mount --move . /
    INSIDE=1 exec chroot . /init
fi

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts
mount -t tmpfs tmpfs /dev/shm
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
mount -t cgroup2 -o nsdelegate cgroup2 /sys/fs/cgroup
while read -r module; do
    insmod "/modules/$module" || echo "cannot load $module"
done </modules/order
ip link set lo up
hostname guest

. /environment
export HOME=/root PYTHONPATH PYTHONDONTWRITEBYTECODE=1
cd /skerry
python3 -m pytest -p guest_report -p no:cacheprovider -p no:schemathesis -q --tb=short --continue-on-collection-errors \
    @/tests </dev/null
echo "pytest ended with $?"
poweroff -f
