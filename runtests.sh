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

# no way round a hash that does not match: pip stops, and so does this script
install_locked() {
    "$1" -m pip install -q --require-hashes --no-deps --only-binary :all: -r "$2"
}

# the index's build of torch for Linux loads NVIDIA's libraries even where there is no GPU; PyTorch's CPU build, 2.x+cpu, does not
needs_cuda_libraries() {
    "$1" -c 'import sys; from importlib.metadata import version; sys.exit(sys.platform != "linux" or "+" in version("torch"))'
}

if [ -n "${MONAI_PLAN_TEST_PYTHON:-}" ]; then
    python="$MONAI_PLAN_TEST_PYTHON"
else
    base=$(find_python)
    rm -rf .venv-test
    "$base" -m venv .venv-test
    python=.venv-test/bin/python
    if lock_covers "$python"; then
        echo "== install: files of requirements.lock, by their hashes"
        install_locked "$python" requirements.lock
        if needs_cuda_libraries "$python"; then
            install_locked "$python" requirements-cuda.lock
        fi
        "$python" -m pip install -q --no-deps --no-build-isolation -e .
        "$python" -m pip check  # that the lock is whole: with --no-deps nothing else looks
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
