#!/bin/sh
# Start MER: install it (once), start and migrate the embedded database, register the demo (once), open the REPL.
#
#   start_mer.sh                      the REPL
#   start_mer.sh run digits --input image=@examples/digits/three.npy
#                                     one command instead, its exit code as it is
set -eu
# shellcheck source=start_stop_scripts/environment.sh
. "$(dirname -- "$(readlink -f -- "$0")")/environment.sh"
install_once "" mer

# The demo is registered once for each database. What tells them apart is what the settings are made of.
key="$(printf '%s\n' "${DB_CONNECTION_URL:-}" "${MER_STATE_FOLDER:-}" "${XDG_STATE_HOME:-}" "${HOME:-}" "$(id -u)" \
    "$(cat "$MER_HOME/.env" 2>/dev/null || true)" | cksum | tr ' ' '-')"
registered="$venv/.demo-$key"
if [ ! -f "$registered" ] || [ ! -d "$(cat "$registered")" ]; then
    "$MER_HOME/examples/digits/register.sh" "$venv/bin/mer" >&2
    "$venv/bin/mer" settings show state_folder > "$registered"
fi
exec "$venv/bin/mer" "$@"
