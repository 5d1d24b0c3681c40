#!/bin/sh
# Put messages into a queue: each line of stdin, a JSON document, becomes a file, whole or not at all.
#
#   produce.sh QUEUE <orders.jsonl
set -eu
mkdir -p "$1"
while IFS= read -r message; do
    draft=$(mktemp "$1/.XXXXXXXX")
    printf '%s\n' "$message" >"$draft"
    mv "$draft" "$1/$(date +%s.%N)${draft##*/}.json"
done
