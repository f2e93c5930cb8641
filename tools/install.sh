#!/usr/bin/env bash
# Install beamline-dataflow into a local environment.
#   tools/install.sh VENV [EXTRA]
# Uses uv where it is on PATH, venv and pip where not. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
extra=${2:-}

fail() { printf 'install: %s\n' "$*" >&2; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        command -v "$PYTHON" >/dev/null || fail "PYTHON=$PYTHON is not a program on PATH."
        new_enough "$PYTHON" || fail "beamline-dataflow needs Python 3.11 or newer, and PYTHON=$PYTHON is $("$PYTHON" -V 2>&1)."
        echo "$PYTHON"
        return
    fi
    local name
    for name in python3 python3.13 python3.12 python3.11 python3.14; do
        if command -v "$name" >/dev/null && new_enough "$name"; then
            echo "$name"
            return
        fi
    done
    fail "beamline-dataflow needs Python 3.11 or newer, found $(python3 -V 2>&1 || echo none): install one, or set PYTHON=/path/to/python."
}

compiler=${CC:-cc}
command -v "${compiler%% *}" >/dev/null ||
    fail "beamline-dataflow needs a C compiler, and '${compiler%% *}' is not on PATH: install one (Debian, Ubuntu: apt install gcc libc6-dev) or set CC."

python=$(find_python)
if [ -x "$venv/bin/python" ] && ! new_enough "$venv/bin/python"; then
    fail "the environment $venv holds $("$venv/bin/python" -V 2>&1), and Python 3.11 or newer is needed: run 'make clean' and try again."
fi

target=.
[ -n "$extra" ] && target=".[$extra]"
# An environment that runs already keeps what it has: packages that satisfy the constraints stay.
if command -v uv >/dev/null; then
    [ -x "$venv/bin/python" ] || uv venv --quiet --python "$python" "$venv"
    uv pip install --quiet --python "$venv/bin/python" --constraint constraints.txt --editable "$target"
else
    if [ ! -x "$venv/bin/pip" ]; then
        "$python" -m venv "$venv" ||
            fail "cannot make the environment $venv with $("$python" -V 2>&1): install its venv module (Debian, Ubuntu: apt install python3-venv)."
    fi
    # Modules are compiled when they are imported: most of what comes along never is.
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable "$target"
fi
