#!/bin/busybox sh
# The guest's first program. Containers need a root that can be pivoted away from, which the kernel's first file system is not:
# bind it over itself, go there, and start the program that this guest is for.
/bin/busybox mount --bind / /mnt && cd /mnt && /bin/busybox mount --move . / && exec /bin/busybox chroot . /saker/main
