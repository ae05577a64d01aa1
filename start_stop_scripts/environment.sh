# Sourced by the scripts beside it: finds Python, makes the virtual environment once, and sets MER_HOME.
# After the first time it runs no installer and needs no network: a stamp tells what was installed, and from what.

# a link to a script, such as one in ~/bin, leads here too
MER_HOME="$(CDPATH='' cd -- "$(dirname -- "$(readlink -f -- "$0")")/.." && pwd -P)"
export MER_HOME
venv="${MER_VENV:-$MER_HOME/.venv}"

fail() {
    printf '%s: %s\n' "$(basename -- "$0")" "$1" >&2
    [ $# -lt 2 ] || printf '  %s\n' "$2" >&2
    exit 78
}

find_python() {
    for candidate in "${MER_PYTHON:-}" python3 python3.13 python3.12 python3.11; do
        [ -n "$candidate" ] || continue
        command -v "$candidate" >/dev/null 2>&1 || continue
        "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
        command -v "$candidate"
        return 0
    done
    return 1
}

# $1: the extras to install, such as "" or "[test]"; $2: the stamp's name
install_once() {
    wanted="$(cksum < "$MER_HOME/pyproject.toml") $MER_HOME $1"
    stamp="$venv/.installed-$2"
    [ -x "$venv/bin/python" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return 0
    python="$(find_python)" || fail "Python 3.11 or later is needed" "on Debian 12: apt-get install python3 python3-venv"
    if [ ! -x "$venv/bin/pip" ]; then
        printf 'Making a virtual environment in %s …\n' "$venv" >&2
        "$python" -m venv "$venv" >&2 || {
            rm -rf -- "$venv"
            fail "$python cannot make a virtual environment" "on Debian: apt-get install python3-venv"
        }
    fi
    printf 'Installing MER%s (once; this takes a minute) …\n' "$1" >&2
    "$venv/bin/pip" install --quiet --disable-pip-version-check --editable "$MER_HOME$1" >&2 ||
        fail "the installation failed" "pip's own words are above; run this again once they are mended"
    printf '%s' "$wanted" > "$stamp"
}
