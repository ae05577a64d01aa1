#!/bin/sh
# Stop MER: ask this user's running drivers to finish, by their leases, then stop the embedded database.
# A server that a team shares is left alone.
set -eu
# shellcheck source=start_stop_scripts/environment.sh
. "$(dirname -- "$(readlink -f -- "$0")")/environment.sh"
[ -x "$venv/bin/mer" ] || fail "MER is not installed in $venv" "there is nothing to stop; start_mer.sh installs it"
exec "$venv/bin/mer" db stop --drivers "$@"
