#!/bin/sh
# Register the demo: the weights, and the model that uses them.
#
#   register.sh [MER …]          the command to call, `mer` by default
set -eu
here="$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")" && pwd -P)"
[ $# -gt 0 ] || set -- mer
"$@" --allow-model-server-runtime-changes weights register digits "$here/digits.safetensors"
"$@" --allow-model-server-runtime-changes model register digits "$here/package" --weights digits
