#!/bin/bash
# PID 1 of a simulated host, in mount, PID, network, UTS and IPC namespaces of its own.
# boot.sh NAME DISK SHARED MAC ADDRESS,… SSHD [PATH…]: what is written anywhere goes to DISK; SHARED
# (or -) is where the rack's common folder appears; PATHs outside this host's own folders are shown.
set -euo pipefail
name=$1 disk=$2 shared=$3 mac=$4 addresses=$5 sshd=$6
shift 6
root=$disk/root

layer() { # LOWER NAME TARGET: LOWER as it is, and all changes to it on this host's disk
  mkdir -p "$disk/$2.upper" "$disk/$2.work" "$3"
  mount -t overlay overlay -o "lowerdir=$1,upperdir=$disk/$2.upper,workdir=$disk/$2.work" "$3"
}

hostname "$name"
layer / machine "$root"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/root"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mount -t proc proc "$root/proc"
mount -t sysfs -o ro sysfs "$root/sys"

mount -t tmpfs -o mode=755 tmpfs "$root/dev"
mkdir "$root/dev/pts" "$root/dev/shm"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
for device in null zero full random urandom tty; do
  touch "$root/dev/$device"
  mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s pts/ptmx "$root/dev/ptmx"
ln -s /proc/self/fd "$root/dev/fd"

number=0
for path in "$@"; do
  layer "$path" "shown$((number++))" "$root$path"
done
if [ "$shared" != - ]; then
  mkdir -p "$root$shared"
  mount --bind "$disk/../shared" "$root$shared"
fi

cd "$root"
pivot_root . .
umount -l .

until [ -e /sys/class/net/eth0 ]; do sleep 0.02; done # the cable is plugged in from outside
ip link set lo up
ip link set eth0 address "$mac" up
for address in ${addresses//,/ }; do ip address add "$address/32" dev eth0; done
ip route add default dev eth0 src "${addresses%%,*}" # every address is on this one network
mkdir -p /run/sshd
if [ "$sshd" = yes ]; then /usr/sbin/sshd -E /var/log/sshd.log; fi
touch /run/up
exec </dev/null
while :; do
  sleep 1d & # bash reaps the processes that lost their parents
  wait $! || true
done
