#!/usr/bin/env bash
# Everything that must hold, on a machine with nothing but Python 3.11 or newer:
#
#     bash runtests.sh
#
# A fresh virtual environment in .venv-test gets the files of requirements.lock, each checked against its hash, or, on
# machines that the lock does not cover, the versions of constraints.txt; then style, types, directions of imports, and the
# tests. The last line is pytest's. To run again without installing, or in an environment of your own that has the extra
# "dev":
#
#     MONAI_PLAN_TEST_PYTHON=.venv-test/bin/python bash runtests.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

find_python() {
    local candidate
    for candidate in python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "no Python 3.11 or newer was found (the pins of constraints.txt need it); install one, or name yours that has" \
        "the extra 'dev': MONAI_PLAN_TEST_PYTHON=/path/to/python bash runtests.sh" >&2
    return 1
}

# whether requirements.lock has a wheel of every package for this interpreter and machine
lock_covers() {
    "$1" - <<'PYTHON'
import platform, sys
machines = {"Linux": ("x86_64", "aarch64"), "Darwin": ("arm64",), "Windows": ("AMD64",)}
covered = (
    platform.python_implementation() == "CPython"
    and (3, 11, 5) <= sys.version_info < (3, 15)
    and platform.machine() in machines.get(platform.system(), ())
    and (platform.system() != "Linux" or platform.libc_ver()[0] == "glibc")
)
sys.exit(not covered)
PYTHON
}

# whether pip can find PyTorch's CPU build, e.g. by PIP_FIND_LINKS; if not, the index's build is taken, whose hash is
# checked as well, and which on Linux loads NVIDIA's libraries even where there is no GPU
finds_cpu_build() {
    local build
    build=$(sed -n 's/^\(torch==[^ ]*\).*/\1/p' requirements-cpu.lock)
    "$1" -m pip install -q --dry-run --no-deps "$build" >/dev/null 2>&1
}

install_locked() {
    local python="$1" lock
    local -a locks=(requirements.lock)
    if finds_cpu_build "$python"; then
        locks=(requirements-cpu.lock requirements.lock)
    elif [ "$(uname -s)" = Linux ]; then
        locks=(requirements.lock requirements-cuda.lock)
    fi
    echo "== install: the files of ${locks[*]}, by their hashes"
    for lock in "${locks[@]}"; do  # a hash that does not match stops pip, and this script
        "$python" -m pip install -q --require-hashes --no-deps --only-binary :all: -r "$lock"
    done
    "$python" -m pip install -q --no-deps --no-build-isolation -e .
    "$python" -m pip check  # that the lock is whole: with --no-deps nothing else looks
}

if [ -n "${MONAI_PLAN_TEST_PYTHON:-}" ]; then
    python="$MONAI_PLAN_TEST_PYTHON"
else
    base=$(find_python)
    rm -rf .venv-test
    "$base" -m venv .venv-test
    python=.venv-test/bin/python
    if lock_covers "$python"; then
        install_locked "$python"
    else
        echo "== install: versions of constraints.txt, without hashes (requirements.lock does not cover this machine)"
        "$python" -m pip install -q -c constraints.txt -e ".[dev]"
    fi
fi

# two test processes of one thread each: several threads beside another busy process are many times slower
export OMP_NUM_THREADS=1

echo "== ruff"
"$python" -m ruff check .
"$python" -m ruff format --check .
echo "== mypy"
"$python" -m mypy
echo "== imports"
"$python" -c "from importlinter.cli import lint_imports_command as main; main()" --config setup.cfg --no-cache
echo "== pytest"
"$python" -m pytest -n 2
