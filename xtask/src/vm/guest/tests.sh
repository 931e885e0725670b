#!/bin/busybox sh
# Runs every test program of the guest. Its output goes to the second serial port; lines with an @ divide it.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root SAKER_BIN_DIR=/saker SAKER_SKIPS=/tmp/skips
busybox stty -F /dev/ttyS1 -opost
echo "@kernel $(busybox uname -r)"
echo "@suite doctor"
/saker/saker doctor --json
echo "@ended doctor $?"
: >$SAKER_SKIPS
for suite in /saker/tests/*; do
    echo "@suite ${suite##*/}"
    # Unquoted: they are arguments, none of which has a blank.
    "$suite" --test-threads=1 $(busybox cat /saker/arguments)
    echo "@ended ${suite##*/} $?"
done
echo "@suite skips"
busybox cat $SAKER_SKIPS
echo "@ended skips 0"
