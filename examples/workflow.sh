#!/bin/sh
# Three steps, each successfully once a day. A second call does what is left; what has succeeded
# is skipped. A step is refused (76) while the one it needs has not succeeded.
#
#   workflow.sh DIRECTORY [DAY]
set -eu
cd "$1"
# Named once: a workflow that runs past midnight stays the workflow of its day.
day=${2:-$(date -u +%F)}

step() { # NAME [OPTION]... -- COMMAND [ARG]...
    name=$1
    shift
    guardrun --job "$name" --log-to stderr --lock "{job}" --wait 1h --key "{job}-$day" "$@"
}

step fetch --retries 3 --backoff 1s..30s -- cp orders.csv fetched.csv
step sort --needs "fetch-$day" -c 'sort -u fetched.csv >sorted.csv'
step publish --needs "sort-$day" --timeout 5m -- cp sorted.csv published.csv
