#!/bin/sh
# Start the backup: runvm.sh, changed by a sed to receive.
# SPDX-License-Identifier: GPL-2.0-or-later
#
# The backup must be the same machine as the primary: only the monitor socket
# (vm1r.monitor), the tap (tap1), the VNC display (:1) and -incoming differ.
# All variables of runvm.sh count here too, and one more:
#
#   CUJU_INCOMING  where to listen  (tcp:0:4441,ft_mode)
#
# It is "sed -e ... runvm.sh | sh" in effect; the text goes to sh as an argument
# so that QEMU keeps the terminal as its input and takes this process's place.

set -eu

scripts=$(cd "$(dirname "$0")" && pwd)

# shellcheck disable=SC2016  # the variable is for the script that sed makes
text=$(sed -e 's/vm1\.monitor/vm1r.monitor/' \
    -e 's/tap0/tap1/' \
    -e 's/localhost:0/localhost:1/' \
    -e 's/^incoming=.*/incoming=${CUJU_INCOMING:-tcp:0:4441,ft_mode}/' \
    "$scripts/runvm.sh")

exec sh -c "$text" "$scripts/recv.sh" "$@"
