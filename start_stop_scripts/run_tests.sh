#!/bin/sh
# Install what the tests need (once) and run all checks and all tests; with arguments, pytest alone with those.
#
#   run_tests.sh
#   run_tests.sh tests/unit -k chain
set -eu
# shellcheck source=start_stop_scripts/environment.sh
. "$(dirname -- "$(readlink -f -- "$0")")/environment.sh"
install_once "[test]" test
cd "$MER_HOME"
PATH="$venv/bin:$PATH"
export PATH
# the operator's own settings must not reach the tests
unset DB_CONNECTION_URL ALLOW_MODEL_SERVER_RUNTIME_CHANGES MER_STATE_FOLDER MER_HOME
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi
# checks docker-compose.yaml; where it cannot be had without asking somebody, that test says so and is skipped
if ! command -v docker-compose >/dev/null 2>&1 && command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ]; then
    DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq --no-install-recommends docker-compose \
        </dev/null >/dev/null 2>&1 || printf 'docker-compose could not be installed: its test is skipped\n' >&2
fi
ruff check driver migrations tests benchmarks examples
ruff format --check driver migrations tests benchmarks examples
mypy
lint-imports
exec python -m pytest -n "${MER_TEST_PROCESSES:-2}" --dist worksteal -q
