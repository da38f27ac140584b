#!/bin/sh
# pkg_config.sh COMPILER MAIN PKGCONFIG_DIRECTORY
set -eu
command -v pkg-config >/dev/null || { echo "skipped: pkg-config is not installed"; exit 77; }
PKG_CONFIG_PATH=$3
export PKG_CONFIG_PATH
flags=$(pkg-config --cflags --libs "relay >= 0.1")
"$1" -std=c++20 "$2" -o consumer $flags
./consumer
