#!/bin/sh
# Run the driver alone, against a database that is already there: nothing is started and nothing is migrated.
#
#   DB_CONNECTION_URL=postgresql://… test_driver.sh [COMMAND …]
set -eu
# shellcheck source=start_stop_scripts/environment.sh
. "$(dirname -- "$(readlink -f -- "$0")")/environment.sh"
install_once "" mer
MER_START_DATABASE=false
export MER_START_DATABASE
exec "$venv/bin/mer" "$@"
