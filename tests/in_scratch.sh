#!/bin/sh
# in_scratch.sh DIRECTORY COMMAND...: runs COMMAND in DIRECTORY, made anew and empty.
directory=$1
shift
rm -rf "$directory" && mkdir -p "$directory" && cd "$directory" && exec "$@"
