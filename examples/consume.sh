#!/bin/sh
# Hand every message of a queue to COMMAND, as its stdin: each order successfully once, however often it
# was sent, and however many consumers there are. What failed, or was cut off, stays in the queue for
# the next call; the exit code is 1 then.
#
#   consume.sh QUEUE COMMAND [ARG]...
set -u
queue=$1
shift
status=0
for message in "$queue"/*.json; do
    # Another consumer may have been faster: then there is no such file, now or when it is opened.
    sent=$(stat -c %Y "$message" 2>/dev/null) || continue
    guardrun --quiet --job consume --key 'order-{stdin.json:order}' --enqueued-at "$sent" \
        --retries 2 --backoff 1s..10s --timeout 5m -- "$@" <"$message"
    case $? in
    0) rm -f "$message" ;; # done now, or before: by a message with the same order
    75) ;;                 # another consumer is at this order
    *) [ ! -e "$message" ] || status=1 ;;
    esac
done
exit "$status"
