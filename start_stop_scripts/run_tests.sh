#!/bin/sh
# Install what the tests need (once) and run all checks and all tests; with arguments, pytest alone with those.
#
#   run_tests.sh
#   run_tests.sh tests/unit -k chain
#   run_tests.sh --interpreters        the worker on a far host's Python 3.9 and 3.13: fetches a small Debian of each
set -eu
# shellcheck source=start_stop_scripts/environment.sh
. "$(dirname -- "$(readlink -f -- "$0")")/environment.sh"
install_once "[test]" test
cd "$MER_HOME"
PATH="$venv/bin:$PATH"
export PATH
# the operator's own settings must not reach the tests
unset DB_CONNECTION_URL ALLOW_MODEL_SERVER_RUNTIME_CHANGES MER_STATE_FOLDER MER_HOME
if [ "${1-}" = --interpreters ]; then
    shift
    exec python -m pytest --interpreters tests/interpreters -q "$@"
fi
if [ $# -gt 0 ]; then
    exec python -m pytest "$@"
fi

# What only the system has: docker-compose checks docker-compose.yaml, a PostgreSQL with TLS stands for a team's server, and
# node runs the worker in JavaScript, and sshd is the far machine of whatever goes by SSH.
# Where they cannot be had without asking somebody, their tests say so and are skipped.
may_install() {
    command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" -eq 0 ]
}
install_quietly() {
    DEBIAN_FRONTEND=noninteractive timeout 300 apt-get install -y -qq --no-install-recommends "$@" </dev/null >/dev/null 2>&1
}
install_package() {
    install_quietly "$@" || { timeout 120 apt-get update -qq </dev/null >/dev/null 2>&1 && install_quietly "$@"; }
}
# no cluster and no service of the package's own: the tests make theirs, and take them away again
install_postgresql() {
    install_package postgresql-common &&
        sed -i 's/^#* *create_main_cluster *=.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf &&
        install_package postgresql
}
# the program alone: this machine must not listen at port 22 because somebody ran tests
install_sshd() {
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        install_package openssh-server
        return
    fi
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy"
    install_package openssh-server
    installed=$?
    rm -f "$policy"
    ! command -v systemctl >/dev/null 2>&1 || systemctl disable ssh.service ssh.socket >/dev/null 2>&1 || :
    return "$installed"
}
if ! command -v docker-compose >/dev/null 2>&1; then
    { may_install && install_package docker-compose; } ||
        printf 'docker-compose cannot be installed: its test is skipped\n' >&2
fi
if ! command -v initdb >/dev/null 2>&1 && [ -z "$(ls -d /usr/lib/postgresql/*/bin/initdb 2>/dev/null)" ]; then
    { may_install && install_postgresql; } ||
        printf 'NO POSTGRESQL SERVER: every test of a team'"'"'s server is SKIPPED (on Debian: apt-get install postgresql)\n' >&2
fi
if ! command -v node >/dev/null 2>&1; then
    { may_install && install_package nodejs; } ||
        printf 'node cannot be installed: the worker in JavaScript is not tested (on Debian: apt-get install nodejs)\n' >&2
fi
if [ ! -x /usr/sbin/sshd ] && ! command -v sshd >/dev/null 2>&1; then
    { may_install && install_sshd; } ||
        printf 'NO SSHD: asyncssh'"'"'s own server stands in for the contract of hosts, and every other test over SSH is SKIPPED (on Debian: apt-get install openssh-server)\n' >&2
fi
for shell in zsh fish; do
    command -v "$shell" >/dev/null 2>&1 || { may_install && install_package "$shell"; } ||
        printf '%s cannot be installed: no worker is started by it\n' "$shell" >&2
done
ruff check driver migrations tests benchmarks examples
ruff format --check driver migrations tests benchmarks examples
lint-imports
# beside the tests, which wait for processes half of their time
typed="$(mktemp)"
trap 'rm -f "$typed"' EXIT
mypy >"$typed" 2>&1 &
typing=$!
status=0
# one more than there are processors: many a test waits for a server or a clock; beyond eight they would be in each other's way
processes=$(($(getconf _NPROCESSORS_ONLN) + 1))
[ "$processes" -le 8 ] || processes=8
python -m pytest -n "${MER_TEST_PROCESSES:-$processes}" --dist worksteal -q || status=$?
# a code that pytest has not: the caller may run failed tests once more, and must not lose this on the way
wait "$typing" || status=9
cat "$typed"
exit "$status"
