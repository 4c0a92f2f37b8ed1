#!/usr/bin/env bash
# The first process of a machine of the lab: it has its own process, mount, host name and IPC namespaces (and, but for
# the one that builds, its own network), puts this machine's disk where Docker looks for it, and starts one dockerd at
# the standard paths. Its end is the end of everything on the machine, as when the power goes.
#
#   machine.sh FOLDER NAME DOCKERD-OPTION...      FOLDER/disk is /var/lib/docker, FOLDER/run is /run
set -euo pipefail
folder=$1 name=$2
shift 2
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=$folder/home
hostname "$name"

mkdir -p "$folder"/{disk,run/lock,etc,home,log,cgroup}
mount --rbind /sys/fs/cgroup "$folder/cgroup"
mount -t proc proc /proc
mount -t sysfs sysfs /sys 2>/dev/null || true # with the host's network the one that is there is right
mount --rbind "$folder/cgroup" /sys/fs/cgroup
umount -l "$folder/cgroup"
mkdir -p /var/lib/docker /etc/docker
mount --bind "$folder/disk" /var/lib/docker
mount --bind "$folder/etc" /etc/docker
mount --bind "$folder/run" /run
if [ -e "$folder/resolv.conf" ]; then mount --bind "$folder/resolv.conf" "$(readlink -f /etc/resolv.conf)"; fi
if [ -e "$folder/hosts" ]; then mount --bind "$folder/hosts" /etc/hosts; fi
mount --make-rshared /

daemon() { exec setsid dockerd "$@" >>"$folder/log/dockerd.log" 2>&1 </dev/null; }
daemon "$@" &
echo $! >"$folder/run/daemon"
# Whoever has lost its parent comes here: wait for it. A dockerd that dies leaves the machine up.
while :; do
    wait || true
    sleep 1
done
