#!/bin/sh
# Put a running guest under protection and wait until it is.
# SPDX-License-Identifier: GPL-2.0-or-later
#
# Run it on the primary's host. It ends with 0 when the guest is protected, else
# with 1 and the reason.
#
#   CUJU_MONITOR     the primary's monitor socket  (vm1.monitor)
#   CUJU_BACKUP_URI  where the backup listens      (tcp:192.168.111.2:4441)
#   CUJU_FT_OPTIONS  what "migrate -c" takes behind that address, with commas:
#                    replicated, copy=, flush= for the disks;
#                    arbiter=file:DIR, arbiter=etcd:URL[,URL...] or
#                    arbiter=none  (nothing: disks and arbiter by the image
#                    that both hosts have)
#   CUJU_FT_WAIT     seconds to wait at most       (600)
#
# The -U of nc is netcat-openbsd's.

set -eu

monitor=${CUJU_MONITOR:-vm1.monitor}
uri=${CUJU_BACKUP_URI:-tcp:192.168.111.2:4441}
uri=$uri${CUJU_FT_OPTIONS:+,$CUJU_FT_OPTIONS}
limit=${CUJU_FT_WAIT:-600}
esc=$(printf '\033')

die() {
    echo "ftmode.sh: $*" >&2
    exit 1
}

# Send commands, one an argument; print the answers without the monitor's
# greeting, prompt and echo. nc leaves after a second without a word.
hmp() {
    printf '%s\n' "$@" | nc -w 1 -U "$monitor" | tr -d '\r' |
        sed -e "s/$esc\[[0-9;]*[A-Za-z]//g" -e '/^(qemu)/d' \
            -e '/^QEMU .* monitor/d' -e '/^[[:space:]]*$/d'
}

# The first line "KEY: value" of the text on standard input.
field() {
    awk -v key="$1" '
        index(tolower($0), ":") {
            k = tolower(substr($0, 1, index($0, ":") - 1))
            gsub(/^[ \t]+|[ \t]+$/, "", k)
            if (k == key) {
                v = substr($0, index($0, ":") + 1)
                gsub(/^[ \t]+|[ \t]+$/, "", v)
                print v
                exit
            }
        }'
}

now() {
    date +%s
}

# Show an answer and give up if it complains.
check() {
    [ -z "$2" ] || printf '%s\n' "$2"
    if printf '%s\n' "$2" | grep -q -i -E \
        '^ *(error|unknown|invalid)|refuse|fail|expects|not supported|cannot'; then
        die "the monitor did not accept \"$1\""
    fi
}

command -v nc >/dev/null || die "nc is not there: install netcat-openbsd"
if nc -h 2>&1 | grep -q -e '-[A-Za-z]*U'; then :; else
    die "this nc has no -U: install netcat-openbsd"
fi
[ -S "$monitor" ] ||
    die "no monitor socket $monitor: is the primary running? (CUJU_MONITOR)"

cmd="migrate_set_capability cuju-ft on"
check "$cmd" "$(hmp "$cmd")"
cmd="migrate -c $uri"
check "$cmd" "$(hmp "$cmd")"

start=$(now)
shown=
begun=
idle=0
while :; do
    [ -S "$monitor" ] || die "the primary is gone"
    info=$(hmp "info ft")
    state=$(printf '%s\n' "$info" | field state | tr '[:upper:]' '[:lower:]')
    reason=$(printf '%s\n' "$info" | field reason)
    case $reason in none | -) reason= ;; esac

    line=${state:-"the monitor is busy"}
    [ "${state%% *}" != sync ] ||
        line="sync $(printf '%s\n' "$info" | field sync)"
    [ "$line" = "$shown" ] || printf '%3d s  %s\n' $(($(now) - start)) "$line"
    shown=$line

    case $state in
    protected*)
        printf '%s\n' "$info" | grep '^arbiter:' || :
        exit 0
        ;;
    setup* | sync* | claiming*)
        begun=yes
        ;;
    fenced* | discarded*)
        printf '%s\n' "$info"
        die "the guest is not protected: ${reason:-$state}"
        ;;
    ?*)
        # Inactive, or unprotected after a failover: not yet begun, or over?
        idle=$((idle + 1))
        if [ -n "$begun" ] || [ "$idle" -gt 5 ]; then
            printf '%s\n' "$info"
            die "protection did not start: ${reason:-$state}"
        fi
        ;;
    '')
        # Nothing, or an answer that is no status.
        if printf '%s\n' "$info" | grep -q -i '^unknown command'; then
            die "this QEMU has no \"info ft\": is it built with --enable-cuju?"
        fi
        ;;
    esac

    if [ $(($(now) - start)) -ge "$limit" ]; then
        printf '%s\n' "$info"
        die "not protected after $limit s (CUJU_FT_WAIT), state: ${state:-unknown}"
    fi
done
