#!/bin/busybox sh
# One guest of the kernel matrix: says on the second serial port which hooks its kernel offers and how each test ended.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root SAKER_SKIPS=/tmp/skips
busybox mount -t proc none /proc
busybox mount -t sysfs none /sys
busybox mount -t devtmpfs none /dev
busybox mount -t tmpfs none /tmp
busybox mount -t tmpfs none /run
busybox mount -t cgroup2 none /sys/fs/cgroup
busybox ip link set lo up

report() {
    echo "@kernel $(busybox uname -r)"
    echo "@suite doctor"
    /saker/saker doctor --json
    echo "@ended doctor $?"
    : >$SAKER_SKIPS
    for suite in /saker/tests/*; do
        echo "@suite ${suite##*/}"
        "$suite" --test-threads=1 $(busybox sed 's/^/--skip /' /saker/left-out)
        echo "@ended ${suite##*/} $?"
    done
    echo "@suite skips"
    busybox cat $SAKER_SKIPS
    echo "@ended skips 0"
}
busybox stty -F /dev/ttyS1 -opost
# The port is drained when the last that has it open closes it, so that nothing is lost in the end.
report </dev/null >/dev/ttyS1 2>&1
busybox poweroff -f
