#!/bin/sh
# Start a guest that Cuju can protect: the primary of a pair.
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The defaults below are the documented command line; all can be set from the
# environment, and arguments of this script are handed on to QEMU.
#
#   CUJU_QEMU     the emulator           (x86_64-softmmu/qemu-system-x86_64)
#   CUJU_IMG      raw disk image, the one value that must be given;
#                 "none" leaves the disk out
#   CUJU_READONLY on or off              (off)
#   CUJU_CACHE    cache mode of the disk (none)
#   CUJU_MEM      memory                 (1G)
#   CUJU_ACCEL    auto, kvm, tcg, or with options: kvm,dirty-ring-size=4096
#                                        (auto: scripts/accel decides)
#   CUJU_CPU      CPU model              (host with KVM, qemu64 without)
#   CUJU_TAP      tap interface          (tap0)
#   CUJU_TAP_SCRIPT  yes: QEMU runs /etc/qemu-ifup and -ifdown; no: it does not
#                                        (yes if /etc/qemu-ifup is there)
#   CUJU_NIC      NIC model              (virtio)
#   CUJU_MAC      the NIC's address      (ae:ae:00:00:00:25)
#   CUJU_VNC      VNC display, or "none" (localhost:0; ":0" opens it to the
#                 network, and it asks for no password)
#   CUJU_MONITOR  monitor socket         (vm1.monitor)
#   CUJU_KERNEL, CUJU_INITRD, CUJU_APPEND  boot this kernel directly
#   CUJU_EXTRA    more arguments, split at blanks
#
# recv.sh makes the backup's script from this one with sed: keep the defaults
# of the monitor, the tap and the display, and the line "incoming=", as they are.

set -eu

scripts=$(cd "$(dirname "$0")" && pwd)

die() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# A comma ends an option's value; two stand for one.
commas() {
    printf '%s\n' "$1" | sed 's/,/,,/g'
}

monitor=${CUJU_MONITOR:-vm1.monitor}
tap=${CUJU_TAP:-tap0}
vnc=${CUJU_VNC:-localhost:0}
incoming=

qemu=${CUJU_QEMU:-$scripts/../x86_64-softmmu/qemu-system-x86_64}
img=${CUJU_IMG:-}
mem=${CUJU_MEM:-1G}
accel=${CUJU_ACCEL:-auto}
nic=${CUJU_NIC:-virtio}
mac=${CUJU_MAC:-ae:ae:00:00:00:25}
kernel=${CUJU_KERNEL:-}
initrd=${CUJU_INITRD:-}
append=${CUJU_APPEND:-}

command -v "$qemu" >/dev/null ||
    die "$qemu is not there: run make first, or set CUJU_QEMU"

case $img in
'')
    die "set CUJU_IMG to the guest's disk image (raw), or to none"
    ;;
none)
    drive=
    ;;
*)
    [ -r "$img" ] || die "cannot read the image $img"
    drive=if=none,id=drive0,cache=${CUJU_CACHE:-none},format=raw
    drive=$drive,file=$(commas "$img")
    [ "${CUJU_READONLY:-off}" = off ] || drive=$drive,readonly=on
    ;;
esac

if [ "$accel" = auto ]; then
    accel=$(CUJU_QEMU=$qemu "$scripts/accel")
fi
cpu=${CUJU_CPU:-}
case $accel in
kvm)
    accel=-enable-kvm
    cpu=${cpu:-host}
    ;;
kvm,*)
    accel="-accel $accel"
    cpu=${cpu:-host}
    ;;
tcg)
    accel="-accel tcg,thread=multi"
    cpu=${cpu:-qemu64}
    ;;
tcg,*)
    accel="-accel $accel"
    cpu=${cpu:-qemu64}
    ;;
*)
    die "CUJU_ACCEL is \"$accel\": it can be auto, kvm or tcg"
    ;;
esac

tapnet=tap,ifname=$tap
case ${CUJU_TAP_SCRIPT:-auto} in
yes) ;;
no) tapnet=$tapnet,script=no,downscript=no ;;
*) [ -x /etc/qemu-ifup ] || tapnet=$tapnet,script=no,downscript=no ;;
esac

case $vnc in
none) display="-display none" ;;
*) display="-vnc $vnc" ;;
esac

# shellcheck disable=SC2086  # accel, display and CUJU_EXTRA are word lists
exec "$qemu" \
    ${drive:+-drive "$drive" -device virtio-blk,drive=drive0} \
    -m "$mem" \
    $accel \
    -net "$tapnet" \
    -net "nic,model=$nic,vlan=0,macaddr=$mac" \
    -cpu "$cpu" \
    -vga std \
    -chardev "socket,id=mon,path=$(commas "$monitor"),server,nowait" \
    -mon chardev=mon,id=monitor,mode=readline \
    $display \
    ${kernel:+-kernel "$kernel"} \
    ${initrd:+-initrd "$initrd"} \
    ${append:+-append "$append"} \
    ${incoming:+-incoming "$incoming"} \
    ${CUJU_EXTRA:-} \
    "$@"
